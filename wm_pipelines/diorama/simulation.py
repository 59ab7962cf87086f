"""Rigid bodies under gravity, friction and damping, by MuJoCo (extra `physics`): poses and contacts become a sampled
motion of the scene (our design).

Velocities stand half a step back from positions while MuJoCo steps, which makes its Euler method the leapfrog: flight
and fall are exact to rounding, and what contacts give to a body's momentum is the sum of their impulses.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from wm_pipelines.diorama.bodies import STEP, above_base, bouncing, build_model, inertia, load_mujoco, lowest, mass
from wm_pipelines.diorama.primitives import sampled_motion
from wm_pipelines.diorama.rotations import rows
from wm_pipelines.diorama.scene import Scene
from wm_pipelines.diorama.touches import Contact, Touches

GRAVITY, FRICTION, RESTITUTION = 9.81, 0.5, 0.3
MOST_FRAMES = 1024
FASTEST, FASTEST_SPIN = 10.0, 20.0  # m/s, rad/s
APART = 1e-3  # metres that solids may be inside each other or the floor at the start
BROKEN = 0.1  # of a radius: a deeper contact is a mistake of the simulator


@dataclass(frozen=True)
class Start:
    """How an object sets off: `velocity` (x, y, z) of its centre of mass, m/s, and `spin` (x, y, z), rad/s, both in
    world axes."""

    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for name, most, unit in (("velocity", FASTEST, "m/s"), ("spin", FASTEST_SPIN, "rad/s")):
            value = tuple(float(v) for v in getattr(self, name))
            object.__setattr__(self, name, value)
            if len(value) != 3 or not math.hypot(*value) <= most:
                raise ValueError(f"`{name}` is {value!r}; three numbers, together at most {most:g} {unit}")


@dataclass(frozen=True)
class Simulated:
    """What a simulation of N objects over T frames found, at the frames 0 ... T.

    scene: the scene with a sampled motion for each object and T as its duration; its last sample is the frame after
    the last that is shown. contacts: in order of time.
    times: (T + 1,) frames. centres: (T + 1, N, 3) centres of mass, metres. quaternions: (T + 1, N, 4) wxyz.
    velocities: (T + 1, N, 3) of the centres, m/s. spins: (T + 1, N, 3) rad/s, world axes. masses: (N,) kg.
    inertias: (N, 3) kg m^2 along the solids' own axes. gravity: m/s^2, downwards. All float64, objects in scene order.
    """

    scene: Scene
    contacts: tuple[Contact, ...]
    times: np.ndarray
    centres: np.ndarray
    quaternions: np.ndarray
    velocities: np.ndarray
    spins: np.ndarray
    masses: np.ndarray
    inertias: np.ndarray
    gravity: float

    @property
    def kinetic(self) -> np.ndarray:
        """(T + 1, N) joules, of motion and of rotation; what the spring of an impact holds for some milliseconds is
        missing in a frame that falls into them."""
        local = np.einsum("tnji,tnj->tni", self._rotations(), self.spins)
        return (self.masses * (self.velocities**2).sum(-1) + (self.inertias * local**2).sum(-1)) / 2

    @property
    def potential(self) -> np.ndarray:
        """(T + 1, N) joules above the floor."""
        return self.masses * self.gravity * self.centres[..., 2]

    @property
    def momentum(self) -> np.ndarray:
        """(T + 1, N, 3) N s."""
        return self.masses[:, None] * self.velocities

    @property
    def angular_momentum(self) -> np.ndarray:
        """(T + 1, N, 3) N m s, of each object about its own centre of mass, world axes."""
        turn = self._rotations()
        local = np.einsum("tnji,tnj->tni", turn, self.spins)
        return np.einsum("tnij,tnj->tni", turn, self.inertias * local)

    def _rotations(self) -> np.ndarray:
        return np.moveaxis(np.array(rows(*np.moveaxis(self.quaternions, -1, 0))), (0, 1), (-2, -1))


def simulate(
    scene: Scene,
    starts: Mapping[int, Start] | None = None,
    *,
    gravity: float = GRAVITY,
    friction: float = FRICTION,
    damping: float = 0.0,
    restitution: float = RESTITUTION,
    frames: int | None = None,
) -> Simulated:
    """Lets the objects of `scene` go from where they stand at t = 0.

    The same arguments give the same bits with one version of MuJoCo on one machine.

    Args:
        scene: with a floor and objects that have no motion; its camera may move.
        starts: how objects set off, by id; the others are at rest.
        gravity: m/s^2 downwards, -2 to 20; below 0 things fall upwards, and faster than at -2 they leave the picture.
        friction: Coulomb's coefficient of all surfaces, 0 to 2; what nothing but friction holds creeps by some mm/s.
        damping: share of the speed and of the spin that is lost in a second, as a rate (1/s), 0 to 100. There is no
            switch for inertia: at 20 and more things stop as soon as nothing drives them.
        restitution: share of the speed of approach that two bodies part with, 0 to 1; what comes out is within 0.035
            of it. It is for impacts: what stays in touch for 0.02 s rests.
        frames: T; default `scene.duration`.

    Raises:
        ValueError: an argument is not as above, or objects overlap or stand below the floor at the start.
        ImportError: MuJoCo is not installed.
        RuntimeError: the simulator broke down.
    """
    starts = dict(starts or {})
    frames = scene.duration if frames is None else frames
    _check(scene, starts, frames, gravity=gravity, friction=friction, damping=damping, restitution=restitution)
    mujoco = load_mujoco()
    steps = math.ceil(1 / scene.fps / STEP)
    step = 1 / scene.fps / steps
    model = build_model(scene, step, gravity, damping)
    data = mujoco.MjData(model)
    _place(model, data, scene, starts)
    mujoco.mj_forward(model, data)
    _check_apart(data, scene)
    touches = Touches(model, bouncing(restitution), friction, scene, steps, step)
    touches.start(data)
    data.qvel[:] -= step / 2 * data.qacc
    states = [_state(data, step)]
    for frame in range(frames):
        for n in range(steps):
            mujoco.mj_step(model, data)
            touches.add(frame * steps + n, data)
        mujoco.mj_forward(model, data)
        states.append(_state(data, step))
        if any(w.number for w in data.warning):
            raise RuntimeError(f"the simulator broke down in frame {frame}")
    contacts = touches.contacts()
    _check_depth(contacts, scene)
    return _result(scene, frames, gravity, states, contacts)


def _check(scene: Scene, starts: dict, frames: int, **numbers: float) -> None:
    limits = {"gravity": (-2, 20), "friction": (0, 2), "damping": (0, 100), "restitution": (0, 1)}
    for name, (least, most) in limits.items():
        if not least <= numbers[name] <= most:
            raise ValueError(f"`{name}` is {numbers[name]!r}; allowed: {least} to {most}")
    if not isinstance(frames, int) or not 1 <= frames <= MOST_FRAMES:
        raise ValueError(f"`frames` is {frames!r}; allowed: 1 to {MOST_FRAMES}")
    if not scene.floor:
        raise ValueError("`scene` has no floor; there is nothing to fall on")
    moving = [o.id for o in scene.objects if o.motion]
    if moving:
        raise ValueError(f"`scene` has motions of objects {moving}; physics makes them: give scene_at(scene, t)")
    known = [o.id for o in scene.objects]
    for id, start in starts.items():
        if id not in known:
            raise ValueError(f"`starts` has {id!r}; this scene has {known}")
        if not isinstance(start, Start):
            raise ValueError(f"`starts` has {start!r} for object {id}; it must be a Start")
    for o in scene.objects:
        if lowest(o) < -APART:
            raise ValueError(f"`scene` has object {o.id} {-lowest(o):.3f} m below the floor")


def _place(model, data, scene: Scene, starts: dict[int, Start]) -> None:
    position, velocity = data.qpos.reshape(-1, 7), data.qvel.reshape(-1, 6)
    for i, o in enumerate(scene.objects):
        turn, start = np.array(rows(*o.quaternion)), starts.get(o.id, Start())
        position[i, :3] = np.array(o.position) + above_base(o) * turn[:, 2]
        position[i, 3:] = o.quaternion
        velocity[i, :3] = start.velocity
        velocity[i, 3:] = np.array(start.spin) @ turn  # MuJoCo has spins in the body's axes


def _check_apart(data, scene: Scene) -> None:
    for (a, b), distance in zip(data.contact.geom.tolist(), data.contact.dist.tolist(), strict=True):
        if min(a, b) > 0 and distance < -APART:
            ids = sorted(scene.objects[i - 1].id for i in (a, b))
            raise ValueError(f"`scene` has objects {ids[0]} and {ids[1]} {-distance:.3f} m inside each other")


def _check_depth(contacts: tuple[Contact, ...], scene: Scene) -> None:
    for c in contacts:
        if c.penetration > BROKEN * scene.object(c.first).radius:
            raise RuntimeError(
                f"the simulator broke down: object {c.first} was {c.penetration:.3f} m inside "
                f"{f'object {c.second}' if c.second else 'the floor'} after frame {c.time:.2f}"
            )


def _state(data, step: float) -> tuple[np.ndarray, np.ndarray]:
    """qpos (N, 7) and qvel (N, 6) at the present time; velocities are moved forward by half a step."""
    return data.qpos.reshape(-1, 7).copy(), (data.qvel + step / 2 * data.qacc).reshape(-1, 6)


def _result(scene: Scene, frames: int, gravity: float, states, contacts: tuple[Contact, ...]) -> Simulated:
    centres = np.array([p[:, :3] for p, _ in states])
    quaternions = np.array([p[:, 3:] for p, _ in states])
    turn = np.array(rows(*np.moveaxis(quaternions, -1, 0)))  # (3, 3, T + 1, N)
    velocities = np.array([v[:, :3] for _, v in states])
    spins = np.einsum("ijtn,tnj->tni", turn, np.array([v[:, 3:] for _, v in states]))
    times = np.arange(frames + 1.0)
    objects = []
    for n, o in enumerate(scene.objects):
        bases = centres[:, n] - above_base(o) * turn[:, 2, :, n].T
        objects.append(replace(o, motion=(sampled_motion(times, bases, quaternions[:, n]),)))
    return Simulated(
        scene=replace(scene, objects=tuple(objects), duration=frames),
        contacts=contacts,
        times=times,
        centres=centres,
        quaternions=quaternions,
        velocities=velocities,
        spins=spins,
        masses=np.array([mass(o) for o in scene.objects]),
        inertias=np.array([inertia(o) for o in scene.objects]).reshape(-1, 3),
        gravity=gravity,
    )
