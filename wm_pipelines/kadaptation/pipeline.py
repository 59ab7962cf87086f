"""KAdaptation (arXiv 2203.16329): few-shot classification of pictures on any CLIP image tower.

`fit` puts a Kronecker adapter on the query and value projections of the frozen tower and trains it with a head that
starts from the text features of the class names; the pipeline then classifies pictures.
"""

import copy
import math
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import BaseOutput
from torch.nn import functional
from transformers import (
    BaseImageProcessor,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from wm_pipelines import hub
from wm_pipelines.adapters.injected import put_back, remove, without
from wm_pipelines.adapters.kronecker import KroneckerConfig
from wm_pipelines.clip.parts import preprocess, reference
from wm_pipelines.clip.towers import tokenize
from wm_pipelines.config import CONFIG_NAME, TrainingRecord, WMConfig
from wm_pipelines.data.class_folders import Pictures, list_pictures, read_labels
from wm_pipelines.hub.stock import load_model
from wm_pipelines.kadaptation import adapter, training
from wm_pipelines.kadaptation.base import load_parts
from wm_pipelines.kadaptation.inputs import read_classes, read_templates
from wm_pipelines.kadaptation.modeling import HEADS, KAdaptationHead
from wm_pipelines.media.pictures import Picture
from wm_pipelines.pipeline import WMPipeline
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.offloading import is_offloaded
from wm_pipelines.text.vocabulary import check_vocabulary
from wm_pipelines.training import record as facts
from wm_pipelines.training.progress import Callback, fit_progress

TEMPLATES = ("a photo of a {}.",)
PAPER = "arXiv:2203.16329"


@dataclass
class KAdaptationOutput(BaseOutput):
    """Result of `KAdaptationPipeline`; its tuple form holds the same three values in this order.

    Args:
        logits: float32 `(B, classes)` on the CPU.
        probs: their softmax.
        labels: name of the likeliest class of each picture.
    """

    logits: torch.Tensor
    probs: torch.Tensor
    labels: list[str]


class KAdaptationPipeline(WMPipeline):
    """A CLIP image tower, an adapter on it and a head, fitted to labelled pictures by `fit`.

    Args:
        vision_model: the tower; its own weights never change.
        image_processor: how it wants its pictures.
        text_model, tokenizer: the text tower that the head starts from; without them it starts at zero.
        head: of an earlier fit.
        logit_scale: logarithm of the factor of all logits, as CLIP learns it.

    Example:
        ```py
        from wm_pipelines import DioramaDataset, KAdaptationPipeline

        scenes = [DioramaDataset(length=8, num_objects=[1])[n] for n in range(8)]
        pictures = [scene["rgb"] for scene in scenes]  # or files, PIL pictures, arrays
        labels = [scene["scene"].objects[0].shape for scene in scenes]
        pipe = KAdaptationPipeline.from_clip("diorama-clip").fit(pictures, labels, epochs=2)
        print(pipe(pictures).labels)
        pipe.save_adapter("my-shapes")  # small; KAdaptationPipeline.from_base loads it
        ```
    """

    model_cpu_offload_seq = "text_model->vision_model->head"
    _optional_components = ["text_model", "tokenizer", "head"]

    def __init__(
        self,
        vision_model: CLIPVisionModelWithProjection,
        image_processor: BaseImageProcessor,
        text_model: CLIPTextModelWithProjection | None = None,
        tokenizer: CLIPTokenizer | None = None,
        head: KAdaptationHead | None = None,
        logit_scale: float = math.log(100),
    ) -> None:
        super().__init__()
        if (text_model is None) != (tokenizer is None):
            raise ValueError("text_model and tokenizer belong together; give both or neither")
        self.register_modules(
            vision_model=vision_model,
            image_processor=image_processor,
            text_model=text_model,
            tokenizer=tokenizer,
            head=head,
        )
        self.register_to_config(logit_scale=logit_scale)
        self.history: list[dict[str, Any]] = []

    # ---- making, saving, loading ----

    @classmethod
    def from_clip(
        cls,
        source: str | os.PathLike,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> "KAdaptationPipeline":
        """A pipeline that can be fitted, on a CLIP checkpoint: both towers, or an image tower alone.

        Args:
            source: embedded name, folder or Hub id of a `CLIPModel` or `CLIPVisionModelWithProjection`.
            kwargs: passed to `from_pretrained` of the model, for example `dtype`.

        Raises:
            ValueError: `source` is no such checkpoint, or its files are not whole.
            HubError: the Hub refused or was not reached.
        """
        folder = hub.resolve(
            source, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        pipeline = cls(**load_parts(folder, **kwargs))
        record = WMConfig.load(folder) if (folder / CONFIG_NAME).is_file() else None
        pipeline.wm_config = WMConfig(
            method="kadaptation",
            pipeline=cls.__name__,
            base_model=reference(source, folder),
            vocabulary=record.vocabulary if record else None,
            paper=PAPER,
        )
        return pipeline

    @classmethod
    def from_base(cls, base: str | os.PathLike, folder: str | os.PathLike, **kwargs: Any) -> "KAdaptationPipeline":
        """What `save_adapter` wrote to `folder`, on its CLIP checkpoint `base`."""
        folder = hub.resolve(folder)
        pipeline = cls.from_clip(base, **kwargs)
        hub.check_weights(folder)
        head = load_model(KAdaptationHead, folder).eval()
        width = pipeline.vision_model.config.projection_dim
        if head.config.features != width:
            raise ValueError(f"{folder} is for features of width {head.config.features}; those of {base} have {width}")
        pipeline.register_modules(head=head.to(pipeline.vision_model.device))
        adapter.load(pipeline.vision_model, folder)
        if (folder / CONFIG_NAME).is_file():
            pipeline.wm_config = WMConfig.load(folder)
        return pipeline

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "KAdaptationPipeline":
        """As in diffusers; the adapter comes from the folder `adapter` beside the components."""
        pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        folder = pipeline.source_folder
        if folder is not None and pipeline.head is not None:
            adapter.load(pipeline.vision_model, folder / "adapter")
        return pipeline

    def save_components(self, folder: Path, **kwargs: Any) -> None:
        """The tower as it was, and the adapter in a folder of its own."""
        with without(self.vision_model):
            super().save_components(folder, **kwargs)
        if adapter.has_adapter(self.vision_model):
            adapter.save(self.vision_model, folder / "adapter")

    def save_adapter(self, folder: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
        """Saves what `fit` made and nothing of the base: PEFT's adapter files, the head, and the record.

        `AutoWMPipeline.from_pretrained` loads the folder if the base is embedded or on the Hub, `from_base` on any.

        Args:
            dtype: of the files; that of the weights when None.

        Raises:
            ValueError: nothing was fitted.
        """
        if self.head is None:
            raise ValueError("there is nothing to save: call fit(images, labels) first")
        with atomic_folder(folder, last=CONFIG_NAME, listed=hub.recorded_files) as partial:
            copy.deepcopy(self.head).to(dtype or self.head.dtype).save_pretrained(partial)
            if adapter.has_adapter(self.vision_model):
                adapter.save(self.vision_model, partial, dtype)
            if self.wm_config is not None and self.wm_config.base_model is not None:
                hub.seal(partial, self.wm_config)

    # ---- fitting ----

    def fit(
        self,
        images: Pictures,
        labels: Sequence[int] | Sequence[str],
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] | None = TEMPLATES,
        epochs: int = 50,
        validation: tuple[Pictures, Sequence[int] | Sequence[str]] | None = None,
        config: KroneckerConfig | None = None,
        seed: int = 0,
        *,
        head: str = "cosine",
        probe: bool = False,
        batch_size: int = 64,
        learning_rate: float = 3e-3,
        head_learning_rate: float = 1e-3,
        callback_on_step_end: Callback | None = None,
        callback_on_epoch_end: Callback | None = None,
    ) -> "KAdaptationPipeline":
        """Fit a new adapter and a new head; what an earlier fit made is replaced. AdamW with a cosine schedule.

        Args:
            images: pictures of any kind and size that `wm_pipelines.media.to_tensor` reads: greyscale is repeated to
                three channels, alpha is composited over white.
            labels: one per picture, class numbers or names.
            class_names: the classes in the order of their numbers; default: the sorted names in `labels`, or the
                numbers themselves, which say nothing to a text tower, so that the head starts at zero.
            templates: sentences with one `{}` each; a class starts as the mean of its sentences' features. None
                starts the head at zero.
            epochs: passes over the pictures; 0 keeps the head as it starts (zero-shot classification).
            validation: (pictures, labels); the epoch that does best on them is kept, else the last one.
            config: of the adapter; default: n = 32, r = 1 on `q_proj` and `v_proj`.
            seed: of the adapter's start and of the order of the pictures; the fit is the same every time.
            head: "cosine", or "linear_bn" as in the released code.
            probe: train the head alone (a linear probe), without an adapter.
            batch_size, learning_rate (of the adapter), head_learning_rate: of AdamW, without weight decay.
            callback_on_step_end: called with the pipeline, the number of steps done and `{"loss"}` of the last.
            callback_on_epoch_end: called with the pipeline, the number of epochs done and the row of `history`.
                `pipe._interrupt = True` in either stops after the epoch.

        Returns:
            The pipeline. `history` has one row per epoch, and the record says how it was fitted.

        Raises:
            ValueError: bad pictures, labels, names or settings, before anything changes.
            FloatingPointError: the loss is not finite; the pipeline is then what it was.
        """
        recipe = training.FitRecipe(
            epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            head_learning_rate=head_learning_rate,
            seed=seed,
        )
        self._check_can_fit(head, config)
        names = read_classes(labels, class_names)
        pictures = list_pictures(images)
        indices = read_labels(labels, names, len(pictures))
        training.check_batches(recipe, len(pictures), head)
        asked = read_templates(templates)
        if asked and self.text_model is not None and (class_names is not None or isinstance(labels[0], str)):
            sentences = [[template.format(name) for template in asked] for name in names]
            self._check_words(sum(sentences, []))
        else:
            sentences = None
            if asked:
                missing = "the pipeline has no text_model" if self.text_model is None else "the classes have no names"
                warnings.warn(f"{missing}: the head starts at zero", stacklevel=2)
        train = self.preprocess(pictures), torch.tensor(indices)
        held = None
        if validation is not None:
            held_pictures = list_pictures(validation[0])
            held_labels = read_labels(validation[1], names, len(held_pictures), "labels of validation")
            held = self.preprocess(held_pictures), torch.tensor(held_labels)

        before = self.head, remove(self.vision_model)
        started = time.monotonic()
        try:
            made = self._new_head(names, head, sentences)
            factors = [] if probe else adapter.start(self.vision_model, config or adapter.default_config(), seed)
            steps = training.steps_of(recipe, len(pictures), head, epochs)
            with (
                fit_progress(self, steps, callback_on_step_end, callback_on_epoch_end) as progress,
                torch.random.fork_rng(),
            ):
                torch.manual_seed(seed)  # dropout, if the config has any
                history = training.fit(
                    self.vision_model,
                    head=made,
                    adapter=factors,
                    train=train,
                    validation=held,
                    recipe=recipe,
                    on_step=progress.step,
                    on_epoch=progress.epoch,
                )
        except BaseException:
            put_back(self.vision_model, before[1])
            self.register_modules(head=before[0])
            raise
        finally:
            self.vision_model.eval().requires_grad_(False)
        self.register_modules(head=made.eval().requires_grad_(False))
        self.history = history
        self._record(
            recipe,
            templates=asked if sentences else (),
            pictures=len(pictures),
            seconds=time.monotonic() - started,
            probe=probe,
        )
        return self

    def _check_can_fit(self, head: str, config: KroneckerConfig | None) -> None:
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}; got {head!r}")
        if config is not None and not isinstance(config, KroneckerConfig):
            raise ValueError(f"config must be a KroneckerConfig, got {type(config).__name__}")
        if self.vision_model.dtype == torch.float16:
            raise ValueError("vision_model is float16, whose gradients vanish; fit in float32 or bfloat16")
        hooked = [name for name, part in self.components.items() if is_offloaded(part)]
        if hooked:
            raise ValueError(f"{', '.join(hooked)} is offloaded; fit first, then turn offloading on")

    def _check_words(self, sentences: list[str]) -> None:
        """Refuse what the text tower has never seen or would cut off."""
        vocabulary = self.wm_config.vocabulary if self.wm_config is not None else None
        if vocabulary:
            check_vocabulary(vocabulary, sentences, "a sentence of class_names and templates")
        tokenize(self.tokenizer, sentences, self.text_model.config.max_position_embeddings, "prompt")

    @torch.no_grad()
    def encode_classes(self, sentences: Sequence[Sequence[str]]) -> torch.Tensor:
        """Unit text features `(classes, D)`: of each class the mean of its sentences' unit features."""
        limit = self.text_model.config.max_position_embeddings
        rows = []
        for own in sentences:
            tokens = tokenize(self.tokenizer, own, limit, "prompt").to(self._execution_device)
            features = functional.normalize(self.text_model(tokens).text_embeds.float(), dim=-1)
            rows.append(functional.normalize(features.mean(0), dim=-1))
        return torch.stack(rows)

    def _new_head(self, names: list[str], kind: str, sentences: list[list[str]] | None) -> KAdaptationHead:
        width = self.vision_model.config.projection_dim
        made = KAdaptationHead(features=width, class_names=names, kind=kind)
        with torch.no_grad():
            if kind == "cosine":
                made.logit_scale.fill_(self.config.logit_scale)
            if sentences is not None:
                made.weight.copy_(self.encode_classes(sentences))
        return made.to(self._execution_device)

    def _record(self, recipe: Any, templates: Sequence[str], pictures: int, seconds: float, probe: bool) -> None:
        told = {"task": "kadaptation", **asdict(recipe), "head": self.head.config.kind, "probe": probe}
        training_record = TrainingRecord(
            recipe=told,
            data=f"{pictures} pictures of {len(self.head.config.class_names)} classes",
            seed=recipe.seed,
            steps=training.steps_of(recipe, pictures, self.head.config.kind, len(self.history)),
            hardware=facts.hardware(1),
            wall_time_s=round(seconds, 3),
            code_commit=facts.code_commit(),
            versions=facts.versions(),
        )
        base = self.wm_config or WMConfig(method="kadaptation", pipeline=type(self).__name__, paper=PAPER)
        settings = {"image_size": self.vision_model.config.image_size, "templates": list(templates)}
        values = {**base.model_dump(), "method_config": settings, "training": training_record, "evaluation": []}
        self.wm_config = WMConfig(**{**values, "files": {}})

    # ---- inference ----

    def preprocess(self, images: Sequence[Picture]) -> torch.Tensor:
        """Pictures as the tower wants them; see `clip.parts.preprocess`."""
        return preprocess(self.image_processor, images)

    def check_inputs(self, images: Pictures, batch_size: int) -> list[Picture]:
        """The pictures of a call, one by one.

        Raises:
            ValueError: the pipeline is not fitted, no picture, something that is none, or no batch size.
        """
        if self.head is None:
            raise ValueError("the pipeline is not fitted: call fit(images, labels) first, or load a fitted checkpoint")
        if type(batch_size) is not int or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
        return list_pictures(images)

    @torch.no_grad()
    def __call__(
        self, images: Pictures, batch_size: int = 64, return_dict: bool = True
    ) -> KAdaptationOutput | tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Classify pictures.

        Args:
            images: one picture or several, of any kind and size that `wm_pipelines.media.to_tensor` reads; a tensor
                `(B, C, H, W)` or array `(B, H, W, C)` is a batch of pictures.
            batch_size: how many go through the tower at once.

        Raises:
            ValueError: as `check_inputs`.
        """
        # 1. everything that was given, checked
        pictures = self.check_inputs(images, batch_size)
        # 2. logits, batch by batch
        rows = []
        with self.progress_bar(total=math.ceil(len(pictures) / batch_size)) as progress:
            for start in range(0, len(pictures), batch_size):
                pixels = self.preprocess(pictures[start : start + batch_size])
                pixels = pixels.to(self._execution_device, self.vision_model.dtype)
                rows.append(self.head(self.vision_model(pixels).image_embeds).float().cpu())
                progress.update()
        self.maybe_free_model_hooks()
        # 3. the likeliest class of each picture
        logits = torch.cat(rows)
        labels = [self.head.config.class_names[i] for i in logits.argmax(1).tolist()]
        result = KAdaptationOutput(logits, logits.softmax(1), labels)
        return result if return_dict else result.to_tuple()

    def activation_bytes(self, pictures: int, training: bool = False) -> int:
        """Rough memory of a run: eight hidden states of a block and its attention for each picture of a batch.

        Args:
            pictures: of the run; the default batch holds at most 64. training: every block's are kept.
        """
        config = self.vision_model.config
        tokens = (config.image_size // config.patch_size) ** 2 + 1
        values = tokens * (8 * config.hidden_size + config.num_attention_heads * tokens)
        blocks = config.num_hidden_layers if training else 1
        return min(pictures, 64) * values * blocks * self.vision_model.dtype.itemsize
