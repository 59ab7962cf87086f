"""The report: terms with their thresholds and verdicts, and the constants that the motion gives away (our design)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from wm_pipelines.morpho4d.gaussians import Cameras
from wm_pipelines.morpho4d.physics.agreement import Agreement, agreement
from wm_pipelines.morpho4d.physics.bodies import Bodies, check_clip, lift_bodies
from wm_pipelines.morpho4d.physics.constants import (
    Constant,
    recover_friction,
    recover_gravity,
    recover_restitution,
)
from wm_pipelines.morpho4d.physics.particle_terms import balance, rigidity, spin, strain
from wm_pipelines.morpho4d.physics.particles import scene_bodies
from wm_pipelines.morpho4d.physics.terms import contacts, energy, forces, penetration, volume
from wm_pipelines.morpho4d.physics.thresholds import FITTED, UNJUDGED, lifted_thresholds
from wm_pipelines.morpho4d.scene import Scene4D

TERMS = {
    "rigidity": "residual of the best rigid motion, radii",
    "strain": "how neighbours' distances change, 95th percentile, as a share",
    "presence": "share of the silhouette that should be seen and is not",
    "volume": "|ln| of the volume over its middle value",
    "momentum": "force that neither gravity nor contact can give, weights",
    "spin": "change of the angular momentum in free flight, as a share",
    "penetration": "depth in others or the floor, radii",
    "support": "hangs with nothing that bears it",
    "balance": "centre of mass beside what it stands on, at rest, radii",
    "energy": "rise of all energy, g times the mean radius",
    "agreement": "share of the time predicted by a simulator in which a centre is 0.25 radii off",
}
UNSHOWN = {"spin": "nothing flies free", "balance": "nothing rests on the floor alone"}


@dataclass
class Term:
    """values: (N, T), or (1, T) of all bodies together; NaN where it can't be said. score: what the clip is judged by,
    the second largest value of the worst body (of support its share of frames, of energy the largest). threshold: what
    95 % of valid clips stay under. Of the agreement with a simulator, values are errors of the centres in radii."""

    values: np.ndarray
    score: float
    threshold: float

    @property
    def ratio(self) -> float:
        """Of score and threshold: above 1 it is a violation."""
        return self.score / self.threshold

    @property
    def holds(self) -> bool:
        return self.ratio <= 1


@dataclass
class PhysicsReport:
    """How physical a clip or a scene is.

    Args:
        terms: of `TERMS`, those that can be measured. unmeasured: the others, and why.
        constants: gravity (m/s^2), friction, restitution, where the motion shows them.
        objects: N names. fps: frames a second. overall: the threshold of the largest ratio of all terms.
        agreement: how long a simulator agrees, where one was asked for and can say; no part of the verdict.
    """

    terms: dict[str, Term]
    unmeasured: dict[str, str]
    constants: dict[str, Constant | None]
    objects: list[str]
    fps: float
    overall: float = 1.0
    agreement: Agreement | None = None

    @property
    def scores(self) -> dict[str, float]:
        return {name: term.score for name, term in self.terms.items()}

    @property
    def score(self) -> float:
        """The largest ratio of all terms over what 95 % of valid clips stay under: above 1, not physical."""
        return max(term.ratio for name, term in self.terms.items() if name not in UNJUDGED) / self.overall

    @property
    def holds(self) -> bool:
        return self.score <= 1

    @property
    def worst(self) -> str:
        return max((n for n in self.terms if n not in UNJUDGED), key=lambda name: self.terms[name].ratio)

    def to_dict(self) -> dict[str, Any]:
        """JSON's values; None where a value is unknown."""
        terms = {}
        for name, term in self.terms.items():
            values = [[None if not np.isfinite(v) else round(float(v), 5) for v in row] for row in term.values]
            verdict = {"score": term.score, "threshold": term.threshold, "ratio": term.ratio, "holds": term.holds}
            terms[name] = {"meaning": TERMS[name], **verdict, "values": values}
        constants, held = {name: c and asdict(c) for name, c in self.constants.items()}, self.agreement
        return {
            "holds": self.holds,
            "score": self.score,
            "worst": self.worst,
            "objects": self.objects,
            "fps": self.fps,
            "terms": terms,
            "unmeasured": self.unmeasured,
            "constants": constants,
            "agreement": held and {"from_frame": held.start, "predicted": held.whole, "seconds": held.seconds},
        }

    def lines(self) -> list[str]:
        """The report as a table for people."""
        out = [f"{'term':<13}{'score':>9}{'valid <':>9}  verdict"]
        for name, term in self.terms.items():
            word = "holds" if term.holds else "VIOLATED"
            out.append(f"{name:<13}{term.score:>9.3f}{term.threshold:>9.3f}  {word}: {TERMS[name]}")
        out += [f"{name:<13}{'-':>9}{'-':>9}  not measured: {why}" for name, why in self.unmeasured.items()]
        for name, c in self.constants.items():
            said = "not shown by this motion" if c is None else f"{c.value:.3g} [{c.low:.3g}, {c.high:.3g}]"
            out.append(f"{name}: {said}")
        if self.agreement:
            each = zip(self.objects, self.agreement.seconds, strict=True)
            said = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in each)
            out.append(f"a simulator agrees for (of {self.agreement.whole:.3g} s): {said}")
        verdict = "as physical as valid clips" if self.holds else f"not physical, {self.worst} first of all"
        return [*out, f"overall {self.score:.2f} (valid < 1): {verdict}"]


