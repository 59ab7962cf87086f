"""The parts of one caption in one picture: what each is called, where it is, and what went wrong on the way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import PIL.Image
import torch

from wm_pipelines.comclip.subimages import subimage
from wm_pipelines.media.boxes import Box, inside_crop
from wm_pipelines.media.pictures import to_pil
from wm_pipelines.text.parser import Entity, ParsedText

Linker = Callable[[Entity, Sequence[str]], Sequence[str]]

NO_ENTITY, MISSING_BOX, NO_WEIGHT = "no entity", "missing box", "weights sum to zero"


@dataclass(frozen=True)
class Component:
    """One entity or relation of a caption.

    Args:
        id: unique in its caption ("e0", "r1").
        text: what the matcher read.
        kind: "entity" or "relation".
        boxes: rectangles it saw, absolute pixels; empty where it has none.
        whole: whether it saw the whole picture instead (`missing="full"`); without boxes and not whole it saw black.
        weight: its share in the sum; equal shares with `fusion="late"`.
        picture: `(3, H, W)`, where the sub-image is cut from.
    """

    id: str
    text: str
    kind: str
    boxes: tuple[Box, ...]
    whole: bool
    weight: float = 0.0
    picture: torch.Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def missing(self) -> bool:
        """Whether no box was found."""
        return not self.boxes

    @property
    def seen(self) -> tuple[Box, ...] | None:
        """What `subimage` takes: boxes, None for the whole picture, () for black."""
        return None if self.whole else self.boxes

    @property
    def box(self) -> Box | None:
        """The smallest rectangle around all boxes; None without one."""
        if not self.boxes:
            return None
        x0, y0, x1, y1 = zip(*self.boxes, strict=True)
        return min(x0), min(y0), max(x1), max(y1)

    @property
    def subimage(self) -> PIL.Image.Image:
        """The sub-image, as large as the picture."""
        return to_pil(subimage(self.picture, self.seen))


@dataclass(frozen=True)
class Failure:
    """A condition of the data that the score had to work around.

    Args:
        kind: "no entity", "missing box" or "weights sum to zero".
        image, text: indices into what was given.
    """

    kind: str
    message: str
    image: int
    text: int


def components_of(
    caption: str,
    parsed: ParsedText,
    picture: torch.Tensor,
    boxes: dict[str, list[Box]],
    link: Linker,
    missing: str = "full",
    relations: bool = True,
    fit: str = "pad",
) -> tuple[list[Component], list[tuple[str, str]]]:
    """The components of a caption in a picture, entities first, and (kind, message) of each problem.

    An entity sees the first box of every label that the linker gives it; a relation the boxes of its two ends, or of
    its subject if it has no object. Without a box, the whole picture or a black one, by `missing`.

    Args:
        boxes: label -> boxes in absolute pixels.
        relations: whether they take part.

    Raises:
        ValueError: the linker gave something else than labels, or a box lies outside the crop of `fit="crop"`.
    """
    if not parsed.entities:
        message = f"no entities parsed from caption {caption!r}; returning the plain similarity"
        return [], [(NO_ENTITY, f"{message} (pass strict=True to raise)")]
    size, problems, found = tuple(picture.shape[-2:]), [], {}
    for entity in parsed.entities:
        labels = link(entity, list(boxes))
        if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"the linker must give a list of labels for {entity.text!r}, got {labels!r}")
        unknown = [label for label in labels if not boxes.get(label)]
        if unknown:
            problems.append(
                (MISSING_BOX, f"label {unknown[0]!r} matched by the linker is not in the dense captions of this image")
            )
        elif not labels:
            problems.append((MISSING_BOX, f"no box for {entity.text!r} of caption {caption!r}"))
        else:
            found[entity.id] = tuple(boxes[label][0] for label in labels)
            if fit == "crop":
                for box in found[entity.id]:
                    inside_crop(box, size)

    def component(id: str, text: str, kind: str, own: tuple[Box, ...]) -> Component:
        return Component(id, text, kind, own, whole=not own and missing == "full", picture=picture)

    made = [component(entity.id, entity.text, "entity", found.get(entity.id, ())) for entity in parsed.entities]
    for relation in parsed.relations if relations else ():
        ends = [relation.subject] if relation.object is None else [relation.subject, relation.object]
        own = sum((found[end] for end in ends), ()) if all(end in found for end in ends) else ()
        made.append(component(relation.id, relation.verb, "relation", own))
    return made, problems
