"""Everything that is settled before the first step: conditions at size, phrases in place, conflicts known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffusers.utils import logging

from wm_pipelines.flexecontrol.checks import Texts, per_prompt
from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.conditions.conflicts import Conflict, find_conflicts
from wm_pipelines.flexecontrol.conditions.preparing import PreparedCondition, prepare
from wm_pipelines.flexecontrol.modeling import FlexEControlModel, default_backgrounds
from wm_pipelines.flexecontrol.steering.binding import Binding, PhraseSpec, bind, graph_conditions
from wm_pipelines.flexecontrol.steering.windows import active_steps
from wm_pipelines.text.scene_graph import CompiledGraph

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

Conditions = Condition | Sequence[Condition] | Sequence[Sequence[Condition]]
Phrases = Sequence[PhraseSpec] | Sequence[list[PhraseSpec]]


@dataclass(frozen=True)
class Request:
    """What a call asks for, as the user stated it.

    Args:
        prompt: the texts; None where embeddings were given instead.
        batch: how many prompts there are.
        graphs: one for each prompt, compiled at `size`; None without any.
        size: height and width of the pictures.
        steps: evaluations of the denoiser that will be made.
        on_conflict: "warn", "error" or "ignore".
    """

    prompt: Texts | None
    batch: int
    conditions: Conditions | None
    phrases: Phrases | None
    graphs: Sequence[CompiledGraph] | None
    size: tuple[int, int]
    steps: int
    on_conflict: str = "warn"

    @property
    def texts(self) -> list[str | None]:
        """One text for each prompt, None where embeddings stand in its place."""
        if self.prompt is None:
            return [None] * self.batch
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


@dataclass(frozen=True)
class Plan:
    """What steers a run.

    Args:
        texts: of each prompt, or None.
        rows: the prepared conditions of each prompt; the same list object where prompts share them.
        bindings: the phrases of each prompt and what holds them.
        conflicts: over all prompts, each once.
    """

    texts: list[str | None]
    rows: list[list[PreparedCondition]]
    bindings: list[Binding]
    conflicts: list[Conflict]


def make_plan(
    control: FlexEControlModel,
    tokenizer: "PreTrainedTokenizerBase",
    convert: Callable[[str], str],
    request: Request,
) -> Plan:
    """Prepare conditions, find phrases, look for conflicts.

    Args:
        convert: applied to a text before it is tokenised (textual inversion writes one concept as several tokens).

    Raises:
        ValueError: anything that can't act as it was asked to; with `on_conflict="error"` also any conflict.
    """
    rows = _rows(control, request)
    _refuse_empty_windows(rows, request.steps)
    bindings = _bindings(tokenizer, convert, rows, request)
    conflicts = [] if request.on_conflict == "ignore" else _conflicts(rows, bindings, request)
    if conflicts and request.on_conflict == "error":
        raise ValueError("conditions disagree: " + "; ".join(conflict.message for conflict in conflicts))
    for conflict in conflicts:
        logger.warning("conditions disagree: %s", conflict.message)
    return Plan(request.texts, rows, bindings, conflicts)


def plan_without_text(control: FlexEControlModel, conditions: Sequence[Condition], size: tuple[int, int]) -> Plan:
    """A plan for hosts that keep the prompt to themselves: conditions at size, no phrase bound, no conflict sought.

    Args:
        size: height and width of the pictures.

    Raises:
        ValueError: a condition that can't be prepared, named.
    """
    rows = _rows(control, Request(None, 1, list(conditions), None, None, size, steps=1))
    return Plan([None], rows, [Binding([], [None] * len(row)) for row in rows], [])


def _rows(control: FlexEControlModel, request: Request) -> list[list[PreparedCondition]]:
    """The conditions of each prompt at the output's size, a graph's own maps behind the explicit ones."""
    conditions, types = request.conditions, control.config.types
    if isinstance(conditions, Condition):
        conditions = [conditions]
    rows = per_prompt(conditions, request.batch, "conditions", (list, tuple))
    if request.graphs is not None:
        rows = [[*row, *graph_conditions(g, types, row)] for row, g in zip(rows, request.graphs, strict=True)]
    for condition in (c for row in rows for c in row if isinstance(c, Condition)):
        if condition.type not in types:
            raise ValueError(f"this adapter has no condition type {condition.type!r}; it has {', '.join(types)}")
    if not any(rows):
        return [[]] * request.batch
    grounds = dict(zip(types, control.config.backgrounds or default_backgrounds(types), strict=True))
    if all(row is rows[0] for row in rows):  # shared conditions are prepared once, and one row of features serves all
        return [prepare(rows[0], *request.size, control.multiple, grounds)] * request.batch
    return [prepare(row, *request.size, control.multiple, grounds) for row in rows]


def _refuse_empty_windows(rows: list[list[PreparedCondition]], steps: int) -> None:
    """ValueError for a condition that no step would see; one of strength 0 is meant to be left out."""
    for condition in (c for row in rows for c in row if c.strength > 0):
        if not active_steps(condition, steps):
            raise ValueError(
                f"{condition.name} acts from start={condition.start:g} to end={condition.end:g}, in which none of the "
                f"{steps} steps lies whole; a step is {1 / steps:.3g} long: widen the window or take more steps"
            )


def _bindings(
    tokenizer: "PreTrainedTokenizerBase",
    convert: Callable[[str], str],
    rows: list[list[PreparedCondition]],
    request: Request,
) -> list[Binding]:
    """The phrases of each prompt, found in its text.

    Raises:
        ValueError: phrases without a text to find them in, or one that is absent, ambiguous or cut off.
    """
    wanted, graphs = per_prompt(request.phrases, len(rows), "phrases", list), request.graphs
    if request.prompt is None:
        if any(wanted) or graphs or any(c.phrase is not None or c.span is not None for row in rows for c in row):
            raise ValueError("phrases need the text of the prompt, but prompt_embeds was given; pass prompt")
        return [Binding([], [None] * len(row)) for row in rows]
    each = zip(request.texts, rows, wanted, graphs or [None] * len(rows), strict=True)
    return [bind(tokenizer, text, row, want, graph, convert) for text, row, want, graph in each]


def _conflicts(rows: list[list[PreparedCondition]], bindings: list[Binding], request: Request) -> list[Conflict]:
    """What the conditions, phrases and graph of any prompt disagree about, each once."""
    conflicts: list[Conflict] = []
    for text, row, binding, graph in zip(
        request.texts, rows, bindings, request.graphs or [None] * len(rows), strict=True
    ):
        spans = [(phrase.text, phrase.span) for phrase in binding.phrases]
        found = find_conflicts(row, text or "", spans, graph)
        conflicts += [conflict for conflict in found if conflict not in conflicts]
    return conflicts
