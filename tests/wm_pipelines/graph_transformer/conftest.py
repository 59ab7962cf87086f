"""Stock LXMERT at the smallest size beside the shared ViLT, texts as tokens, and pictures."""

import pytest


@pytest.fixture(scope="session")
def vilt(tiny_vilt):
    return tiny_vilt["model"]


@pytest.fixture(scope="session")
def tokenizer(tiny_vilt):
    return tiny_vilt["tokenizer"]


@pytest.fixture(scope="session")
def image_processor(tiny_vilt):
    return tiny_vilt["image_processor"]


@pytest.fixture(scope="session")
def pieces(tokenizer):
    """`pieces(question, context=None, limit=64)`: the text as tokens."""
    from wm_pipelines.graph_transformer.tokens import encode

    return lambda question, context=None, limit=64, **options: encode(tokenizer, question, context, limit, **options)


@pytest.fixture(scope="session")
def lxmert(tokenizer):
    """`LxmertForQuestionAnswering`: features of width 6, three word layers, two of regions and of both."""
    import torch
    from transformers import LxmertConfig, LxmertForQuestionAnswering

    config = LxmertConfig(
        vocab_size=len(tokenizer),
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
