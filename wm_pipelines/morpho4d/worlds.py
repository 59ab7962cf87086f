"""The miniature world as a source of captures: exact video, cameras, depth and masks of its scenes."""

from collections.abc import Sequence

from wm_pipelines.diorama.cameras import camera_matrices, ring_cameras
from wm_pipelines.diorama.parser import SaidMotion, parse_caption
from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import COLOURS, Camera, Scene, SceneObject
from wm_pipelines.morpho4d.capture import Capture
from wm_pipelines.morpho4d.gaussians import Cameras
from wm_pipelines.morpho4d.prompts import world_words


def capture_scene(
    scene: Scene,
    cameras: Sequence[Camera],
    times: Sequence[float] | None = None,
    size: int | tuple[int, int] = 64,
    lit: bool = False,
) -> Capture:
    """What cameras see of a scene.

    Args:
        times: frames; None: each of the scene's own.
        size: H = W, or (H, W).
        lit: with light and shadows; without, the plain colours.
    """
    times = [float(t) for t in (range(scene.duration) if times is None else times)]
    colour = "rgb" if lit else "albedo"
    out = render(scene, times, size, (colour, "ids", "depth"), cameras=cameras)
    k, poses = camera_matrices(scene, times, size, cameras)
    video = getattr(out, colour)[0]
    return Capture(
        video,
        Cameras(k.float(), poses.float(), tuple(video.shape[-2:])),
        out.depth[0],
        out.ids[0],
        object_names(scene),
        scene.fps,
    )


def object_names(scene: Scene) -> dict[int, str]:
    """What each object is called: colour and shape, and more words where two would be called the same."""
    names = {}
    for o in scene.objects:
        words = {"size": o.size, "material": o.material, "pattern": o.pattern, "colour": o.colour, "shape": o.shape}
        said = {"colour", "shape"}
        for kind in ("size", "pattern", "material"):
            if sum(_called(other, said) == _called(o, said) for other in scene.objects) > 1:
                said.add(kind)
        names[o.id] = " ".join(word for kind, word in words.items() if kind in said)
    return names


def _called(o: SceneObject, said: set[str]) -> tuple[str, ...]:
    return tuple(getattr(o, kind) for kind in sorted(said))


def prompt_scene(prompt: str, frames: int = 12, fps: float = 8.0) -> Scene:
    """A scene of the miniature world that a command describes.

    What is not said is chosen: a colour that no other object has, small, plain, in a row on a chequered floor.

    Raises:
        ValueError: a word that the world does not have, or a sentence outside its grammar; a relation other than left
            of, right of, in front of and behind.
    """
    said = parse_caption(world_words(prompt))
    if not said.objects:
        raise ValueError(f"`prompt` names no object: {prompt!r}")
    free = [c for c in COLOURS if c not in {o.get("colour") for o in said.objects}]
    places = _places(len(said.objects), said.relations)
    objects = []
    for n, (words, motions) in enumerate(zip(said.objects, said.motions, strict=True)):
        words = {"size": "small", "colour": free[n % len(free)]} | words
        objects.append(SceneObject(n + 1, **words, position=(*places[n], 0.0), motion=_motions(motions, frames, fps)))
    return Scene(tuple(objects), duration=frames, fps=fps, floor_pattern="chequered")


def prompt_capture(prompt: str, size: int | tuple[int, int] = 64, frames: int = 12, lit: bool = False) -> Capture:
    """What six cameras around `prompt_scene` see."""
    scene = prompt_scene(prompt, frames)
    radius = 4.2 + 0.6 * max(len(scene.objects) - 2, 0)
    return capture_scene(scene, ring_cameras(6, radius), size=size, lit=lit)


def _places(count: int, relations: tuple[tuple[int, str, int], ...]) -> list[tuple[float, float]]:
    order, depth = list(range(count)), [0.0] * count
    for a, predicate, b in relations:
        if predicate in ("left of", "right of"):
            first, second = (a, b) if predicate == "left of" else (b, a)
            if order.index(first) > order.index(second):
                order.remove(first)
                order.insert(order.index(second), first)
        elif predicate in ("in front of", "behind"):
            depth[a] = depth[b] + (1.3 if predicate == "behind" else -1.3)
        else:
            raise ValueError(f"`prompt` says {predicate!r}; allowed: left of, right of, in front of, behind")
    return [((order.index(n) - (count - 1) / 2) * 1.3, depth[n]) for n in range(count)]


def _motions(said: tuple[SaidMotion, ...], frames: int, fps: float) -> tuple[Motion, ...]:
    """The clip in as many parts as the motions that follow each other."""
    steps = sum(m.joint != "while" for m in said)
    found, step, seconds = [], -1, max((frames - 1) / fps / max(steps, 1), 1e-6)
    for m in said:
        step += m.joint != "while"
        begin, end = (round(k * (frames - 1) / steps, 6) for k in (step, step + 1))
        if m.kind == "bounce":
            found.append(Motion("bounce", begin, end, height=0.5))
        elif m.kind in ("still", "stop"):
            found.append(Motion(m.kind, begin, end))
        else:
            way = m.direction or ("right" if m.kind == "translate" else "counterclockwise")
            about = None if m.about is None else m.about + 1
            metres = {"translate": 0.9, "turn": 1.5, "orbit": 1.2}[m.kind]
            found.append(Motion(m.kind, begin, end, way, metres / seconds, about=about))
    return tuple(found)


def embedded_world() -> Scene:
    """The scene of the embedded `morpho4d`: a red cube slides and turns, a blue ball hops to the left, a green cone
    stands."""
    seconds = 11 / 8
    slides = (Motion("translate", 0, 11, "right", 1.2 / seconds), Motion("turn", 0, 11, "counterclockwise", 1.1))
    hops = (Motion("bounce", 0, 11, height=0.6), Motion("translate", 0, 11, "left", 0.9 / seconds))
    return Scene(
        (
            SceneObject(1, "cube", "red", "small", position=(-0.9, -0.4, 0.0), yaw=0.3, motion=slides),
            SceneObject(2, "sphere", "blue", "small", position=(0.5, 0.5, 0.0), motion=hops),
            SceneObject(3, "cone", "green", "small", position=(0.9, -0.7, 0.0)),
        ),
        duration=12,
        floor_pattern="chequered",
    )


def embedded_cameras() -> list[Camera]:
    """Eight around it; numbers 3 and 7 are held out when it is fitted."""
    return ring_cameras(8, 4.8)
