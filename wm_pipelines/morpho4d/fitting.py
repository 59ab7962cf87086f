"""Fitting a scene to a capture, time growing frame by frame (our design; losses as in MoSca, arXiv 2405.17421)."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from wm_pipelines.kernels import composite_gaussians, project_gaussians, tile_lists, tile_origins
from wm_pipelines.morpho4d.capture import Capture, object_codes
from wm_pipelines.morpho4d.gaussians import SH_DC, Gaussians
from wm_pipelines.morpho4d.quaternions import unit
from wm_pipelines.morpho4d.scene import Scene4D
from wm_pipelines.morpho4d.seeding import first_frames, moving_seeds, spread_nodes, static_seeds
from wm_pipelines.morpho4d.tracks import TRACKS, Track
from wm_pipelines.runtime.random import keyed

TILE = 8
RATES = {
    "means": 1.5e-3,
    "quats": 5e-3,
    "log_scales": 8e-3,
    "logit_opacities": 3e-2,
    "colours": 2e-2,
    "features": 2e-2,
}
LAST_RATE = 0.03
"""What the learning rates have shrunk to at the end."""
FEATURE_WEIGHT, DEPTH_WEIGHT, DEPTH_CLIP = 0.1, 0.1, 0.5
START_OPACITY, START_SCALE, FLATNESS = 0.73, 0.8, 0.1
DILATION = 0.3
STILL_CHANCE, EVEN, NEWS, TYPICAL_ERROR = 0.25, 0.3, 0.2, 0.05
"""A tile is looked at by (0.25, and 1 more where an object is) x (0.3 + its mean error of late, a fifth of it new)."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a scene is fitted.

    Args:
        steps: how many; or
        seconds: of CPU time, in which case a result is not the same twice.
        static, dynamic: numbers of Gaussians; None: by the size of the pictures (3000 and 600 at 64 x 64).
        nodes: how many carry the moving ones; None likewise (24).
        neighbours: nodes that carry one Gaussian.
        motion: "nodes", "bases", "polynomial", "fourier" or "free".
        grow: admit one frame after the other over the first half of the fit.
        rigid: weight of what holds the nodes together.
        share: of a picture's tiles that a step looks at.
        seed: of everything that is drawn.
    """

    steps: int = 1500
    seconds: float | None = None
    static: int | None = None
    dynamic: int | None = None
    nodes: int | None = None
    neighbours: int = 4
    motion: str = "nodes"
    grow: bool = True
    rigid: float = 1.0
    depth: float = DEPTH_WEIGHT
    share: float = 0.3125
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "static", "dynamic", "nodes", "neighbours"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"`{name}` is {value!r}; a whole number, 1 or more")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError(f"`seconds` is {self.seconds!r}; above 0")
        if self.motion not in TRACKS:
            raise ValueError(f"`motion` is {self.motion!r}; allowed: {', '.join(TRACKS)}")
        if not 0 < self.share <= 1:
            raise ValueError(f"`share` is {self.share!r}; allowed: above 0, up to 1")
        for name in ("rigid", "depth"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; 0 or more")

    def counts(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Static and moving Gaussians, and nodes."""
        growth = math.sqrt(size[0] * size[1] / 64**2)
        plain = (round(3000 * growth**1.3), round(600 * growth), round(24 * growth**0.4))
        return tuple(g or p for g, p in zip((self.static, self.dynamic, self.nodes), plain, strict=True))


@dataclass
class FitReport:
    """steps: how many were made. seconds: of CPU time. losses: the mean over each twentieth of the fit.
    gaussians: static and moving. parameters: how many numbers were learnt."""

    steps: int
    seconds: float
    losses: list[float]
    gaussians: tuple[int, int]
    parameters: int


