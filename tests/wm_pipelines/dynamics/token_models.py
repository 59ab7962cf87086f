"""Every token model at tiny size, from the stock classes with random weights."""

import torch
from diffusers import VQModel

from wm_pipelines.dynamics.families import default_layout, make_backend

CODES, SIDE = 16, 16  # 4 x 4 codes of 4 x 4 pixels
WORDS = "move turn remove make the a red blue cube cone to left right little user model 1 2 3 4 *".split()
MARKS = {
    "plain": ["<boi>", "<eoi>", "<eos>"],
    "liquid": ["<boi>", "<eoi>", "<eos>", "<unconditional>", "<start_of_turn>", "<end_of_turn>"],
    "chameleon": ["<s>", "</s>", "<racm3:break>", "<eoss>", "<reserved08706>", "<image>"],
    "emu3": ["<|image start|>", "<|image token|>", "<|image end|>", "<|extra_200|>", "<|extra_201|>", "<|extra_203|>",
             "<|extra_204|>", "<image>"],
}  # fmt: skip
FAMILIES = tuple(MARKS)


def letters(code):
    return "IMGIMG" + str(code).translate(str.maketrans("0123456789", "ABCDEFGHIJ")) + "Z"


def vocabulary_of(family):
    """Names of all tokens and their numbers; codes come last, or, where they are named, shuffled."""
    names = ["<unk>", *MARKS[family], *WORDS]
    if family == "chameleon":
        names += [letters(code) for code in reversed(range(CODES))]
    if family == "emu3":
        names += [f"<|visual token {code:06d}|>" for code in range(CODES)]
    return {name: n for n, name in enumerate(names)}


def make_tokenizer(family):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = vocabulary_of(family)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [name for name in vocabulary if name.startswith(("<", "IMG"))]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", extra_special_tokens=special[1:], model_max_length=512
    )


def make_vq(seed=0, codes=CODES):
    from wm_pipelines.tokens.pictures import PictureTokens

    torch.manual_seed(seed)
    vq = VQModel(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        num_vq_embeddings=codes,
        layers_per_block=1,
        mid_block_add_attention=False,
    ).eval()
    tokens = PictureTokens(vq)
    with torch.no_grad():
        seen = tokens.features(torch.rand(8, 3, SIDE, SIDE)).flatten(0, 2)
        tokens.codebook.copy_(seen.mean(0) + seen.std(0) * torch.randn(codes, seen.shape[1]))
    return vq


def make_model(family, seed=1, context=256):
    from transformers import (
        ChameleonConfig,
        ChameleonForConditionalGeneration,
        Emu3Config,
        Emu3ForConditionalGeneration,
        GemmaConfig,
        GemmaForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
    )

    torch.manual_seed(seed)
    names = vocabulary_of(family)
    sizes = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": context,
        "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    if family == "plain":
        model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=len(names) + CODES, tie_word_embeddings=True))
    elif family == "liquid":
        model = GemmaForCausalLM(GemmaConfig(**sizes, vocab_size=len(names) + CODES, head_dim=8))
    elif family == "chameleon":
        vq = {"base_channels": 32, "channel_multiplier": [1, 1, 1], "num_embeddings": CODES, "embed_dim": 4,
              "latent_channels": 4, "num_res_blocks": 1, "resolution": SIDE}  # fmt: skip
        model = ChameleonForConditionalGeneration(
            ChameleonConfig(**sizes, vocab_size=len(names), vq_config=vq, vocabulary_map=names)
        )
    else:
        vq = {"base_channels": 32, "channel_multiplier": [1, 1, 1], "codebook_size": CODES, "num_res_blocks": 1,
              "hidden_size": 32, "temporal_downsample_factor": 4, "attn_resolutions": []}  # fmt: skip
        text = {**sizes, "vocab_size": len(names), "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
        model = Emu3ForConditionalGeneration(Emu3Config(vq_config=vq, text_config=text, vocabulary_map=names))
    with torch.no_grad():  # sharper than at the start of training, so that a mistake shows
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(6 if "embed" not in name else 3)
    return model.eval()


def make_layout(family):
    first = None if family in ("chameleon", "emu3") else len(vocabulary_of(family))
    return default_layout(family).model_copy(update={"size": (SIDE, SIDE), "first_code": first})


def make_parts(family, seed=1, context=256):
    """Arguments of the pipelines."""
    with torch.random.fork_rng(devices=[]):
        vq = None if family == "emu3" else make_vq()
        model = make_model(family, seed, context)
    return {"model": model, "tokenizer": make_tokenizer(family), "vq": vq, "layout": make_layout(family)}


def make(family, **options):
    parts = make_parts(family, **options)
    return make_backend(parts["model"], parts["vq"], parts["tokenizer"], parts["layout"])


def pictures(count, seed=0):
    return torch.rand((count, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))
