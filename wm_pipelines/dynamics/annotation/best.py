"""The best of each class over any number of shards: parts can be made apart and merged in any order."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from wm_pipelines.dynamics.labelling import stratified


@dataclass(frozen=True)
class Candidate:
    """A labelled pair: what it is ranked by, and `place`, where its row is (shard, number).

    twin: pairs of one class with the same `twin` are the same; the best of them counts.
    """

    kind: str
    twin: str
    score: float
    id: str
    place: tuple[str, int]

    @property
    def rank(self) -> tuple[float, str]:
        """Best first; ties by id."""
        return -self.score, self.id


@dataclass
class Best:
    """The `keep` best of each class, twins once.

    `merged` is associative and commutative, and what it leaves out can't be among the `keep` that `chosen` takes from
    the whole: each class gives at most so many, and only a better one of the same class drives one out.
    """

    keep: int
    kinds: dict[str, dict[str, Candidate]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.keep, bool) or not isinstance(self.keep, int) or self.keep < 1:
            raise ValueError(f"`keep` is {self.keep!r}; it must be an integer, 1 or more")

    @classmethod
    def of(cls, candidates: Iterable[Candidate], keep: int) -> "Best":
        """Those of one part."""
        best = cls(keep)
        best._add(candidates)
        return best

    def merged(self, other: "Best") -> "Best":
        """Those of two parts together."""
        best = Best(self.keep)
        best._add(c for part in (self, other) for twins in part.kinds.values() for c in twins.values())
        return best

    def _add(self, candidates: Iterable[Candidate]) -> None:
        for new in candidates:
            twins = self.kinds.setdefault(new.kind, {})
            old = twins.get(new.twin)
            if old is None or new.rank < old.rank:
                twins[new.twin] = new
        for kind, twins in self.kinds.items():
            if len(twins) > self.keep:
                most = heapq.nsmallest(self.keep, twins.values(), key=lambda c: c.rank)
                self.kinds[kind] = {c.twin: c for c in most}

    def chosen(self) -> list[Candidate]:
        """The `keep` of all, classes in turn (arXiv 2506.06006v3, algorithm 1)."""
        found = sorted((c for twins in self.kinds.values() for c in twins.values()), key=lambda c: c.id)
        return [found[n] for n in stratified([c.score for c in found], [c.kind for c in found], self.keep)]
