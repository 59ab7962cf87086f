"""`ComCLIPPipeline` on a real CLIPModel at tiny size: scores, controls, costs, caches, saving."""

import copy

import pytest
import torch

from wm_pipelines.comclip.fusion import Rule, combine, cosine, weights_of
from wm_pipelines.comclip.subimages import subimage
from wm_pipelines.text.parser import Entity, ParsedText, Relation


@pytest.fixture
def run(pipe, picture, caption, boxes):
    """`run(**options)`: one pair."""
    return lambda **options: pipe(picture(), caption, boxes, **options)


def tower(parts, pictures):
    """Features of pictures (3, H, W) by the stock processor and model, nothing of ours but the padding."""
    import numpy as np
    from PIL import Image

    padded = []
    for image in pictures:
        square = torch.zeros(3, 64, 64)
        square[:, 12:52] = image
        padded.append(
            Image.fromarray((square.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy().astype(np.uint8))
        )
    pixels = parts["image_processor"](images=padded, return_tensors="pt")["pixel_values"]
    return parts["model"].get_image_features(pixels).pooler_output.double()


def words(parts, texts):
    tokens = parts["tokenizer"](texts, padding="max_length", max_length=77, return_tensors="pt")
    return parts["model"].get_text_features(tokens["input_ids"]).pooler_output.double()


@pytest.mark.parametrize("embed", ["unit", "raw"])
def test_the_score_is_the_rule_on_the_stock_towers(run, comclip_parts, picture, caption, boxes, embed):
    out = run(embed=embed)
    image = picture()
    cuts = [boxes["red cube"], boxes["blue sphere"], boxes["red cube"] + boxes["blue sphere"]]
    seen = tower(comclip_parts, [image, *(subimage(image, cut) for cut in cuts)])
    said = words(comclip_parts, [caption, "red cube", "blue sphere", "left of"])
    if embed == "unit":
        seen, said = (torch.nn.functional.normalize(x, dim=-1) for x in (seen, said))
    weights, degenerate = weights_of((seen[1:] * said[1:]).sum(-1))
    wanted = cosine(combine(seen[0], seen[1:], weights), said[0])
    assert not degenerate
    assert float(out.score) == pytest.approx(float(wanted), rel=1e-5)
    assert float(out.baseline) == pytest.approx(float(cosine(seen[0], said[0])), rel=1e-5)
    assert [c.weight for c in out.components[0]] == pytest.approx(weights.tolist(), rel=1e-4)
    assert float(out.detector) == 1 and not out.failures and abs(float(out.score - out.baseline)) > 1e-3


def test_components_say_what_was_seen_and_how_much_it_weighs(run, picture, boxes):
    parts = run().components[0]
    assert [(p.id, p.text, p.kind) for p in parts] == [
        ("e0", "red cube", "entity"), ("e1", "blue sphere", "entity"), ("r0", "left of", "relation"),
    ]  # fmt: skip
    assert sum(p.weight for p in parts) == pytest.approx(1, abs=1e-12)
    assert parts[0].box == boxes["red cube"][0] and parts[2].box == (2, 3, 60, 39) and len(parts[2].boxes) == 2
    from wm_pipelines.media.pictures import to_pil

    assert parts[0].subimage.tobytes() == to_pil(subimage(picture(), boxes["red cube"])).tobytes()
    assert parts[0].subimage.size == (64, 40)


@pytest.mark.parametrize("fusion", ["released", "gclip", "equal"])
def test_without_boxes_the_full_rule_is_the_plain_score(pipe, picture, caption, fusion):
    with pytest.warns(UserWarning, match="no box for 'red cube'"):
        out = pipe(picture(), caption, fusion=fusion)
    assert float(out.score) == pytest.approx(float(out.baseline), rel=1e-12)
    assert float(out.detector) == 0 and [f.kind for f in out.failures] == ["missing box"] * 2


def test_sub_images_that_hold_the_whole_picture_leave_the_plain_score(pipe, picture, caption):
    whole = {"red cube": [(0, 0, 63, 39)], "blue sphere": [(0, 0, 64, 40)]}
    for fusion in ("released", "gclip", "equal"):
        out = pipe(picture(), caption, whole, fusion=fusion)
        assert float(out.score) == pytest.approx(float(out.baseline), rel=1e-5)


def test_a_caption_without_entities_keeps_the_plain_score_bit_for_bit(pipe, picture):
    for fusion in ("released", "gclip", "equal", "late"):
        with pytest.warns(UserWarning, match="no entities parsed from caption 'an empty scene'; returning the plain"):
            out = pipe(picture(), "an empty scene", fusion=fusion)
        assert torch.equal(out.score, out.baseline) and out.components == [[]]
        assert [f.kind for f in out.failures] == ["no entity"] and float(out.detector) == 0


def test_late_fusion_takes_entities_only(run, comclip_parts, picture, caption, boxes):
    out = run(fusion="late")
    image = picture()
    seen = tower(comclip_parts, [image, subimage(image, boxes["red cube"]), subimage(image, boxes["blue sphere"])])
    cosines = cosine(seen, words(comclip_parts, [caption, "red cube", "blue sphere"]))
    assert float(out.score) == pytest.approx(float(cosines[0] + cosines[1:].mean()) / 2, rel=1e-5)
    assert [p.kind for p in out.components[0]] == ["entity"] * 2 and out.passes == (3, 3)


def test_a_missing_component_sees_everything_or_nothing(pipe, picture, caption, boxes):
    del boxes["red cube"]
    with pytest.warns(UserWarning):
        full = pipe(picture(), caption, boxes)
        blank = pipe(picture(), caption, boxes, missing="blank")
    assert [p.missing for p in full.components[0]] == [True, False, True]  # the relation lacks an end
    assert full.components[0][0].subimage.tobytes() != blank.components[0][0].subimage.tobytes()
    assert blank.components[0][0].subimage.getextrema() == ((0, 0),) * 3
    assert float(full.detector) == 0.5 and float(full.score) != float(blank.score)
    # the whole picture stands there already; all black pictures are one
    assert full.passes.images == 2 and blank.passes.images == 1


def test_a_pair_costs_as_many_passes_as_it_has_components_and_one(pipe, picture, boxes):
    """4 pictures and 4 texts for subject, verb, object; the count is what really went through the towers."""
    rows = {"images": 0, "texts": 0}
    model = pipe.model
    hooks = [
        model.vision_model.register_forward_pre_hook(lambda m, args: count(rows, "images", args[0])),
        model.text_model.encoder.register_forward_pre_hook(
            lambda m, args, kwargs: count(rows, "texts", kwargs["inputs_embeds"]), with_kwargs=True
        ),
    ]

    def count(rows, name, batch):
        rows[name] += len(batch)

    try:
        for text, wanted in (
            ("a red cube left of a blue sphere", 4),
            ("a red cube", 2),
            ("a blue sphere above a green cone and behind a red cube", 6),
        ):
            pipe.clear_caches()
            rows.update(images=0, texts=0)
            grounding = {**boxes, "green cone": [(40, 2, 50, 9)]}
            passes = pipe(picture(), text, grounding).passes
            assert passes == (rows["images"], rows["texts"]) == (wanted, wanted)
            assert pipe(picture(), text, grounding).passes == (0, 0)
            assert rows == {"images": wanted, "texts": wanted}
    finally:
        for hook in hooks:
            hook.remove()


def test_words_are_cached_for_all_pictures_and_sub_images_for_their_boxes(pipe, picture, caption, boxes):
    pipe(picture(0), caption, boxes)
    assert pipe(picture(1), caption, boxes).passes == (4, 0)
    moved = {**boxes, "red cube": [(3, 3, 20, 21)]}
    assert pipe(picture(0), caption, moved).passes == (2, 0)  # the cube, and the relation that holds it
    assert pipe(picture(0), "a blue sphere left of a red cube", boxes).passes == (0, 1)
    assert pipe(picture(0), caption, boxes, fit="stretch").passes == (4, 0)


def test_many_equal_one_by_one(pipe, picture, caption, boxes):
    captions = [caption, "a red cube", "a blue sphere behind a red cube", "a green cone"]
    pictures = [picture(n, *size) for n, size in enumerate([(40, 64), (64, 64), (40, 70), (1, 1)])]
    grounding = [boxes, boxes, boxes, {}]
    with pytest.warns(UserWarning):
        many = pipe(pictures, captions, grounding)
        single = []
        for one in zip(pictures, captions, grounding, strict=True):
            pipe.clear_caches()
            single.append(pipe(*one, batch_size=1))
    for name in ("score", "baseline", "detector"):
        assert torch.allclose(many[name], torch.cat([one[name] for one in single]), rtol=1e-5, atol=0)


def test_a_matrix_holds_every_pair(pipe, picture, caption, boxes):
    pictures, captions = [picture(0), picture(1)], [caption, "a blue sphere", "a red cube"]
    grid = pipe.matrix(pictures, captions, [boxes, boxes], rule=Rule(missing="blank"))
    assert grid.score.shape == grid.baseline.shape == grid.detector.shape == (2, 3) and grid.components is None
    for t, text in enumerate(captions):
        column = pipe(pictures, text, [boxes, boxes], missing="blank")
        assert torch.equal(grid.score[:, t], column.score) and torch.equal(grid.baseline[:, t], column.baseline)


def test_reranking_changes_the_order_of_the_first_k_only(pipe, picture, caption, boxes):
    pictures = [picture(n) for n in range(5)]
    grounding = [boxes, {}, boxes, {"red cube": boxes["red cube"]}, boxes]
    with pytest.warns(UserWarning):
        plain = pipe.matrix(pictures, [caption, "a red cube"], grounding)
        pipe.clear_caches()
        ranked = pipe.rerank(pictures, [caption, "a red cube"], grounding, top_k=3)
    for t in range(2):
        order = plain.baseline[:, t].sort(descending=True, stable=True).indices
        assert torch.equal(ranked.baseline_order[t], order) and torch.equal(ranked.order[t, 3:], order[3:])
        best = plain.score[order[:3], t].sort(descending=True, stable=True)
        assert torch.equal(ranked.order[t, :3], order[:3][best.indices])
        assert torch.allclose(ranked.score[t], best.values, rtol=1e-5)
    assert ranked.score.shape == (2, 3)
    with pytest.raises(ValueError, match="top_k must be a positive integer, got 0"):
        pipe.rerank(pictures, [caption], grounding, top_k=0)


def test_dict_and_tuple_outputs_agree(run):
    out = run()
    score, baseline, detector, components, failures, passes = run(return_dict=False)
    assert torch.equal(score, out.score) and torch.equal(baseline, out["baseline"])
    assert components == out.components and failures == [] and passes == (0, 0)


def test_saving_and_loading_change_no_bit(pipe, run, tmp_path, picture, caption, boxes):
    from wm_pipelines import AutoWMPipeline, ComCLIPPipeline, WMConfig

    pipe.wm_config = WMConfig(method="comclip", pipeline="ComCLIPPipeline", method_config={"missing": "blank"})
    pipe.save_pretrained(tmp_path / "saved")
    assert {p.name for p in (tmp_path / "saved").iterdir()} >= {"model_index.json", "model", "tokenizer"}
    for loaded in (
        ComCLIPPipeline.from_pretrained(tmp_path / "saved"),
        AutoWMPipeline.from_pretrained(tmp_path / "saved"),
    ):
        assert torch.equal(loaded(picture(), caption, boxes).score, run().score)
        assert loaded.wm_config.method_config.missing == "blank"


def test_a_record_alone_is_a_checkpoint_on_its_base(comclip_parts, pipe, tmp_path, picture, caption, boxes):
    from wm_pipelines import AutoWMPipeline, ComCLIPPipeline, WMConfig
    from wm_pipelines.hub import seal

    base = tmp_path / "base"
    for part in comclip_parts.values():
        part.save_pretrained(base)
    plain = ComCLIPPipeline.from_matcher(str(base))
    assert torch.equal(plain(picture(), caption, boxes).score, pipe(picture(), caption, boxes).score)
    (tmp_path / "record").mkdir()
    seal(
        tmp_path / "record",
        WMConfig(method="comclip", pipeline="ComCLIPPipeline", base_model={"repo_id": "owner/tiny-clip"}),
    )
    loaded = AutoWMPipeline.from_pretrained(tmp_path / "record", base=base)
    assert torch.equal(loaded(picture(), caption, boxes).score, plain(picture(), caption, boxes).score)
    with pytest.raises(ValueError, match="model_type None"):
        ComCLIPPipeline.from_matcher(str(tmp_path / "record"))


def test_a_base_by_name_keeps_its_words_and_every_argument_counts(comclip_parts, pipe, tmp_path, monkeypatch, picture):
    from wm_pipelines import AutoWMPipeline, ComCLIPPipeline, WMConfig, hub

    monkeypatch.setattr("wm_pipelines.hub.store.EMBEDDED_ROOT", tmp_path)
    for part in comclip_parts.values():
        part.save_pretrained(tmp_path / "diorama-clip")
    hub.seal(tmp_path / "diorama-clip", WMConfig(method="diorama-clip", vocabulary=["a", "red", "cube"]))
    pipe.save_record(tmp_path / "record", "diorama-clip")
    own = {"parser": lambda text: None, "grounder": lambda *a: {}, "linker": lambda *a: []}
    loaded = ComCLIPPipeline.from_base("diorama-clip", tmp_path / "record", dtype=torch.bfloat16, **own)
    assert loaded.model.dtype == torch.bfloat16 and all(getattr(loaded, name) is own[name] for name in own)
    with pytest.raises(ValueError, match="the word 'cub'"):
        loaded(picture(), "a red cub")
    old = AutoWMPipeline.from_pretrained(tmp_path / "record", torch_dtype=torch.bfloat16)
    assert old.model.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="unexpected keyword argument 'grunder'"):
        ComCLIPPipeline.from_base("diorama-clip", tmp_path / "record", grunder=None)
    with pytest.raises(ValueError, match="use_safetensors=False is not allowed"):
        ComCLIPPipeline.from_base("diorama-clip", tmp_path / "record", use_safetensors=False)


