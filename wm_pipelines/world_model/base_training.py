"""The base of the miniature world's models: a small stock causal model over words and codes that knows no action."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import VQModel
from torch import nn

from wm_pipelines import hub
from wm_pipelines.diorama.tokenizer import EOS, build_tokenizer
from wm_pipelines.diorama.tokens_training import nearest
from wm_pipelines.dynamics.coded import encode_pairs
from wm_pipelines.dynamics.families import default_layout, make_backend
from wm_pipelines.dynamics.layout import Sample
from wm_pipelines.dynamics.scenes import DioramaPairs
from wm_pipelines.dynamics.training import DIORAMA, LENGTHS, compile_layers, completion_loss, save_whole
from wm_pipelines.hub.stock import load_model
from wm_pipelines.tokens.pictures import PictureTokens
from wm_pipelines.training import KeyedNoise, Recipe, Task, check_keys
from wm_pipelines.world_model.pipeline import WorldModelPipeline
from wm_pipelines.world_model.weights import vq_l2

MARKS = ("<boi>", "<eoi>")
BASE_DEFAULTS: dict[str, Any] = {
    "tokens": "diorama-tokens", "length": 12000, "cache": None, "captions": 0.3, "sentences": 0.1, "width": 192,
    "layers": 4, "heads": 6, "inner": 512, "compile": False,
}  # fmt: skip


class DioramaWorldTask(Task):
    """Next-token prediction over pairs of pictures without the action between them, over pictures with captions, in
    either order, and over sentences without a picture: `LlamaForCausalLM` on the codes of a frozen `VQModel`.

    Options:
        tokens: the tokeniser of pictures. length, cache: pairs, and the file of their codes, which both directions can
            read too. captions: share of
            samples that are one picture and its caption, so that words have a meaning before the first action.
            sentences: share that are an action's sentence alone: what a language model knows before it sees pictures.
            An adapter leaves the rows of the words alone, and those of words that never came stay too short to be
            likely.
        width, layers, heads, inner: of the model. compile: as `compile_layers`.
    """

    def __init__(self, recipe: Recipe):
        check_keys(recipe.options, BASE_DEFAULTS, "options")
        self.options = {**BASE_DEFAULTS, **recipe.options}
        shares = [self.options[name] for name in ("captions", "sentences")]
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"options.captions and options.sentences are {shares}; shares of at most 1 together")
        self.vq = load_model(VQModel, hub.resolve(self.options["tokens"])).requires_grad_(False).eval()
        self.tokenizer = make_tokenizer()
        size = (self.vq.config.sample_size, self.vq.config.sample_size)
        layout = default_layout("plain").model_copy(
            update={"size": size, "stop": EOS, "first_code": len(self.tokenizer)}
        )
        codes = self.vq.config.num_vq_embeddings
        grid = (size[0] // 2 ** (len(self.vq.config.block_out_channels) - 1)) ** 2
        self.model = make_model(self.tokenizer, codes, 4 * grid + 256, self.options)
        if self.options["compile"]:
            compile_layers(self.model)
        self.backend = make_backend(self.model, self.vq, self.tokenizer, layout)
        pairs = DioramaPairs(length=self.options["length"], size=size[0])
        self.pairs = encode_pairs(
            pairs, self.backend.pictures, size, vq_l2(self.backend.pictures), cache=self.options["cache"],
            identity=DIORAMA, recognizer_name="vq_l2",
        )  # fmt: skip
        self.length = len(self.pairs)
        self.data = f"Diorama pairs without their actions, and actions without pairs, train split, {self.length} pairs"

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def load_weights(self, source: str) -> dict[str, int]:
        """Starts from a pipeline's folder or embedded name of the same architecture.

        Where its pictures have other codes, each code begins as the nearest of theirs.
        """
        pipeline = WorldModelPipeline.from_pretrained(source)
        state, first = pipeline.model.state_dict(), self.backend.layout.first_code
        ours, theirs = (PictureTokens(vq).codebook.float() for vq in (self.vq, pipeline.vq))
        if ours.shape != theirs.shape:
            shapes = [tuple(codes.shape) for codes in (theirs, ours)]
            raise ValueError(f"init_from: its codes are {shapes[0]}; those of options.tokens are {shapes[1]}")
        if not torch.equal(ours, theirs):
            rows = state["model.embed_tokens.weight"]  # of the output too: they are tied
            state["model.embed_tokens.weight"] = torch.cat([rows[:first], rows[first:][nearest(ours, theirs)]])
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        self.model.load_state_dict(state)
        return {"parameters": sum(p.numel() for p in self.model.parameters())}

    def sample(self, index: int, noise: KeyedNoise) -> Sample:
        """The whole sequence as a completion behind its first token."""
        said, rng = self.backend.sequences, noise.generator(index, "kind")
        before, after = self.pairs.source[index], self.pairs.target[index]
        first, second = ([*said.begin(codes.shape), *said.body(codes), *said.end] for codes in (before, after))
        words = said.words(self.pairs.captions[index])
        chance = rng.random()
        if chance < self.options["captions"] / 2:
            tokens = [*words, *first]
        elif chance < self.options["captions"]:
            tokens = [*first, *words]
        elif chance < self.options["captions"] + self.options["sentences"]:
            actions = self.pairs.actions[index]
            tokens = [said.stop, *said.words(actions[rng.integers(len(actions))])]
        else:
            tokens = [*first, *second]
        return Sample(tokens[:1], [*tokens[1:], said.stop], [])

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        samples = [self.sample(index, noise) for index in indices]
        lengths = LENGTHS if self.options["compile"] else 1
        return {"loss": completion_loss(self.backend, samples, [None] * len(samples), self.device, lengths)}

    def export(self, folder: Path) -> None:
        """Writes a whole checkpoint of `WorldModelPipeline` in fp16, the tokeniser of pictures with it."""
        parts = {"model": self.model, "tokenizer": self.tokenizer, "vq": self.vq, "layout": self.backend.layout}
        wants = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        save_whole(WorldModelPipeline(**parts), folder)
        for parameter, wanted in wants.items():  # the pipeline froze them
            parameter.requires_grad_(wanted)


def make_model(tokenizer: Any, codes: int, context: int, options: Mapping[str, Any]) -> Any:
    """The `LlamaForCausalLM` of a recipe's options: the tokenizer's tokens, then `codes` more; `context` positions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer) + codes,
            hidden_size=options["width"],
            intermediate_size=options["inner"],
            num_hidden_layers=options["layers"],
            num_attention_heads=options["heads"],
            max_position_embeddings=context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=None,
        )
    )


def make_tokenizer() -> Any:
    """The miniature world's tokenizer of words with the marks of pictures."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = build_tokenizer(folder)
    tokenizer.add_tokens(list(MARKS), special_tokens=True)
    return tokenizer
