"""Factors over the steps: the ends, what lies between, one step, what is refused."""

import pytest

from wm_pipelines.runtime.factors import checked_factors, factor_at


def test_the_first_factor_is_at_the_first_step_and_the_last_at_the_last():
    assert [factor_at([1, 0], step, 5) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert [factor_at([0, 0, 1], step, 5) for step in range(5)] == [0, 0, 0, 0.5, 1]
    assert factor_at([0.3], 4, 9) == 0.3 and factor_at([0.2, 1], 0, 1) == 0.2


@pytest.mark.parametrize("factors", [[], "1, 0", [1, 2], [-0.1], [True], 0.5, [float("nan")], None, ["1"]])
def test_what_is_no_list_of_factors_is_refused(factors):
    with pytest.raises(ValueError, match="fade must be a list of factors from 0 to 1, got"):
        checked_factors(factors, "fade")
    assert checked_factors((1, 0.5), "fade") == (1.0, 0.5)
