"""The pipeline on stock ViLT and LXMERT: what it changes, what it leaves as it was, and how it is asked."""

import copy
import math
import subprocess
import sys
import warnings
from unittest import mock

import pytest
import torch

from wm_pipelines.graph_transformer.graph import AttentionGraph, GraphNode
from wm_pipelines.graph_transformer.inputs import RegionFeatures
from wm_pipelines.graph_transformer.loading import new_bias
from wm_pipelines.graph_transformer.parsing import auto_graph
from wm_pipelines.graph_transformer.pipeline import GraphTransformerPipeline
from wm_pipelines.graph_transformer.tables import Table
from wm_pipelines.runtime.noise import randn

QUESTION = "what colour is the cube left of the sphere?"
CONTEXT = "the red cube is left of the blue sphere. the cat is behind the dog."
FULL = {"regions": "full", "neighbours": 8, "overlap": 0.0}


def features(seed, count=5):
    low = randn((count, 2), "region", seed).abs().clamp(max=1) / 2
    return RegionFeatures(randn((count, 6), "features", seed), torch.cat([low, low + 0.3], 1))


@pytest.fixture(params=["vilt", "lxmert"])
def kind(request):
    return request.param


@pytest.fixture
def pipe(kind, request):
    return request.getfixturevalue(f"{kind}_pipe")


@pytest.fixture
def sight(kind, picture):
    """`sight(seed)`: what the backbone sees of a picture; sizes differ."""
    if kind == "lxmert":
        return lambda seed=0: features(seed, 4 + seed)
    return lambda seed=0: picture(seed, 40, 40 + 24 * (seed % 3))


def with_bias(pipe, kind, seed=None, **options):
    """The pipeline with a trained bias; zeros without a seed."""
    bias = new_bias(pipe.model, kind, **options)
    if seed is not None:
        with torch.no_grad():
            bias.ghat.copy_(randn(tuple(bias.ghat.shape), "bias", seed))
    made = GraphTransformerPipeline(
        pipe.model, pipe.tokenizer, pipe.image_processor, quasi_attention=bias, answers=pipe.config.answers
    )
    made.set_progress_bar_config(disable=True)
    return made


def stock(pipe, sights, questions, contexts):
    """Logits of the stock model on the same inputs, ViLT's patches drawn in their own order."""
    examples = pipe.check_inputs(sights, questions, contexts, None, FULL)
    given = pipe.pack(examples, [pipe.encode_text(example) for example in examples])
    words = {"input_ids": given.ids, "attention_mask": given.mask, "token_type_ids": given.types}
    if pipe.image_processor is None:
        names = ("visual_feats", "visual_pos", "visual_attention_mask")
        return pipe.model(**words, **dict(zip(names, given.visual, strict=True))).question_answering_score

    def in_order(weights, count, replacement=False):
        return torch.arange(count) % len(weights)

    with mock.patch("torch.multinomial", in_order), torch.no_grad():
        return pipe.model(**words, pixel_values=given.visual[0], pixel_mask=given.visual[1]).logits


# the backbone


def test_parameters_at_the_real_sizes():
    from transformers import LxmertConfig, LxmertForQuestionAnswering, ViltConfig, ViltForQuestionAnswering

    def count(module):
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        vqa = ViltForQuestionAnswering(ViltConfig(num_labels=3129))
        gqa = ViltForQuestionAnswering(ViltConfig(num_labels=1843))
        lxmert = LxmertForQuestionAnswering(LxmertConfig())
        small = LxmertForQuestionAnswering(LxmertConfig(num_qa_labels=1843))
        shared, each = new_bias(vqa), new_bias(vqa, "per_layer", s_img=145)
        words = new_bias(lxmert, "per_layer")
    assert (count(vqa), count(gqa), count(vqa.vilt.encoder)) == (117_588_537, 115_611_955, 85_054_464)
    assert count(lxmert) == 223_722_524 and count(lxmert) - count(small) == (9500 - 1843) * (1536 + 1)
    assert count(shared) == 947_532 and count(each) == 4_928_400
    assert tuple(words.ghat.shape) == (9, 12, 76, 76)


