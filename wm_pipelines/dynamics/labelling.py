"""Labels for unlabelled pairs from a dynamics model, behind a gate: one that is often wrong labels nothing."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from wm_pipelines.dynamics.coded import CodedPairs
from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline
from wm_pipelines.runtime.random import keyed

LEAST_ACCURACY = 0.5
BATCH = 32


def check_samples(num_action_samples: int) -> None:
    """ValueError for anything but an integer, 0 or more."""
    if isinstance(num_action_samples, bool) or not isinstance(num_action_samples, int) or num_action_samples < 0:
        raise ValueError(
            f"`num_action_samples` is {num_action_samples!r}; it must be an integer, 0 (the likeliest words) or more"
        )


def word_chances(names: Sequence[str], count: int, most: int, seed: int = 0) -> torch.Tensor | None:
    """Random numbers `(B, N, most)` by which `count` sentences are drawn for each pair; None for 0, the likeliest.

    Those of a pair depend on `seed`, its name and the sentence's number alone.
    """
    if count == 0:
        return None
    rows = [[keyed("action", seed, name, n).random(most) for n in range(count)] for name in names]
    return torch.from_numpy(np.array(rows))


def say_actions(
    model: DynamicsModelPipeline,
    pairs: CodedPairs,
    max_new_tokens: int = 48,
    batch: int = BATCH,
    num_action_samples: int = 0,
    seed: int = 0,
) -> tuple[list[tuple[str, ...]], torch.Tensor]:
    """What the model says of each pair, and the mean log-probability of its words `(N,)`.

    Args:
        num_action_samples: 0 takes the likeliest words, one sentence for each pair; N draws N sentences at temperature
            1 (the expectation in equation 1 of arXiv 2506.06006), and the score is the mean of theirs.
    """
    actions, scores = [], []
    for start in range(0, len(pairs), batch):
        rows = slice(start, start + batch)
        chances = word_chances(pairs.names[rows], num_action_samples, max_new_tokens, seed)
        found = model.infer_tokens(pairs.source[rows], pairs.target[rows], max_new_tokens, chances=chances)
        count = num_action_samples or 1
        means = torch.stack([torch.tensor(logprobs).mean() for _, logprobs in found])
        scores.append(means.reshape(-1, count).mean(1))
        said = [model.words_of(tokens) for tokens, _ in found]
        actions += [tuple(said[n : n + count]) for n in range(0, len(said), count)]
    return actions, torch.cat(scores)


def held_out_accuracy(model: DynamicsModelPipeline, pairs: CodedPairs, max_new_tokens: int = 48) -> float:
    """Share of pairs whose action the model says in one of its wordings, case and spaces aside.

    Raises:
        ValueError: a pair without an action.
    """
    if not all(pairs.actions):
        raise ValueError("`pairs` has some without an action; accuracy is measured on labelled ones")
    actions, _ = say_actions(model, pairs, max_new_tokens)
    right = [plain(said) in map(plain, known) for (said,), known in zip(actions, pairs.actions, strict=True)]
    return sum(right) / len(right)


def plain(sentence: str) -> str:
    """A sentence in small letters, one space between words, without its last full stop."""
    return " ".join(sentence.lower().split()).removesuffix(".").strip()


def without_cuts(pairs: CodedPairs, share: float) -> CodedPairs:
    """The pairs of video but those that changed most, which are cuts more often than actions.

    Args:
        share: a pair is left out whose mean distance lies above that of so large a share of the pairs; 1 keeps all.

    Raises:
        ValueError: `share` outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` is {share}; it must lie in (0, 1]")
    means = pairs.distances.flatten(1).double().mean(1)
    largest = means.quantile(share, interpolation="higher")
    return pairs.part((means <= largest).nonzero()[:, 0].tolist())


def label_pairs(
    model: DynamicsModelPipeline,
    unlabelled: CodedPairs,
    held_out: CodedPairs,
    keep: int,
    least_accuracy: float = LEAST_ACCURACY,
    max_new_tokens: int = 48,
    num_action_samples: int = 0,
    seed: int = 0,
) -> CodedPairs:
    """The `keep` pairs that the model is surest of, stratified by kind, labelled by it.

    Args:
        held_out: labelled pairs that the model has not seen; its accuracy there decides whether it may label.
        num_action_samples, seed: as `say_actions`; a pair's sentences are its wordings, of which training draws one.

    Raises:
        ValueError: the accuracy is below `least_accuracy`, or fewer than one pair is to be kept.
    """
    check_samples(num_action_samples)
    if not 0 <= least_accuracy <= 1:
        raise ValueError(f"`least_accuracy` is {least_accuracy}; it must lie in [0, 1]")
    accuracy = held_out_accuracy(model, held_out, max_new_tokens)
    if accuracy < least_accuracy:
        raise ValueError(
            f"the dynamics model says {accuracy:.1%} of {len(held_out)} held-out actions right, below "
            f"`least_accuracy` {least_accuracy:.1%}; train it further before it labels anything"
        )
    said, scores = say_actions(model, unlabelled, max_new_tokens, num_action_samples=num_action_samples, seed=seed)
    actions = tuple(tuple(filter(None, sentences)) for sentences in said)
    kinds = [
        kind or "".join(words[:1]).split(" ", 1)[0] for kind, words in zip(unlabelled.kinds, actions, strict=True)
    ]
    chosen = [n for n in stratified(scores.tolist(), kinds, keep) if actions[n]]
    return replace(unlabelled, actions=actions).part(chosen)


def stratified(scores: Sequence[float], kinds: Sequence[str], keep: int) -> list[int]:
    """Places of the `keep` best: kinds are visited in turn, and each gives its best that is left (arXiv 2506.06006v3,
    algorithm 1). Kinds in the order of their names; of equal scores the first.

    Raises:
        ValueError: `keep` below 1.
    """
    if keep < 1:
        raise ValueError(f"`keep` is {keep}; it must be 1 or more")
    queues = defaultdict(list)
    for n in sorted(range(len(scores)), key=lambda n: (-scores[n], n)):
        queues[kinds[n]].append(n)
    found: list[int] = []
    turn = 0
    while len(found) < min(keep, len(scores)):
        for kind in sorted(queues):
            if turn < len(queues[kind]) and len(found) < keep:
                found.append(queues[kind][turn])
        turn += 1
    return found
