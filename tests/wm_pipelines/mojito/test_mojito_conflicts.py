"""Text against trajectory: what is found, what is left alone, and what each line says."""

import pytest
import torch

from wm_pipelines.mojito.trajectories.conflicts import find_conflicts
from wm_pipelines.mojito.trajectories.objects import MotionObject, object_boxes
from wm_pipelines.mojito.words.directions import said_directions

FRAMES = 8
GRIDS = [(8, 8), (16, 16)]
RIGHT = {"boxes": [(0.0, 0.4, 0.3, 0.7), (0.7, 0.4, 1.0, 0.7)], "keyframes": [0, 7]}
DOWN = {"boxes": [(0.4, 0.0, 0.7, 0.3), (0.4, 0.7, 0.7, 1.0)], "keyframes": [0, 7]}
THERE_AND_BACK = {"points": [(0.2, 0.5), (0.8, 0.5), (0.2, 0.5)], "size": (0.3, 0.3), "keyframes": [0, 4, 7]}
STILL = {"boxes": (0.4, 0.4, 0.7, 0.7)}
GROWING = {"boxes": [(0.4, 0.4, 0.6, 0.6), (0.3, 0.3, 0.7, 0.7)], "keyframes": [0, 7]}


def found(prompt, *objects, grids=GRIDS):
    objects = [MotionObject(**fields) for fields in objects]
    return find_conflicts(prompt, objects, object_boxes(objects, FRAMES), grids)


@pytest.mark.parametrize(
    ("prompt", "phrase", "directions"),
    [
        # Diorama's language
        ("a red cube left of a blue sphere moving right", "red cube", []),
        ("a red cube left of a blue sphere moving right", "blue sphere", ["right"]),
        ("a red cube left of a blue sphere, moving right", "red cube", ["right"]),
        ("a red cube moving left, then turning clockwise", "red cube", ["left"]),
        ("a red cube staying still and a blue cone", "cube", ["still"]),
        ("a red cube moving towards the camera", "red cube", ["towards"]),
        # other English
        ("A dog runs quickly to the left on the beach.", "dog", ["left"]),
        ("A dog that runs from left to right and a cat", "dog", ["right"]),
        ("A dog stands on the left of a tree", "dog", []),
        ("A dog, moving right behind the car", "dog", []),
        ("a hot air balloon rising slowly", "balloon", ["up"]),
        ("a man climbs down a ladder", "man", ["down"]),
        ("a car drives away from the camera", "car", ["away"]),
        ("a man is standing still while a car drives left", "man", ["still"]),
        ("a man is standing still while a car drives left", "car", ["left"]),
        ("a bird that doesn't move", "bird", ["still"]),
        ("a ball rolls left, then rolls right", "ball", ["left", "right"]),
        ("a (blue ball:1.2) rolling left", "blue ball", ["left"]),
        ("a truck comes from the right", "truck", []),
        ("a person turns right. The dog moves down", "person", ["right"]),
        ("a dog in the snow running left", "dog", ["left"]),
        ("a man on a horse riding left", "man", ["left"]),
        ("a bird in the sky flying right", "bird", ["right"]),
        ("a woman in a red dress walking left", "woman", ["left"]),
        ("a cat on a sofa sitting still", "cat", ["still"]),
        ("a boat in front of a bridge moving right", "boat", ["right"]),
        ("a car behind a truck driving left", "car", ["left"]),
        ("a red car behind a truck, driving left", "red car", ["left"]),
        ("a red car behind a truck, driving left", "truck", []),
    ],
)
def test_directions_are_read_for_the_object_they_belong_to(prompt, phrase, directions):
    start = prompt.index(phrase)
    assert [way for way, _ in said_directions(prompt, (start, start + len(phrase)))] == directions


def test_captions_of_the_miniature_world_are_read_as_its_own_parser_reads_them():
    """120 of them; the pipeline itself knows nothing of that world."""
    from wm_pipelines.diorama.datasets import DioramaDataset
    from wm_pipelines.diorama.language import caption
    from wm_pipelines.diorama.parser import parse_caption

    data, told = DioramaDataset(kind="video", split="val", length=120), 0
    for index in range(120):
        text = caption(data.scene(index), "full", seed=index).text
        parsed = parse_caption(text)
        for span, motions in zip(parsed.spans, parsed.motions, strict=True):
            moves = [(m.direction, f"moving {m.direction}") for m in motions if m.kind == "translate" and m.direction]
            truth = moves or [("still", "staying still") for m in motions if m.kind == "still"]
            others = [other for other in parsed.spans if other != span]
            assert said_directions(text, span, others) == said_directions(text, span) == truth, text
            told += bool(truth)
    assert told > 40


