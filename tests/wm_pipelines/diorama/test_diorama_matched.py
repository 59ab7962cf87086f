"""Solids of one picture matched with those of another."""

from wm_pipelines.diorama.metrics import Found, matched


def found(colour, shape, x, y):
    return Found(colour, shape, 0.05, (x, y, x + 0.1, y + 0.1), (x, y))


def test_twins_go_to_the_nearest_and_others_to_their_kind():
    first = [found("red", "cube", 0.2, 0.2), found("red", "cube", 0.8, 0.2), found("blue", "cone", 0.5, 0.5)]
    second = [found("blue", "cone", 0.1, 0.9), found("red", "cube", 0.7, 0.2), found("red", "cube", 0.3, 0.2)]
    pairs = matched(first, second)
    assert len(pairs) == 3 and (first[0], second[2]) in pairs and (first[1], second[1]) in pairs
    assert all((a.colour, a.shape) == (b.colour, b.shape) for a, b in pairs)


def test_other_things_do_not_match():
    one = [found("red", "cube", 0.2, 0.2)]
    assert matched(one, []) is None and matched([], []) == []
    assert matched(one, [found("red", "cone", 0.2, 0.2)]) is None
    assert matched(one, [found("blue", "cube", 0.2, 0.2)]) is None
    assert matched(one, 2 * one) is None
