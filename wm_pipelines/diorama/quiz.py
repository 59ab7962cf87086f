"""Questions of the miniature world as items of multiple choice about videos (our design).

Their truth is that of the state, also for fewer frames, for the mirrored clip and for the reversed one.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from wm_pipelines.diorama.questions import FAMILIES, KNOWING, Knobs, sample_question
from wm_pipelines.diorama.questions import Item as Question
from wm_pipelines.diorama.render import render
from wm_pipelines.evaluation.mcq.items import LETTERS, Item

World = Literal["normal", "counter", "both"]
CLIPS = tuple(name for name, family in FAMILIES.items() if family.medium == "clip")
"""Families over clips that need no physics."""


def diorama_items(
    count: int,
    *,
    seed: int = 0,
    families: Sequence[str] | None = None,
    world: World = "normal",
    frames: int = 16,
    size: int = 64,
    composition: str = "train",
    knobs: Knobs | None = None,
) -> list[Item]:
    """Items about clips of the miniature world, the same on every machine; a clip is rendered when it is needed.

    `subset` is the world, `family` the kind of question, `cluster` the key that a question and its twin in another
    world share; `annotations` have the law of the world and whether it contradicts (`conflict`).

    Args:
        count: questions; with `world="both"` so many in each.
        families: names of `FAMILIES` over clips or events, by turns; None: those over clips, or those that take
            knowledge where the world is not normal. Events take the physics engine and a second each.
        world: "normal"; "counter", where another law holds; "both" of each question.
        frames: of a clip, 8 to 64. size: of a frame, pixels.
        composition, knobs: as `sample_question` takes them.

    Raises:
        ValueError: an argument out of range. ImportError: events without MuJoCo.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"`count` is {count!r}; it must be an integer of at least 1")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"`seed` is {seed!r}; it must be an integer of at least 0")
    if world not in get_args(World):
        raise ValueError(f"`world` is {world!r}; it must be one of {', '.join(get_args(World))}")
    names = [families] if isinstance(families, str) else list(families or (CLIPS if world == "normal" else KNOWING))
    moving = [name for name, family in FAMILIES.items() if family.medium != "picture"]
    strange = [name for name in names if name not in moving]
    if strange:
        raise ValueError(f"`families` has {strange[0]!r}; those about clips are {', '.join(moving)}")
    worlds = ("normal", "counter") if world == "both" else (world,)
    return [
        quiz_item(
            sample_question(
                names[i % len(names)],
                "quiz",
                seed,
                i,
                knobs=knobs,
                frames=frames,
                composition=composition,
                world=side,
            ),
            subset=side,
            id=f"{seed}-{i}",
            size=size,
        )
        for i in range(count)
        for side in worlds
    ]


def quiz_item(question: Question, *, subset: str, id: str, size: int = 64) -> Item:
    """One question and its clip as an item.

    Args:
        subset, id: of the item. size: of a frame, pixels.
    """
    asked, clip = question.question, question.clip
    options = dict(zip(LETTERS, asked.options, strict=False))
    letters = {text: letter for letter, text in options.items()}

    def frames() -> np.ndarray:
        rgb = render(clip.scene, range(clip.shown), size, ("rgb",)).rgb[0]
        return (rgb.permute(0, 2, 3, 1) * 255).round().byte().numpy()

    return Item(
        source="diorama",
        subset=subset,
        id=id,
        question=asked.full_text,
        options=options,
        answer=asked.letter,
        video=frames,
        fps=8.0,
        cluster=f"diorama {id}",
        family=asked.family,
        annotations={"world": asked.world, "conflict": asked.conflict, "prior": round(asked.prior, 6)},
        transforms={"mirror": asked.mirror, "reverse": asked.reverse},
        decides=lambda indices: letters.get(question.truth_for(indices)),
        state=state_text(question),
    )


def state_text(question: Question) -> str:
    """The state of every frame in words: where each solid is in the picture, how far away, and how it is turned."""
    clip = question.clip
    lines = [
        "Where everything is in each frame, on a picture of 64 x 64: x to the right, y down, distance in metres, turn "
        "in degrees."
    ]
    for solid in clip.scene.objects:
        track = clip.tracks[solid.id]
        x, y = (track.box[:, :2] + track.box[:, 2:]).T / 2
        turn = np.degrees(track.yaw)
        at = [f"{t}: {x[t]:.0f} {y[t]:.0f} {track.depth[t]:.1f} {turn[t]:.0f}" for t in range(clip.shown)]
        lines.append(f"{solid.size} {solid.colour} {solid.shape}, frame: x y distance turn: {', '.join(at)}.")
    return "\n".join(lines)
