"""Editors of diffusers in a world model's place: InstructPix2Pix at tiny size, and how each class is asked."""

import inspect

import diffusers
import pytest
import torch

from wm_pipelines import DynamicsModelPipeline
from wm_pipelines.world_model.editing import EditorWorldModel, judged
from wm_pipelines.world_model.editors import EDITORS, Capability, Editor
from wm_pipelines.world_model.overlay import heat_maps, order_of, report_lines
from wm_pipelines.world_model.selection import Gate

SIDE = 16


@pytest.fixture(scope="module")
def pipe(tiny_editor):
    return tiny_editor.make()


@pytest.fixture(scope="module")
def world(pipe):
    return EditorWorldModel(Editor(pipe, settings={"num_inference_steps": 2}))


@pytest.fixture(scope="module")
def judge(token_models):
    return DynamicsModelPipeline(**token_models.make_parts("plain"))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_candidates_are_prefix_stable_and_tokenised_again_for_scoring(world, judge, token_models):
    source = token_models.pictures(1)[0]
    few, many = (
        world(source, "move the cube", n, judge, seeded(), rescore_pixels=True, output_type="pt") for n in (2, 3)
    )
    assert torch.equal(few.images[0], many.images[0][:2]) and not torch.equal(many.images[0][0], many.images[0][1])
    assert many.image_tokens.shape == (1, 3, 16) and many.scores.shape == (1, 3)
    assert torch.equal(many.image_tokens[0], judge.encode(many.images[0]).flatten(1))
    wanted = judge.score([source] * 3, list(many.images[0]), "move the cube")
    assert torch.allclose(many.scores[0], wanted, atol=1e-4)
    copy = judge.score(source, source, "move the cube")
    assert torch.allclose(many.margins[0], wanted - copy, atol=1e-4) and many.logprobs.isnan().all()


def test_a_candidate_is_what_the_stock_pipeline_draws(world, pipe, token_models):
    from wm_pipelines.media.pictures import to_pil, to_tensor
    from wm_pipelines.runtime.random import keyed
    from wm_pipelines.world_model.pipeline import draw_seeds

    source = token_models.pictures(1)[0]
    out = world(source, "move the cube", generator=seeded(4), output_type="pt")
    seed = int(keyed("candidate", draw_seeds(seeded(4), 1)[0], 0).integers(1 << 62))
    stock = pipe(
        "move the cube", image=to_pil(source), num_inference_steps=2, guidance_scale=7.5, image_guidance_scale=1.5,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]  # fmt: skip
    assert torch.equal(out.images[0][0], to_tensor(stock))


def test_a_rollout_goes_on_from_what_was_chosen(world, judge, token_models):
    source, actions = token_models.pictures(1)[0], ["move the cube", "turn it", "remove it"]
    steps = world.rollout(source, actions, 2, judge, seeded(3), rescore_pixels=True, output_type="pt")
    generator, before = seeded(3), source
    for action, step in zip(actions, steps, strict=True):
        alone = world(before, action, 2, judge, generator, rescore_pixels=True, output_type="pt")
        assert torch.equal(step.images[0], alone.images[0]) and torch.equal(step.scores, alone.scores)
        before = alone.images[0][int(alone.selected[0])]
    assert world.rollout(source, actions[:1])[0].images[0][0].size == (SIDE, SIDE)
    for bad, message in (([], "`actions` is "), ("move", "`actions` is 'move'"), (["move", " "], "`action` is empty")):
        with pytest.raises(ValueError, match=message):
            world.rollout(source, bad)


def test_pixels_must_be_asked_for(world, judge, token_models):
    source = token_models.pictures(1)[0]
    with pytest.raises(ValueError, match="use different VQ tokenisers; set `rescore_pixels=True`"):
        world(source, "move the cube", 2, judge)
    with pytest.raises(ValueError, match="'likelihood' needs a token model; an editor has no likelihood"):
        world(source, "move the cube", 2, "likelihood")
    for arguments, message in (
        ({"action": ""}, "`action` is empty"), ({"num_candidates": 0}, "`num_candidates` is 0"),
        ({"output_type": "np"}, "`output_type`"),
        ({"source": [source, torch.rand(3, 8, 8)], "action": "move"}, "give one size"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            world(**{"source": source, "action": "move", **arguments})


@pytest.mark.parametrize("name", EDITORS)
def test_each_record_fits_the_call_of_its_class(name):
    known = inspect.signature(getattr(diffusers, name).__call__).parameters
    capability = EDITORS[name]
    asked = {capability.image, "prompt", "generator", "output_type", *capability.size, *capability.settings}
    assert asked <= set(known)
    for key in ("num_inference_steps", "guidance_scale", "image_guidance_scale", "true_cfg_scale"):
        if key in capability.settings:
            assert known[key].default == capability.settings[key], key


def test_editors_without_a_record_and_settings_that_are_not_there(pipe):
    class Stranger:
        def __call__(self, prompt, picture, generator=None, output_type="pil"):
            pass

    with pytest.raises(ValueError, match="`editor` is a Stranger, of which no record says how it is asked; known are"):
        Editor(Stranger())
    assert Editor(Stranger(), Capability(image="picture")).settings == {}
    with pytest.raises(ValueError, match="Stranger takes no 'image'; it takes"):
        Editor(Stranger(), Capability())
    with pytest.raises(ValueError, match="takes no 'strength'"):
        Editor(pipe, settings={"strength": 1.0})


def test_an_editor_that_changes_the_size_is_refused(pipe, token_models):
    from types import SimpleNamespace

    from PIL import Image

    class Grower:
        def __call__(self, prompt, image, generator=None, output_type="pil"):
            return SimpleNamespace(images=[Image.new("RGB", (32, 32))])

    grower = EditorWorldModel(Editor(Grower(), Capability()))
    with pytest.raises(ValueError, match="Grower drew 32x32 for a source of 16x16"):
        grower(token_models.pictures(1)[0], "move")


def test_any_editors_pictures_are_ranked_and_near_copies_come_last(judge, token_models):
    source = token_models.pictures(1)
    candidates = torch.stack([source[0], token_models.pictures(2)[1], (source[0] + 0.01).clamp(0, 1)])
    out = judged(source, candidates[None], ["move the cube"], judge, Gate(threshold=1e-3), "pt")
    assert out.kept.tolist() == [[False, True, False]] and out.selected.tolist() == [1]
    assert abs(float(out.margins[0, 0])) < 1e-4  # the copy itself
    assert order_of(out)[0] == 1
    lines = report_lines(out)
    assert lines[0].startswith("1: candidate 2, score ") and sum("near copy" in line for line in lines) == 2
    assert lines[-1] == ("accepted" if out.accepted[0] else "not accepted: no candidate passes")
    maps = heat_maps(out.images[0], out.change[0])
    assert maps.shape == (3, 3, 16, 16) and 0 <= maps.min() and maps.max() <= 1
    grey = candidates[0].mean(0)
    assert torch.allclose(maps[0], grey.expand(3, -1, -1), atol=1e-6)  # nothing changed there
    red = maps[1] - candidates[1].mean(0)
    assert red[0].mean() > red[1].mean()
    with pytest.raises(ValueError, match=r"`source` and `candidates` have different sizes \(16x16, 8x8\)"):
        judged(source, torch.rand(1, 2, 3, 8, 8), ["move"], judge, Gate())
