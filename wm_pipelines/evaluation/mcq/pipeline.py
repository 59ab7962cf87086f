"""Multiple choice about videos as a pipeline: a model, its processor, and the harness (our design)."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from diffusers.utils import BaseOutput
from torch import nn

from wm_pipelines.evaluation.mcq.features import FeatureProvider, provided
from wm_pipelines.evaluation.mcq.frames import sample
from wm_pipelines.evaluation.mcq.items import LETTERS, Frames, Item, check_frames
from wm_pipelines.evaluation.mcq.models import AnswersQuestions, Request, as_model, softmax
from wm_pipelines.evaluation.mcq.prompts import TEMPLATES, prompt
from wm_pipelines.evaluation.mcq.rows import Row
from wm_pipelines.evaluation.mcq.runner import evaluate
from wm_pipelines.evaluation.mcq.settings import Settings, plan
from wm_pipelines.evaluation.mcq.summary import headline
from wm_pipelines.evaluation.mcq.vision_language import VisionLanguageModel, load_vision_language
from wm_pipelines.pipeline import WMPipeline


@dataclass
class VideoMCQOutput(BaseOutput):
    """What a pipeline gives.

    Args:
        answers: the letter for each item, in the order given; None where the model named none, or where it was
            skipped.
        headline: the score in one line with what would make it worthless.
        report: all figures, see `summary.summarise`. rows: one for each question.
    """

    answers: list[str | None]
    headline: str
    report: dict[str, Any]
    rows: list[Row]


class QuizAnswer(NamedTuple):
    """The likeliest option for a clip, and the probabilities of all in their order.

    Args:
        shown: "as it is", "reversed", "mirrored" or "without it".
    """

    shown: str
    answer: str
    probabilities: tuple[float, ...]


class VideoMCQPipeline(WMPipeline):
    """Asks a model multiple-choice questions about videos, with controls that show what its score rests on.

    Args:
        model: an `AutoModelForImageTextToText`; or, without a processor, whatever `evaluate` takes: an
            `EndpointModel`, or a function. Such a pipeline can't be saved.
        processor: of the model.
        layout: how frames are given: "images", one by one, "grid", all on one picture, or "video".

    Raises:
        ValueError: the processor has no slot for pictures laid out so.
    """

    model_cpu_offload_seq = "model"
    _optional_components = ["model", "processor"]

    def __init__(self, model: Any = None, processor: Any = None, layout: str = "images") -> None:
        super().__init__()
        self.answers: AnswersQuestions
        if isinstance(model, nn.Module):
            if processor is None:
                raise ValueError("`processor` is None; a model of transformers needs its own")
            self.answers = VisionLanguageModel(model, processor, layout)
            self.register_modules(model=model, processor=processor)
        else:
            if processor is not None:
                raise ValueError(f"`model` is {type(model).__name__}; only one of transformers takes a `processor`")
            self.answers = as_model(model)
            self.register_modules(model=None, processor=None)
        self.register_to_config(layout=layout)

    @classmethod
    def from_model(
        cls, source: str | os.PathLike, layout: str = "images", device: str | None = None, dtype: str | None = None
    ) -> "VideoMCQPipeline":
        """A pipeline on a checkpoint as transformers keeps it; arguments as `load_vision_language`."""
        found = load_vision_language(source, layout, device, dtype)
        made = cls(found.model, found.processor, layout)
        made.answers = found
        return made

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "VideoMCQPipeline":
        """As `WMPipeline`; rows name the model by the checkpoint's name."""
        made = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        made.answers.name = os.path.basename(os.path.normpath(pretrained_model_name_or_path))
        return made

    def check_inputs(self, items: Sequence[Item], **settings: Any) -> None:
        """As `__call__`, without asking anything.

        Raises:
            ValueError: settings or items that don't fit.
        """
        chosen = Settings(**settings)
        self.answers.check(chosen.protocol)
        plan(items, chosen)

    def __call__(
        self,
        items: Item | Sequence[Item],
        *,
        out: str | os.PathLike | None = None,
        on_row: Callable[[int, int], None] | None = None,
        feature_provider: FeatureProvider | None = None,
        **settings: Any,
    ) -> VideoMCQOutput:
        """Ask about items; arguments and errors as `evaluate`.

        Args:
            feature_provider: gives visual tokens in place of the model's vision tower, see `features.provided`; rows
                name the model with the provider's name.

        Returns:
            The answers to the questions as they are, and the report over them and all controls.
        """
        if feature_provider is not None:
            with self._provided(feature_provider):
                return self(items, out=out, on_row=on_row, **settings)
        items = [items] if isinstance(items, Item) else list(items)
        self.check_inputs(items, **settings)
        quiet = getattr(self, "_progress_bar_config", {}).get("disable", False)
        found = evaluate(items, self.answers, out=out, progress=not quiet, on_row=on_row, **settings)
        full = {row.uid: row.letter for row in found.rows if row.control == "full"}
        report = self.extended(found.report, found.rows)
        return VideoMCQOutput([full.get(i.uid) for i in items], self.headline(report), report, found.rows)

    @contextmanager
    def _provided(self, feature_provider: FeatureProvider) -> Iterator[None]:
        name = self.answers.name
        with provided(self.model, feature_provider):
            own = getattr(feature_provider, "__name__", type(feature_provider).__name__)
            self.answers.name = f"{name}, features of {own}"
            try:
                yield
            finally:
                self.answers.name = name

    def quiz(self, frames: Frames, question: str, options: Sequence[str], num_frames: int = 8) -> list[QuizAnswer]:
        """One question about one clip: as it is, reversed, mirrored, and without it.

        The options that are right of the reversed and of the mirrored clip may be others; these answers are to be
        compared by a person.

        Args:
            frames: uint8 `(T, H, W, 3)`, of which `num_frames` are shown, some twice where there are fewer.
            options: two to five.

        Raises:
            ValueError: frames, question or options that don't fit, or a letter is no token of the model.
        """
        shown = dict(zip(LETTERS, options, strict=False))
        if len(shown) < len(options):
            raise ValueError(f"`options` has {len(options)}; it must have two to five")
        if len(set(options)) < len(options):
            raise ValueError(f"`options` are {list(options)}; they must differ")
        given = {"source": "quiz", "subset": "one", "id": "0", "answer": "A"}
        asked = Item(**given, question=question, options=shown, video=frames)
        self.answers.check("loglik")
        clip = check_frames(asked.uid, frames)[list(sample(num_frames, len(frames)))]
        ways = {"as it is": clip, "reversed": clip[::-1], "mirrored": clip[:, :, ::-1], "without it": None}
        text = prompt(TEMPLATES["loglik"], asked.question, asked.options)
        same = {"prompt": text, "question": asked.question, "options": asked.options, "fps": None, "new_tokens": 0}
        found = []
        for name, seen in ways.items():
            reply = self.answers.answer(Request(**same, frames=seen, protocol="loglik"))
            if reply.scores is None:
                raise ValueError(f"`model` {self.answers.name} gave no log-likelihoods: {reply.error or reply.text!r}")
            chances = softmax(reply.scores)
            best = max(chances, key=chances.get)
            found.append(QuizAnswer(name, asked.options[best], tuple(chances.values())))
        return found

    def activation_bytes(self, pictures: int, training: bool = False) -> int:
        """Bytes of activations to keep free for a question with so many frames: an estimate with room to spare.

        A thousand tokens a picture, each at forty times the width of the language model.
        """
        wide = self.model.config.get_text_config().hidden_size
        return 1024 * 40 * (pictures + 1) * wide * self.model.dtype.itemsize * (3 if training else 1)

    def extended(self, report: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
        """The report with what a benchmark adds."""
        return report

    def headline(self, report: dict[str, Any]) -> str:
        """The score in one line."""
        return headline(report)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """As `WMPipeline`.

        Raises:
            ValueError: the model is no model of transformers.
        """
        if self.model is None:
            raise ValueError(f"`model` is {self.answers.name}, which is no model of transformers and can't be saved")
        super().save_pretrained(save_directory, **kwargs)
