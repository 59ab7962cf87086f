"""Local intrinsic dimension: the fewest random directions in which one part of a model learns a task.

Intrinsic dimension is that of Li et al. (1804.08838) for a whole network; here the projection spans the parameters of
one group (attention or MLP of one layer) and all else is frozen, but for the head (KAdaptation, 2203.16329).
"""

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from wm_pipelines.evaluation.statistics import hierarchical, interval
from wm_pipelines.kadaptation.subspace.groups import check_groups, parameters_of
from wm_pipelines.kadaptation.subspace.modeling import SubspaceModel
from wm_pipelines.kadaptation.subspace.projections import check_projection
from wm_pipelines.kadaptation.subspace.results import CurvePoint, GroupDimension, LIDResult, isotonic

SHARE = 0.9
"""The part of the gain of full training that d90 has to reach."""
BISECTIONS = 2
DRAWS = 2000

TrainFn = Callable[[nn.Module, list[nn.Parameter], list[nn.Parameter], int], Any]
EvalFn = Callable[[nn.Module], Sequence[float]]
Point = tuple[str, int | str, int]


class LocalIntrinsicDimension:
    """Measures d90 of groups of parameters.

    d90 is the smallest d with acc(d) >= acc0 + 0.9 (acc_full - acc0): acc0 trains the head only, acc_full the head
    and all parameters of the group, acc(d) the head and z of theta0 + P z. Dimensions double from 1, then two
    bisection steps refine the first that is enough; accuracies are means over seeds, smoothed to never fall with d. A
    group whose gain over the head is not above zero (95 % bootstrap interval over seeds and samples) has no d90 and
    no rank.

    Args:
        model: any module; it is left as it was.
        groups: {name: names of modules or parameters}; `groups.block_groups(model)` makes them for transformers.
        projection: "fastfood", "dense" or "sparse".
        head: names of what is always trained, from the same start.
        seeds: how many; each has its own projection.
        max_dim: the top of the ladder, the size of the group when None.

    Raises:
        ValueError: names that don't exist, groups that overlap, a projection that is too large at the ladder's top.

    Example:
        ```py
        import torch
        from torch import nn
        from wm_pipelines import LocalIntrinsicDimension

        x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        y = (x.prod(1) > 0).long()
        model = nn.ModuleDict({"body": nn.Linear(2, 16), "head": nn.Linear(16, 2)})
        model.forward = lambda x: model["head"](model["body"](x).relu())

        def train(model, head, body, seed):
            optimizer = torch.optim.Adam([*head, *body], lr=0.05)
            for _ in range(60):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()

        def right(model):
            return (model(x).argmax(1) == y).float()

        result = LocalIntrinsicDimension(model, {"body": ["body"]}, head=["head"], seeds=2).measure(train, right)
        print(result["body"].d90, "of", result["body"].parameters)
        # of a transformer: block_groups(model), and KroneckerConfig(target_modules=result.target_modules(k=4), ...)
        ```
    """

    def __init__(
        self,
        model: nn.Module,
        groups: dict[str, Sequence[str]],
        projection: str = "fastfood",
        *,
        head: Sequence[str] = ("head",),
        seeds: int = 3,
        max_dim: int | None = None,
    ):
        for name, value in (("seeds", seeds), ("max_dim", max_dim)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}={value!r}; it must be an integer above 0")
        self.model, self.projection, self.seeds, self.max_dim = model, projection, seeds, max_dim
        self.names = check_groups(model, groups, head)
        self._parameters = dict(model.named_parameters())
        self._head = [self._parameters[name] for name in parameters_of(model, head, "head")]
        for group in self.names:
            check_projection(projection, self.size(group), self.top(group))

    def size(self, group: str) -> int:
        """D, the number of parameters of a group."""
        return sum(self._parameters[name].numel() for name in self.names[group])

    def top(self, group: str) -> int:
        """The last dimension of the group's ladder."""
        return min(self.size(group), self.max_dim or self.size(group))

    def ladder(self, group: str) -> list[int]:
        """1, 2, 4, ... and the top."""
        top = self.top(group)
        return [2**i for i in range((top - 1).bit_length())] + [top]

    def measure(
        self, train_fn: TrainFn, eval_fn: EvalFn, points: MutableMapping[Point, list[float]] | None = None
    ) -> LIDResult:
        """Train and evaluate wherever the search goes.

        Args:
            train_fn: `train_fn(model, head, body, seed)` trains the parameters in the lists `head` and `body` of a
                module that is called like the model. `body` is empty, [z], or all parameters of a group or of the
                model. Budget and learning rates must not depend on which; randomness should depend on the seed.
            eval_fn: `eval_fn(model)` gives one score for each of a fixed row of held-out samples, 1 if right, else 0.
            points: scores by (group, dimension, seed); "" stands for no group at dimension 0 (head alone) and for the
                whole model at "full". What is there is not measured again and what is measured is put there, so a
                mapping that is kept makes the measurement resumable.

        Raises:
            ValueError: `eval_fn` gives no scores, scores that are not finite, or another number of them than before.
        """
        points = {} if points is None else points
        start = {name: value.clone() for name, value in self.model.state_dict().items()}
        wanted = {name: p.requires_grad for name, p in self._parameters.items()}
        mode = self.model.training

        def scores(group: str, dim: int | str) -> np.ndarray:
            """(seeds, samples)."""
            found = []
            for seed in range(self.seeds):
                key = (group, dim, seed)
                if key not in points:
                    self.model.load_state_dict(start)
                    points[key] = self._point(train_fn, eval_fn, *key)
                found.append(points[key])
            if len({len(row) for row in found}) > 1 or not len(found[0]) or not np.isfinite(found).all():
                raise ValueError(f"eval_fn must give finite scores of the same samples, got {[len(r) for r in found]}")
            return np.array(found, dtype=float)

        try:
            head, model = scores("", 0), scores("", "full")
            groups = [self._group(name, head, model, scores) for name in self.names]
        finally:
            self.model.load_state_dict(start)
            self.model.train(mode)
            for name, parameter in self._parameters.items():
                parameter.requires_grad_(wanted[name])
                parameter.grad = None
        return LIDResult(groups, float(head.mean()), float(model.mean()), self.projection, self.seeds, head.shape[1])

    def _point(self, train_fn: TrainFn, eval_fn: EvalFn, group: str, dim: int | str, seed: int) -> list[float]:
        self.model.requires_grad_(False)
        for parameter in self._head:
            parameter.requires_grad_(True)
        net, body = self.model, []
        if dim == "full":
            own = self.names[group] if group else [n for n, p in self._parameters.items() if p.is_floating_point()]
            heads = {id(p) for p in self._head}
            body = [self._parameters[n].requires_grad_(True) for n in own if id(self._parameters[n]) not in heads]
        elif dim:
            net = SubspaceModel(self.model, self.names[group], dim, self.projection, seed)
            body = [net.z]
        train_fn(net, self._head, body, seed)
        return [float(score) for score in eval_fn(net)]

    def _group(
        self, name: str, head: np.ndarray, model: np.ndarray, scores: Callable[[str, int | str], np.ndarray]
    ) -> GroupDimension:
        full, low_model = scores(name, "full"), interval(hierarchical(model - head, DRAWS))[0]
        gain = float((full - head).mean())
        low, high = interval(hierarchical(full - head, DRAWS))
        curve = {0: head.mean(1)}
        enough = head.mean() + SHARE * gain
        enough_of_model = head.mean() + SHARE * float((model - head).mean())
        d90 = d90_of_model = reason = None
        if low <= 0:
            reason = "its gain over the head alone is not above zero"
        else:
            goal = max(enough, enough_of_model) if full.mean() >= enough_of_model else enough
            for dim in self.ladder(name):
                curve[dim] = scores(name, dim).mean(1)
                if first_dimension(curve, goal) is not None:
                    break
            for _ in range(BISECTIONS):
                between = _between(curve, enough)
                if between is not None:
                    curve[between] = scores(name, between).mean(1)
            d90 = first_dimension(curve, enough)
            if low_model > 0:
                d90_of_model = first_dimension(curve, enough_of_model)
            if d90 is None:
                reason = f"not reached at {self.top(name)} dimensions"
        linears = [n for n, m in self.model.named_modules() if isinstance(m, nn.Linear) and self._owns(name, n)]
        means = {dim: float(curve[dim].mean()) for dim in sorted(curve)}
        smooth = isotonic(list(means.values()))
        points = [
            CurvePoint(dim, mean, s, curve[dim].tolist()) for (dim, mean), s in zip(means.items(), smooth, strict=True)
        ]
        return GroupDimension(
            name, self.size(name), linears, float(full.mean()), [gain, low, high], d90, d90_of_model, reason, points
        )

    def _owns(self, group: str, module: str) -> bool:
        return f"{module}.weight" in self.names[group]


def _smoothed(curve: dict[int, np.ndarray]) -> dict[int, float]:
    dims = sorted(curve)
    return dict(zip(dims, isotonic([curve[dim].mean() for dim in dims]), strict=True))


def first_dimension(curve: dict[int, np.ndarray], goal: float) -> int | None:
    """The smallest measured dimension whose smoothed accuracy reaches `goal`."""
    # sums of halves and tenths: a goal that is met exactly must not be missed by rounding
    return next((dim for dim, value in _smoothed(curve).items() if value >= goal - 1e-9), None)


def _between(curve: dict[int, np.ndarray], goal: float) -> int | None:
    """The middle between the first dimension that reaches `goal` and the measured one below; None if there is none."""
    first = first_dimension(curve, goal)
    if not first:
        return None
    below = max(dim for dim in curve if dim < first)
    return (below + first) // 2 if first - below > 1 else None
