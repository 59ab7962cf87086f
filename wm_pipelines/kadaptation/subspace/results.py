"""What a measurement of local intrinsic dimension found: the ranking, the choice of modules, JSON and a plot."""

import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wm_pipelines.record import record_of
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.readers import located, read_json
from wm_pipelines.runtime.reports import write_json


def isotonic(values: Sequence[float]) -> list[float]:
    """The nearest sequence (least squares) that never falls: neighbours that fall are pooled to their mean."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((float(value), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, m), (b, n) = pools[-2:]
            pools[-2:] = [((a * m + b * n) / (m + n), m + n)]
    return [value for value, count in pools for _ in range(count)]


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy at one dimension: mean over seeds, after isotonic smoothing, and of each seed."""

    dim: int
    accuracy: float
    smoothed: float
    by_seed: list[float]


@dataclass(frozen=True)
class GroupDimension:
    """One group.

    Attributes:
        parameters: D, how many it has. linears: names of its `nn.Linear` layers.
        full: accuracy when all its parameters are trained. gain: [mean, low, high] of that over the head alone.
        d90: smallest dimension that reaches nine tenths of the gain; None where there is none.
        d90_of_model: the same against nine tenths of the gain of the whole model.
        reason: why `d90` is None.
        curve: measured points, dimensions rising.
    """

    name: str
    parameters: int
    linears: list[str]
    full: float
    gain: list[float]
    d90: int | None
    d90_of_model: int | None
    reason: str | None
    curve: list[CurvePoint]

    def __post_init__(self) -> None:
        if len(self.gain) != 3 or self.parameters < 1:
            raise ValueError(f"group {self.name!r:.99} needs a `gain` of three numbers and `parameters` of at least 1")


@dataclass(frozen=True)
class LIDResult:
    """All groups, with the accuracy of the head alone (`head`) and of the whole model trained (`model`)."""

    groups: list[GroupDimension]
    head: float
    model: float
    projection: str
    seeds: int
    samples: int

    def __getitem__(self, name: str) -> GroupDimension:
        return next(g for g in self.groups if g.name == name)

    def ranked(self) -> list[GroupDimension]:
        """Groups with a d90, lowest first; of equal ones, the one where it is the smaller part of D."""
        found = [g for g in self.groups if g.d90 is not None]
        return sorted(found, key=lambda g: (g.d90, g.d90 / g.parameters))

    def select(self, k: int | None = None, budget: int | None = None) -> list[GroupDimension]:
        """The lowest `k` groups, or the lowest ones until their parameters would exceed `budget`.

        Raises:
            ValueError: not exactly one of the two, fewer than k ranked groups, or a budget below the first group.
        """
        ranked = self.ranked()
        if (k is None) == (budget is None):
            raise ValueError(f"give k or budget, and not both; got k={k}, budget={budget}")
        if k is not None:
            if not 1 <= k <= len(ranked):
                raise ValueError(f"k={k}; {len(ranked)} of {len(self.groups)} groups are ranked")
            return ranked[:k]
        chosen, spent = [], 0
        for group in ranked:
            spent += group.parameters
            if spent > budget:
                break
            chosen.append(group)
        if not chosen:
            least = f"the lowest has {ranked[0].parameters:,} parameters" if ranked else "no group is ranked"
            raise ValueError(f"budget={budget} chooses no group; {least}")
        return chosen

    def target_modules(self, k: int | None = None, budget: int | None = None) -> list[str]:
        """Linear layers of the selected groups, for `KroneckerConfig(target_modules=...)` on the measured model.

        Raises:
            ValueError: as `select`, or a selection without linear layers.
        """
        chosen = self.select(k, budget)
        found = [name for group in chosen for name in group.linears]
        if not found:
            raise ValueError(f"{', '.join(g.name for g in chosen)}: no linear layers to adapt")
        return found

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "lid", **asdict(self), "ranked": [g.name for g in self.ranked()]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "LIDResult":
        """The inverse of `to_dict`.

        Raises:
            ValueError: no object of the kind "lid", a field that is unknown or missing, or a value of another type.
        """
        if not isinstance(data, dict) or data.get("kind") != "lid":
            raise ValueError('a result of subspaces is an object of the kind "lid"')
        groups = [_group(found) for found in _objects(data, "groups")]
        return record_of(cls, {k: v for k, v in data.items() if k not in ("kind", "ranked", "groups")}, groups=groups)

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "LIDResult":
        """The inverse of `save`.

        Raises:
            ValueError: as `from_dict`; names the file.
        """
        with located(path):
            return cls.from_dict(read_json(path))

    def describe(self) -> list[str]:
        """Lines for people: ranked groups first."""
        lines = [f"head alone {self.head:.3f}, whole model {self.model:.3f} ({self.seeds} seeds)"]
        for group in [*self.ranked(), *(g for g in self.groups if g.d90 is None)]:
            said = f"d90 {group.d90} of {group.parameters:,}" if group.d90 is not None else f"no d90: {group.reason}"
            gain, low, high = group.gain
            lines.append(
                f"{group.name}: {said}; trained whole {group.full:.3f}, gain {gain:.3f} [{low:.3f}, {high:.3f}]"
            )
        return lines

    def plot(self, path: str | os.PathLike) -> None:
        """Draw accuracy over dimension for every group, its d90 marked; the suffix decides (.svg, .png, .pdf)."""
        with atomic(Path(path)) as partial:
            self._draw(partial, Path(path).suffix.removeprefix("."))

    def picture(self) -> Image.Image:
        """What `plot` draws."""
        with io.BytesIO() as file:
            self._draw(file, "png")
            file.seek(0)
            return Image.open(file).convert("RGB")

    def _draw(self, file: Any, kind: str) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axis = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        colours = pyplot.colormaps["turbo"](np.linspace(0.05, 0.95, len(self.groups)))
        for group, colour in zip(self.groups, colours, strict=True):
            line = [p for p in group.curve if p.dim]
            label = group.name if group.d90 is None else f"{group.name}: {group.d90}"
            axis.plot([p.dim for p in line], [p.smoothed for p in line], color=colour, label=label)
            axis.plot([p.dim for p in line], [p.accuracy for p in line], ".", color=colour, markersize=3)
            axis.plot(group.parameters, group.full, "s", color=colour, markersize=4)
            for p in line:
                if p.dim == group.d90:
                    axis.plot(p.dim, p.smoothed, "o", color=colour)
        axis.axhline(self.head, color="grey", linestyle=":", label="head alone")
        axis.axhline(self.model, color="grey", linestyle="--", label="whole model")
        axis.set(xscale="log", xlabel="dimension d (squares: all parameters)", ylabel="accuracy")
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(file, format=kind or None, dpi=120)
        pyplot.close(figure)


def _objects(holder: dict[str, Any], name: str) -> list[Any]:
    found = holder.get(name)
    if not isinstance(found, list):
        raise ValueError(f"`{name}` is {found!r:.200}; it must be a list of objects")
    return found


def _group(data: Any) -> GroupDimension:
    if not isinstance(data, dict):
        raise ValueError(f"a group is {data!r:.200}; it must be an object")
    curve = [record_of(CurvePoint, point) for point in _objects(data, "curve")]
    return record_of(GroupDimension, {k: v for k, v in data.items() if k != "curve"}, curve=curve)
