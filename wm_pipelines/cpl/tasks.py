"""Retrieval and filled-prompt questions as what classification is: pictures, texts, and which text is whose."""

from collections.abc import Callable, Sequence

import torch

from wm_pipelines.cpl.training import Examples
from wm_pipelines.runtime.random import keyed


def read_captions(captions: Sequence[str] | Sequence[Sequence[str]], pictures: int, seed: int) -> list[str]:
    """One caption per picture; of several, one is drawn by the seed.

    Raises:
        ValueError: another number of captions than of pictures, or an empty list of them.
    """
    if isinstance(captions, str):
        raise ValueError(f"captions must be a sequence, got the string {captions!r}")
    if len(captions) != pictures:
        raise ValueError(f"captions has {len(captions)} entries for {pictures} pictures; give one for each")
    chosen = []
    for i, given in enumerate(captions):
        several = [given] if isinstance(given, str) else list(given)
        if not several:
            raise ValueError(f"captions[{i}] is empty; give at least one caption")
        chosen.append(several[int(keyed("cpl caption", seed, i).integers(len(several)))])
    return chosen


def retrieval_examples(
    pictures: Sequence[torch.Tensor],
    captions: Sequence[str],
    candidates: int,
    similarity: Callable[[Sequence[torch.Tensor], Sequence[str]], torch.Tensor],
) -> Examples:
    """Each picture against its own caption and the nearest others by plain CLIP; equal captions are one text.

    Raises:
        ValueError: fewer than two different captions, or `candidates` below 2.
    """
    texts = list(dict.fromkeys(captions))
    if type(candidates) is not int or candidates < 2:
        raise ValueError(f"candidates must be an integer of at least 2, got {candidates!r}")
    if len(texts) < 2:
        raise ValueError(
            f"captions has {len(texts)} different entry; CPL needs ≥2 to choose a counterfactual negative"
        )
    place = {text: n for n, text in enumerate(texts)}
    labels = torch.tensor([place[caption] for caption in captions])
    scores = similarity(pictures, texts).float().cpu()
    scores[torch.arange(len(labels)), labels] = float("inf")  # its own is always among them
    nearest = scores.topk(min(candidates, len(texts)), dim=1).indices
    return Examples(pictures, texts, labels, nearest, "caption")


def vqa_examples(
    pictures: Sequence[torch.Tensor], prompts: Sequence[Sequence[str]], labels: Sequence[int]
) -> Examples:
    """Each picture against its own statements.

    Raises:
        ValueError: as `own_texts`; another number of labels than of pictures; a label out of range; or all true
            statements are the same.
    """
    texts, own = own_texts(prompts, len(pictures))
    if own is None:
        raise ValueError("prompts must be a list of statements for each picture, got one list of strings")
    values = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    if len(values) != len(pictures):
        raise ValueError(f"labels has {len(values)} entries for {len(pictures)} pictures; give one for each")
    for value in values:
        if type(value) is not int or not 0 <= value < own.shape[1]:
            raise ValueError(f"labels: label {value!r} outside [0,{own.shape[1]})")
    true = own[torch.arange(len(own)), torch.tensor(values)]
    if len(true.unique()) < 2:
        raise ValueError(
            f"the true statement of every picture is {texts[int(true[0])]!r}; CPL needs ≥2 to choose a counterfactual "
            "negative"
        )
    return Examples(pictures, texts, true, own, "prompt")


def own_texts(given: Sequence[str] | Sequence[Sequence[str]], pictures: int) -> tuple[list[str], torch.Tensor | None]:
    """The different texts, and for lists of one's own which of them each picture has, int64 `(N, K)`, else None.

    Raises:
        ValueError: nothing given, lists for another number of pictures, or of different lengths.
    """
    if isinstance(given, str):
        return [given], None
    listed = list(given)
    if not listed:
        raise ValueError("class_names is empty; give at least one")
    if all(isinstance(text, str) for text in listed):
        return listed, None
    lists = [[own] if isinstance(own, str) else list(own) for own in listed]
    lengths = {len(own) for own in lists}
    if len(lists) != pictures or len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"texts has {len(lists)} lists of {sorted(lengths)} texts for {pictures} pictures; give each picture its "
            "own list, all of one length"
        )
    place = {text: n for n, text in enumerate(dict.fromkeys(text for own in lists for text in own))}
    return list(place), torch.tensor([[place[text] for text in own] for own in lists])