class Fitter:
    """One fit; `run` makes it."""

    def __init__(self, capture: Capture, settings: FitSettings | None = None) -> None:
        capture.check()
        self.capture, self.settings = capture, settings or FitSettings()
        self.rng = keyed("morpho4d", "fit", self.settings.seed)
        self.first = first_frames(capture)
        static, dynamic, nodes = self.settings.counts(capture.size)
        still = static_seeds(capture, static, self.rng)
        moving = moving_seeds(capture, self.first, dynamic, self.rng)
        self.object_id = torch.cat([still.object_id, moving.object_id])
        self.still = len(still.points)
        self.parameters = self._parameters(still, moving)
        self.track: Track | None = None
        if self.first:
            spread = spread_nodes(capture, self.first, moving, nodes, self.settings.neighbours)
            self.track = TRACKS[self.settings.motion](spread)
        self.seen = 1  # frames that are admitted
        self._maps()
        self._optimizer()

    def _parameters(self, still, moving) -> dict[str, torch.Tensor]:
        points, colours, spacing, quats = (
            torch.cat([getattr(s, name) for s in (still, moving)])
            for name in ("points", "colours", "spacing", "quats")
        )
        count = len(points)
        flat = torch.tensor([1.0, 1.0, FLATNESS]).log()
        return {
            "means": points.clone(),
            "quats": quats.clone(),
            "log_scales": (START_SCALE * spacing).log()[:, None] + flat,
            "logit_opacities": torch.full((count,), math.log(START_OPACITY / (1 - START_OPACITY))),
            "colours": torch.logit(colours.clamp(0.02, 0.98)),
            "features": torch.zeros(count, self.capture.teacher().shape[2]),
        }

    def _maps(self) -> None:
        """Targets of every picture, padded to whole tiles: (V, T, 6 + F, H', W'), of colour, depth, whether there is
        any, whether there is a pixel, and features."""
        capture, (height, width) = self.capture, self.capture.size
        depth = capture.depth[:, :, None]
        finite = depth.isfinite()
        parts = [capture.video, torch.where(finite, depth, 0.0), finite.float(), torch.ones_like(depth)]
        whole = torch.cat([*parts, capture.teacher()], dim=2)
        padding = (0, -width % TILE, 0, -height % TILE)
        self.maps = torch.nn.functional.pad(whole, padding)
        moving = torch.nn.functional.pad((capture.masks > 0).float(), padding)
        self.origins = tile_origins(capture.size, TILE, whole)
        touched = torch.nn.functional.max_pool2d(moving, TILE).flatten(2)
        self.chances = STILL_CHANCE + touched  # (V, T, tiles)
        self.errors = torch.ones(capture.views, len(self.origins))  # what each tile's has been of late
        self.count = max(1, round(self.settings.share * len(self.origins)))
        nothing = ~capture.depth.isfinite()
        pixels = capture.video.permute(0, 1, 3, 4, 2)
        self.background = (pixels[nothing] if nothing.any() else pixels[capture.masks == 0]).reshape(-1, 3).mean(0)
        self.background = self.background.nan_to_num(0.5)

    def _optimizer(self) -> None:
        track = self.track.parameters if self.track is not None else {}
        rates = RATES | (self.track.rates if self.track is not None else {})
        learnt = self.parameters | track
        groups = [{"params": [t.requires_grad_()], "lr": rates[n], "full": rates[n]} for n, t in learnt.items()]
        self.optimizer = torch.optim.Adam(groups, eps=1e-15, fused=True)

    def run(self, on_step: Callable[[float], None] | None = None) -> tuple[Scene4D, FitReport]:
        """Fits, and gives the scene and what it took.

        Args:
            on_step: is called with the share that is done, 0 to 1, before each step; it may raise to stop.
        """
        began, losses, step = time.process_time(), [], 0
        while (progress := self._progress(step, began)) < 1:
            if on_step is not None:
                on_step(progress)
            losses.append((progress, self.step(step, progress)))
            step += 1
        report = FitReport(
            step,
            time.process_time() - began,
            _means(losses),
            (self.still, len(self.object_id) - self.still),
            sum(p.numel() for group in self.optimizer.param_groups for p in group["params"]),
        )
        return self.scene(), report

    def _progress(self, step: int, began: float) -> float:
        if self.settings.seconds is None:
            return step / self.settings.steps
        return (time.process_time() - began) / self.settings.seconds

    def step(self, number: int, progress: float) -> float:
        """One step of the optimiser; gives the loss."""
        frames = self.capture.frames
        wanted = min(int(progress * 2 * frames) + 1, frames) if self.settings.grow else frames
        while self.seen < wanted:
            if self.track is not None:
                self.track.admit(self.seen)
            self.seen += 1
        newest = self.settings.grow and progress < 0.5 and number % 2
        frame = self.seen - 1 if newest else int(self.rng.integers(self.seen))
        view = int(self.rng.integers(self.capture.views))
        for group in self.optimizer.param_groups:
            group["lr"] = group["full"] * LAST_RATE ** max(2 * progress - 1, 0)
        loss = self._loss(view, frame)
        if self.track is not None and self.settings.rigid and number % 2 == 0:
            stiff = self.track.stiffness(frame, self.seen - 1)
            loss = loss if stiff is None else loss + 2 * self.settings.rigid * stiff
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def _posed(self, frame: int) -> tuple[torch.Tensor, torch.Tensor]:
        means, quats = self.parameters["means"], unit(self.parameters["quats"])
        if self.track is None:
            return means, quats
        moving = len(means) - self.still
        times = torch.full((moving,), float(frame))
        own = torch.arange(moving), means[self.still :], quats[self.still :]
        moved = self.track.motion().pose(*own, times)
        still = means[: self.still], quats[: self.still]
        return torch.cat([still[0], moved[0]]), torch.cat([still[1], moved[1]])

    def _loss(self, view: int, frame: int) -> torch.Tensor:
        p, cameras = self.parameters, self.capture.cameras
        means, quats = self._posed(frame)
        opacities = p["logit_opacities"].sigmoid()
        place = (cameras.K[view], cameras.T_cw[view, frame])
        shown = project_gaussians(
            means, quats, p["log_scales"].exp(), opacities, *place, size=self.capture.size, dilation=DILATION
        )
        channels = torch.cat([p["colours"].sigmoid(), shown.z[:, None], p["features"]], dim=1)
        errors = self.errors[view]
        chances = (self.chances[view, frame] * (EVEN + errors / errors.mean().clamp(min=1e-6))).double().numpy()
        tiles = self.rng.choice(len(chances), self.count, replace=False, p=chances / chances.sum())
        tiles = torch.from_numpy(tiles)
        some, lists = tile_lists(shown, self.origins[tiles], TILE)
        tiles = tiles[some]
        given = (shown.splats, channels, lists, self.origins[tiles])
        out = composite_gaussians(*given, tile=TILE, detached=p["features"].shape[1])
        target = self._target(view, frame, tiles)
        # colours with the background behind, where there is a picture
        apart = (out[..., :3] + (1 - out[..., -1:]) * self.background - target[..., :3]).abs() * target[..., 5:6]
        self.errors[view, tiles] += NEWS * (apart.detach().mean((1, 2)) / TYPICAL_ERROR - self.errors[view, tiles])
        return self._compare(apart, out, target)

    def _target(self, view: int, frame: int, tiles: torch.Tensor) -> torch.Tensor:
        """(n, tile², 6 + F)."""
        picture = self.maps[view, frame]
        columns = picture.shape[-1] // TILE
        grid = picture.unflatten(-1, (columns, TILE)).unflatten(-3, (-1, TILE)).permute(1, 3, 2, 4, 0)
        return grid[tiles // columns, tiles % columns].flatten(1, 2)

    def _compare(self, apart: torch.Tensor, out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        alpha = out[..., -1:]
        there = target[..., 5:6]
        pixels = there.sum().clamp(min=1)
        loss = apart.sum() / (3 * pixels)
        known = there * target[..., 4:5] * (alpha.detach() > 0.1)
        depth = out[..., 3:4] / alpha.clamp(min=0.1)
        off = (depth - target[..., 3:4]).abs().clamp(max=DEPTH_CLIP)
        loss = loss + self.settings.depth * (off * known).sum() / pixels
        count = target.shape[-1] - 6
        if count:
            apart = (out[..., 4:-1] - target[..., 6:]).abs() * there
            loss = loss + FEATURE_WEIGHT * apart.sum() / (count * pixels)
        return loss

    def scene(self) -> Scene4D:
        """The scene as it is now."""
        p = {name: value.detach().clone() for name, value in self.parameters.items()}
        dynamic = torch.arange(len(self.object_id)) >= self.still
        gaussians = Gaussians(
            p["means"],
            unit(p["quats"]),
            p["log_scales"],
            p["logit_opacities"],
            ((p["colours"].sigmoid() - 0.5) / SH_DC)[:, None],
            p["features"],
            self.object_id,
            dynamic,
        )
        motion = None
        if self.track is not None:
            motion = self.track.motion()
            for name, value in motion.tensors().items():
                setattr(motion, name, value.detach().clone())
        capture = self.capture
        names = {i: capture.names.get(i, f"object {i}") for i in self.first}
        background = tuple(float(c) for c in self.background)
        concepts = {}
        if capture.features is None:
            ids = [0, *self.first]
            concepts = dict(zip(ids, object_codes(ids), strict=True))
        return Scene4D(
            *(gaussians, motion, capture.cameras, capture.frames, capture.fps, names, background, DILATION),
            concepts=concepts,
        )


def fit_scene(capture: Capture, settings: FitSettings | None = None) -> tuple[Scene4D, FitReport]:
    """Fits a scene to video with cameras, depth and masks.

    Raises:
        ValueError: something is missing or does not fit; the message names it.
    """
    return Fitter(capture, settings).run()


def _means(losses: list[tuple[float, float]], parts: int = 20) -> list[float]:
    found = []
    for part in range(parts):
        mine = [loss for progress, loss in losses if int(progress * parts) == part]
        found += [sum(mine) / len(mine)] if mine else []
    return found