def test_left_against_a_path_to_the_right_names_both_and_the_winner():
    (line,) = found("a red cube moving left", {"phrase": "red cube", **RIGHT})
    assert line.startswith('objects[0] ("red cube") is said to be "moving left", but its boxes go 0.70 to the right;')
    assert "the boxes win: they act on the attention of the first steps" in line


@pytest.mark.parametrize(
    ("prompt", "path", "words"),
    [
        ("a ball rolls to the left", STILL, "its boxes stay where they are"),
        ("a ball rolls to the left", DOWN, "its boxes go 0.70 down"),
        ("a ball rolls to the left", THERE_AND_BACK, "its boxes end where they began"),
        ("a ball lying still", RIGHT, "its boxes go 0.70 to the right"),
        ("a ball flies away from the camera", GROWING, "its boxes grow to 4 times the area"),
        ("a ball rolls left, then rolls right", DOWN, "its boxes go 0.70 down"),
    ],
)
def test_paths_that_words_contradict(prompt, path, words):
    assert any(words in line for line in found(prompt, {"phrase": "ball", **path}))


@pytest.mark.parametrize(
    ("prompt", "path"),
    [
        ("a ball rolls to the right", RIGHT),
        ("a ball falls", DOWN),
        ("a ball lying still", STILL),
        ("a ball rolls right, then rolls left", THERE_AND_BACK),
        ("a ball flies towards the camera", GROWING),
        ("a ball", RIGHT),
        ("a ball left of a tree", RIGHT),
    ],
)
def test_paths_that_words_allow(prompt, path):
    assert found(prompt, {"phrase": "ball", **path}) == []


def test_two_objects_in_one_box():
    away = [(0.0, 0.0, 0.3, 0.3)] * 5 + [(0.4, 0.4, 0.7, 0.7)] * 3
    prompt = "a red cube and a blue ball"
    (line,) = found(prompt, {"phrase": "red cube", **STILL}, {"phrase": "blue ball", "boxes": away})
    assert line.startswith('objects[0] and objects[1] ("red cube", "blue ball") are in one box in frames 5 to 7')
    assert "IoU up to 1.00" in line and "neither is sure to win" in line
    heavier = {"phrase": "blue ball", "boxes": away, "weight": 2}
    (line,) = found(prompt, {"phrase": "red cube", **STILL}, heavier)
    assert '"blue ball" pulls harder: weight 2 against 1' in line


def test_one_phrase_in_two_places():
    (line,) = found("a red cube", {"phrase": "red cube", **STILL}, {"phrase": "cube", "boxes": (0, 0, 0.3, 0.3)})
    assert "share words but not their boxes; neither is sure to win" in line


def test_a_box_thinner_than_a_cell_says_how_many_cells_and_what_to_do():
    thin = {"phrase": "cube", "boxes": [(0.0, 0.0, 0.3, 0.3)] * 7 + [(0.0, 0.0, 0.1, 0.3)]}
    (line,) = found("a cube", thin, grids=[(16, 16), (5, 8)])
    assert line.startswith('objects[0] ("cube"): its box covers 1.2 cells at 5x8 in frame 7; raise its size above')
    assert "0.125 x 0.20 or add a finer tap such as up_blocks.2; the finer grid 16x16 decides" in line
    (line,) = found("a cube", thin, grids=[(5, 8), (5, 8)])
    assert "its cell wins" in line
    # As thin as a cell is not thinner than one.
    assert found("a cube", {"phrase": "cube", "boxes": (0.0, 0.0, 0.125, 0.2)}, grids=[(5, 8)]) == []


def test_boxes_of_another_shape_and_unknown_phrases_are_refused():
    cube = MotionObject("cube", **STILL)
    with pytest.raises(ValueError, match=r"boxes has shape \(2, 8, 4\) for 1 objects"):
        find_conflicts("a cube", [cube], torch.rand(2, 8, 4), GRIDS)
    with pytest.raises(ValueError, match="phrase 'cube'"):
        find_conflicts("a ball", [cube], cube.frame_boxes(8)[None], GRIDS)
