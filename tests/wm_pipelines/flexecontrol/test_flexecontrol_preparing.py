"""A condition is prepared once a call, and everybody afterwards takes what was prepared."""

import warnings

import pytest
import torch

from wm_pipelines.flexecontrol.conditions import preparing
from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.steering.plan import Plan
from wm_pipelines.flexecontrol.steering.stages import Frame, Stages, residuals
from wm_pipelines.text.scene_graph import Edge, Node, SceneGraph

GRAPH = SceneGraph((Node("a", "cube", ("red",)), Node("b", "sphere", ("blue",))), (Edge("a", "left of", "b"),))


@pytest.fixture
def loads(monkeypatch):
    """The types of the maps that were loaded, in order."""
    seen = []
    original = preparing.prepare_one

    def watch(condition, *rest):
        seen.append(condition.type)
        return original(condition, *rest)

    monkeypatch.setattr(preparing, "prepare_one", watch)
    return seen


def test_the_output_holds_the_conditions_as_they_were_used(sample, square):
    wide = torch.zeros(3, 64, 128)
    wide[:, 20, 32:96] = 1
    conditions = [Condition("canny", wide, fit="crop"), Condition("depth", square(), region=(0, 0, 0.5, 1))]
    output = sample(None, scene_graph=GRAPH, conditions=conditions, num_inference_steps=1)
    (row,) = output.prepared
    assert [(c.type, c.index, c.source) for c in row] == [
        ("canny", 0, "map"),
        ("depth", 1, "map"),
        ("seg", 2, "graph"),
    ]
    assert torch.equal(row[0].image, wide[:, :, 32:96]) and row[0].region is None
    assert row[1].region.sum() == 32 * 64
    assert [c["coverage"] for c in output.report["prompts"][0]["conditions"]] == [
        round(float(c.area.float().mean()), 6) for c in row
    ]


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        (lambda wide: Condition("canny", wide, fit="crop"), "condition 'canny' #1: fit='crop' cuts off 25% of what"),
        (
            lambda wide: Condition.from_photo("canny", wide, fit="crop"),
            "fit='crop' cuts off 50% of the photo",
        ),
        (lambda wide: Condition("canny", wide[..., 8:88], fit="crop"), None),
        (lambda wide: Condition("canny", wide, fit="pad"), None),
    ],
)
def test_a_crop_that_cuts_marks_off_says_so(condition, told):
    wide = torch.zeros(3, 64, 128)
    wide[:, 20:40, 16:80] = 1  # 16 of these 64 columns lie outside the middle of the map
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        preparing.prepare([condition(wide)], 64, 64, 8)
    about = [str(w.message) for w in caught if "cuts off" in str(w.message)]
    assert (about == []) if told is None else (len(about) == 1 and told in about[0])


def test_prompts_that_share_conditions_share_what_was_prepared(sample, square, loads):
    shared = sample(["a red cube", "a blue sphere"], conditions=[Condition("canny", square())], num_inference_steps=1)
    assert shared.prepared[0] is shared.prepared[1] and loads == ["canny"]
    lists = [[Condition("canny", square())], [Condition("depth", square())]]
    apart = sample(["a red cube", "a blue sphere"], conditions=lists, num_inference_steps=1)
    assert [[c.type for c in row] for row in apart.prepared] == [["canny"], ["depth"]]
    assert sample(num_inference_steps=1).prepared == [[]]


def test_the_command_line_prepares_once_and_warns_once(flex_pipe, square, loads, monkeypatch, tmp_path):
    from wm_pipelines.flexecontrol import run as module
    from wm_pipelines.media.pictures import load_image, to_tensor

    monkeypatch.setattr(module, "load", lambda base, control: flex_pipe)
    conditions = [Condition("canny", 1 - square()), Condition("depth", square())]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module.run("a red cube", conditions, out=tmp_path / "out", num_inference_steps=1, on_conflict="ignore")
    assert loads == ["canny", "depth"]
    assert len([w for w in caught if "looks inverted" in str(w.message)]) == 1
    assert torch.equal(to_tensor(load_image(tmp_path / "out" / "condition_1_depth.png")), square())


def test_predicting_noise_changes_nothing(flex_pipe, square):
    """Residuals and noise are functions of latents and stage: asked twice, in any order, they say the same."""
    rows = [preparing.prepare([Condition("canny", square(), end=0.5), Condition("depth", square())], 64, 64, 16)]
    frame = Frame(1, (64, 64), 1.0, normalise_overlap=False, device=torch.device("cpu"))
    stages = Stages(flex_pipe.control, Plan([None], rows, [], []), frame, bind=False)
    flex_pipe.scheduler.set_timesteps(2)
    flex_pipe._guidance_scale = 3.0
    t, embeds = flex_pipe.scheduler.timesteps[0], torch.randn(2, 77, 16, generator=torch.Generator().manual_seed(0))
    first, second = stages.at(0, 2), stages.at(1, 2)
    assert stages.at(1, 2) is second and first is not second

    def noise(seed, stage):
        latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
        kept = latents.clone()
        with torch.no_grad():
            found = flex_pipe.predict_noise(latents, t, embeds, stage=stage, scale=1.0)
        assert torch.equal(latents, kept)
        return found

    before = {name: p.clone() for name, p in flex_pipe.control.named_parameters()}
    a, b, c = noise(0, first), noise(1, first), noise(0, second)
    assert not torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(noise(0, first), a) and torch.equal(noise(0, second), c) and torch.equal(noise(1, first), b)
    assert all(torch.equal(p, before[name]) for name, p in flex_pipe.control.named_parameters())


def test_a_stage_without_active_conditions_adds_nothing(flex_pipe, square):
    rows = [preparing.prepare([Condition("canny", square(), start=0.5)], 64, 64, 16)]
    frame = Frame(1, (64, 64), 1.0, normalise_overlap=False, device=torch.device("cpu"))
    stage = Stages(flex_pipe.control, Plan([None], rows, [], []), frame, bind=False).at(0, 2)
    latents, embeds = torch.zeros(1, 4, 16, 16), torch.zeros(1, 77, 16)
    assert residuals(flex_pipe.control, stage, latents, torch.tensor(5), prompt_embeds=embeds, scale=1.0) == {}
