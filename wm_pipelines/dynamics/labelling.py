"""Labels for unlabelled pairs from a dynamics model, behind a gate: one that is often wrong labels nothing."""

from collections import defaultdict
from collections.abc import Sequence

import torch

from wm_pipelines.dynamics.coded import CodedPairs
from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline

LEAST_ACCURACY = 0.5
BATCH = 32


def say_actions(
    model: DynamicsModelPipeline, pairs: CodedPairs, max_new_tokens: int = 48, batch: int = BATCH
) -> tuple[list[str], torch.Tensor]:
    """The likeliest action of each pair, and its mean log-probability `(N,)`."""
    actions, scores = [], []
    for start in range(0, len(pairs), batch):
        rows = slice(start, start + batch)
        out = model.infer_codes(pairs.source[rows], pairs.target[rows], max_new_tokens)
        actions += out.actions
        scores.append(out.scores)
    return actions, torch.cat(scores)


def held_out_accuracy(model: DynamicsModelPipeline, pairs: CodedPairs, max_new_tokens: int = 48) -> float:
    """Share of pairs whose action the model says in one of its wordings, case and spaces aside.

    Raises:
        ValueError: a pair without an action.
    """
    if not all(pairs.actions):
        raise ValueError("`pairs` has some without an action; accuracy is measured on labelled ones")
    actions, _ = say_actions(model, pairs, max_new_tokens)
    right = [plain(said) in map(plain, known) for said, known in zip(actions, pairs.actions, strict=True)]
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
) -> CodedPairs:
    """The `keep` pairs that the model is surest of, stratified by kind, labelled by it.

    Args:
        held_out: labelled pairs that the model has not seen; its accuracy there decides whether it may label.

    Raises:
        ValueError: the accuracy is below `least_accuracy`, or fewer than one pair is to be kept.
    """
    if not 0 <= least_accuracy <= 1:
        raise ValueError(f"`least_accuracy` is {least_accuracy}; it must lie in [0, 1]")
    accuracy = held_out_accuracy(model, held_out, max_new_tokens)
    if accuracy < least_accuracy:
        raise ValueError(
            f"the dynamics model says {accuracy:.1%} of {len(held_out)} held-out actions right, below "
            f"`least_accuracy` {least_accuracy:.1%}; train it further before it labels anything"
        )
    actions, scores = say_actions(model, unlabelled, max_new_tokens)
    kinds = [kind or action.split(" ", 1)[0] for kind, action in zip(unlabelled.kinds, actions, strict=True)]
    chosen = [n for n in stratified(scores.tolist(), kinds, keep) if actions[n]]
    return unlabelled.labelled(actions).part(chosen)


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
