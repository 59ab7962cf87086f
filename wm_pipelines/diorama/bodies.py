"""The solids as rigid bodies, and the MuJoCo model of a scene (our design).

A body's frame stands at its centre of mass with its axes along the solid's: the axis of every solid is its z axis. The
cone's centre of mass lies a quarter of its height above the base, that of the others half of it. Masses and inertias
are those of the exact solids; only contacts see the cone as a convex mesh of `SIDES` sides.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from types import ModuleType
from typing import Any

import numpy as np

from wm_pipelines.diorama.rotations import rows
from wm_pipelines.diorama.scene import Scene, SceneObject

DENSITY = 100.0  # kg / m^3 of every solid, about that of hard foam: a small sphere weighs 52 kg, a large one 199 kg
SIDES = 64  # corners of the cone's base, for contacts
STEP = 1 / 5000  # seconds, at most
NEAR = 2e-3  # metres: contacts are told of from here on, and push from 0 on


def mass(obj: SceneObject) -> float:
    """Kilogrammes."""
    r, h = obj.half_width, obj.height
    volume = {
        "sphere": 4 / 3 * math.pi * r**3,
        "cube": 4 * r * r * h,
        "cylinder": math.pi * r * r * h,
        "cone": math.pi * r * r * h / 3,
    }
    return DENSITY * volume[obj.shape]


def inertia(obj: SceneObject) -> np.ndarray:
    """Principal moments (3,) about the centre of mass, along the solid's x, y and z, kg m^2."""
    r, h = obj.half_width, obj.height
    across, along = {
        "sphere": (0.4 * r * r, 0.4 * r * r),
        "cube": ((4 * r * r + h * h) / 12, 8 * r * r / 12),
        "cylinder": (r * r / 4 + h * h / 12, r * r / 2),
        "cone": (0.15 * r * r + 0.0375 * h * h, 0.3 * r * r),
    }[obj.shape]
    return mass(obj) * np.array([across, across, along])


def above_base(obj: SceneObject) -> float:
    """Height of the centre of mass above the base, along the axis, metres."""
    return obj.height / (4 if obj.shape == "cone" else 2)


def lowest(obj: SceneObject) -> float:
    """Height of the lowest point of the solid at t = 0 above the floor, metres."""
    r, h, z = obj.half_width, obj.height, obj.position[2]
    x_up, y_up, up = rows(*obj.quaternion)[2]
    if obj.shape == "sphere":
        return z + r * up - r
    if obj.shape == "cube":
        return z + min(0.0, h * up) - r * (abs(x_up) + abs(y_up))
    rim = r * math.hypot(x_up, y_up)
    return z + min(-rim, h * up - (0.0 if obj.shape == "cone" else rim))


def load_mujoco() -> ModuleType:
    """The MuJoCo module; an ImportError that names the extra where there is none."""
    try:
        import mujoco
    except ImportError as error:
        raise ImportError('physics needs MuJoCo: pip install "wm-pipelines[physics]"') from error
    return mujoco


# --- contacts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Touch:
    """How two bodies push each other apart: r'' + 2 z w r' + w^2 r = 0 for the overlap r while that is a push."""

    ratio: float  # z
    rate: float  # w, 1/s

    @property
    def solref(self) -> tuple[float, float]:
        """As MuJoCo takes it: minus stiffness and minus damping, for a unit of mass."""
        return -self.rate * self.rate, -2 * self.ratio * self.rate


HARDNESS = 1300.0  # 1/s: what meets something at speed v sinks in by v / HARDNESS
RESTING = Touch(5.0, 500.0)  # 2 z w is 1 / STEP: the speed of approach is gone within one step


def bouncing(restitution: float) -> Touch:
    """The touch that gives back the share `restitution` of the speed of approach.

    A mass meets a spring and a damper and leaves when their force would turn into a pull (Schwager and Pöschel,
    Granular Matter 9, 465, 2007); at 0, the ratio of `RESTING`, it gives back a hundredth.
    """
    low, high = 0.0, RESTING.ratio
    for _ in range(60):
        z = (low + high) / 2
        low, high = (z, high) if _given_back(z) > restitution else (low, z)
    return Touch(z, max(RESTING.rate, HARDNESS * _depth(z)))


