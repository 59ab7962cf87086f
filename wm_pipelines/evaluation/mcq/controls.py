"""Controls: what is changed of a question, so that a score shows what it rests on (our design).

full            nothing
blind           no frames; `blind:grey` grey ones, `blind:other` those of another video
options_only    no frames and no question
one_frame       the first, the middle and the last frame alone: `one_frame:first`, ...
shuffle         the frames in random order
reverse         backwards, and what is right then
mirror          left and right exchanged, and what is right then
circular        the options moved on by 1, 2, ... places; with `full` all of a cycle (Liu et al., 2307.06281)
frames:K        K frames
oracle_state    no frames, but the true state in words
dummy           with an option that nothing of this is to be seen: `dummy:noise` frames of noise, where it is
                right, and `dummy:real` the video, where it is wrong
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from wm_pipelines.evaluation.mcq.items import TRANSFORMS, Item
from wm_pipelines.evaluation.mcq.rows import SHOWN

FULL = "full"
NOT_SHOWN = "The video does not show this."
FAMILIES = {
    FULL: (FULL,),
    "blind": ("blind",),
    "blind:grey": ("blind:grey",),
    "blind:other": ("blind:other",),
    "options_only": ("options_only",),
    "one_frame": ("one_frame:first", "one_frame:middle", "one_frame:last"),
    "shuffle": ("shuffle",),
    "reverse": ("reverse",),
    "mirror": ("mirror",),
    "circular": ("circular",),
    "oracle_state": ("oracle_state",),
    "dummy": ("dummy:noise", "dummy:real"),
}
DEFAULT = ("blind", "shuffle", "circular")
TEXT_ONLY = ("blind", "options_only", "oracle_state")


@dataclass(frozen=True)
class Case:
    """A question as it is asked.

    Args:
        control: name of the row. shift: of the options.
        question, options: as shown; `options` in the item's order, each with its letter as shown by `shown`.
        transform: "mirror" or "reverse", whose twin is asked for.
        picks: "all", "first", "middle" or "last" of the frames sampled. frames: how many; None for the run's number.
        show: "video", "nothing", "grey", "noise", "other".
        shuffle: in random order. state: in words, instead of frames.
        right: letters of the item's order; None for what the item says of the frames shown.
    """

    control: str
    question: str
    options: tuple[str, ...]
    shift: int = 0
    transform: str | None = None
    picks: str = "all"
    frames: int | None = None
    show: str = "video"
    shuffle: bool = False
    state: str | None = None
    right: tuple[str, ...] | None = field(default=None)

    @property
    def shown(self) -> dict[str, str]:
        """Letter -> option, as they are shown."""
        n = len(self.options)
        return {SHOWN[i]: self.options[(i - self.shift) % n] for i in range(n)}


def check_controls(controls: Sequence[str]) -> tuple[str, ...]:
    """The controls by the names that rows have, "full" first, none twice.

    Raises:
        ValueError: an unknown one.
    """
    if isinstance(controls, str):
        raise ValueError(f"`controls` is {controls!r}; it must be a list of names")
    found = [FULL]
    for name in controls:
        known = {n for names in FAMILIES.values() for n in names}
        kind, _, count = name.partition(":") if isinstance(name, str) else ("", "", "")
        if kind == "frames" and count.isdecimal() and int(count) > 0:
            found.append(f"frames:{int(count)}")
        elif name in FAMILIES:
            found += FAMILIES[name]
        elif name in known:
            found.append(name)
        else:
            raise ValueError(f"`controls` has {name!r}; allowed: {', '.join([*FAMILIES, 'frames:K'])}")
    return tuple(dict.fromkeys(found))


def unfit(item: Item, control: str) -> str | None:
    """Why an item can't be asked under a control, in words; None if it can."""
    if control in TRANSFORMS:
        if item.transforms.get(control) is None:
            return f"has no map of answers for the control {control!r} (`transforms`)"
        if item.twin(control) is None:
            return f"has no right option for the control {control!r}"
    if control == "oracle_state" and item.state is None:
        return "has no `state` for the control 'oracle_state'"
    if control not in TEXT_ONLY and item.video is None:
        return f"has no `video` for the control {control!r}"
    return None


def cases(item: Item, control: str) -> list[Case]:
    """The questions that a control asks of an item that is fit for it."""
    options = tuple(item.options.values())
    base = {"control": control, "question": item.question, "options": options}
    kind, _, detail = control.partition(":")
    if kind == "circular":
        return [Case(**base, shift=shift) for shift in range(1, len(options))]
    if kind in TRANSFORMS:
        return [Case(**{**base, "question": item.twin(kind)[0]}, transform=kind)]
    if kind == "dummy":
        added = SHOWN[len(options)]
        base["options"] = (*options, NOT_SHOWN)
        return [Case(**base, show="noise", right=(added,)) if detail == "noise" else Case(**base)]
    if kind == "one_frame":
        return [Case(**base, picks=detail)]
    if kind == "frames":
        return [Case(**base, frames=int(detail))]
    if kind == "blind":
        return [Case(**base, show=detail or "nothing")]
    if kind == "options_only":
        return [Case(**{**base, "question": ""}, show="nothing")]
    if kind == "oracle_state":
        return [Case(**base, show="nothing", state=item.state)]
    return [Case(**base, shuffle=kind == "shuffle")]