@pytest.mark.parametrize("bias", [None, "shared", "per_layer"])
def test_zeros_reproduce_the_backbone_bit_for_bit(pipe, sight, bias):
    sights, contexts = [sight(1), sight(2), sight(4)], [CONTEXT, None, None]
    questions = [QUESTION, "what is red?", "a cat"]
    for part in (slice(0, 3), slice(1, 2)):  # with padding, and without
        wanted = stock(pipe, sights[part], questions[part], contexts[part])
        own = pipe if bias is None else with_bias(pipe, bias)
        assert torch.equal(own(sights[part], questions[part], contexts[part], graph=None).logits, wanted)
        complete = [AttentionGraph((GraphNode((0, 5)),)) for _ in questions[part]]  # all that it closes is open
        assert torch.equal(own(sights[part], questions[part], contexts[part], graph=complete).logits, wanted)


def test_a_graph_and_a_bias_change_the_answer(pipe, sight):
    plain = pipe(sight(), QUESTION, CONTEXT, graph=None).logits
    graph = pipe(sight(), QUESTION, CONTEXT).logits
    random = pipe(sight(), QUESTION, CONTEXT, random_graph=0).logits
    bias = with_bias(pipe, "shared", 0)(sight(), QUESTION, CONTEXT, graph=None).logits
    both = with_bias(pipe, "shared", 0)(sight(), QUESTION, CONTEXT).logits
    found = torch.cat([plain, graph, random, bias, both])
    assert len({tuple(row) for row in found.tolist()}) == 5
    again = pipe(sight(), QUESTION, CONTEXT, random_graph=0)
    assert torch.equal(again.logits, random) and not torch.equal(
        pipe(sight(), QUESTION, CONTEXT, random_graph=1).logits, random
    )


def test_patches_lie_row_by_row_whatever_vilt_draws(vilt_pipe, picture):
    table = vilt_pipe.model.vilt.embeddings
    sights = [picture(0, 32, 32), picture(1, 32, 64)]
    examples = vilt_pipe.check_inputs(sights, "a cat", None, None, FULL)
    given = vilt_pipe.pack(examples, [vilt_pipe.encode_text(example) for example in examples])
    for seed in range(3):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        embedded = vilt_pipe.backbone.embed(given)
        assert torch.equal(torch.random.get_rng_state(), before)
        pixels = table.patch_embeddings(given.visual[0])  # (2, 16, 4, 6): 4 x 4 patches, and 3 x 6
        for b, (height, width) in enumerate(((4, 4), (3, 6))):
            count = height * width
            rows = pixels[b, :, :height, :width].flatten(1).T
            own = table.position_embeddings[0, 1:].T.reshape(1, 16, 4, 4)
            places = torch.nn.functional.interpolate(own, (height, width), mode="bilinear", align_corners=True)
            wanted = rows + places[0].flatten(1).T + table.token_type_embeddings.weight[1]
            torch.testing.assert_close(embedded.image[b, 1 : 1 + count], wanted)
            assert embedded.regions.valid[b].tolist() == [True] * (1 + count) + [False] * (18 - count)
            boxes = embedded.regions.boxes[b, 1 : 1 + count].reshape(height, width, 4)
            wanted = torch.tensor([2 / width, 1 / height, 3 / width, 2 / height])
            torch.testing.assert_close(boxes[1, 2], wanted)


def test_cut_cells_have_no_weight_at_their_patches(vilt_pipe, picture):
    nodes = tuple(GraphNode(modality="image", region=n) for n in (0, 9, 5))
    graph = auto_graph(QUESTION, CONTEXT).joined(AttentionGraph(nodes, ((0, 1),)))
    out = vilt_pipe(picture(0, 32, 32), QUESTION, CONTEXT, graph=graph, output_attentions=True)
    maps = out.attentions[0]
    length = len(maps.tokens) + maps.special
    bias = vilt_pipe.compile(picture(0, 32, 32), QUESTION, CONTEXT, graph=graph)
    for layer in maps.layers:
        assert layer.shape == (2, *bias.allowed.shape[1:])
        assert bool((layer > 0).eq(bias.allowed).all())
        weights = layer[:, length:, length:]
        assert not weights[:, 0, 5].any() and not weights[:, 5, 9].any() and weights[:, 0, 9].all()
        torch.testing.assert_close(layer.sum(-1), torch.ones_like(layer.sum(-1)))
    assert maps.on_regions().shape == (16,) and maps.overlay(picture(0, 32, 32)).size == (32, 32)


