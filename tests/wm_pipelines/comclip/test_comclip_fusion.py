"""The rules of fusion to the digits of their definition."""

import pytest
import torch

from wm_pipelines.comclip.fusion import Rule, combine, cosine, late_score, weights_of

G = torch.tensor([1.0, 0.0], dtype=torch.float64)
PARTS = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
CAPTION = torch.tensor([0.6, 0.8], dtype=torch.float64)


def test_the_worked_example():
    weights, degenerate = weights_of(torch.tensor([0.8, 0.2], dtype=torch.float64))
    fused = combine(G, PARTS, weights)
    assert torch.allclose(weights, torch.tensor([0.8, 0.2], dtype=torch.float64), atol=1e-15) and not degenerate
    assert torch.allclose(fused, torch.tensor([1.2, 0.8], dtype=torch.float64), atol=1e-15)
    assert round(float(cosine(fused, CAPTION)), 4) == 0.9430
    assert float(cosine(G, CAPTION)) == pytest.approx(0.6, abs=1e-15)


@pytest.mark.parametrize("fusion", ["released", "gclip", "equal"])
def test_sub_images_that_are_the_picture_leave_the_plain_score(fusion):
    weights, _ = weights_of(torch.tensor([0.31, 0.07, 0.22], dtype=torch.float64), fusion)
    fused = combine(G, G.expand(3, 2), weights)
    assert float(cosine(fused, CAPTION)) == pytest.approx(float(cosine(G, CAPTION)), abs=1e-15)


def test_weights_of_each_rule():
    a = torch.tensor([0.3, -0.1, 0.1], dtype=torch.float64)
    released, _ = weights_of(a)
    assert torch.allclose(released, torch.tensor([0.75, 0.0, 0.25], dtype=torch.float64))
    parity, _ = weights_of(a, clamp=False)
    assert torch.allclose(parity, a / 0.3) and float(parity.sum()) == pytest.approx(1)
    assert torch.equal(weights_of(a, "gclip")[0], a.clamp_min(0))
    assert torch.equal(weights_of(a, "gclip", clamp=False)[0], a)
    assert torch.allclose(weights_of(a, "equal")[0], torch.full((3,), 1 / 3, dtype=torch.float64))
    negative, degenerate = weights_of(-a - 1, clamp=False)  # a negative sum is divided by, as in the authors' code
    assert not degenerate and float(negative.sum()) == pytest.approx(1)


def test_a_bound_of_zero_divides_by_no_zero():
    for values, clamp in (([0.0, 0.0], True), ([-0.3, -0.1], True), ([0.2, -0.2], False)):
        weights, degenerate = weights_of(torch.tensor(values), clamp=clamp, min_weight_sum=0)
        assert degenerate and weights.tolist() == [0.5, 0.5]


def test_a_cosine_hides_no_nan():
    assert cosine(torch.tensor([float("nan"), 1.0]), torch.ones(2)).isnan()


@pytest.mark.parametrize(("values", "clamp"), [([-0.2, -0.3], True), ([0.2, -0.2], False), ([0.0, 0.0], True)])
def test_weights_without_a_sum_are_equal(values, clamp):
    weights, degenerate = weights_of(torch.tensor(values, dtype=torch.float64), clamp=clamp)
    assert degenerate and weights.tolist() == [0.5, 0.5]


def test_late_fusion_is_a_mean_of_cosines():
    late = late_score(torch.tensor(0.6), torch.tensor([0.2, 0.4]))
    assert float(late) == pytest.approx(0.45)
    assert float(late_score(torch.tensor(0.6), torch.tensor([]))) == pytest.approx(0.6)
    assert float(late_score(torch.tensor(-1.0), torch.tensor([-1.0]))) == -1


def test_nothing_given_is_written_to_and_zero_has_no_direction():
    image, parts = G.clone(), PARTS.clone()
    combine(image, parts, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert torch.equal(image, G) and torch.equal(parts, PARTS)
    assert float(cosine(torch.zeros(2), torch.ones(2))) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fusion": "early"}, "fusion='early'; choose from released, gclip, late, equal"),
        ({"missing": "none"}, "missing='none'; choose from full, blank"),
        ({"embed": "l2"}, "embed='l2'; choose from unit, raw"),
        ({"clamp": 1}, "clamp must be True or False, got 1"),
        ({"min_weight_sum": -1.0}, "min_weight_sum must be a finite number"),
        ({"min_weight_sum": float("nan")}, "min_weight_sum must be a finite number"),
    ],
)
def test_unknown_rules_are_refused(options, words):
    with pytest.raises(ValueError) as error:
        Rule(**options)
    assert words in str(error.value)
