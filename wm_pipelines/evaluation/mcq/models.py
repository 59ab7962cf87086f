"""What answers: the interface that the runner asks through, and a Python function as a model (our design)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np

from wm_pipelines.evaluation.mcq.items import Frames

Layout = Literal["images", "grid", "video"]


@dataclass(frozen=True)
class Request:
    """One question for a model.

    Args:
        prompt: the whole text. question: the question in it, without the options. options: letter -> text, as shown.
        frames: uint8 `(k, H, W, 3)`, in the order shown; None for a question without.
        fps: of `frames`; None where it is not known.
        protocol: "direct", "cot" or "loglik". new_tokens: of the reply, at most.
        seed: for a model that draws.
    """

    prompt: str
    question: str
    options: Mapping[str, str]
    frames: Frames | None
    fps: float | None
    protocol: str
    new_tokens: int
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """What came back.

    Args:
        text: what the model wrote; None for log-likelihoods alone, or where there is an `error`.
        scores: log-likelihood of each option shown, by its letter, up to a constant.
        truncated: it was cut off at the limit of tokens.
        error: why there is no answer.
    """

    text: str | None = None
    scores: Mapping[str, float] | None = None
    truncated: bool = False
    error: str | None = None


class AnswersQuestions(Protocol):
    """A model for the runner. `name` stands in rows and keys: it must change where the answers may."""

    name: str

    def check(self, protocol: str) -> None:
        """ValueError where the model can't be asked by this protocol."""

    def answer(self, request: Request) -> Reply: ...


class FunctionModel:
    """A Python function as a model.

    Args:
        function: `function(frames, prompt, options)`, with frames uint8 `(k, H, W, 3)` or None, the whole text, and
            {letter: text} as shown. It returns the reply as text, or {letter: log-likelihood} for each option.
        name: in rows; its own by default.
    """

    def __init__(self, function: Callable[[Frames | None, str, dict[str, str]], Any], name: str | None = None):
        if not callable(function):
            raise ValueError(f"`model` is {type(function).__name__}; it must be a function or have `answer`")
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__)

    def check(self, protocol: str) -> None:
        """A function may do anything."""

    def answer(self, request: Request) -> Reply:
        found = self.function(request.frames, request.prompt, dict(request.options))
        if isinstance(found, Reply):
            return found
        if isinstance(found, Mapping):
            return Reply(scores=check_scores(found, request.options))
        if not isinstance(found, str):
            raise ValueError(f"`model` returned {type(found).__name__}; it must return text or log-likelihoods")
        return Reply(text=found)


def check_scores(scores: Mapping[str, float], options: Mapping[str, str]) -> dict[str, float]:
    """Log-likelihoods, if there is a finite one for each option shown.

    Raises:
        ValueError: another letter, or NaN.
    """
    if set(scores) != set(options) or not all(np.isfinite(value) for value in scores.values()):
        raise ValueError(f"`model` scored {dict(scores)}; it must give each of {', '.join(options)} a finite number")
    return {letter: float(scores[letter]) for letter in options}


def as_model(model: Any) -> AnswersQuestions:
    """A model as the runner asks it: one that is such already, or a function.

    Raises:
        ValueError: neither.
    """
    return model if hasattr(model, "answer") and hasattr(model, "name") else FunctionModel(model)


def check_layout(layout: str) -> None:
    if layout not in get_args(Layout):
        raise ValueError(f"`layout` is {layout!r}; it must be one of {', '.join(get_args(Layout))}")


def softmax(scores: Mapping[str, float]) -> dict[str, float]:
    """Probabilities of log-likelihoods."""
    values = np.array(list(scores.values()), np.float64)
    weights = np.exp(values - values.max())
    return dict(zip(scores, (weights / weights.sum()).tolist(), strict=True))
