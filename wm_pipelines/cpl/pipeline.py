"""CPL (arXiv 2210.10362): few-shot classification, retrieval and filled-prompt questions by a learned prompt.

At inference it is CoCoOp: a frozen CLIP whose prompts carry a learned context that depends on the picture. What is
CPL's own is how the prompt was fitted, and `explain`, which shows the counterfactual of a pair of pictures.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from wm_pipelines import hub
from wm_pipelines.clip.parts import load_clip, preprocess, reference
from wm_pipelines.clip.towers import MAX_TOKENS, encode_images, encode_texts
from wm_pipelines.config import CONFIG_NAME, TrainingRecord, WMConfig
from wm_pipelines.cpl import training
from wm_pipelines.cpl.explanation import CPLExplanation, draw_swaps
from wm_pipelines.cpl.losses import class_logits
from wm_pipelines.cpl.modeling import INIT, CPLPromptLearner
from wm_pipelines.cpl.prompts import Prompts, conditional_features, make_prompts, words
from wm_pipelines.cpl.solver import counterfactual, greedy_masks
from wm_pipelines.cpl.tasks import own_texts, read_captions, retrieval_examples, vqa_examples
from wm_pipelines.data.class_folders import Pictures, list_pictures, read_classes, read_labels
from wm_pipelines.hub.stock import load_model
from wm_pipelines.media.pictures import Picture, to_tensor
from wm_pipelines.pipeline import WMPipeline
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.offloading import brought, is_offloaded
from wm_pipelines.text.vocabulary import check_vocabulary
from wm_pipelines.training import record as facts
from wm_pipelines.training.progress import Callback, fit_progress

PAPER = "arXiv:2210.10362"


@dataclass
class CPLOutput(BaseOutput):
    """Result of `CPLPipeline`; its tuple form holds the same three values in this order.

    Args:
        logits: float32 `(B, C)` on the CPU, scaled cosines; minus infinity where a text was no candidate.
        probs: their softmax. labels: the likeliest text for each picture.
    """

    logits: torch.Tensor
    probs: torch.Tensor
    labels: list[str]


class CPLPipeline(WMPipeline):
    """A frozen CLIP with a prompt learner. Texts may be new at any time: the prompt is fitted, not the classes.

    Args:
        clip: both towers; never changed. tokenizer, image_processor: its own.
        prompt_learner: made for a CLIP of these widths.

    Raises:
        ValueError: the learner was made for other widths.

    Example:
        ```py
        from wm_pipelines import CPLPipeline, DioramaDataset

        scenes = [DioramaDataset(length=8, num_objects=[1])[n] for n in range(8)]
        pictures = [scene["rgb"] for scene in scenes]  # or files, PIL pictures, arrays
        labels = [scene["scene"].objects[0].shape for scene in scenes]
        pipe = CPLPipeline.from_clip("diorama-clip").fit(pictures, labels, epochs=1)
        print(pipe(pictures, ["cube", "sphere", "cone", "cylinder"]).labels)  # classes may be new at any time
        pipe.explain(pictures[0], pictures[1], "cube", "sphere").image.save("swapped.png")
        pipe.save_adapter("my-prompt")  # small; CPLPipeline.from_base loads it
        ```
    """

    # The learner runs while the towers wait (see `offloading.brought`); after them, its hook would send them off.
    model_cpu_offload_seq = "prompt_learner->clip"

    def __init__(
        self,
        clip: CLIPModel,
        tokenizer: CLIPTokenizer,
        image_processor: CLIPImageProcessor,
        prompt_learner: CPLPromptLearner,
    ) -> None:
        super().__init__()
        if clip is not None and prompt_learner is not None:
            prompt_learner.check_compatible(clip)
        self.register_modules(
            clip=clip, tokenizer=tokenizer, image_processor=image_processor, prompt_learner=prompt_learner
        )
        self.history: list[dict[str, float]] = []
        self.negatives: dict[str, str] = {}

    # ---- making, saving, loading ----

    @classmethod
    def from_clip(
        cls,
        source: str | os.PathLike,
        n_ctx: int = 4,
        init: str | None = INIT,
        seed: int = 0,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> "CPLPipeline":
        """A pipeline that can be fitted, on a stock CLIP checkpoint.

        Args:
            source: embedded name, folder or Hub id of a `CLIPModel`.
            n_ctx, init, seed: of the new prompt learner, see `CPLPromptLearner.from_clip`.
            kwargs: passed to `CLIPModel.from_pretrained`, for example `dtype`.

        Raises:
            ValueError: `source` is no such checkpoint, or `init` has another number of tokens than `n_ctx`.
            HubError: the Hub refused or was not reached.
        """
        cache = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        folder = hub.resolve(source, **cache)
        parts = load_clip(folder, **kwargs)
        learner = CPLPromptLearner.from_clip(
            parts["clip"], tokenizer=parts["tokenizer"], n_ctx=n_ctx, init=init, seed=seed
        ).eval()
        pipeline = cls(**parts, prompt_learner=learner)
        record = WMConfig.load(folder) if (folder / CONFIG_NAME).is_file() else None
        pipeline.wm_config = WMConfig(
            method="cpl",
            pipeline=cls.__name__,
            base_model=reference(source, folder),
            method_config={"image_size": parts["clip"].config.vision_config.image_size},
            vocabulary=record.vocabulary if record else None,
            paper=PAPER,
        )
        return pipeline

    @classmethod
    def from_base(cls, base: str | os.PathLike, folder: str | os.PathLike, **kwargs: Any) -> "CPLPipeline":
        """What `save_adapter` wrote to `folder`, on its CLIP checkpoint `base`."""
        base, folder = hub.resolve(base), hub.resolve(folder)
        hub.check_weights(folder)
        parts = load_clip(base, **kwargs)
        learner = load_model(CPLPromptLearner, folder).eval()
        pipeline = cls(**parts, prompt_learner=learner)
        if (folder / CONFIG_NAME).is_file():
            pipeline.wm_config = WMConfig.load(folder)
        return pipeline

    def save_adapter(self, folder: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
        """Saves the prompt learner and the record, nothing of the base.

        `AutoWMPipeline.from_pretrained` loads the folder if the base is embedded or on the Hub, `from_base` on any.

        Args:
            dtype: of the file; that of the weights when None.
        """
        with atomic_folder(folder, last=CONFIG_NAME, listed=hub.recorded_files) as partial:
            copy = CPLPromptLearner.from_config(self.prompt_learner.config)
            copy.load_state_dict(self.prompt_learner.state_dict())
            wanted = dtype or self.prompt_learner.dtype
            (copy if wanted == copy.dtype else copy.to(wanted)).save_pretrained(partial)
            if self.wm_config is not None and self.wm_config.base_model is not None:
                hub.seal(partial, self.wm_config)

    def _read_record(self) -> WMConfig | None:
        record = super()._read_record()  # of a component, it may be the base's own
        return record if record is not None and record.method == "cpl" else None

    # ---- fitting ----

    def renew(self, seed: int = 0) -> "CPLPipeline":
        """A new prompt learner in place of the present one, from the same words, so that a fit starts afresh."""
        config = self.prompt_learner.config
        learner = CPLPromptLearner.from_clip(
            self.clip, tokenizer=self.tokenizer, n_ctx=config.n_ctx, init=config.init, seed=seed
        ).eval()
        self.register_modules(prompt_learner=learner)
        return self

    def fit(
        self,
        images: Pictures,
        labels: Sequence[int] | Sequence[str],
        class_names: Sequence[str] | None = None,
        *,
        callback_on_step_end: Callback | None = None,
        callback_on_epoch_end: Callback | None = None,
        **settings: Any,
    ) -> "CPLPipeline":
        """Fit the prompt to labelled pictures; it goes on from the present one.

        Args:
            images: pictures of any kind and size that `wm_pipelines.media.to_tensor` reads.
            labels: one per picture, class numbers or names.
            class_names: the classes in the order of their numbers; the sorted names among `labels` when None.
            callback_on_step_end: called with the pipeline, the number of steps done, and `loss` and other figures of
                the last. callback_on_epoch_end: the same of epochs, with the row of `history`.
                `pipe._interrupt = True` in either stops after the epoch.
            settings: see `CPLSettings`: variant, lambda_cf (0 is CoCoOp), tau, epochs, batch_size, learning_rate,
                augment, similarity, mask, parity, seed, max_tokens.

        Returns:
            The pipeline. `history` has one row per epoch, `negatives` says which class was whose counterfactual.

        Raises:
            ValueError: bad pictures, labels, names or settings; one class; a prompt that is too long; a negative
                class without a picture. Before anything changes.
            FloatingPointError: the loss is not finite; the prompt is then what it was.
        """
        chosen, callbacks = self._settings(settings), (callback_on_step_end, callback_on_epoch_end)
        names = read_classes(labels, class_names)
        if len(names) < 2:
            raise ValueError(f"class_names has {len(names)} entry; CPL needs ≥2 to choose a counterfactual negative")
        pictures = self._tensors(images)
        indices = torch.tensor(read_labels(labels, names, len(pictures)))
        return self._fit(training.Examples(pictures, names, indices), chosen, "classification", callbacks)

    def fit_retrieval(
        self,
        images: Pictures,
        captions: Sequence[str] | Sequence[Sequence[str]],
        candidates: int = 16,
        *,
        callback_on_step_end: Callback | None = None,
        callback_on_epoch_end: Callback | None = None,
        **settings: Any,
    ) -> "CPLPipeline":
        """Fit the prompt to pictures with their captions.

        Args:
            captions: one per picture, or a list of them, of which one is drawn by the seed.
            candidates: texts that a picture is compared with: its own and those nearest to it by plain CLIP.
            callback_on_step_end, callback_on_epoch_end, settings: as in `fit`.

        Raises:
            ValueError, FloatingPointError: as in `fit`.
        """
        chosen, callbacks = self._settings(settings), (callback_on_step_end, callback_on_epoch_end)
        pictures = self._tensors(images)
        texts = read_captions(captions, len(pictures), chosen.seed)
        examples = retrieval_examples(pictures, texts, candidates, self._similarity)
        return self._fit(examples, chosen, "retrieval", callbacks)

    def fit_vqa(
        self,
        images: Pictures,
        prompts: Sequence[Sequence[str]],
        labels: Sequence[int],
        *,
        callback_on_step_end: Callback | None = None,
        callback_on_epoch_end: Callback | None = None,
        **settings: Any,
    ) -> "CPLPipeline":
        """Fit the prompt to questions whose answers are filled into statements.

        Args:
            prompts: for each picture its statements, one for each answer: as many for every picture.
            labels: which of its statements is true, for each picture.
            callback_on_step_end, callback_on_epoch_end, settings: as in `fit`.

        Raises:
            ValueError, FloatingPointError: as in `fit`.
        """
        chosen, callbacks = self._settings(settings), (callback_on_step_end, callback_on_epoch_end)
        pictures = self._tensors(images)
        return self._fit(vqa_examples(pictures, prompts, labels), chosen, "filled prompts", callbacks)

    def _fit(
        self,
        examples: training.Examples,
        settings: training.CPLSettings,
        task: str,
        callbacks: tuple[Callback | None, Callback | None],
    ) -> "CPLPipeline":
        self._check_words(examples.texts)
        learner = self.prompt_learner
        self.clip.requires_grad_(False).eval()
        before, dtype = {name: tensor.clone() for name, tensor in learner.state_dict().items()}, learner.dtype
        if dtype in (torch.float16, torch.bfloat16):
            learner.float()  # the towers may be in half precision, what is optimised may not
        started = time.monotonic()
        try:
            steps = settings.epochs * math.ceil(len(examples.pictures) / settings.batch_size)
            with fit_progress(self, steps, *callbacks) as progress:
                report = training.fit(
                    self.clip,
                    tokenizer=self.tokenizer,
                    learner=learner,
                    preprocess=self.preprocess,
                    examples=examples,
                    settings=settings,
                    on_step=progress.step,
                    on_epoch=progress.epoch,
                )
        except BaseException:
            learner.to(dtype).load_state_dict(before)
            learner.requires_grad_(False).eval()
            raise
        self.history, self.negatives = report
        self._record(examples, settings=settings, task=task, steps=progress.steps, seconds=time.monotonic() - started)
        return self

    def _settings(self, given: dict[str, Any]) -> training.CPLSettings:
        """Checked settings of a fit, for which nothing may be offloaded."""
        hooked = [name for name, part in self.components.items() if is_offloaded(part)]
        if hooked:
            raise ValueError(f"{', '.join(hooked)} is offloaded; fit first, then turn offloading on")
        return training.settings_of(given)

    def _record(self, examples: Any, settings: Any, task: str, steps: int, seconds: float) -> None:
        recipe = {**vars(settings), "lambda_cf": settings.weight}
        recipe["similarity"] = settings.similarity if isinstance(settings.similarity, str) else "a table"
        made = TrainingRecord(
            recipe={"task": "cpl", "data": task, **recipe},
            data=f"{len(examples.pictures)} pictures, {len(examples.texts)} texts ({task})",
            seed=settings.seed,
            steps=steps,
            hardware=facts.hardware(1),
            wall_time_s=round(seconds, 3),
            code_commit=facts.code_commit(),
            versions=facts.versions(),
        )
        base = self.wm_config or WMConfig(method="cpl", pipeline=type(self).__name__, paper=PAPER)
        method = {
            "image_size": self.clip.config.vision_config.image_size,
            "variant": settings.variant,
            "lambda_cf": settings.weight,
        }
        values = {**base.model_dump(), "method_config": method, "training": made, "evaluation": [], "files": {}}
        self.wm_config = WMConfig(**values)

    # ---- inference ----

    def preprocess(self, images: Sequence[Picture]) -> torch.Tensor:
        """Pictures as the tower wants them; see `clip.parts.preprocess`."""
        return preprocess(self.image_processor, images)

    def check_inputs(
        self,
        images: Pictures,
        class_names: Sequence[str] | Sequence[Sequence[str]],
        candidates: int | None,
        batch_size: int,
        max_tokens: int,
    ) -> tuple[list[Picture], list[str], torch.Tensor | None]:
        """The pictures of a call, all its texts, and which are a picture's own (see `tasks.own_texts`).

        Raises:
            ValueError: no picture, something that is none, no text, `candidates` of texts that are not shared, a size
                that is none, or a word outside the base's closed vocabulary.
        """
        for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        pictures = list_pictures(images)
        texts, own = own_texts(class_names, len(pictures))
        if candidates is not None and (own is not None or type(candidates) is not int or candidates < 1):
            raise ValueError(f"candidates must be an integer of at least 1 and needs shared texts, got {candidates!r}")
        self._check_words(texts)
        return pictures, texts, own

    @torch.no_grad()
    def __call__(
        self,
        images: Pictures,
        class_names: Sequence[str] | Sequence[Sequence[str]],
        candidates: int | None = None,
        batch_size: int = 16,
        max_tokens: int = MAX_TOKENS,
        return_dict: bool = True,
    ) -> CPLOutput | tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Compare pictures with texts, each under the prompt that the picture gives it.

        Args:
            images: one picture or several, of any kind and size; a tensor `(B, C, H, W)` or array `(B, H, W, C)` is a
                batch.
            class_names: class names, captions or statements, known or new; or a list of its own for each picture,
                all of one length.
            candidates: compare each picture only with so many texts, the nearest by plain CLIP; all when None.
            batch_size: pictures at once. max_tokens: memory bound of a text pass.

        Raises:
            ValueError: as `check_inputs`, or a prompt that is too long.
        """
        # 1. everything that was given, checked
        pictures, texts, own = self.check_inputs(
            images, class_names, candidates=candidates, batch_size=batch_size, max_tokens=max_tokens
        )
        rows = []
        with brought(self.clip):
            # 2. prompts without their context, and where texts are left out, the plain features to choose by
            prompts = make_prompts(self.clip, self.tokenizer, texts, self.prompt_learner.config.n_ctx)
            device = self._execution_device
            plain = self._plain(texts, max_tokens) if candidates is not None and candidates < len(texts) else None
            # 3. batch by batch: the context that a picture gives, and the logits under it
            with self.progress_bar(total=math.ceil(len(pictures) / batch_size)) as progress:
                for start in range(0, len(pictures), batch_size):
                    pixels = self.preprocess(pictures[start : start + batch_size]).to(device)
                    image = encode_images(self.clip, pixels).to(self.prompt_learner.dtype)
                    which = None if own is None else own[start : start + batch_size].to(device)
                    if plain is not None:
                        which = (image @ plain.T).topk(candidates, dim=1).indices
                    rows.append(
                        self._logits(
                            prompts, image=image, which=which, max_tokens=max_tokens, spread=plain is not None
                        )
                    )
                    progress.update()
        self.maybe_free_model_hooks()
        # 4. the likeliest text of each picture
        logits = torch.cat(rows)
        best = logits.argmax(1).tolist()
        if own is not None:
            best = [int(own[i, b]) for i, b in enumerate(best)]
        result = CPLOutput(logits, logits.softmax(1), [texts[b] for b in best])
        return result if return_dict else result.to_tuple()

    def _logits(
        self, prompts: Prompts, image: torch.Tensor, which: torch.Tensor | None, max_tokens: int, spread: bool
    ) -> torch.Tensor:
        """(B, K) on the CPU; `spread` over all texts, with minus infinity where `which` has none."""
        text = conditional_features(
            self.clip,
            learner=self.prompt_learner,
            prompts=prompts,
            image_features=image,
            candidates=which,
            max_tokens=max_tokens,
        )
        logits = class_logits(text, image, self.clip.logit_scale.exp().to(image)).float()
        if spread:
            whole = torch.full((len(image), len(prompts.eos)), float("-inf"), device=logits.device)
            logits = whole.scatter(1, which, logits)
        return logits.cpu()

    @torch.no_grad()
    def explain(
        self,
        positive: Picture,
        negative: Picture,
        positive_text: str,
        negative_text: str,
        mask_space: str = "unit",
        return_dict: bool = True,
    ) -> CPLExplanation | tuple:
        """The counterfactual of a pair: which entries of the positive picture's feature make the other text win.

        Reads CLIP alone, not the learned prompt: as in fitting, the texts are the bare names.

        Args:
            positive, negative: one picture each. positive_text, negative_text: what they show.
            mask_space: "unit", or "raw" as in the published code; see `greedy_masks`.

        Raises:
            ValueError: not one picture each, equal or blank texts, or an unknown `mask_space`.
        """
        if positive_text == negative_text:
            raise ValueError(f"positive_text and negative_text are both {positive_text!r}; they must differ")
        for name, image in (("positive", positive), ("negative", negative)):
            if len(list_pictures(image)) != 1:
                raise ValueError(f"{name} must be one picture, got {len(list_pictures(image))}")
        self._check_words([positive_text, negative_text])
        pixels = self.preprocess([list_pictures(positive)[0], list_pictures(negative)[0]])
        bare = [words(positive_text), words(negative_text)]
        with brought(self.clip):
            image = encode_images(self.clip, pixels.to(self._execution_device), unit=False).float()
            text = encode_texts(self.clip, self.tokenizer, bare, unit=False).float()
        masks = greedy_masks(
            image[:1], negative=image[1:], positive_text=text[:1], negative_text=text[1:], mask_space=mask_space
        )
        unit = functional.normalize(image, dim=-1)
        feature = counterfactual(masks.mask, unit[:1], unit[1:])[0].cpu()
        self.maybe_free_model_hooks()
        mask, swapped = masks.mask[0].float(), masks.swaps[0]
        result = CPLExplanation(
            mask=mask,
            feature=feature,
            flipped=bool(masks.flipped[0]),
            sparsity=len(swapped) / len(mask),
            swapped=swapped,
            image=draw_swaps(len(mask), swapped),
        )
        return result if return_dict else result.to_tuple()

    def activation_bytes(self, pictures: int, training: bool = False) -> int:
        """Rough memory of a run: eight hidden states of a block and its attention, of pictures or of one text pass.

        Args:
            pictures: of the run; at most 64 go through the tower at once. training: every text block's are kept.
        """
        vision, text = self.clip.config.vision_config, self.clip.config.text_config
        tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        shown = min(pictures, 64) * tokens * (8 * vision.hidden_size + vision.num_attention_heads * tokens)
        said = MAX_TOKENS * (8 * text.hidden_size + text.num_attention_heads * text.max_position_embeddings)
        return max(shown, said * (text.num_hidden_layers if training else 1)) * self.clip.dtype.itemsize

    # ---- small parts ----

    def _tensors(self, images: Pictures) -> list[torch.Tensor]:
        """Each picture as float32 (3, H, W) in [0, 1]."""
        tensors = []
        for i, image in enumerate(list_pictures(images)):
            try:
                tensors.append(to_tensor(image))
            except ValueError as error:
                raise ValueError(f"images[{i}]: {error}") from None
        return tensors

    @torch.no_grad()
    def _similarity(self, pictures: Sequence[torch.Tensor], texts: Sequence[str]) -> torch.Tensor:
        """Cosines (N, C) of plain CLIP."""
        self._check_words(texts)
        device = self._execution_device
        parts = [self.preprocess(pictures[start : start + 64]) for start in range(0, len(pictures), 64)]
        image = torch.cat([encode_images(self.clip, part.to(device)) for part in parts])
        return image @ self._plain(texts, MAX_TOKENS).to(image).T

    def _plain(self, texts: Sequence[str], max_tokens: int) -> torch.Tensor:
        """Unit text features (C, d) without a learned context."""
        bare = [words(text) for text in texts]
        return encode_texts(self.clip, tokenizer=self.tokenizer, texts=bare, unit=True, max_tokens=max_tokens).to(
            self.prompt_learner.dtype
        )

    def _check_words(self, texts: Sequence[str]) -> None:
        """Refuse words that the base's closed vocabulary lacks."""
        if self.wm_config is not None and self.wm_config.vocabulary:
            check_vocabulary(self.wm_config.vocabulary, [words(text) for text in texts], "class_names")
