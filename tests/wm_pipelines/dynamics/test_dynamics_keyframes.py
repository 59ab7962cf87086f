"""Key frames, the gates of pairs and the best of each class, as properties over drawn inputs."""

import itertools
from collections import Counter

import numpy as np
import pytest

from wm_pipelines.dynamics.annotation.best import Best, Candidate
from wm_pipelines.dynamics.annotation.keyframes import border, hash_distance, perceptual_hash, ssim, strongest
from wm_pipelines.dynamics.labelling import stratified
from wm_pipelines.runtime.random import keyed


@pytest.mark.parametrize("seed", range(20))
def test_strongest_frames(seed):
    rng = keyed("strongest", seed)
    flow = rng.integers(0, 30, size=int(rng.integers(1, 120))).astype(float).tolist()  # with ties
    count, spacing = int(rng.integers(1, 8)), int(rng.integers(1, 25))
    taken = strongest(flow, count, spacing)
    assert taken == sorted(taken) and 1 <= len(taken) <= count
    assert all(b - a >= spacing for a, b in itertools.pairwise(taken))
    assert flow[min(taken, key=lambda n: (-flow[n], n))] == max(flow)
    for n in set(range(len(flow))) - set(taken):
        near = [m for m in taken if abs(m - n) < spacing and (flow[m], -m) > (flow[n], -n)]
        weakest = min(flow[m] for m in taken)
        assert near or len(taken) == count and flow[n] <= weakest, "left out for nothing"


def test_strongest_of_a_known_clip():
    flow = [0.0, 1, 9, 8, 1, 1, 7, 1, 6]
    assert strongest(flow, 3, 2) == [2, 6, 8]
    assert strongest(flow, 3, 4) == [2, 6]
    assert strongest(flow, 1, 1) == [2] and strongest([1.0, 1.0, 1.0], 2, 1) == [0, 1]


def picture(*key):
    rng = keyed("picture", *key)
    coarse = rng.integers(0, 256, size=(8, 8)).astype(np.uint8)
    return np.kron(coarse, np.ones((8, 8), np.uint8))


@pytest.mark.parametrize("seed", range(8))
def test_hashes_and_similarity(seed):
    one, other = picture(seed), picture(seed, "other")
    noise = keyed("noise", seed).integers(-4, 5, one.shape)
    noisy = np.clip(one.astype(int) + noise, 0, 255).astype(np.uint8)
    assert len(perceptual_hash(one)) == 16 and hash_distance(perceptual_hash(one), perceptual_hash(one)) == 0
    near, far = (hash_distance(perceptual_hash(one), perceptual_hash(p)) for p in (noisy, other))
    assert near <= 4 < 10 < far
    assert ssim(one, one) == pytest.approx(1.0) and ssim(one, noisy) > 0.8 > 0.5 > ssim(one, other)
    assert ssim(one, other) == pytest.approx(ssim(other, one))
    brighter = np.clip(one.astype(int) // 2 + 40, 0, 255).astype(np.uint8)
    assert hash_distance(perceptual_hash(one), perceptual_hash(brighter)) <= 4, "brightness and contrast don't count"


def test_borders():
    grey = np.full((20, 40), 90, np.uint8)
    assert border(grey) == 0
    boxed = grey.copy()
    boxed[:3], boxed[-1:], boxed[:, :10] = 0, 5, 16
    assert border(boxed) == pytest.approx(1 - 16 * 30 / 800)
    inside = grey.copy()
    inside[8:12] = 0
    assert border(inside) == 0 and border(np.zeros((5, 5), np.uint8)) == 1


def candidates(seed, count=60):
    rng = keyed("best", seed)
    kinds, twins = rng.integers(0, 5, count), rng.integers(0, 40, count)
    scores = rng.integers(-6, 0, count) / 2  # with ties
    ids = rng.permutation(count)
    rows = zip(kinds, twins, scores, ids, strict=True)
    return [Candidate(f"k{k}", f"t{t}", float(s), f"{i:03}", ("0", int(i))) for k, t, s, i in rows]


@pytest.mark.parametrize("seed", range(20))
def test_the_best_of_parts_are_the_best_of_all(seed):
    """Whatever the parts and the order in which they are merged, and as sorting everything at once would have it."""
    every, rng = candidates(seed), keyed("parts", seed)
    keep = int(rng.integers(1, 30))
    part_of = rng.integers(0, 6, len(every))
    parts = [Best.of([c for c, n in zip(every, part_of, strict=True) if n == k], keep) for k in range(6)]
    left, right = parts[0], parts[5]
    for part in parts[1:]:
        left = left.merged(part)
    for part in reversed(parts[:5]):
        right = part.merged(right)
    shuffled = Best(keep)
    for k in rng.permutation(6):
        shuffled = shuffled.merged(parts[k])
    once = {}
    for c in sorted(every, key=lambda c: (-c.score, c.id)):
        once.setdefault((c.kind, c.twin), c)
    unique = sorted(once.values(), key=lambda c: c.id)
    wanted = [unique[n] for n in stratified([c.score for c in unique], [c.kind for c in unique], keep)]
    assert left.chosen() == right.chosen() == shuffled.chosen() == Best.of(every, keep).chosen() == wanted
    counts = Counter(c.kind for c in wanted)
    short = {kind for kind, n in counts.items() if n < max(counts.values()) - 1}
    for kind in short:  # a class gives fewer only where it has no more
        assert counts[kind] == len({c.twin for c in every if c.kind == kind})


def test_bad_keep():
    for bad in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="`keep` is"):
            Best(bad)
