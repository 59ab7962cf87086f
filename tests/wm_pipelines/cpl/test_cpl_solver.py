"""The greedy mask: against the reference loop, by hand, against brute force, and how much faster it is."""

import itertools

import pytest
import torch
from torch.nn import functional

from wm_pipelines.cpl.solver import counterfactual, greedy_masks
from wm_pipelines.runtime.noise import randn


def loop(v, other, text, other_text):
    """The published loop with its bug of best=0 mended: every candidate is built, scaled and compared."""
    v, order = v.clone(), []
    for _ in range(len(v)):
        best, score = -1, float("-inf")
        for i in range(len(v)):
            if i in order:
                continue
            changed = v.clone()
            changed[i] = other[i]
            found = float(functional.normalize(changed, dim=0) @ other_text)
            if found > score + 1e-12:
                best, score = i, found
        order.append(best)
        v[best] = other[best]
        unit = functional.normalize(v, dim=0)
        if float(unit @ other_text) - float(unit @ text) > 1e-12:
            return order, True
    return order, False


def drawn(size, key, rows=1):
    return [functional.normalize(randn((rows, size), "solver", key, n).double(), dim=-1) for n in range(4)]


def biased(size, key):
    """Features that resemble their own texts, as CLIP's do."""
    v, other, text, other_text = drawn(size, key)
    return functional.normalize(v + text, dim=-1), functional.normalize(other + other_text, dim=-1), text, other_text


def test_the_case_solved_by_hand():
    case = [torch.tensor([row]) for row in ([1, 0, 0.2], [0, 1, 0.3], [1.0, 0, 0], [0, 1.0, 0])]
    found = greedy_masks(*case, mask_space="raw")
    assert found.swaps == [[1, 0]] and found.mask.tolist() == [[1, 1, 0]] and found.flipped.tolist() == [True]


@pytest.mark.parametrize("size", [16, 48, 96])
def test_picks_are_those_of_the_loop(size):
    for key in range(3):
        case = biased(size, key)
        found = greedy_masks(*case)
        order, flipped = loop(*(tensor[0] for tensor in case))
        assert found.swaps == [order] and found.flipped.tolist() == [flipped] and len(order) >= 1


def test_raw_space_takes_lengths_as_they_are():
    v, other, text, other_text = biased(32, 7)
    case = v * 3, other * 0.5, text, other_text * 4
    order, flipped = loop(*(tensor[0] for tensor in case))
    raw, unit = greedy_masks(*case, mask_space="raw"), greedy_masks(*case)
    assert raw.swaps == [order] and raw.flipped.tolist() == [flipped]
    assert unit.swaps == greedy_masks(v, other, text, other_text).swaps != raw.swaps


def test_equal_candidates_go_to_the_lowest_index():
    v = torch.tensor([[1.0, 0, 0, 0]])
    other = torch.tensor([[0.0, 0.5, 0.5, 0.5]])
    found = greedy_masks(v, other, v, torch.tensor([[0.0, 1, 1, 1]]), "raw")
    assert found.swaps[0][0] == 1


def test_all_negative_scores_still_pick_the_best():
    v, other = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-0.5, -3.0]])
    text = torch.tensor([[0.1, 0.9]])
    found = greedy_masks(v, other, torch.tensor([[1.0, 1.0]]), text, "raw")
    assert found.swaps[0] == loop(v[0].double(), other[0].double(), torch.ones(2).double(), text[0].double())[0]


def test_a_mask_that_can_not_flip_says_so():
    v, other, text, other_text = drawn(8, 3)
    found = greedy_masks(v, text, text, other_text)  # the negative shows the positive text itself
    assert found.flipped.tolist() == [False] and found.mask.sum() == 8
    torch.testing.assert_close(counterfactual(found.mask, v, text), text)


def test_a_flip_is_a_flip_in_the_space_it_ran_in():
    flips = 0
    for key in range(20):
        v, other, text, other_text = biased(48, key)
        found = greedy_masks(v, other, text, other_text)
        changed = counterfactual(found.mask, v, other)
        flips += int(found.flipped)
        assert bool((changed * other_text).sum() > (changed * text).sum()) == bool(found.flipped)
    assert flips >= 18


def test_rows_do_not_depend_on_one_another_and_inputs_stay():
    many = [torch.cat(parts) for parts in zip(*(biased(24, key) for key in range(4)), strict=True)]
    kept = [tensor.clone() for tensor in many]
    whole = greedy_masks(*many)
    assert all(torch.equal(a, b) for a, b in zip(many, kept, strict=True))
    for row in range(4):
        alone = greedy_masks(*(tensor[row : row + 1] for tensor in many))
        assert alone.swaps[0] == whole.swaps[row] and torch.equal(alone.mask[0], whole.mask[row])
    half = greedy_masks(*(tensor.float() for tensor in many))
    assert half.mask.dtype == torch.float64 and half.swaps == whole.swaps


def test_gap_to_the_smallest_flip_of_all_subsets():
    """At ten entries, against all 1,024 masks: never below the minimum, often at it, sometimes above."""
    gaps = []
    for key in range(12):
        v, other, text, other_text = biased(10, key)
        found = greedy_masks(v, other, text, other_text)
        if not found.flipped:
            continue
        masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=10))[1:], dtype=torch.float64)
        changed = counterfactual(masks, v, other)
        wins = ((changed @ other_text[0]) - (changed @ text[0])) > 1e-12
        gaps.append(int(found.mask.sum() - masks[wins].sum(1).min()))
    assert len(gaps) >= 8 and min(gaps) == 0 < max(gaps) and gaps.count(0) >= len(gaps) / 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_space": "log"}, "mask_space must be one of unit, raw; got 'log'"),
        ({"negative": torch.ones(1, 5)}, r"negative must have the shape \(1, 4\)"),
        ({"positive_text": torch.full((1, 4), float("nan"))}, "positive_text holds values that are not finite"),
    ],
)
def test_bad_input(change, message):
    case = dict.fromkeys(("positive", "negative", "positive_text", "negative_text"), torch.ones(1, 4))
    with pytest.raises(ValueError, match=message):
        greedy_masks(**{**case, **change})
