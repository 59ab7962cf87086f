"""AURORA-Bench as a pipeline: any editor over any items, each measure beside that of a copy (arXiv 2407.03471)."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput

from wm_pipelines.aurora_bench.editors import as_draw, drawn
from wm_pipelines.aurora_bench.embeddings import Embedders, load_embedders
from wm_pipelines.aurora_bench.items import EditItem
from wm_pipelines.aurora_bench.judge import EditJudge
from wm_pipelines.aurora_bench.measures import edit_score, nearer
from wm_pipelines.aurora_bench.summary import summarise
from wm_pipelines.pipeline import WMPipeline
from wm_pipelines.runtime.random import keyed


@dataclass
class AuroraBenchOutput(BaseOutput):
    """rows: a dict for each step of each item: item, task, step, instruction, `measures`, `copy` (the same measures of
    an editor that does nothing) and `judge`. summary: as `summary.summarise` makes it."""

    rows: list[dict[str, Any]]
    summary: dict[str, Any]


class AuroraBenchPipeline(WMPipeline):
    """Measures an editor.

    Where an item has several instructions the editor goes on from its own pictures; each step is measured against the
    true state.

    Args:
        editor: see `editors.as_draw`: a world model, an editor of diffusers or a function.
        clip, tokenizer, image_processor: for CLIP-I and CLIP-T; None leaves these out. dino, dino_processor: likewise.
        num_candidates, verifier: of a world model.

    Example:
        ```py
        from wm_pipelines import AuroraBenchPipeline
        from wm_pipelines.aurora_bench.twin import twin_items

        def brighter(source, instruction, seed):  # or a world model, or an editor of diffusers
            return (source + 0.1).clamp(0, 1)

        bench = AuroraBenchPipeline(brighter)
        print(bench(twin_items(4)).summary["all"]["change"])  # beside an editor that does nothing
        ```
    """

    _optional_components = ["clip", "tokenizer", "image_processor", "dino", "dino_processor"]

    def __init__(
        self,
        editor: Any,
        clip: Any = None,
        tokenizer: Any = None,
        image_processor: Any = None,
        dino: Any = None,
        dino_processor: Any = None,
        num_candidates: int = 1,
        verifier: Any = None,
    ) -> None:
        super().__init__()
        self.draw = as_draw(editor, num_candidates, verifier)
        parts = {
            "clip": clip,
            "tokenizer": tokenizer,
            "image_processor": image_processor,
            "dino": dino,
            "dino_processor": dino_processor,
        }
        self.register_modules(**parts)
        self.embedders = Embedders(**parts)

    @classmethod
    def from_models(
        cls, editor: Any, clip: str | None = None, dino: str | None = None, **options: Any
    ) -> "AuroraBenchPipeline":
        """With CLIP and DINO by name: embedded, folder or Hub id."""
        return cls(editor, **load_embedders(clip, dino), **options)

    @torch.no_grad()
    def __call__(
        self,
        items: Sequence[EditItem],
        seed: int = 0,
        judge: EditJudge | None = None,
        on_item: Callable[[EditItem, list[torch.Tensor], list[torch.Tensor], list[dict[str, Any]]], None]
        | None = None,
        return_dict: bool = True,
    ) -> AuroraBenchOutput | tuple:
        """Draw and measure.

        Args:
            items: as `items.read_bench` or `twin.twin_items` give them.
            seed: with an item's name and the step it decides what is drawn, whatever the other items are.
            judge: also asked for each step.
            on_item: called with the item, its states, what was drawn and the rows, as soon as it is done.

        Raises:
            ValueError: no items, a name twice, an item of several sizes, or an editor that draws another size.
        """
        check_items(items)
        rows = []
        for item in self.progress_bar(items):
            states = item.states()
            edits = self._edits(item, states[0], seed)
            found = [self._row(item, step, states, edits, judge=judge) for step in range(len(edits))]
            rows += found
            if on_item is not None:
                on_item(item, states, edits, found)
        out = AuroraBenchOutput(rows=rows, summary=summarise(rows))
        return out if return_dict else out.to_tuple()

    def _edits(self, item: EditItem, source: torch.Tensor, seed: int) -> list[torch.Tensor]:
        made: list[torch.Tensor] = []
        for step, words in enumerate(item.instructions):
            drawn_by = int(keyed("aurora bench", seed, item.name, step).integers(1 << 62))
            made.append(drawn(self.draw, made[-1] if made else source, words, drawn_by))
        return made

    def _row(
        self,
        item: EditItem,
        step: int,
        states: list[torch.Tensor],
        edits: list[torch.Tensor],
        judge: EditJudge | None,
    ) -> dict[str, Any]:
        seen = edits[step - 1] if step else states[0]
        truth = states[step + 1] if len(states) > 1 else None
        before = states[step] if len(states) > 1 else None
        last = step == len(item.instructions) - 1
        sides = []
        for edited, source in ((edits[step], seen), (states[0], states[0])):
            found = asdict(edit_score(source, edited, truth, before))
            if item.against is not None and last and truth is not None:
                found["nearer"] = nearer(edited, truth, item.against())
            sides.append(found)
        words = item.instructions[step]
        pictures = [edits[step], states[0]]
        for side, more in zip(sides, self.embedders.similarities(pictures, truth, words), strict=True):
            side |= more
        row = {
            "item": item.name,
            "task": item.task,
            "step": step,
            "instruction": words,
            "measures": sides[0],
            "copy": sides[1],
        }
        if judge is not None:
            verdict = judge(seen, edits[step], words)
            row["judge"] = {"scores": [list(pair) for pair in verdict.scores], "failures": list(verdict.failures)}
        return row


def check_items(items: Sequence[EditItem]) -> None:
    """ValueError for no items, or two of one name."""
    if not len(items):
        raise ValueError("`items` is empty; at least one is needed")
    names = [item.name for item in items]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"`items` has {twice!r} twice; names tell them apart")
