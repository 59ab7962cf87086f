"""Which Gaussians an edit is about: by words, by object, by a box, or by a point in a picture."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from wm_pipelines.morpho4d.gaussians import PosedGaussians
from wm_pipelines.morpho4d.operations import Target
from wm_pipelines.text.vocabulary import LOOKS, SHAPES

TEMPERATURE = 0.1
SYNONYMS = {
    **SHAPES, **LOOKS, "floor": "background", "ground": "background", "everything": "", "object": "", "thing": "",
}  # fmt: skip
SKIPPED = {"the", "a", "an", "that", "this", "its", "of", "one", "all", "every"}


GENERAL = ("object", "things", "stuff", "texture")
"""What features are held against beside the phrases that are listed."""


@dataclass
class TextQuery:
    """How words are looked up in features, not in names.

    Args:
        encode: texts -> (n, D), such as a `ClipTeacher`.
        among: phrases that are told apart. Those that have every word of a query are what it means; a query that none
            has is a phrase of its own.
        head: which of the scene's heads makes D numbers of its features.
        temperature: of the softmax over phrases, above 0; 0.1 as in the paper; a CLIP's own is
            `ClipTeacher.temperature`.

    Raises:
        ValueError: a temperature that is not above 0, or phrases that are none.
    """

    encode: Callable[[Sequence[str]], torch.Tensor]
    among: Sequence[str] = ()
    head: str = "clip"
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        given = self.temperature
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < float("inf"):
            raise ValueError(f"`temperature` is {given!r}; a number above 0")
        if isinstance(self.among, str) or not all(isinstance(phrase, str) for phrase in self.among):
            raise ValueError(f"`among` is {self.among!r:.80}; a list of phrases")


@dataclass
class Selection:
    """mask: (N,) float32 in [0, 1]. object_ids: what was chosen. margin: mean lead, by features, of the wanted
    concepts over the next best one, None where features say nothing. count: Gaussians chosen. alive: share of them
    that can be seen."""

    mask: torch.Tensor
    object_ids: list[int]
    margin: float | None
    count: int
    alive: float


def words(text: str) -> set[str]:
    """The words that count, with the world's word in place of a synonym."""
    plain = text.lower().replace("-", " ").replace(",", " ").split()
    singular = [w[:-1] if w.endswith("s") and len(w) > 3 and not w.endswith("ss") else w for w in plain]
    return {SYNONYMS.get(w, w) for w in singular if w not in SKIPPED} - {""}


def matching(query: str, names: Mapping[int, str]) -> list[int]:
    """The objects whose names have every word of the query; 0 for the background."""
    wanted = words(query)
    if wanted == {"background"}:
        return [0]
    return [i for i, name in names.items() if wanted <= words(name)]


def select(
    posed: PosedGaussians,
    names: Mapping[int, str],
    target: Target,
    concepts: Mapping[int, torch.Tensor] | None = None,
    vote: bool = True,
    found: tuple[torch.Tensor, float] | None = None,
) -> Selection:
    """Chooses Gaussians.

    Args:
        posed: the Gaussians at the target's time. A `point` is for `select_point`.
        names: object id -> what it is called.
        concepts: object id -> what features (F,) say of it, 0 for the background.
        vote: the objects that the words fit are chosen as a whole; without, each Gaussian by its own features: its
            share of those objects in a softmax over all concepts of cosine / 0.1.
        found: what `by_text` says of the target's query, which then counts in place of names.

    Raises:
        ValueError: nothing is chosen; names what there is.
    """
    margin = None
    if target.box is not None:
        low, high = (posed.means.new_tensor(corner) for corner in target.box)
        mask = ((posed.means >= low) & (posed.means <= high)).all(-1).float()
        what = f"box {target.box}"
    elif found is not None:
        share, margin = found
        mask, what = by_vote(share, posed) if vote else share, f"query {target.query!r}"
    else:
        ids = [target.object_id] if target.object_id is not None else matching(target.query, names)
        what = f"query {target.query!r}" if target.query is not None else f"object {target.object_id}"
        mask = torch.isin(posed.object_id, torch.tensor(ids, dtype=torch.int64)).float()
        if target.query is not None and set(ids) & set(concepts or {}):
            share, margin = by_features(posed.features, concepts, ids)
            mask = mask if vote else share
    whole = mask >= 0.5
    if not whole.any():
        raise ValueError(_nothing(what, target.query, names, len(posed)))
    chosen = posed.object_id[whole].unique().tolist()
    alive = float((posed.opacities[whole] > 1 / 255).float().mean())
    return Selection(mask, chosen, margin, int(whole.sum()), alive)


