"""Twenty objects whose paths cross: the prompt holds them all, and the record is what the script's own cases make."""

from itertools import combinations

import pytest

from wm_pipelines.media.boxes import box_iou
from wm_pipelines.mojito.trajectories import object_boxes


@pytest.mark.parametrize("count", [1, 5, 10, 20])
def test_every_object_is_in_the_prompt_once_and_paths_cross(script, count):
    many = script("mojito_many")
    prompt, items = many.crossing(count)
    assert len({item.phrase for item in items}) == count
    assert all(prompt.count(item.phrase) == 1 for item in items)
    boxes = object_boxes(items, many.FRAMES)
    meeting = [pair for pair in combinations(range(count), 2) if (box_iou(*boxes[list(pair)]) > 0).any()]
    assert (count == 1) == (not meeting)


def test_the_record_has_a_row_for_each_number_of_objects(script):
    many = script("mojito_many")
    rows = script("records").read(many.RESULTS / "mojito_many.jsonl")
    assert [row["objects"] for row in rows] == list(many.COUNTS)
    assert all(row["energy"][1] < row["energy"][0] and row["tokens"] == 2 * row["objects"] for row in rows)


def test_the_record_of_time_holds_what_the_script_claims(script):
    temporal = script("mojito_temporal")
    rows = script("records").read(temporal.RESULTS / "mojito_temporal.jsonl")
    found = {(row["arm"], row["prompt"]): row["iou"] for row in rows}
    gains = [found["weight 2", i] - found["control", i] for i in range(8)]
    assert len(rows) == 16 and sum(gains) / 8 >= temporal.LEAST
