"""How items are asked, checked before any work (our design)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from wm_pipelines.evaluation.mcq.controls import DEFAULT, check_controls, unfit
from wm_pipelines.evaluation.mcq.frames import Pad, Sampler
from wm_pipelines.evaluation.mcq.items import Item, check_items
from wm_pipelines.evaluation.mcq.prompts import NEW_TOKENS, TEMPLATES, check_template, text_sha
from wm_pipelines.evaluation.mcq.rows import PROTOCOLS

ON_PROBLEM = ("error", "skip")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How items are asked.

    Args:
        protocol: "direct", the letter alone; "cot", reasons first; "loglik", the option with the largest
            log-likelihood of its letter.
        controls: names of `controls.FAMILIES`, or "frames:K". `full` is always asked.
        num_frames: frames that are shown. sampler, pad: which; see `frames.sample` and `frames.Clip.indices`.
        template: text with `{question}` and `{options}`; None for our own.
        max_new_tokens: of a reply; None for 16, with "cot" 1,024.
        seed: of what is drawn: the order of shuffled frames, noise, the other video.
        on_missing: what to do about a video that is not there or can't be read: "error", or "skip" its items.
        unfit: likewise for an item that a control has no answer for, such as a mirror without a map of answers.
        timings: put seconds into rows; equal runs then differ.

    Raises:
        ValueError: names the argument.
    """

    protocol: str = "direct"
    controls: Sequence[str] = field(default=DEFAULT)
    num_frames: int = 8
    sampler: str = "linspace"
    pad: str = "error"
    template: str | None = None
    max_new_tokens: int | None = None
    seed: int = 0
    on_missing: str = "error"
    unfit: str = "error"
    timings: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "protocol": PROTOCOLS,
            "sampler": get_args(Sampler),
            "pad": get_args(Pad),
            "on_missing": ON_PROBLEM,
            "unfit": ON_PROBLEM,
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be one of {', '.join(values)}")
        for name, least in (("num_frames", 1), ("max_new_tokens", 1), ("seed", 0)):
            value = getattr(self, name)
            if name == "max_new_tokens" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"`{name}` is {value!r}; it must be an integer of at least {least}")
        object.__setattr__(self, "controls", check_controls(self.controls))
        if self.template is not None:
            check_template(self.template)

    @property
    def asked(self) -> str:
        """The template that is used."""
        return self.template or TEMPLATES[self.protocol]

    @property
    def new_tokens(self) -> int:
        return self.max_new_tokens or NEW_TOKENS[self.protocol]

    def record(self, model: str) -> dict[str, Any]:
        """What two runs must have in common to lie in one folder."""
        names = ("protocol", "num_frames", "sampler", "pad", "seed")
        return {
            "model": model,
            **{name: getattr(self, name) for name in names},
            "new_tokens": self.new_tokens,
            "template_sha": text_sha(self.asked),
        }

    def plain(self) -> dict[str, Any]:
        """Arguments that make these settings again, as values of JSON."""
        return asdict(self) | {"controls": [name for name in self.controls if name != "full"]}


@dataclass(frozen=True)
class Task:
    """Items and what each is asked.

    Args:
        items: that are asked. controls: `uid` -> its controls. skipped: `uid` -> why it is not asked at all.
        unfit: control -> how many items it has no answer for.
    """

    items: list[Item]
    controls: dict[str, list[str]]
    skipped: dict[str, str]
    unfit: dict[str, int]


def plan(items: Sequence[Item], settings: Settings) -> Task:
    """What is to be asked.

    Raises:
        ValueError: no item or a `uid` twice; a missing file or an item that does not fit a control, where these are
            not skipped; nothing left to ask.
    """
    found = check_items(items)
    skipped = {i.uid: f"{i.video} not found" for i in found if _missing(i)}
    if skipped and settings.on_missing == "error":
        uid, why = next(iter(skipped.items()))
        affected = f"{len(skipped):,} of {len(found):,} items"
        raise ValueError(f"{uid}: {why}; `on_missing='skip'` leaves such items out, here {affected}")
    found = [item for item in found if item.uid not in skipped]
    if not found:
        raise ValueError(f"no item is left: {len(skipped)} have no video")
    controls: dict[str, list[str]] = {item.uid: [] for item in found}
    left_out = {}
    for control in settings.controls:
        reasons = {item.uid: why for item in found if (why := unfit(item, control))}
        if reasons and (settings.unfit == "error" or len(reasons) == len(found)):
            uid, why = next(iter(reasons.items()))
            remedy = "leave the control out" + (
                "" if len(reasons) == len(found) else ", or give `unfit='skip'`, which asks the others"
            )
            raise ValueError(f"{uid} {why}; {len(reasons):,} of {len(found):,} items are affected: {remedy}")
        if reasons:
            left_out[control] = len(reasons)
        for item in found:
            if item.uid not in reasons:
                controls[item.uid].append(control)
    return Task(found, controls, skipped, left_out)


def _missing(item: Item) -> bool:
    return isinstance(item.video, Path) and not item.video.is_file()