def by_features(
    features: torch.Tensor, concepts: Mapping[int, torch.Tensor], ids: list[int]
) -> tuple[torch.Tensor, float]:
    """The share (N,) of the concepts `ids` among all, and the mean lead of the chosen."""
    known = torch.nn.functional.normalize(torch.stack(list(concepts.values())), dim=-1)
    alike = torch.nn.functional.normalize(features, dim=-1) @ known.T / TEMPERATURE
    wanted = torch.tensor([i in ids for i in concepts])
    share = alike.softmax(-1)[:, wanted].sum(-1)
    if wanted.all() or not (share >= 0.5).any():
        return share, 0.0
    lead = alike[:, wanted].amax(-1) - alike[:, ~wanted].amax(-1)
    return share, float(lead[share >= 0.5].mean() * TEMPERATURE)


def by_text(
    decoded: torch.Tensor, query: str, text: TextQuery, background: torch.Tensor | None = None
) -> tuple[torch.Tensor, float]:
    """The share (N,) of what `query` means in a softmax over all phrases of cosine / temperature, and the mean lead of
    the chosen.

    Args:
        decoded: (N, D). background: (D,), what stands among the phrases for the background.
    """
    phrases = [*text.among, *GENERAL]
    meant = [bool(words(query)) and words(query) <= words(p) for p in phrases]
    floor = background is not None and words(query) == {"background"}
    if not any(meant) and not floor:
        phrases, meant = [query, *phrases], [True, *meant]
    known = text.encode(phrases).float()
    if background is not None:
        known, meant = torch.cat([known, background[None]]), [*meant, floor]
    known = torch.nn.functional.normalize(known, dim=-1)
    alike = torch.nn.functional.normalize(decoded, dim=-1) @ known.T / text.temperature
    wanted = torch.tensor(meant)
    share = alike.softmax(-1)[:, wanted].sum(-1)
    chosen = share >= 0.5
    if not chosen.any():
        return share, 0.0
    lead = alike[chosen][:, wanted].amax(-1) - alike[chosen][:, ~wanted].amax(-1)
    return share, float(lead.mean() * text.temperature)


def by_vote(share: torch.Tensor, posed: PosedGaussians) -> torch.Tensor:
    """(N,), 1 for every Gaussian of an object whose mean share, weighted by opacity, is a half or more; what can't be
    seen is not chosen."""
    mask = torch.zeros_like(share)
    for i in posed.object_id.unique().tolist():
        mine = posed.object_id == i
        shown = float(posed.opacities[mine].sum())
        if shown and float((share * posed.opacities)[mine].sum()) >= 0.5 * shown:
            mask[mine] = 1.0
    return mask


def _nothing(what: str, query: str | None, names: Mapping[int, str], count: int) -> str:
    known = ", ".join(names.values()) or "none"
    best = ""
    if query is not None and names:
        scores = {name: difflib.SequenceMatcher(None, query.lower(), name).ratio() for name in names.values()}
        name = max(scores, key=scores.get)
        best = f" (best {name!r} {scores[name]:.2f})"
    return f"{what} matched 0 of {count:,} Gaussians{best}; known objects: {known}"
