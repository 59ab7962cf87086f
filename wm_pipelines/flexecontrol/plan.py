"""Everything that is settled before the first step: conditions at size, phrases in place, conflicts known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffusers.utils import logging

from wm_pipelines.flexecontrol.binding import Binding, PhraseSpec, bind, graph_conditions
from wm_pipelines.flexecontrol.checks import Texts, per_prompt
from wm_pipelines.flexecontrol.condition import Condition, PreparedCondition, prepare
from wm_pipelines.flexecontrol.conflicts import Conflict, find_conflicts
from wm_pipelines.flexecontrol.modeling import FlexEControlModel, default_backgrounds
from wm_pipelines.flexecontrol.windows import is_active
from wm_pipelines.text.scene_graph import CompiledGraph

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

Conditions = Condition | Sequence[Condition] | Sequence[Sequence[Condition]]
Phrases = Sequence[PhraseSpec] | Sequence[list[PhraseSpec]]


@dataclass(frozen=True)
class Plan:
    """What steers a run.

    Args:
        rows: the prepared conditions of each prompt; the same list object where prompts share them.
        bindings: the phrases of each prompt and what holds them.
        conflicts: over all prompts, each once.
    """

    rows: list[list[PreparedCondition]]
    bindings: list[Binding]
    conflicts: list[Conflict]


def make_plan(
    control: FlexEControlModel,
    tokenizer: "PreTrainedTokenizerBase",
    convert: Callable[[str], str],
    prompt: Texts | None,
    batch: int,
    conditions: Conditions | None,
    phrases: Phrases | None,
    graphs: list[CompiledGraph] | None,
    size: tuple[int, int],
    on_conflict: str,
    steps: int,
) -> Plan:
    """Prepare conditions, find phrases, look for conflicts.

    Args:
        steps: evaluations of the denoiser that will be made.

    Raises:
        ValueError: anything that can't act as it was asked to; with `on_conflict="error"` also any conflict.
    """
    rows = prepare_conditions(control, conditions, graphs, batch, size)
    refuse_empty_windows(rows, steps)
    bindings = prepare_bindings(tokenizer, convert, prompt, rows, phrases, graphs)
    conflicts: list[Conflict] = []
    if on_conflict != "ignore":
        texts = [prompt] if isinstance(prompt, str) else prompt or [""] * batch
        for text, row, binding, graph in zip(texts, rows, bindings, graphs or [None] * batch, strict=True):
            spans = [(phrase.text, phrase.span) for phrase in binding.phrases]
            found = find_conflicts(row, text, spans, graph)
            conflicts += [conflict for conflict in found if conflict not in conflicts]
    if conflicts and on_conflict == "error":
        raise ValueError("conditions disagree: " + "; ".join(conflict.message for conflict in conflicts))
    for conflict in conflicts:
        logger.warning("conditions disagree: %s", conflict.message)
    return Plan(rows, bindings, conflicts)


def prepare_conditions(
    control: FlexEControlModel,
    conditions: Conditions | None,
    graphs: list[CompiledGraph] | None,
    batch: int,
    size: tuple[int, int],
) -> list[list[PreparedCondition]]:
    """The conditions of each prompt at the output's size, a graph's own maps behind the explicit ones."""
    if isinstance(conditions, Condition):
        conditions = [conditions]
    rows = per_prompt(conditions, batch, "conditions", (list, tuple))
    types = control.config.types
    if graphs is not None:
        rows = [[*row, *graph_conditions(g, types, row)] for row, g in zip(rows, graphs, strict=True)]
    for condition in (c for row in rows for c in row if isinstance(c, Condition)):
        if condition.type not in types:
            raise ValueError(f"this adapter has no condition type {condition.type!r}; it has {', '.join(types)}")
    if not any(rows):
        return [[]] * batch
    grounds = dict(zip(types, control.config.backgrounds or default_backgrounds(types), strict=True))
    if all(row is rows[0] for row in rows):
        return [prepare(rows[0], *size, control.multiple, grounds)] * batch
    return [prepare(row, *size, control.multiple, grounds) for row in rows]


def refuse_empty_windows(rows: list[list[PreparedCondition]], steps: int) -> None:
    """ValueError for a condition that no step would see; one of strength 0 is meant to be left out."""
    for condition in (c for row in rows for c in row if c.strength > 0):
        if not any(is_active(condition, step, steps) for step in range(steps)):
            raise ValueError(
                f"{condition.name} acts from start={condition.start:g} to end={condition.end:g}, in which none of the "
                f"{steps} steps lies whole; a step is {1 / steps:.3g} long: widen the window or take more steps"
            )


def prepare_bindings(
    tokenizer: "PreTrainedTokenizerBase",
    convert: Callable[[str], str],
    prompt: Texts | None,
    rows: list[list[PreparedCondition]],
    phrases: Phrases | None,
    graphs: list[CompiledGraph] | None,
) -> list[Binding]:
    """The phrases of each prompt, found in its text.

    Raises:
        ValueError: phrases without a text to find them in, or one that is absent, ambiguous or cut off.
    """
    wanted = per_prompt(phrases, len(rows), "phrases", list)
    if prompt is None:
        if any(wanted) or graphs or any(c.phrase is not None or c.span is not None for row in rows for c in row):
            raise ValueError("phrases need the text of the prompt, but prompt_embeds was given; pass prompt")
        return [Binding([], [None] * len(row)) for row in rows]
    texts = [prompt] if isinstance(prompt, str) else prompt
    each = zip(texts, rows, wanted, graphs or [None] * len(rows), strict=True)
    return [bind(tokenizer, text, row, want, graph, convert) for text, row, want, graph in each]