def test_lxmert_keeps_its_cross_layers(lxmert_pipe):
    out = lxmert_pipe(features(0, 6), QUESTION, CONTEXT, regions="iou", output_attentions=True)
    maps, bias = out.attentions[0], lxmert_pipe.compile(features(0, 6), QUESTION, CONTEXT, regions="iou")
    length = bias.text_length
    assert [tuple(layer.shape) for layer in maps.layers] == [(2, length, length)] * 3 + [(2, 6, 6)] * 2
    for layer in maps.layers[:3]:
        assert bool((layer > 0).eq(bias.allowed[:, :length, :length]).all())
    for layer in maps.layers[3:]:
        assert bool((layer > 0).eq(bias.allowed[:, length:, length:]).all())
    assert maps.on_regions().shape == (6,)
    with pytest.raises(ValueError, match="over words alone"):
        maps.on_regions(0)


def test_a_pass_repeats_itself_where_vilt_leaves_patches_out(vilt, tokenizer, image_processor, picture):
    model = copy.deepcopy(vilt)
    model.config.max_image_length = model.vilt.embeddings.config.max_image_length = 7
    pipe = GraphTransformerPipeline(model, tokenizer, image_processor)
    pipe.set_progress_bar_config(disable=True)
    out = pipe(picture(), QUESTION, CONTEXT, regions="knn", neighbours=2)
    torch.manual_seed(5)
    assert torch.equal(pipe(picture(), QUESTION, CONTEXT, regions="knn", neighbours=2).logits, out.logits)
    bias = pipe.compile(picture(), QUESTION, CONTEXT)
    assert bias.boxes.shape[1] == 8 and len({tuple(box) for box in bias.boxes[0, 1:].tolist()}) == 7


@pytest.mark.parametrize("attention", ["explicit", "sdpa", "flex"])
@pytest.mark.parametrize("bias", [None, "per_layer"])
def test_the_attention_is_the_same_however_it_runs(vilt_pipe, picture, attention, bias):
    pipe = vilt_pipe if bias is None else with_bias(vilt_pipe, bias, 1, soft=True)
    sights, questions = [picture(0), picture(1, 40, 40)], [QUESTION, "what is behind the dog?"]
    wanted = pipe(sights, questions, CONTEXT, attention="stock")
    with warnings.catch_warnings(action="ignore"):
        found = pipe(sights, questions, CONTEXT, attention=attention)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-4)
    assert all("forward" not in vars(layer.attention.attention) for layer in pipe.model.vilt.encoder.layer)


# how it is asked


def test_many_equal_one_by_one(pipe, sight):
    sights = [sight(n) for n in range(4)]
    questions = [QUESTION, "what is red?", "is the cat behind the dog?", "a horse"]
    contexts = [CONTEXT, None, "the dog chases the cat.", Table(("name", "age"), (("ann", "7"), ("bob", "9")))]
    with warnings.catch_warnings(action="ignore"):
        many = pipe(sights, questions, contexts, regions="knn", neighbours=2)
        pairs = pipe(sights, questions, contexts, regions="knn", neighbours=2, batch_size=3)
        for n in range(4):
            one = pipe(sights[n], questions[n], contexts[n], regions="knn", neighbours=2)
            torch.testing.assert_close(many.logits[n : n + 1], one.logits, rtol=0, atol=1e-4)
            assert one.answers == many.answers[n : n + 1] and one.graphs == many.graphs[n : n + 1]
            assert one.empty == [0] * (n in many.empty)
    torch.testing.assert_close(pairs.logits, many.logits, rtol=0, atol=1e-4)


def test_one_picture_serves_many_questions_and_one_question_many_pictures(pipe, sight):
    two = pipe(sight(), [QUESTION, "is the cat left of the dog?"])
    assert torch.allclose(two.logits[:1], pipe(sight(), QUESTION).logits, atol=1e-4)
    assert pipe([sight(0), sight(1), sight(2)], QUESTION).logits.shape == (3, 4)


