"""Which Gaussians an edit is about: by words, by object, by a box, or by a point in a picture."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from wm_pipelines.morpho4d.gaussians import PosedGaussians
from wm_pipelines.morpho4d.operations import Target

TEMPERATURE = 0.1
SYNONYMS = {
    "ball": "sphere",
    "globe": "sphere",
    "box": "cube",
    "block": "cube",
    "can": "cylinder",
    "tube": "cylinder",
    "floor": "background",
    "ground": "background",
    "violet": "purple",
    "little": "small",
    "tiny": "small",
    "big": "large",
    "everything": "",
    "object": "",
    "thing": "",
}
SKIPPED = {"the", "a", "an", "that", "this", "its", "of", "one", "all", "every"}


@dataclass
class Selection:
    """mask: (N,) float32 in [0, 1]. object_ids: what was chosen. margin: mean lead of the chosen over the next best
    concept, None where no features were asked. count: Gaussians chosen. alive: share of them that can be seen."""

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
) -> Selection:
    """Chooses Gaussians.

    Args:
        posed: the Gaussians at the target's time. A `point` is for `select_point`.
        names: object id -> what it is called.
        concepts: object id -> what features (F,) say of it, 0 for the background; with them, words choose by
            features: the share of a softmax over all concepts of cosine / 0.1.
        vote: each object is then chosen as a whole or not at all, by most of its Gaussians.

    Raises:
        ValueError: nothing is chosen; names what there is.
    """
    margin = None
    if target.box is not None:
        low, high = (posed.means.new_tensor(corner) for corner in target.box)
        mask = ((posed.means >= low) & (posed.means <= high)).all(-1).float()
        what = f"box {target.box}"
    else:
        ids = [target.object_id] if target.object_id is not None else matching(target.query, names)
        what = f"query {target.query!r}" if target.query is not None else f"object {target.object_id}"
        mask = torch.isin(posed.object_id, torch.tensor(ids, dtype=torch.int64)).float()
        if target.query is not None and ids and concepts:
            mask, margin = by_features(posed.features, concepts, ids)
            mask = _voted(mask, posed.object_id) if vote else mask
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


def _voted(mask: torch.Tensor, object_id: torch.Tensor) -> torch.Tensor:
    known, whose = object_id.unique(return_inverse=True)
    votes = torch.zeros(len(known)).index_add(0, whose, (mask >= 0.5).float()) / whose.bincount(minlength=len(known))
    return (votes > 0.5).float()[whose]


def _nothing(what: str, query: str | None, names: Mapping[int, str], count: int) -> str:
    known = ", ".join(names.values()) or "none"
    best = ""
    if query is not None and names:
        scores = {name: difflib.SequenceMatcher(None, query.lower(), name).ratio() for name in names.values()}
        name = max(scores, key=scores.get)
        best = f" (best {name!r} {scores[name]:.2f})"
    return f"{what} matched 0 of {count:,} Gaussians{best}; known objects: {known}"
