"""Which text is the counterfactual of which: the most similar other one of the training set."""

from collections.abc import Mapping, Sequence

import torch

from wm_pipelines.cpl.prompts import sentence

SIMILARITIES = ("clip_text", "bertscore")
Similarity = str | Mapping[str, str]


def choose_negatives(
    texts: Sequence[str], pool: Sequence[int], similarity: Similarity, features: torch.Tensor
) -> torch.Tensor:
    """For each text, the index of its negative in `texts`, int64 `(C,)`.

    A text is never its own negative, nor is another entry that makes the same prompt.

    Args:
        texts: class names, captions or filled prompts.
        pool: indices that may be negatives.
        similarity: "clip_text", cosine of frozen text features; "bertscore", F1 of the package bert-score, as in the
            released code; or a table from each text to its negative.
        features: unit text features `(C, d)`; only "clip_text" reads them.

    Raises:
        ValueError: fewer than two texts, nothing different in the pool, an unknown similarity, or a table that lacks
            a text, names an unknown one or names the text itself.
        ImportError: "bertscore" without its package.
    """
    if len(texts) < 2:
        raise ValueError(
            f"class_names has {len(texts)} {'entry' if len(texts) == 1 else 'entries'}; CPL needs ≥2 to choose a "
            "counterfactual negative"
        )
    if isinstance(similarity, Mapping):
        return _from_table(texts, pool, similarity)
    if similarity == "clip_text":
        scores = features @ features.T
    elif similarity == "bertscore":
        scores = _bertscore(texts)
    else:
        raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)} or a table, got {similarity!r}")
    scores = scores.double().cpu()
    prompts = [sentence(text) for text in texts]
    code = {prompt: n for n, prompt in enumerate(prompts)}
    codes = torch.tensor([code[prompt] for prompt in prompts])
    allowed = torch.zeros(len(texts), dtype=torch.bool)
    allowed[list(pool)] = True
    allowed = allowed[None] & (codes[:, None] != codes[None])
    if not bool(allowed.any(1).all()):
        row = int((~allowed.any(1)).nonzero()[0])
        raise ValueError(f"there is no other text with a picture that could be the negative of {texts[row]!r}")
    return scores.masked_fill(~allowed, float("-inf")).argmax(1)


def _from_table(texts: Sequence[str], pool: Sequence[int], table: Mapping[str, str]) -> torch.Tensor:
    """Texts outside the pool are never the true one of a picture and need no entry (-1)."""
    place = {text: n for n, text in reversed(list(enumerate(texts)))}
    chosen = []
    for n, text in enumerate(texts):
        negative = table.get(text)
        if negative is None and n not in pool:
            chosen.append(-1)
            continue
        if negative is None:
            raise ValueError(f"similarity has no entry for {text!r}")
        same = isinstance(negative, str) and sentence(negative) == sentence(text)
        if negative not in place or same:
            why = "itself" if same else "which is not among the texts"
            raise ValueError(f"similarity names {negative!r} as the negative of {text!r}, {why}")
        chosen.append(place[negative])
    return torch.tensor(chosen)


def _bertscore(texts: Sequence[str]) -> torch.Tensor:
    """F1 of all ordered pairs (C, C)."""
    try:
        from bert_score import BERTScorer
    except ImportError:
        raise ImportError(
            "similarity='bertscore' needs the package bert-score, which is not installed; 'clip_text' needs nothing"
        ) from None
    count = len(texts)
    first, second = [t for t in texts for _ in range(count)], list(texts) * count
    return BERTScorer(lang="en").score(first, second)[2].view(count, count)
