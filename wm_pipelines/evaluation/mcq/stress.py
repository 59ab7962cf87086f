"""What a model without pictures learns from the questions alone (the idea of 2511.04655, in a linear form of ours).

A conditional logit (McFadden 1974) on words of question and options is trained on some videos' questions and asked
about the others': what it gets right more often than chance, the text gives away. It bounds what a model that was
trained on such questions may gain without looking; it does not say that any model did.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wm_pipelines.evaluation.mcq.items import Item, check_items
from wm_pipelines.runtime.random import keyed

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_WORD = re.compile(r"[^\W\d_]+|\d+")


class Bias(NamedTuple):
    """What the text alone gives away about one item.

    Args:
        uid, cluster: of the item. fold: in which it was asked, of those that were left out one by one.
        letter: what the text-only model chose; correct: whether that is right.
        score: the probability that it gave to the right options; chance: what guessing gives.
    """

    uid: str
    cluster: str
    fold: int
    letter: str
    correct: bool
    score: float
    chance: float


def stress(items: Sequence[Item], folds: int = 10, penalty: float = 1.0, seed: int = 0) -> list[Bias]:
    """How far each item is given away by its text, by a model that was trained on other videos' questions.

    The probability of option j is exp(w·x_j) / sum_k exp(w·x_k); w maximises the likelihood less penalty/2 |w|².
    x_j has the option's words, pairs of neighbouring words and whole text, each word of the question with each of the
    option's and with its whole text, the option's text with each other option's, and a number's rank among the
    numbers; each that occurs at least twice. The letter is none of them. The same arguments give the same result.

    Args:
        folds: parts that videos are dealt to, at least 2. penalty: above 0. seed: of the dealing.

    Returns:
        In the order of the items.

    Raises:
        ValueError: no items, a uid twice, fewer videos than folds, or an argument out of its range.
    """
    items = check_items(items)
    clusters = sorted({item.cluster for item in items})
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise ValueError(f"`folds` is {folds!r}; it must be an integer of at least 2")
    if folds > len(clusters):
        raise ValueError(f"`folds` is {folds}; there are only {len(clusters)} videos to deal to them")
    if not penalty > 0 or penalty == float("inf"):
        raise ValueError(f"`penalty` is {penalty!r}; it must be a number above 0")
    order = keyed("stress folds", seed, len(clusters)).permutation(len(clusters))
    fold_of = {clusters[place]: i % folds for i, place in enumerate(order)}
    fold = np.array([fold_of[item.cluster] for item in items])
    sizes = np.array([len(item.options) for item in items])
    firsts = np.cumsum(sizes) - sizes
    right = np.array([letter in item.right for item in items for letter in item.options], dtype=np.float64)
    x = _matrix(items)
    found: dict[int, Bias] = {}
    for part in range(folds):
        asked = fold == part
        weights = _fit(x, right, firsts, sizes, ~asked, penalty)
        for i in np.flatnonzero(asked):
            rows = slice(firsts[i], firsts[i] + sizes[i])
            p = _softmax(x[rows] @ weights, np.zeros(1, dtype=np.int64), sizes[i : i + 1])
            letter = list(items[i].options)[int(np.argmax(p))]
            found[i] = Bias(
                items[i].uid, items[i].cluster, part, letter, letter in items[i].right, float(p @ right[rows]),
                float(right[rows].mean()),
            )  # fmt: skip
    return [found[i] for i in range(len(items))]


def _fit(
    x: "csr_matrix", right: np.ndarray, firsts: np.ndarray, sizes: np.ndarray, kept: np.ndarray, penalty: float
) -> np.ndarray:
    """Weights of the conditional logit on the kept items."""
    from scipy.optimize import minimize

    rows = np.flatnonzero(np.repeat(kept, sizes))
    sizes = sizes[kept]
    firsts, x, right = np.cumsum(sizes) - sizes, x[rows], right[rows]
    wanted = right / np.repeat(np.add.reduceat(right, firsts), sizes)
    transposed = x.T.tocsr()

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        p = _softmax(x @ weights, firsts, sizes)
        fit = -(wanted * np.log(np.maximum(p, 1e-300))).sum()
        return fit + penalty / 2 * weights @ weights, transposed @ (p - wanted) + penalty * weights

    return minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 100}).x


def _softmax(utilities: np.ndarray, firsts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Probabilities within each item, whose options are consecutive."""
    e = np.exp(utilities - np.repeat(np.maximum.reduceat(utilities, firsts), sizes))
    return e / np.repeat(np.add.reduceat(e, firsts), sizes)


def _matrix(items: Sequence[Item]) -> "csr_matrix":
    """0/1 `(options of all items, features)`."""
    from scipy.sparse import csr_matrix

    options = [features for item in items for features in _features(item)]
    counts = Counter(feature for features in options for feature in features)
    place = {feature: i for i, feature in enumerate(sorted(f for f, n in counts.items() if n > 1))}
    columns = [sorted(place[f] for f in features if f in place) for features in options]
    ends = np.cumsum([0, *map(len, columns)])
    flat = np.array([c for some in columns for c in some], dtype=np.int64)
    return csr_matrix((np.ones(len(flat)), flat, ends), shape=(len(options), max(len(place), 1)))


def _features(item: Item) -> Iterator[set[str]]:
    """The features of each option."""
    asked = set(_WORD.findall(item.question.lower()))
    texts = [" ".join(text.lower().split()) for text in item.options.values()]
    numbers = sorted({float(text) for text in texts if text.isdecimal()})
    for text in texts:
        words = _WORD.findall(text)
        found = {f"text {text}", *(f"word {word}" for word in words)}
        found |= {f"pair {a} {b}" for a, b in zip(words, words[1:], strict=False)}
        found |= {f"asked {a} word {b}" for a in asked for b in words}
        found |= {f"asked {a} text {text}" for a in asked}
        found |= {f"text {text} beside {other}" for other in texts if other != text}
        if text.isdecimal():
            found.add(f"rank {numbers.index(float(text))} of {len(numbers)}")
        yield found