def test_dict_and_tuple_outputs_agree(pipe, sight):
    out = pipe(sight(), QUESTION, CONTEXT)
    values = pipe(sight(), QUESTION, CONTEXT, return_dict=False)
    assert len(values) == 5 and all(torch.equal(a, b) for a, b in zip(values[:2], out.to_tuple()[:2], strict=True))
    assert values[2:] == out.to_tuple()[2:] == (out.answers, out.graphs, out.empty)
    assert out["answers"] == out.answers and out.attentions is None
    assert len(pipe(sight(), QUESTION, CONTEXT, output_attentions=True, return_dict=False)) == 6


def test_candidates_share_the_probability(pipe, sight):
    every = pipe([sight(0), sight(1)], QUESTION)
    torch.testing.assert_close(every.probs, every.logits.softmax(1))
    some = pipe([sight(0), sight(1)], QUESTION, candidates=["green", "blue"])
    assert bool((some.probs[:, [0, 3]] == 0).all()) and set(some.answers) <= {"green", "blue"}
    torch.testing.assert_close(some.probs[:, [1, 2]], every.logits[:, [1, 2]].softmax(1))
    each = pipe([sight(0), sight(1)], QUESTION, candidates=[["yes"], ["red", "blue"]])
    assert each.answers[0] == "yes" and each.probs[0].tolist() == [0, 0, 0, 1]
    ranked = each.ranked(pipe.answers)
    assert ranked[0] == [("yes", 1.0)] and len(ranked[1]) == 2 and ranked[1][0][1] >= ranked[1][1][1]
    assert len(every.ranked(pipe.answers, 3)[0]) == 3


def test_an_empty_graph_is_the_padding_mask_and_is_told(pipe, sight):
    with pytest.warns(UserWarning, match="1 of 2 graphs are empty, first that of 'what is red\\?'"):
        out = pipe([sight(0), sight(1)], [QUESTION, "what is red?"])
    assert out.empty == [1] and out.graphs[1] == AttentionGraph()
    with warnings.catch_warnings(action="error"):
        plain = pipe([sight(0), sight(1)], [QUESTION, "what is red?"], graph=None)
    assert plain.empty == [] and torch.equal(plain.logits[1], out.logits[1])
    with pytest.warns(UserWarning, match="1 of 1 graphs"):
        given = pipe(sight(1), "what is red?", graph=AttentionGraph())
    torch.testing.assert_close(given.logits[0], plain.logits[1], rtol=0, atol=1e-4)


def test_graphs_come_in_every_form(pipe, sight):
    text = "the red cube is left of the blue sphere, the cat is behind the dog"
    wanted = pipe(sight(), text).logits
    facts = [("cube", "is", "red"), ("cube", "left of", "sphere"), ("sphere", "is", "blue"), ("cat", "behind", "dog")]
    forms = [
        auto_graph(text),
        [auto_graph(text)],
        auto_graph(text).to_json(),
        " , ".join(f"( {' , '.join(fact)} )" for fact in facts),
        facts,
        {
            "entities": [
                {"head": "cube", "modifiers": [{"dep": "amod", "span": "red"}]},
                {"head": "sphere", "modifiers": [{"dep": "amod", "span": "blue"}]},
                {"head": "cat"},
                {"head": "dog"},
            ],
            "relations": [
                {"subject": 0, "relation": "left of", "object": 1},
                {"subject": 2, "relation": "behind", "object": 3},
            ],
        },
    ]
    for form in forms:
        assert torch.equal(pipe(sight(), text, graph=form).logits, wanted), form
    mixed = pipe([sight(), sight(), sight()], text, graph=["auto", None, forms[0]])
    assert not torch.equal(mixed.logits[0], mixed.logits[1]) and torch.equal(mixed.logits[0], mixed.logits[2])


def test_which_regions_connect_decides(pipe, sight):
    found = [pipe(sight(), QUESTION, **options).logits for options in (
        {}, {"regions": "knn", "neighbours": 1}, {"regions": "knn", "neighbours": 2}, {"regions": "iou"},
    )]  # fmt: skip
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])
    size = pipe.compile(sight(), QUESTION).boxes.shape[1] - (pipe.image_processor is not None)
    assert torch.equal(pipe(sight(), QUESTION, regions=torch.ones(size, size)).logits, found[0])
    own = pipe(sight(), QUESTION, regions=torch.eye(size)).logits
    assert torch.equal(own, found[3]) == (pipe.image_processor is not None)  # patches never overlap