def clip_physics(
    masks: torch.Tensor,
    depth: torch.Tensor,
    cameras: Cameras | tuple[torch.Tensor, torch.Tensor],
    names: Mapping[int, str] | None = None,
    fps: float = 8.0,
    gravity: float = 9.81,
    thresholds: Mapping[str, float] | None = None,
    simulator: bool = False,
) -> PhysicsReport:
    """Measures a clip of one camera; the world is in metres, z up, its floor at z = 0.

    Args:
        masks: (T, H, W) int64, object ids, 0 = background; the same id all along.
        depth: (T, H, W), metres along the optical axis, above 0, inf where there is nothing.
        cameras: one `Cameras`, or (K, T_cw): (3, 3) in pixels, and (4, 4) or (T, 4, 4), world to camera, OpenCV axes.
        names: object id -> what it is called.
        gravity: m/s^2, what the motion is held against, above 0.
        thresholds: of `calibrate`; None: those of simulated clips of the nearest size.
        simulator: hold the last two thirds against what MuJoCo makes of the first (extra `physics`; under a second).

    Raises:
        ValueError: an argument is missing or not as above; the message names it.
    """
    camera = check_clip(masks, depth, cameras, fps)
    _check_gravity(gravity)
    bodies = lift_bodies(masks, depth, camera, dict(names or {}), fps)
    if not bodies.ids or not np.isfinite(bodies.radii).any(1).all():
        raise ValueError("`masks` has an object that no frame shows 6 pixels or more of with finite depth")
    return _report(bodies, gravity, thresholds or lifted_thresholds(masks.shape[1]), simulator)


