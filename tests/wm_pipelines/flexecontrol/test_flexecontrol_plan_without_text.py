"""A plan for hosts that keep the prompt: conditions at size, no phrase bound, and the stages that follow from it."""

import pytest
import torch

from wm_pipelines import Condition
from wm_pipelines.flexecontrol.steering.plan import plan_without_text
from wm_pipelines.flexecontrol.steering.stages import Frame, Stages


def test_phrases_are_left_and_windows_counted_in_steps(tiny_control):
    marks = (torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) > 0.9).float()
    given = [Condition("canny", marks, phrase="red cube"), Condition("depth", marks, start=0.5, strength=0.5)]
    plan = plan_without_text(tiny_control, given, (64, 64))
    assert [c.type for c in plan.rows[0]] == ["canny", "depth"] and plan.texts == [None] and plan.conflicts == []
    assert plan.bindings[0].phrases == [] and plan.bindings[0].owners == [None, None]
    stages = Stages(tiny_control, plan, Frame(1, (64, 64), 1.0, False, torch.device("cpu")), bind=False)
    first, last = stages.at(0, 4), stages.at(3, 4)
    assert first.regions is None and len(first.features) == len(last.features) == 3
    types = list(tiny_control.config.types)
    assert first.strengths[0, types.index("depth")] == 0 and last.strengths[0, types.index("depth")] == 0.5


def test_a_map_of_another_size_is_refused(tiny_control):
    with pytest.raises(ValueError, match="condition 'canny' #1 is 32x64"):
        plan_without_text(tiny_control, [Condition("canny", torch.zeros(3, 32, 64))], (64, 64))
