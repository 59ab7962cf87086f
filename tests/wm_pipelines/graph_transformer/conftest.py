"""Stock ViLT and LXMERT at the smallest sizes, a word-piece tokenizer that cuts some words in two, and pictures."""

import pytest

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] what which is are the a of left right behind colour shape cube sphere cone red "
    "blue green dog cat horse ride chase man woman row name age ann bob table it an and . ? ; : 1 2 3 7 9 "
    "wood ##en ##s ##es ##d ##ing ##r ##t cub ##e"
).split()


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import BertTokenizer

    return BertTokenizer(vocab={word: n for n, word in enumerate(WORDS)})


@pytest.fixture(scope="session")
def pieces(tokenizer):
    """`pieces(question, context=None, limit=64)`: the text as tokens."""
    from wm_pipelines.graph_transformer.tokens import encode

    return lambda question, context=None, limit=64, **options: encode(tokenizer, question, context, limit, **options)


@pytest.fixture(scope="session")
def vilt():
    """`ViltForQuestionAnswering`: pictures of 32 pixels, patches of 8, two layers of two heads, four answers."""
    import torch
    from transformers import ViltConfig, ViltForQuestionAnswering

    config = ViltConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        max_position_embeddings=48,
        initializer_range=0.3,
        id2label={0: "red", 1: "blue", 2: "green", 3: "yes"},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ViltForQuestionAnswering(config).requires_grad_(False).eval()


@pytest.fixture(scope="session")
def lxmert():
    """`LxmertForQuestionAnswering`: features of width 6, three word layers, two of regions and of both."""
    import torch
    from transformers import LxmertConfig, LxmertForQuestionAnswering

    config = LxmertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_attention_heads=2,
        num_qa_labels=4,
        intermediate_size=32,
        l_layers=3,
        r_layers=2,
        x_layers=2,
        visual_feat_dim=6,
        max_position_embeddings=48,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LxmertForQuestionAnswering(config).requires_grad_(False).eval()


@pytest.fixture(scope="session")
def image_processor():
    from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

    return ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8)


@pytest.fixture
def vilt_pipe(vilt, tokenizer, image_processor):
    from wm_pipelines.graph_transformer.pipeline import GraphTransformerPipeline

    pipe = GraphTransformerPipeline(vilt, tokenizer, image_processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def lxmert_pipe(lxmert, tokenizer):
    from wm_pipelines.graph_transformer.pipeline import GraphTransformerPipeline

    pipe = GraphTransformerPipeline(lxmert, tokenizer, answers=["red", "blue", "green", "yes"])
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def picture():
    """`picture(seed, height, width)`: noise, uint8 (H, W, 3)."""
    from wm_pipelines.runtime.random import keyed

    return lambda seed=0, height=40, width=64: keyed("picture", seed).integers(
        0, 256, (height, width, 3), dtype="uint8"
    )
