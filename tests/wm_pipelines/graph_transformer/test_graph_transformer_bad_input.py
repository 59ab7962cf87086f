"""What a call refuses, before any pass, in words that name the argument."""

import pickle

import numpy as np
import pytest
import torch

from wm_pipelines.graph_transformer.graph import AttentionGraph, GraphNode
from wm_pipelines.graph_transformer.inputs import RegionFeatures
from wm_pipelines.graph_transformer.loading import new_bias
from wm_pipelines.graph_transformer.modeling import QuasiAttentionModel
from wm_pipelines.graph_transformer.pipeline import GraphTransformerPipeline
from wm_pipelines.graph_transformer.tables import Table

TWO = {"questions": ["a cat", "a dog"]}
CASES = {
    "no question": ({"questions": []}, "`questions` must be"),
    "a blank question": ({"questions": ["a cat", " "]}, r"`questions`\[1\]"),
    "a question that is none": ({"questions": [3]}, r"`questions`\[0\]"),
    "no picture": ({"images": []}, "images is empty"),
    "a bad picture": ({"images": [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 2))]}, r"`images`\[1\]"),
    "pictures and questions": ({"images": [np.zeros((9, 9, 3), np.uint8)] * 3, **TWO}, "3 images and 2 questions"),
    "graphs and pictures": ({"graph": [None], **TWO}, "`graph` has 1 entries for 2 questions; graphs and images"),
    "contexts": ({"context": ["x"], **TWO}, "`context` has 1 entries for 2"),
    "an empty context": ({"context": " "}, r"`context`\[0\] is empty"),
    "a context that is none": ({"context": 5}, r"`context`\[0\] is a int"),
    "no graph": ({"graph": 3}, "`graph` is a int"),
    "a word for a graph": ({"graph": "none"}, "`graph` is no JSON"),
    "an edge out of range": ({"graph": '{"nodes": [{"span": [0, 1]}], "edges": [[0, 4]]}'}, "index out of range"),
    "a span beyond the text": ({"graph": AttentionGraph((GraphNode((0, 99)),))}, "beyond the text of 5 characters"),
    "a span without a word": ({"graph": AttentionGraph((GraphNode((1, 2)),))}, "no token"),
    "an absent region": ({"graph": AttentionGraph((GraphNode(modality="image", region=99),))}, "region 99"),
    "regions": ({"regions": "near"}, "`regions` is 'near'"),
    "asymmetric regions": ({"regions": torch.ones(24, 24).triu()}, "asymmetric"),
    "regions of another size": ({"regions": torch.ones(3, 3)}, r"\(3, 3\); it must be \(24, 24\)"),
    "neighbours": ({"regions": "knn", "neighbours": 0}, "`neighbours` is 0"),
    "overlap": ({"overlap": 1.0}, "`overlap` is 1.0"),
    "candidates": ({"candidates": []}, "`candidates` must be"),
    "one candidate word": ({"candidates": "red"}, "`candidates` must be a list"),
    "an unknown candidate": ({"candidates": ["rad"]}, "'rad'.*the nearest is 'red'"),
    "a candidate twice": ({"candidates": ["red", "red"]}, "'red' more than once"),
    "candidate lists": ({"candidates": [["red"], ["blue"]]}, "2 lists for 1 questions"),
    "attention": ({"attention": "fast"}, "`attention` is 'fast'"),
    "maps of another attention": ({"attention": "sdpa", "output_attentions": True}, "`output_attentions` needs"),
    "seed": ({"random_graph": -1}, "`random_graph` is -1"),
    "batch": ({"batch_size": 0}, "`batch_size` is 0"),
    "no batch": ({"batch_size": None}, "`batch_size` is None"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_call_refuses(vilt_pipe, picture, case, monkeypatch):
    options, said = CASES[case]
    monkeypatch.setattr(vilt_pipe.backbone, "encode", lambda *given, **options: pytest.fail("a pass was made"))
    with pytest.raises(ValueError, match=said):
        vilt_pipe(**{"images": picture(), "questions": "a cat", **options})


def test_lxmert_refuses_pictures_and_vilt_regions(lxmert_pipe, vilt_pipe, picture):
    regions = RegionFeatures(torch.zeros(2, 6), torch.tensor([[0, 0, 1, 1.0]] * 2))
    with pytest.raises(ValueError, match="`images` must be RegionFeatures"):
        lxmert_pipe(picture(), "a cat")
    with pytest.raises(ValueError, match=r"`images`\[0\]"):
        vilt_pipe(regions, "a cat")
    with pytest.raises(ValueError, match="`attention` is 'sdpa'"):
        lxmert_pipe(regions, "a cat", graph=None, attention="sdpa")
    for wrong in (
        {"boxes": torch.zeros(3, 4)}, {"boxes": torch.tensor([[0, 0, 2, 1.0]] * 2)}, {"boxes": torch.zeros(2, 3)},
        {"features": torch.full((2, 6), torch.nan)}, {"boxes": torch.tensor([[0.5, 0, 0.1, 1]] * 2)}, {"features": 3},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="`(boxes|features)`"):
            RegionFeatures(**{"features": torch.zeros(2, 6), "boxes": torch.zeros(2, 4), **wrong})


def test_more_tokens_than_the_bias_has(vilt_pipe, picture):
    bias = new_bias(vilt_pipe.model, s_img=17)
    pipe = GraphTransformerPipeline(vilt_pipe.model, vilt_pipe.tokenizer, vilt_pipe.image_processor, bias)
    pipe(picture(0, 32, 32), "a cat", graph=None)
    with pytest.raises(ValueError, match="enlarge s_img or disable ghat"):
        pipe(picture(0, 32, 64), "a cat", graph=None)


def test_parts_that_do_not_go_together(vilt, lxmert, tokenizer, image_processor):
    from torch import nn

    build = GraphTransformerPipeline
    for parts, said in (
        ((nn.Linear(1, 1), tokenizer), "`model` is a Linear"),
        ((vilt, tokenizer), "`image_processor` is NoneType.*needs an image processor"),
        ((lxmert, tokenizer, image_processor), "reads region features"),
        ((vilt, tokenizer, image_processor, QuasiAttentionModel(4, 4, 3)), "for 3 heads; the model has 2"),
        ((vilt, tokenizer, image_processor, QuasiAttentionModel(4, 4, 2, True, layers=5)), "for 5 layers"),
        ((vilt, tokenizer, image_processor, None, ["a"]), "`answers` has 1 entries"),
        ((vilt, tokenizer, image_processor, None, "abcd"), "`answers` must be a list"),
        ((vilt, tokenizer, image_processor, None, None, "guess"), "parser='guess'"),
    ):
        with pytest.raises(ValueError, match=said):
            build(*parts)
    with pytest.raises(ValueError, match="`bias` is 'some'"):
        new_bias(vilt, "some")


def test_a_folder_that_is_no_backbone(vilt, tokenizer, image_processor, tmp_path):
    load = GraphTransformerPipeline.from_backbone
    with pytest.raises(ValueError, match="type 'clip'"):
        load("diorama-clip")
    with pytest.raises(ValueError, match="not a folder"):
        load(tmp_path / "nowhere")
    for part in (vilt, tokenizer, image_processor):
        part.save_pretrained(tmp_path)
    for answers in (["one"], ["a", "a"], [1, 2]):
        with pytest.raises(ValueError, match="`answers` must be two or more"):
            load(tmp_path, answers)
    with pytest.raises(ValueError, match="trust_remote_code"):
        load(tmp_path, trust_remote_code=True)
    mark = tmp_path / "mark"
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (pickled / name).write_bytes((tmp_path / name).read_bytes())

    class Mark:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(Mark()))
    with pytest.raises((ValueError, OSError)):
        load(pickled)
    assert not mark.exists()
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:-8])
    with pytest.raises(ValueError, match="truncated"):
        load(tmp_path)


def test_a_table_of_the_wrong_shape_never_reaches_the_model(vilt_pipe, picture):
    with pytest.raises(ValueError, match=r"`rows`\[0\] has 1 cells for 2 columns"):
        vilt_pipe(picture(), "a cat", Table(("a", "b"), (("x",),)))