def _given_back(z: float) -> float:
    """The share of the speed that a touch of ratio z gives back."""
    if abs(z - 1) < 1e-9:
        return math.exp(-2)
    if z < 1:
        root = math.sqrt(1 - z * z)
        return math.exp(-z / root * math.atan2(2 * z * root, 2 * z * z - 1))
    root = math.sqrt(z * z - 1)
    return math.exp(-z / root * math.log((z + root) / (z - root)))


def _depth(z: float) -> float:
    """The deepest overlap of a touch of ratio z at speed v, in units of v / w."""
    if abs(z - 1) < 1e-9:
        return math.exp(-1)
    root = math.sqrt(abs(z * z - 1))
    return math.exp(-z / root * (math.acos(z) if z < 1 else math.acosh(z)))


# --- the model ------------------------------------------------------------------------------------------------------


def build_model(scene: Scene, step: float, gravity: float, damping: float) -> Any:
    """The MuJoCo model of the floor and the objects: body and geom i + 1 are object i, geom 0 is the floor."""
    mujoco = load_mujoco()
    kinds = mujoco.mjtGeom
    spec = mujoco.MjSpec()
    spec.option.timestep = step
    spec.option.gravity = (0.0, 0.0, -gravity)
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    # solved to the end and from the beginning, so that nothing depends on what else there is, somewhere
    spec.option.tolerance = 1e-15
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART
    spec.option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE  # `Touches` reads it
    # by default, coaxial cylinders may be found to be deep inside each other
    spec.option.ccd_tolerance, spec.option.ccd_iterations = 1e-9, 100
    # the floor is a box, as an upright cylinder on a plane may be found to be deep inside it
    spec.worldbody.add_geom(name="0", type=kinds.mjGEOM_BOX, size=(1e4, 1e4, 1), pos=(0, 0, -1))
    for o in scene.objects:
        body = spec.worldbody.add_body(mass=mass(o), inertia=inertia(o), explicitinertial=True)
        body.add_freejoint()
        r, h = o.half_width, o.height
        if o.shape == "cone":
            spec.add_mesh(name=str(o.id), uservert=_cone(o).flatten())
            body.add_geom(name=str(o.id), type=kinds.mjGEOM_MESH, meshname=str(o.id))
        else:
            kind = {"sphere": kinds.mjGEOM_SPHERE, "cube": kinds.mjGEOM_BOX, "cylinder": kinds.mjGEOM_CYLINDER}
            size = {"sphere": (r, 0, 0), "cube": (r, r, h / 2), "cylinder": (r, h / 2, 0)}
            body.add_geom(name=str(o.id), type=kind[o.shape], size=size[o.shape])
    names = ["0", *(str(o.id) for o in scene.objects)]
    for a, b in combinations(names, 2):
        spec.add_pair(
            geomname1=a,
            geomname2=b,
            condim=3,
            friction=(1e-5, 1e-5, 0, 0, 0),  # none: the rows are there for `Touches`
            gap=NEAR,
            solref=RESTING.solref,
            solimp=(0.9999, 0.9999, 0.001, 0.5, 2),
        )
    model = spec.compile()
    for i in range(len(scene.objects)):
        model.dof_damping[6 * i : 6 * i + 3] = damping * model.body_mass[i + 1]
        model.dof_damping[6 * i + 3 : 6 * i + 6] = damping * model.body_inertia[i + 1]
    return model


def _cone(obj: SceneObject) -> np.ndarray:
    """Corners (SIDES + 1, 3) of the cone, from its centre of mass."""
    angle = np.arange(SIDES) * (2 * math.pi / SIDES)
    low = np.stack([obj.half_width * np.cos(angle), obj.half_width * np.sin(angle), 0 * angle], axis=1)
    return np.vstack([low, (0, 0, obj.height)]) - (0, 0, above_base(obj))
