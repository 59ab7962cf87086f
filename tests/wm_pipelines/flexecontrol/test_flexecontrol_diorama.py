"""Scenes as conditions, and pictures held against scenes and captions by the judge that ships."""

import pytest
import torch

from wm_pipelines import embedded
from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.metrics import painted
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import COLOURS, Scene
from wm_pipelines.flexecontrol.diorama import KINDS, obeyed, scene_conditions
from wm_pipelines.media.conditions import TYPES


@pytest.fixture(scope="module")
def judge():
    return DioramaJudge.from_pretrained(embedded("diorama-judge")).eval()


@pytest.fixture(scope="module")
def scenes():
    drawn = DioramaDataset(split="test", length=8, num_objects=(2, 3), name="obeyed")
    return [drawn.scene(n) for n in range(8)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_visible_object_has_a_condition_at_its_place_with_its_words(scenes, kind):
    for scene in scenes[:3]:
        ids, said = render(scene).ids[0, 0], caption(scene)
        conditions = scene_conditions(scene, kind)
        visible = [o for o in scene.objects if (ids == o.id).any()]
        assert len(conditions) == len(visible) > 0
        for o, condition in zip(visible, conditions, strict=True):
            assert condition.type == kind and said.text[slice(*condition.span)] == condition.phrase
            assert o.colour in condition.phrase
            region, mask = condition.region[0] > 0, ids == o.id
            assert region[mask].all() and region.sum() < 3 * mask.sum()
            assert condition.image.shape == (3, 64, 64) and condition.image[:, region].max() > 0


def test_every_type_but_pose_is_a_kind_and_others_are_refused(scenes):
    assert set(KINDS) == set(TYPES) - {"pose"}
    with pytest.raises(ValueError, match="`kind` must be one of canny, .* got 'pose'"):
        scene_conditions(scenes[0], "pose")


def test_the_scenes_own_picture_obeys_it_and_another_does_not(judge, scenes):
    own = torch.cat([render(scene).rgb[0] for scene in scenes])
    for n, scene in enumerate(scenes):
        verdicts = obeyed(judge, own, scene, caption(scene, relations=False).text)
        scores = [verdict.score for verdict in verdicts]
        assert max(range(len(scores)), key=scores.__getitem__) == n
        assert scores[n] > 0.75 and sorted(scores)[-2] < 0.6
        assert all(bound for _, _, bound in verdicts[n].objects) and verdicts[n].caption["colour"] == 1
        assert "in its place" in verdicts[n].line() and "\n" not in verdicts[n].line()


def test_without_a_scene_the_caption_decides(judge, scenes):
    said = caption(scenes[0], relations=False).text
    right, wrong = obeyed(judge, torch.cat([render(s).rgb[0] for s in (scenes[0], scenes[1])]), text=said)
    assert right.score == right.caption["joint"] == 1 > wrong.score and right.objects == ()


def test_an_empty_picture_scores_nothing_and_what_is_seen_is_painted(judge, scenes):
    blank = render(Scene()).rgb[0]
    (verdict,) = obeyed(judge, blank, scenes[0], caption(scenes[0]).text)
    assert verdict.score == 0 and verdict.found == () and "sees nothing" in verdict.line()
    assert painted(judge, blank).max() == 0
    picture = render(scenes[0]).rgb[0]
    colours = {tuple(round(v, 4) for v in pixel.tolist()) for pixel in painted(judge, picture)[0].flatten(1).T}
    known = {tuple(round(v, 4) for v in COLOURS[name]) for name in {o.colour for o in scenes[0].objects}}
    assert known <= colours


def test_what_can_not_be_judged_is_refused(judge, scenes):
    picture = render(scenes[0]).rgb[0]
    with pytest.raises(ValueError, match="`scene` and `text` are None"):
        obeyed(judge, picture)
    with pytest.raises(ValueError, match="no object of the scene"):
        obeyed(judge, picture, Scene())
    with pytest.raises(ValueError, match="multiples of 4"):
        obeyed(judge, picture[..., :62], scenes[0])