def test_a_text_that_is_too_long_is_refused_or_cut(pipe, sight):
    long = " ".join([CONTEXT] * 4)
    with pytest.raises(ValueError, match=r"`questions\[0\]` with its context has 81 tokens; the model takes 48"):
        pipe(sight(), QUESTION, long)
    out = pipe(sight(), QUESTION, long, truncate=True)
    assert max(node.span[1] for node in out.graphs[0].nodes) < len(QUESTION) + 190
    beyond = AttentionGraph((GraphNode((0, 4)), GraphNode((250, 253))), ((0, 1),))
    with pytest.raises(ValueError, match="node 1 '.*' lies beyond token 48"):
        pipe(sight(), QUESTION, long, graph=beyond, truncate=True)


def test_progress_counts_the_passes(pipe, sight, capsys):
    pipe.set_progress_bar_config(disable=False)
    pipe([sight(0)] * 5, QUESTION, batch_size=2)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["stock", "sdpa"])
def test_half_precision(vilt, lxmert, tokenizer, image_processor, sight, kind, dtype, attention):
    if kind == "lxmert" and attention != "stock":
        return
    model = copy.deepcopy(vilt if kind == "vilt" else lxmert)
    answers = ["red", "blue", "green", "yes"] if kind == "lxmert" else None
    pipe = GraphTransformerPipeline(model, tokenizer, image_processor if kind == "vilt" else None, answers=answers)
    pipe = with_bias(pipe, "shared", 2)
    wanted = pipe([sight(1), sight(2)], QUESTION, CONTEXT).logits
    pipe.to(dtype)
    out = pipe([sight(1), sight(2)], QUESTION, CONTEXT, attention=attention)
    assert out.logits.dtype == torch.float32 and pipe.quasi_attention.dtype == dtype
    assert bool(out.logits.isfinite().all()) and (out.logits - wanted).abs().max() < 0.1 * wanted.abs().max() + 0.05


@pytest.mark.parametrize("way", ["model", "sequential", "leaf_level", "block_level"])
def test_offloading_brings_every_weight_in_time(pipe, sight, way, offload):
    own = with_bias(pipe, "per_layer", 3, soft=True)
    wanted = own([sight(1), sight(2)], QUESTION, CONTEXT, batch_size=1).logits
    own = with_bias(own, "per_layer", 3, soft=True)
    own.register_modules(model=copy.deepcopy(own.model))
    own = GraphTransformerPipeline(
        copy.deepcopy(pipe.model), pipe.tokenizer, pipe.image_processor, own.quasi_attention, pipe.config.answers
    )
    own.set_progress_bar_config(disable=True)
    parts = {name for name, part in own.components.items() if isinstance(part, torch.nn.Module)}
    assert parts == set(own.model_cpu_offload_seq.split("->"))
    if way == "model":
        own.enable_model_cpu_offload(device="cpu")
    else:
        offload(own, way)
    for _ in range(2):
        torch.testing.assert_close(own([sight(1), sight(2)], QUESTION, CONTEXT, batch_size=1).logits, wanted)


# saved and loaded


LOAD = """
import sys, torch
from wm_pipelines.graph_transformer.pipeline import GraphTransformerPipeline
from wm_pipelines.graph_transformer.inputs import RegionFeatures

folder, question, context = sys.argv[1:]
given = torch.load(f"{folder}/given.pt", weights_only=True)
logits = {}
for name in ("vilt-0", "vilt-1", "vilt-2", "lxmert-0", "lxmert-1", "lxmert-2"):
    pipe = GraphTransformerPipeline.from_pretrained(f"{folder}/{name}")
    pipe.set_progress_bar_config(disable=True)
    sight = given["picture"] if "vilt" in name else RegionFeatures(given["features"], given["boxes"])
    logits[name] = pipe(sight, question, context).logits
    assert len(pipe.answers) == 4
torch.save(logits, f"{folder}/logits.pt")
"""


