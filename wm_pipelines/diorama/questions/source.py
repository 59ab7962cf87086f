"""Questions as the items of a data set (our design)."""

from collections.abc import Sequence

from wm_pipelines.diorama.questions.items import FAMILIES, Item, check_family, sample_question
from wm_pipelines.diorama.questions.law import Knobs
from wm_pipelines.diorama.render import render

COMPOSITIONS = {"iid": "train", "held_out": "held_out", "all": "all"}


class QuestionSource:
    """Items by index: index i is of family i modulo their number.

    Args:
        families: names of `FAMILIES`, one or several; None: with a context all that go with it, else those over clips
            that need no physics.
        context, world, knobs: as `sample_question` takes them.
        frames: frames of a clip.
        composition: "iid", "held_out" or "all", as in `DioramaDataset`.
        key: first parts of every key.
    """

    def __init__(
        self,
        families: str | Sequence[str] | None,
        context: str | None,
        world: str,
        knobs: Knobs | None,
        frames: int,
        composition: str,
        key: tuple[str, ...],
    ):
        if families is None:
            able = [f for f in FAMILIES.values() if (context in f.contexts if context else f.medium == "clip")]
            families = [f.name for f in able if world == "normal" or f.world]
        families = [families] if isinstance(families, str) else list(families)
        if not families:
            raise ValueError(f"`families` is empty, or none goes with `context` {context!r} and `world` {world!r}")
        for family in families:
            check_family(family, context, world)
        self.families, self.context, self.world, self.knobs = families, context, world, knobs or Knobs()
        self.frames, self.composition, self.key = frames, COMPOSITIONS[composition], key

    def item(self, index: int) -> Item:
        """The question of `index` and its clip; nothing is rendered."""
        family = self.families[index % len(self.families)]
        return sample_question(
            family,
            *self.key,
            index,
            knobs=self.knobs,
            frames=self.frames,
            composition=self.composition,
            context=self.context,
            world=self.world,
        )

    def rendered(self, index: int, size: int, maps: Sequence[str]) -> dict:
        """The item of a data set: what is asked, and the maps (T, ...) of the frames shown, T = 1 for a picture."""
        item = self.item(index)
        question, scene = item.question, item.clip.scene
        out = render(scene, range(item.clip.shown), size, maps)
        said = {"text": question.full_text, "options": question.options, "answer": question.answer}
        found = {"index": index, "scene": scene, "item": item, "question": question, **said}
        return found | {name: getattr(out, name)[0] for name in maps}
