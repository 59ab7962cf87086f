"""The benchmark's families in the miniature world: exact next states, for any editor (our design)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from wm_pipelines.aurora_bench.items import EditItem
from wm_pipelines.diorama.motion import scene_at
from wm_pipelines.diorama.pairs import MIN_CHANGED, STATES, changed_pixels, sample_chain
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import Scene, SceneObject, sample_scene
from wm_pipelines.runtime.random import keyed

ACTIONS = {"attribute": ("recolour", "resize"), "action": ("add", "remove", "swap"), "spatial": ("move", "turn")}
TASKS = (*ACTIONS, "camera", "physics")
ORBIT = 25.0  # degrees that the camera goes around what it looks at
CAMERA = {
    "move the camera to the left": (-ORBIT, 1.0),
    "move the camera to the right": (ORBIT, 1.0),
    "move the camera towards the scene": (0.0, 0.75),
    "move the camera away from the scene": (0.0, 1.35),
}
"""What is said, and degrees around the scene (counter-clockwise seen from above), and times the distance."""
HEIGHTS = (0.6, 1.0)  # metres above the floor that what falls begins at
FALL, RISE = 24, 5  # frames until what fell lies still, and until what rises is still in the picture
UPWARDS = -1.5  # m/s^2 where gravity is inverted
AT_REST = 0.02  # m/s
SIDE = 64  # pixels of the pictures in which changes are counted
TRIES = 100


def twin_items(
    count: int,
    tasks: Sequence[str] = TASKS,
    states: int = 2,
    size: int = 64,
    split: str = "test",
    composition: str = "train",
) -> list[EditItem]:
    """`count` items of each task, the same on every machine.

    attribute: recolour, resize. action: add, remove, swap. spatial: move, turn. camera: the camera moves, the world
    stays. physics: something in the air falls (MuJoCo), with the picture in which it rose as `against`.

    Args:
        states: 2 to 5; of the first three tasks, with an instruction between each and the next.
        size: side of the pictures in pixels.
        split: names other items; none has anything to do with the training data's.
        composition: "train", "held_out" (colours and shapes that training never joins) or "all".

    Raises:
        ValueError: an argument out of range. ImportError: MuJoCo is not installed, and physics is asked for.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"`count` is {count!r}; it must be an integer, 1 or more")
    unknown = [task for task in tasks if task not in TASKS]
    if isinstance(tasks, str) or not tasks or unknown:
        raise ValueError(f"`tasks` is {tasks!r}; one or more of {', '.join(TASKS)}")
    if states not in STATES:
        raise ValueError(f"`states` is {states!r}; allowed: {', '.join(map(str, STATES))}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 8:
        raise ValueError(f"`size` is {size!r}; it must be an integer, 8 or more")
    found = []
    for task in tasks:
        for n in range(count):
            key = ("aurora twin", split, composition, task, n)
            if task in ACTIONS:
                found.append(_chain(key, task, states, size, composition))
            else:
                found.append({"camera": _camera, "physics": _physics}[task](key, size, composition))
    return found


def _name(key: tuple) -> str:
    return f"{key[3]}:{key[1]}:{key[4]}"


def _reader(scenes: Sequence[Scene], size: int) -> Callable[[], list[torch.Tensor]]:
    return lambda: list(render(list(scenes), (0,), size, ("rgb",)).rgb[:, 0])


def _picture(scene: Scene, size: int) -> torch.Tensor:
    return render(scene, (0,), size, ("rgb",)).rgb[0, 0]


def _chain(key: tuple, task: str, states: int, size: int, composition: str) -> EditItem:
    chain = sample_chain(*key, states, states=states, actions=ACTIONS[task], composition=composition)
    return EditItem(f"{_name(key)}:{states}", task, chain.phrases(), _reader(chain.states, size))


def _camera(key: tuple, size: int, composition: str) -> EditItem:
    rng = keyed(*key)
    for attempt in range(TRIES):
        before = sample_scene(*key, attempt, num_objects=(1, 2, 3), composition=composition)
        words = list(CAMERA)[rng.integers(len(CAMERA))]
        after = replace(before, camera=_moved(before, *CAMERA[words]))
        if _whole(after) and _changed(before, after):
            return EditItem(_name(key), "camera", (words,), _reader((before, after), size))
    raise ValueError(f"no scene for {_name(key)} in {TRIES} draws")


def _moved(scene: Scene, degrees: float, factor: float):
    camera = scene.camera
    away = np.subtract(camera.eye, camera.target)
    angle = math.radians(degrees)
    turned = (
        away[0] * math.cos(angle) - away[1] * math.sin(angle),
        away[0] * math.sin(angle) + away[1] * math.cos(angle),
        away[2],
    )
    eye = tuple(float(np.float32(t + factor * v)) for t, v in zip(camera.target, turned, strict=True))
    return replace(camera, eye=eye)


def _whole(scene: Scene) -> bool:
    """Whether every object shows more than half of itself."""
    visible = render(scene, size=SIDE, maps=("visible",)).visible[0, 0, : len(scene.objects)]
    return bool((visible > 0.5).all())


def _changed(before: Scene, after: Scene) -> bool:
    rgb = render([before, after], size=SIDE, maps=("rgb",)).rgb[:, 0]
    return changed_pixels(rgb[0], rgb[1]) >= MIN_CHANGED


def _physics(key: tuple, size: int, composition: str) -> EditItem:
    from wm_pipelines.diorama.simulation import simulate

    rng = keyed(*key)
    for attempt in range(TRIES):
        scene = sample_scene(*key, attempt, num_objects=(1, 2), composition=composition)
        high = scene.objects[rng.integers(len(scene.objects))]
        lifted = replace(high, position=(*high.position[:2], float(rng.uniform(*HEIGHTS))))
        scene = replace(scene, objects=tuple(lifted if o.id == high.id else o for o in scene.objects))
        if not _only(scene, high) or not _whole(scene):
            continue
        try:
            fallen, risen = simulate(scene, frames=FALL), simulate(scene, gravity=UPWARDS, frames=RISE)
        except RuntimeError:
            continue
        after, wrong = scene_at(fallen.scene, FALL), scene_at(risen.scene, RISE)
        if np.abs(fallen.velocities[-1]).max() < AT_REST and _whole(after) and _whole(wrong):
            if _changed(scene, after) and _changed(scene, wrong):
                words = f"the {high.colour} {high.shape} falls"
                return EditItem(
                    _name(key), "physics", (words,), _reader((scene, after), size), partial(_picture, wrong, size)
                )
    raise ValueError(f"no fall for {_name(key)} in {TRIES} draws")


def _only(scene: Scene, high: SceneObject) -> bool:
    """Whether colour and shape name one object."""
    return sum((o.colour, o.shape) == (high.colour, high.shape) for o in scene.objects) == 1
