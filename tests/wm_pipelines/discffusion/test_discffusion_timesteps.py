import pytest

from wm_pipelines.discffusion.timesteps import read_timesteps, released_timesteps, spread_order

TABLE = {10: (89, 989, 10), 30: (32, 989, 30), 40: (14, 989, 40), 50: (29, 989, 49), 200: (14, 989, 196)}


@pytest.mark.parametrize("n", TABLE)
def test_the_authors_tables(n):
    found = released_timesteps(n)
    assert (found[0], found[-1], len(found)) == TABLE[n]
    assert found == sorted(set(found))


def test_ten_are_the_published_ones():
    assert released_timesteps(10) == [89, 189, 289, 389, 489, 589, 689, 789, 889, 989]


def test_a_list_is_taken_as_it_is():
    assert read_timesteps([500, 20], 1000) == [20, 500]


@pytest.mark.parametrize("given", [0, 1001, True, 2.5, "10", [], [5, 5], [-1], [1000], [1.0], None])
def test_other_timesteps_are_refused(given):
    with pytest.raises(ValueError, match="`timesteps`"):
        read_timesteps(given, 1000)


def test_a_schedule_that_is_all_edge_needs_a_list():
    assert read_timesteps(1, 21) and read_timesteps([3, 19], 20) == [3, 19]
    with pytest.raises(ValueError, match="`timesteps` is 5.*schedule has 20"):
        read_timesteps(5, 20)


@pytest.mark.parametrize("n", [1, 2, 7, 49, 64])
def test_every_beginning_of_the_spread_order_is_spread(n):
    order = spread_order(n)
    assert sorted(order) == list(range(n))
    for k in range(4, n + 1):
        begun = sorted(order[:k])
        assert max(b - a for a, b in zip(begun, begun[1:], strict=False)) <= 4 * n / k + 1