@pytest.fixture
def own_pipe(comclip_parts):
    """A pipeline whose model no other test shares."""
    from wm_pipelines import ComCLIPPipeline

    return ComCLIPPipeline(**{**comclip_parts, "model": copy.deepcopy(comclip_parts["model"])})


def test_model_offload_runs_and_keeps_the_caches(own_pipe, pipe, picture, caption, boxes):
    expected = pipe(picture(), caption, boxes).score
    own_pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(own_pipe(picture(), caption, boxes).score, expected)
    assert own_pipe(picture(1), caption, boxes).passes == (4, 0)
    assert own_pipe.rerank([picture(), picture(2)], caption, [boxes] * 2).passes.images == 4


def test_model_offload_keeps_the_model_on_the_device_while_it_runs(own_pipe, picture, caption, boxes, monkeypatch):
    """No accelerator here, so the moves that the hook makes are written down, between the towers that run."""
    from accelerate.hooks import CpuOffload

    told, come, go = [], CpuOffload.pre_forward, CpuOffload.init_hook
    monkeypatch.setattr(CpuOffload, "pre_forward", lambda h, m: told.append("come") or come(h, m))
    monkeypatch.setattr(CpuOffload, "init_hook", lambda h, m: told.append("go") or go(h, m))
    own_pipe.enable_model_cpu_offload(device="cpu")
    for name in ("text_model.encoder", "vision_model"):
        own_pipe.model.get_submodule(name).register_forward_pre_hook(lambda m, args, name=name: told.append(name))
    told.clear()
    own_pipe(picture(), caption, boxes)
    assert told == ["come", "text_model.encoder", "vision_model", "go"]
    own_pipe.model.vision_model.register_forward_pre_hook(lambda m, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        own_pipe(picture(3), "a red cube", boxes)
    assert told[-1] == "go"  # after an error too


@pytest.mark.parametrize("kind", ["sequential", "leaf_level", "block_level"])
def test_offloading_in_pieces_brings_every_weight_in_time(own_pipe, pipe, picture, caption, boxes, offload, kind):
    expected = pipe(picture(), caption, boxes).score
    offload(own_pipe, kind)
    torch.testing.assert_close(own_pipe(picture(), caption, boxes).score, expected)
    own_pipe.clear_caches()
    torch.testing.assert_close(own_pipe(picture(), caption, boxes).score, expected)
    own_pipe.model.vision_model.register_forward_pre_hook(lambda m, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        own_pipe(picture(3), "a red cube", boxes)
    scale = own_pipe.model.logit_scale
    assert scale.is_meta if kind == "sequential" else scale == 7  # away again, after an error too


def test_what_is_remembered_is_bounded(pipe, picture, monkeypatch):
    from wm_pipelines.comclip import cache

    monkeypatch.setattr(cache, "LIMIT", 2)
    parse, read, sought = pipe.parser, [], []
    pipe.parser = lambda text: read.append(text) or parse(text)
    pipe.grounder = lambda image, phrases: sought.append(phrases) or {}
    texts = ["a red cube", "a blue cube", "a green cube"]
    for n in (0, 1, 2, 2, 1, 0):  # the first has gone when it comes again
        pipe.ground(picture(n), n, pipe.parse_text(texts[n]))
    assert read == [*texts, texts[0]] and sought == [[text.removeprefix("a ")] for text in read]


def test_parser_grounder_and_linker_are_the_users_own(comclip_parts, picture):
    from wm_pipelines import ComCLIPPipeline

    asked = []
    parsed = ParsedText((Entity("a", "cube"), Entity("b", "cube")), (Relation("c", "a", "cube", "b"),))

    def grounder(image, phrases):
        asked.append((tuple(image.shape), phrases))
        return {"thing": [(1, 1, 9, 9)], "other": [(20, 5, 30, 20)]}

    def linker(entity, labels):
        return ["thing"] if entity.id == "a" else ["other", "thing"]

    pipe = ComCLIPPipeline(**comclip_parts, parser=lambda text: parsed, grounder=grounder, linker=linker)
    out = pipe([picture(0), picture(1)], "whatever is said")
    assert asked == [((3, 40, 64), ["cube"])] * 2
    assert [p.id for p in out.components[0]] == ["a", "b", "c"]  # three components of one text stay three
    assert [len(p.boxes) for p in out.components[0]] == [1, 2, 3]
    pipe(picture(0), "whatever is said")
    assert len(asked) == 2
    given = pipe(picture(0), "x", {"thing": [(1, 1, 9, 9)]}, linker=lambda entity, labels: labels)
    assert len(asked) == 2 and given.components[0][2].boxes == ((1, 1, 9, 9),) * 2


def test_a_closed_vocabulary_is_kept(pipe, picture):
    from wm_pipelines import WMConfig

    pipe.wm_config = WMConfig(method="comclip", pipeline="ComCLIPPipeline", vocabulary=["a", "red", "cube"])
    with pytest.raises(ValueError, match="the word 'cub', which this checkpoint does not know; .* 'cube'"):
        pipe(picture(), "a red cub")
