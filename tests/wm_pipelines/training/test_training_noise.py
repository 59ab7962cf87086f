"""Keyed noise and order: a function of the key alone."""

import pytest
import torch

from wm_pipelines.training import KeyedNoise
from wm_pipelines.training.task import DataOrder


def test_a_sample_draws_the_same_in_any_company():
    noise = KeyedNoise(3, 7)
    for draw in (
        lambda samples: noise.randn(samples, (2, 3), "eps"),
        lambda samples: noise.uniform(samples, (2, 3), "u", -1.0, 2.0),
        lambda samples: noise.integers(samples, (2, 3), "t", 5, 900),
    ):
        batch = draw([4, 9, 2])
        assert batch.shape == (3, 2, 3)
        for row, sample in enumerate((4, 9, 2)):
            assert torch.equal(batch[row], draw(sample))
        assert torch.equal(draw([2, 4]), batch[[2, 0]])


def test_every_part_of_the_key_counts():
    first = KeyedNoise(0, 0).randn(0, (64,), "a")
    for seed, step, sample, purpose in ((1, 0, 0, "a"), (0, 1, 0, "a"), (0, 0, 1, "a"), (0, 0, 0, "b")):
        other = KeyedNoise(seed, step).randn(sample, (64,), purpose)
        assert abs(torch.corrcoef(torch.stack([first, other]))[0, 1]) < 0.5
        assert not (first == other).any()


def test_shapes_types_and_moments():
    noise = KeyedNoise(0, 0)
    assert noise.integers([1, 2, 3], (), "t", 0, 10).shape == (3,) and noise.randn(1, (), "x").shape == ()
    assert noise.integers(1, (4,), "t", 0, 10).dtype == torch.int64
    assert noise.randn(1, (4,), "x").dtype == noise.uniform(1, (4,), "x").dtype == torch.float32
    normal = noise.randn(range(100), (100,), "n")
    assert abs(normal.mean()) < 0.05 and abs(normal.std() - 1) < 0.05
    flat = noise.uniform(range(100), (100,), "u", 2.0, 4.0)
    assert flat.min() >= 2 and flat.max() < 4 and abs(flat.mean() - 3) < 0.05
    assert set(noise.integers(range(200), (), "i", 3, 6).tolist()) == {3, 4, 5}


def test_endless_order_counts_up():
    order = DataOrder(0, None, 4)
    assert order(0) + order(1) == list(range(8)) and order(1000)[0] == 4000


def test_epochs_are_permutations_that_depend_on_seed_and_epoch():
    order = DataOrder(5, 13, 4)
    epochs = [sum((order(3 * epoch + step) for step in range(3)), []) for epoch in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == 12 and set(epoch) <= set(range(13))
    assert epochs[0] != epochs[1] != epochs[2]
    assert DataOrder(5, 13, 4)(4) == order(4), "no step depends on the ones before it"
    assert DataOrder(6, 13, 4)(0) != order(0)


def test_data_shorter_than_a_batch_is_refused():
    with pytest.raises(ValueError, match="is 8, but the data has only 5 samples"):
        DataOrder(0, 5, 8)