def scene_physics(
    scene: Scene4D,
    masks: torch.Tensor | None = None,
    gravity: float = 9.81,
    floor: float = 0.0,
    thresholds: Mapping[str, float] | None = None,
    simulator: bool = False,
) -> PhysicsReport:
    """Measures a scene in time by its Gaussians.

    Args:
        masks: (T, H, W) int64, what the scene's first camera truly saw; without them presence is not measured.
        gravity: m/s^2, above 0. Where the scene's unit is unknown it is taken from what flies.
        floor: its height, in the scene's unit.
        thresholds: of `calibrate`; None: `thresholds.FITTED`, of simulated clips that were fitted.
        simulator: hold the last two thirds against what MuJoCo makes of the first (extra `physics`; under a second).

    Raises:
        ValueError: a scene of fewer than 5 frames or without objects, or an argument that is not as above.
    """
    _check_gravity(gravity)
    if not isinstance(scene, Scene4D):
        raise ValueError(f"`scene` is a {type(scene).__name__}; it must be a Scene4D")
    if scene.frames < 5:
        raise ValueError(f"`scene` has {scene.frames} frames; 5 or more are needed to see how something moves")
    bodies = scene_bodies(scene, masks, floor)
    if scene.unit != "m":
        found = recover_gravity(bodies, contacts(bodies))
        return _report(bodies, found.value if found and found.value > 0 else None, thresholds or FITTED, False)
    return _report(bodies, gravity, thresholds or FITTED, simulator)


def _check_gravity(gravity: float) -> None:
    if not isinstance(gravity, int | float) or not 0 < gravity < 1000:
        raise ValueError(f"`gravity` is {gravity!r}; m/s^2 above 0, below 1000")


def _report(bodies: Bodies, gravity: float | None, thresholds: Mapping[str, float], simulator: bool) -> PhysicsReport:
    contact = contacts(bodies, gravity or 0.0)
    values: dict[str, np.ndarray] = {"volume": volume(bodies), "penetration": penetration(bodies, contact)}
    unmeasured = {}
    if bodies.particles is None:
        unmeasured |= dict.fromkeys(("rigidity", "strain", "spin"), "a clip has no particles that keep their names")
        unmeasured["balance"] = "a clip hides half of what a body stands on"
    else:
        values |= {"rigidity": rigidity(bodies), "strain": strain(bodies)}
        values |= {"spin": spin(bodies, contact), "balance": balance(bodies, contact)}
    if np.isfinite(bodies.missing).any():
        values["presence"] = bodies.missing
    else:
        unmeasured["presence"] = "no masks to hold silhouettes against"
    constants: dict[str, Constant | None] = dict.fromkeys(("gravity", "friction", "restitution"))
    if gravity is None:
        unmeasured |= dict.fromkeys(("momentum", "support", "energy"), "the scale is unknown and nothing flies")
    else:
        values["momentum"], values["support"] = forces(bodies, contact, gravity)
        values["energy"] = energy(bodies, gravity)[None]
        constants["gravity"] = recover_gravity(bodies, contact)
        constants["friction"] = recover_friction(bodies, contact, gravity)
        constants["restitution"] = recover_restitution(bodies, contact, gravity)
    held, unmeasured["agreement"] = None, "not asked for, or the scale is unknown"
    if simulator and gravity is not None:
        try:
            held = agreement(bodies, contact, gravity)
            values["agreement"] = held.errors
            del unmeasured["agreement"]
        except (ValueError, ImportError) as reason:
            unmeasured["agreement"] = str(reason)
    terms = {}
    for name in TERMS:
        if name not in values:
            continue
        if not np.isfinite(values[name]).any():
            unmeasured[name] = UNSHOWN.get(name, "no stretch of frames shows the bodies whole")
            continue
        score = held.lost if name == "agreement" else _score(name, values[name])
        terms[name] = Term(values[name], score, float(thresholds.get(name, 1.0)))
    objects = [bodies.names.get(i, f"object {i}") for i in bodies.ids]
    overall = float(thresholds.get("overall", 1.0))
    return PhysicsReport(terms, unmeasured, constants, objects, bodies.fps, overall, held)


def _score(name: str, values: np.ndarray) -> float:
    """What a clip is judged by; one frame alone may be an accident, but a jump in energy is one."""
    if name == "support":
        return float(np.nansum(values, axis=1).max() / values.shape[1])
    if name == "energy":
        return float(np.nanmax(values))
    ranked = np.sort(np.where(np.isfinite(values), values, -np.inf), axis=1)[:, -2]
    return float(max(ranked.max(), 0.0))
