"""Training of `diorama-vlm`: questions about clips, with the loss on the answer only.

Recipe options (defaults in `DEFAULTS`):
    sources, length, events, families, composition, cache: as `QuizClips` takes them.
    size, patch: sides in pixels of a picture and of a patch.
    width, layers, heads, inner, vision_width, vision_layers, vision_inner: as `build_vlm` takes them.
    blind: the same texts with no picture.
    twins: share of samples that are shown mirrored or backwards, with the answer that is right then.
    open: share of samples asked without options and answered in words, so that words get a meaning sooner.
    pictures_first: steps in which questions about single pictures alone are asked, at a third of the cost: what things
        look like and how options are named is learnt before anything moves.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from wm_pipelines.hub.stock import load_model
from wm_pipelines.hub.weights import save_half
from wm_pipelines.training import KeyedNoise, Recipe, Task, check_keys
from wm_pipelines.video_quiz.asking import IGNORED, Asked, answer_logits, ask, batches, shuffled
from wm_pipelines.video_quiz.modeling import build_vlm, build_vlm_processor
from wm_pipelines.video_quiz.scenes import QuizClips

SIZES: dict[str, Any] = {
    "width": 128, "layers": 5, "heads": 4, "inner": 384, "vision_width": 128, "vision_layers": 3, "vision_inner": 384,
}  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "sources": ["real", "synthetic", "pictures"], "length": 6000, "events": 0, "families": None, "composition": "iid",
    "cache": None, "size": 64, "patch": 16, "blind": False, "twins": 0.5, "open": 0.3, "pictures_first": 0,
    **SIZES,
}  # fmt: skip


class DioramaVLMTask(Task):
    """Next-token prediction of the answer: `LlavaForConditionalGeneration` on questions about clips and pictures."""

    def __init__(self, recipe: Recipe):
        check_keys(recipe.options, DEFAULTS, "options")
        self.options = {**DEFAULTS, **recipe.options}
        for name in ("twins", "open"):
            if not 0 <= self.options[name] <= 1:
                raise ValueError(f"options.{name} is {self.options[name]!r}; a share from 0 to 1")
        names = ("length", "sources", "events", "families", "composition", "size", "cache")
        self.clips = QuizClips(**{name: self.options[name] for name in names})
        self.length = self.clips.length
        self.pictures = [n for n in range(self.length) if self.clips.source(n) == "pictures"]
        if self.options["pictures_first"] and not self.pictures:
            raise ValueError(f"options.pictures_first is {self.options['pictures_first']}, but no source has pictures")
        sources, told = ", ".join(self.options["sources"]), "without" if self.options["blind"] else "with"
        self.data = f"Diorama questions ({sources}) {told} pictures, train split, {self.length} of them"
        self.processor = build_vlm_processor(self.options["size"], self.options["patch"])
        self.model = build_vlm(self.processor, **{name: self.options[name] for name in SIZES})

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def sample(self, index: int, noise: KeyedNoise) -> Asked:
        """Item `index`, as this step shows and asks it."""
        rng = noise.generator(index, "asked")
        transform = None
        if rng.random() < self.options["twins"]:
            transform = ("mirror", "reverse")[int(rng.integers(2))]
        question, clip = self.clips.twin(index, transform) or self.clips.twin(index, None)
        if rng.random() < self.options["open"]:
            text, answer = question.text, question.right
        else:
            options, answer = shuffled(question, rng)
            text = ask(question.text, options, ("direct", "loglik")[int(rng.integers(2))])
        return Asked(text, answer, None if self.options["blind"] else clip)

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        if step < self.options["pictures_first"]:
            indices = [self.pictures[index % len(self.pictures)] for index in indices]
        samples = [self.sample(index, noise) for index in indices]
        total, count, right, letters = torch.zeros((), device=self.device), 0, 0, 0
        for batch in batches(samples, self.processor):
            logits, at = answer_logits(self.model, batch, self.device), batch.targets != IGNORED
            targets = batch.targets[at].to(self.device)
            total = total + functional.cross_entropy(logits, targets, reduction="sum")
            count += len(targets)
            hits = torch.zeros(at.shape, dtype=torch.bool)
            hits[at] = (logits.argmax(1) == targets).cpu()
            first = at.float().argmax(1)  # of each answer
            closed = torch.tensor(batch.closed)
            right += int(hits[torch.arange(len(first)), first][closed].sum())
            letters += int(closed.sum())
        return {"loss": total / count, "right": torch.tensor(right / max(1, letters))}

    def export(self, folder: Path) -> None:
        """The model in fp16 and its processor, whatever `AutoModelForImageTextToText` and `AutoProcessor` read."""
        self.processor.save_pretrained(folder)
        save_half(self.model, folder)

    def load_weights(self, source: str) -> dict[str, int]:
        """Starts from a folder or embedded name of the same architecture."""
        from transformers import LlavaForConditionalGeneration

        from wm_pipelines.hub import check_weights, resolve

        folder = resolve(source)
        check_weights(folder)
        saved = load_model(LlavaForConditionalGeneration, folder)
        self.model.load_state_dict(saved.state_dict())
        return {"parameters": sum(p.numel() for p in saved.parameters())}