@pytest.mark.slow
def test_saving_and_loading_change_no_bit_in_a_fresh_interpreter(vilt_pipe, lxmert_pipe, picture, tmp_path):
    regions = features(1)
    sights = {"vilt": torch.from_numpy(picture(1)).permute(2, 0, 1), "lxmert": regions}
    wanted = {}
    for kind, pipe in (("vilt", vilt_pipe), ("lxmert", lxmert_pipe)):
        own = [pipe, with_bias(pipe, "shared", 4), with_bias(pipe, "per_layer", 5, soft=True, lam=0.5)]
        for n, made in enumerate(own):
            wanted[f"{kind}-{n}"] = made(sights[kind], QUESTION, CONTEXT).logits
            made.save_pretrained(tmp_path / f"{kind}-{n}")
    given = {"picture": sights["vilt"], "features": regions.features, "boxes": regions.boxes}
    torch.save(given, tmp_path / "given.pt")
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path), QUESTION, CONTEXT], check=True, capture_output=True)
    found = torch.load(tmp_path / "logits.pt", weights_only=True)
    for name, logits in wanted.items():
        assert torch.equal(found[name], logits), name
    assert len({tuple(logits[0].tolist()) for logits in wanted.values()}) == 6


def test_a_stock_checkpoint_becomes_a_pipeline(kind, vilt, lxmert, tokenizer, image_processor, sight, tmp_path):
    model = vilt if kind == "vilt" else lxmert
    for part in (model, tokenizer, *([image_processor] if kind == "vilt" else [])):
        part.save_pretrained(tmp_path)
    plain = GraphTransformerPipeline.from_backbone(tmp_path)
    plain.set_progress_bar_config(disable=True)
    examples = [sight(1)], [QUESTION], [None]
    assert torch.equal(plain(*(part[0] for part in examples), graph=None).logits, stock(plain, *examples))
    assert plain.answers == (["red", "blue", "green", "yes"] if kind == "vilt" else ["0", "1", "2", "3"])
    load = GraphTransformerPipeline.from_backbone
    made = [load(tmp_path, ["dog", "cat"], "shared", seed=n, lam=2) for n in (3, 3, 4)]
    assert made[0].answers == ["dog", "cat"] and made[0].quasi_attention.config["lambda"] == 2
    made[0].set_progress_bar_config(disable=True)
    assert made[0](sight(1), QUESTION).answers[0] in ("dog", "cat")
    own = [[p for n, p in m.model.named_parameters() if n.startswith(("classifier", "answer_head"))] for m in made]
    heads = [torch.cat([p.flatten() for p in parts]) for parts in own]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    GraphTransformerPipeline.from_backbone(tmp_path, ["dog", "cat"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_checkpoint_without_a_head_needs_answers(vilt, tokenizer, image_processor, tmp_path):
    for part in (vilt.vilt, tokenizer, image_processor):
        part.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no answer head; pass `answers`"):
        GraphTransformerPipeline.from_backbone(tmp_path)
    pipe = GraphTransformerPipeline.from_backbone(tmp_path, ["dog", "cat", "cow"])
    for name, wanted in vilt.vilt.state_dict().items():
        assert torch.equal(pipe.model.vilt.state_dict()[name], wanted)


def test_the_record_recommends_which_regions_connect(vilt_pipe, picture):
    from wm_pipelines.config import WMConfig

    wanted = vilt_pipe(picture(), QUESTION, regions="knn", neighbours=2).logits
    settings = {"image_size": 32, "regions": "knn", "neighbours": 2}
    vilt_pipe.wm_config = WMConfig(method="graph-transformer", method_config=settings)
    assert torch.equal(vilt_pipe(picture(), QUESTION).logits, wanted)
    plain = vilt_pipe.compile(picture(), QUESTION, regions="full")
    assert not torch.equal(vilt_pipe.compile(picture(), QUESTION).allowed, plain.allowed)
    vilt_pipe.wm_config = WMConfig(method="graph-transformer", vocabulary=["the", "cube", "is", "red"])
    with pytest.raises(ValueError, match="`questions` has the word 'sphere'"):
        vilt_pipe(picture(), "the sphere is red")
    with pytest.raises(ValueError, match="`context` has the word 'blue'"):
        vilt_pipe(picture(), "the cube is red", "blue")


def test_memory_is_asked_for_by_the_size_of_the_run(pipe):
    assert 0 < pipe.activation_bytes(1) < pipe.activation_bytes(8) < pipe.activation_bytes(8, training=True)
    assert math.isclose(pipe.activation_bytes(64), pipe.activation_bytes(32))
