"""Discffusion (arXiv 2305.10722): a text-to-image model that says how well a picture and a caption go together.

The picture is noised and denoised under the caption: what cross-attention finds of the caption's words (A_t) and how
much better the noise is predicted than without the caption (B_t) make the score. Zero-shot superiority over plain
Diffusion Classifier is disputed: arXiv 2505.17955 finds it behind on SD 1.5 and about level on SD 2 and 3; the claim
to test is few-shot adaptation, `fit`.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_pipelines import hub
from wm_pipelines.adapters.injected import put_back, remove, without
from wm_pipelines.config import CONFIG_NAME, WMConfig
from wm_pipelines.data.class_folders import Pictures
from wm_pipelines.discffusion import adapter, fitting, inputs, ranking
from wm_pipelines.discffusion.captions import check_lengths
from wm_pipelines.discffusion.capture import check_processors
from wm_pipelines.discffusion.denoisers import make_denoiser
from wm_pipelines.discffusion.outputs import DiscffusionOutput, DiscffusionRanking, output_of, ranking_of
from wm_pipelines.discffusion.reading import Rule, even_weights
from wm_pipelines.discffusion.sheet import Sheet, digest
from wm_pipelines.discffusion.timesteps import read_timesteps
from wm_pipelines.discffusion.training import Matcher, make_heads, rule_for
from wm_pipelines.pipeline import WMPipeline
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.offloading import is_offloaded
from wm_pipelines.text.captions import read_texts
from wm_pipelines.text.prompts import specials_around
from wm_pipelines.text.vocabulary import check_vocabulary
from wm_pipelines.training.progress import Callback, fit_progress

PARTS = (
    "vae", "text_encoder", "tokenizer", "scheduler", "unet", "transformer", "text_encoder_2", "tokenizer_2",
    "text_encoder_3", "tokenizer_3",
)  # fmt: skip


class DiscffusionPipeline(WMPipeline):
    """Any Stable-Diffusion-shaped base as a judge, with or without an adapter from `fit`.

    Takes Stable Diffusion 1.x and 2.x (epsilon or v prediction), SDXL, SD3 and Flux.

    Example:
        ```py
        from wm_pipelines import DioramaDataset, DiscffusionPipeline, embedded

        picture = DioramaDataset(length=1)[0]["rgb"]  # or a file, a PIL picture, an array
        pipe = DiscffusionPipeline.from_pretrained(embedded("diorama-sd"))
        captions = ["a red cube left of a blue sphere", "a blue cube left of a red sphere"]
        print(pipe.rank(picture, captions, timesteps=4).order)
        ```
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->text_encoder_3->vae->unet->transformer"
    _optional_components = [
        "unet", "transformer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3",
    ]  # fmt: skip

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        unet: Any = None,
        transformer: Any = None,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        text_encoder_3: Any = None,
        tokenizer_3: Any = None,
        force_zeros_for_empty_prompt: bool = True,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            unet=unet,
            transformer=transformer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
        )
        self.register_to_config(force_zeros_for_empty_prompt=force_zeros_for_empty_prompt)
        self.denoiser = make_denoiser(self)
        self.head_weights: torch.Tensor | None = None
        self.history: list[dict[str, float]] = []

    # ---- making, saving, loading ----

    @classmethod
    def from_base(cls, base: str | os.PathLike, folder: str | os.PathLike, **kwargs: Any) -> "DiscffusionPipeline":
        """What `save_adapter` wrote to `folder`, on its base.

        Args:
            kwargs: passed to `from_pretrained` of the base, for example `dtype`.
        """
        folder = hub.resolve(folder)
        pipeline = cls.from_pretrained(str(hub.resolve(base)), **kwargs)
        pipeline.load_adapter(folder)
        if (folder / CONFIG_NAME).is_file():
            known = pipeline.wm_config.vocabulary if pipeline.wm_config else None
            pipeline.wm_config = WMConfig.load(folder).model_copy(update={"vocabulary": known})
        return pipeline

    @classmethod
    def from_parts(cls, pipeline: Any) -> "DiscffusionPipeline":
        """A judge of the components of another pipeline on a base that can judge; nothing is copied."""
        found: dict[str, Any] = {name: getattr(pipeline, name, None) for name in PARTS}
        found = {name: part for name, part in found.items() if part is not None}
        missing = sorted({"vae", "text_encoder", "tokenizer", "scheduler"} - set(found))
        if missing:
            raise ValueError(f"{type(pipeline).__name__} has no {missing[0]}, so it can't judge pictures")
        judge = cls(**found, force_zeros_for_empty_prompt=pipeline.config.get("force_zeros_for_empty_prompt", True))
        judge.head_weights = pipeline.head_weights if isinstance(pipeline, DiscffusionPipeline) else None
        judge.wm_config = pipeline.wm_config if isinstance(pipeline, WMPipeline) else None
        judge.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
        return judge

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "DiscffusionPipeline":
        """As in diffusers, of any base; an adapter comes from the folder `adapter` beside the components."""
        pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        folder = pipeline.source_folder
        if folder is not None and (folder / "adapter" / adapter.CONFIG_FILE).is_file():
            pipeline.load_adapter(folder / "adapter")
        return pipeline

    def load_adapter(self, folder: str | os.PathLike) -> None:
        """Reads what `save_adapter` wrote, in place of the adapter that is there.

        Raises:
            ValueError: a file is missing or damaged, or the adapter is of another base.
        """
        adapter.load(self.denoiser.model, folder)
        self.head_weights = adapter.load_heads(Path(folder), self.denoiser.sites("all"))

    def save_components(self, folder: Path, **kwargs: Any) -> None:
        """The base as it was, and the adapter in a folder of its own."""
        adapter.check_alone(self.denoiser.model)
        with without(self.denoiser.model):
            super().save_components(folder, **kwargs)
        if adapter.has_adapter(self.denoiser.model):
            self._write_adapter(folder / "adapter", None)

    def save_adapter(self, folder: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
        """Saves what `fit` made and nothing of the base: PEFT's adapter files, weights of heads, and the record.

        `AutoWMPipeline.from_pretrained` loads the folder if the base is embedded or on the Hub, `from_base` on any.

        Args:
            dtype: of the file; that of the weights when None.

        Raises:
            ValueError: there is no adapter.
        """
        if not adapter.has_adapter(self.denoiser.model):
            raise ValueError("there is nothing to save: call fit(triples) first, or load an adapter")
        with atomic_folder(folder, last=CONFIG_NAME, listed=adapter.own_files) as partial:
            self._write_adapter(partial, dtype)
            if self.wm_config is not None and self.wm_config.base_model is not None:
                hub.seal(partial, self.wm_config)

    def _write_adapter(self, folder: Path, dtype: torch.dtype | None) -> None:
        adapter.save(self.denoiser.model, folder, dtype)
        if self.head_weights is not None:
            sites = self.denoiser.sites("all")
            rows = self.head_weights.split([layer.heads for layer in sites.values()])
            adapter.save_heads(folder, {name: row.tolist() for name, row in zip(sites, rows, strict=True)})

    # ---- fitting ----

    def fit(
        self,
        triples: Sequence[fitting.Triple],
        epochs: int = 10,
        *,
        r: int = 4,
        config: Any = None,
        head_weights: str = "uniform",
        margin: float = 0.1,
        learning_rate: float = 1e-4,
        weight_decay: float = 1e-2,
        batch_size: int = 1,
        seed: int = 0,
        shared_noise: bool = True,
        gradient_checkpointing: bool = False,
        size: tuple[int, int] | None = None,
        value_range: inputs.Range = (0, 1),
        truncate: bool = False,
        callback_on_step_end: Callback | None = None,
        callback_on_epoch_end: Callback | None = None,
        **options: Any,
    ) -> "DiscffusionPipeline":
        """Fit a new LoRA on all attention layers to a few triples; what an earlier fit made is replaced.

        Args:
            triples: (picture, caption, foil); a foil is a caption, a picture, or a list of either, of which the
                hardest counts.
            epochs: passes over the triples.
            r: rank of the LoRA (scale 1). config: a `peft.LoraConfig` in its place.
            head_weights: "uniform", "gradient" or "learned" (`training.Heads`); the last two read all sites.
            margin: by which the right candidate should lead.
            learning_rate, weight_decay, batch_size: of AdamW, at a constant rate.
            seed: of the adapter's start, the order, the noise and the timesteps: the same fit every time.
            shared_noise: False draws noise and timestep for each candidate by itself, as in the authors' code.
            gradient_checkpointing: compute each pass again when its gradient is taken, and hold one at a time.
            size, value_range, truncate: as in `__call__`. options: of `Rule`; `score` is what is trained.
            callback_on_step_end: called with the pipeline, the number of steps done, and `{"loss", "right"}` of the
                last. callback_on_epoch_end: the same of epochs, with the row of `history`. `pipe._interrupt = True` in
                either stops after the epoch.

        Raises:
            ValueError: malformed triples or settings, before anything changes.
            FloatingPointError: the loss is not finite; the pipeline is then what it was.
        """
        # 1. settings
        settings = fitting.Settings(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            margin=margin,
            seed=seed,
        )
        model = self.denoiser.model
        inputs.flags(shared_noise=shared_noise, gradient_checkpointing=gradient_checkpointing, truncate=truncate)
        self._check_can_fit()
        if config is None:
            inputs.whole("r", r, 1)
        config = adapter.default_config(r) if config is None else adapter.read_config(config)
        # 2. the adapter that is there goes, and comes back if anything fails
        adapter.check_alone(model)
        before, heads_before = remove(model), self.head_weights
        self.head_weights = None
        try:
            rule = rule_for(self.rule(**options), head_weights)
            heads = make_heads(self.denoiser, rule, head_weights).to(self._execution_device)
            # 3. triples, checked, then encoded
            read = fitting.read_triples(triples)
            texts = [text for _, said in read for text in said]
            self.check_inputs(texts, truncate=truncate, seed=seed, batch_size=batch_size, rule=rule)
            items = fitting.prepare(self, read, size, value_range)
            with torch.no_grad():
                empty = self.denoiser.encode_texts([""], self._execution_device)
            # 4. the fit
            model.requires_grad_(False)
            trained = list(adapter.start(model, config, seed).values())
            matcher = Matcher(
                self.denoiser,
                rule=rule,
                empty=empty,
                heads=heads,
                margin=margin,
                shared_noise=shared_noise,
                checkpointing=gradient_checkpointing,
            )
            started = time.monotonic()
            trained += [heads.logits] if head_weights == "learned" else []
            steps = epochs * -(-len(items) // batch_size)
            with fit_progress(self, steps, callback_on_step_end, callback_on_epoch_end) as progress:
                self.history = fitting.run(
                    matcher,
                    items=items,
                    trained=trained,
                    settings=settings,
                    on_step=progress.step,
                    on_epoch=progress.epoch,
                )
        except BaseException:
            put_back(model, before)
            self.head_weights = heads_before
            raise
        finally:
            model.eval().requires_grad_(False)
        # 5. what it leaves
        self.head_weights = None if head_weights == "uniform" else heads.final().cpu()
        told = {"task": "discffusion", **vars(settings), "shared_noise": shared_noise, "r": config.r}
        seconds = time.monotonic() - started
        self.wm_config = fitting.record(self, rule, head_weights, told=told, triples=len(items), seconds=seconds)
        return self

    def _check_can_fit(self) -> None:
        if self.denoiser.model.dtype != torch.float32:
            raise ValueError(f"the denoiser is {self.denoiser.model.dtype}; load it in float32 to fit it")
        hooked = [name for name, part in self.components.items() if is_offloaded(part)]
        if hooked:
            raise ValueError(f"{', '.join(hooked)} is offloaded; fit first, then turn offloading on")

    # ---- inference ----

    def rule(self, **given: Any) -> Rule:
        """How scores are made: what is given, else what the adapter's record says, else the default.

        Raises:
            ValueError: something that no rule has.
        """
        plain = Rule()
        names = ("score", "sites", "token_mask", "cond_only", "bias_weight", "lse_lambda", "on")
        values = {name: self.recommended(name, given.pop(name, None), getattr(plain, name)) for name in names}
        if given:
            raise ValueError(f"unknown option `{sorted(given)[0]}`; there are {', '.join(names)}")
        if self.head_weights is not None:
            values["sites"] = "all"
        return Rule(**values)

    def weights(self, rule: Rule) -> torch.Tensor:
        """Of the heads of the rule's sites `(S,)`: those that were learnt, or even ones."""
        if self.head_weights is not None:
            return self.head_weights
        return even_weights(self.denoiser.sites(rule.sites))

    def words(self, text: str) -> list[tuple[int, str]]:
        """The tokens of a caption that say something: place in the denoiser's text, and the token's own letters."""
        tokenizer, limit = self.denoiser.map_tokenizer()
        first, last = specials_around(tokenizer)
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text, truncation=True, max_length=limit).input_ids)
        kept = tokens[first : len(tokens) - last]
        return [(first + n, token.removesuffix("</w>").lstrip("\u2581")) for n, token in enumerate(kept)]

    def check_inputs(self, texts: Sequence[str], truncate: bool, seed: int, batch_size: int, rule: Rule) -> None:
        """Refuses what can't be scored, before any pass.

        Raises:
            ValueError: names the argument, what came and what is allowed.
        """
        inputs.whole("seed", seed, 0)
        inputs.whole("batch_size", batch_size, 1)
        known = self.wm_config.vocabulary if self.wm_config is not None else None
        if known:
            check_vocabulary(known, texts, "texts")
        check_lengths(self.denoiser.tokenizers(), texts, truncate)
        check_processors(self.denoiser.sites(rule.sites))

    def _sheet(
        self,
        images: Pictures,
        texts: Sequence[str],
        rule: Rule,
        asked: inputs.Asked,
    ) -> Sheet:
        """A call's input, checked, then encoded."""
        inputs.flags(shared_noise=asked.shared_noise, truncate=asked.truncate)
        steps = read_timesteps(self.recommended("timesteps", asked.timesteps, 30), self.denoiser.train_steps)
        pictures = inputs.read_pictures(images, asked.value_range, asked.size, self.denoiser.multiple)
        self.check_inputs(texts, truncate=asked.truncate, seed=asked.seed, batch_size=asked.batch_size, rule=rule)
        device = self._execution_device
        captions = self.denoiser.encode_texts([*texts, ""], device)
        latents = [self.denoiser.encode_pictures(picture[None].to(device))[0] for picture in pictures]
        return Sheet(
            self.denoiser,
            sites=self.denoiser.sites(rule.sites),
            rule=rule,
            weights=self.weights(rule).to(device),
            latents=latents,
            names=[digest(picture) for picture in pictures],
            texts=list(texts),
            captions=captions,
            timesteps=steps,
            seed=asked.seed,
            shared_noise=asked.shared_noise,
            batch_size=asked.batch_size,
        )

    @torch.no_grad()
    def __call__(
        self,
        images: Pictures,
        texts: str | Sequence[str],
        score: str | None = None,
        *,
        pairwise: bool | None = None,
        timesteps: int | Sequence[int] | None = None,
        token_mask: str | None = None,
        cond_only: bool | None = None,
        bias_weight: float | None = None,
        lse_lambda: float | None = None,
        sites: str | None = None,
        on: str | None = None,
        seed: int = 0,
        shared_noise: bool = True,
        maps: bool = False,
        size: tuple[int, int] | None = None,
        value_range: inputs.Range = (0, 1),
        truncate: bool = False,
        batch_size: int = 16,
        return_dict: bool = True,
    ) -> DiscffusionOutput | tuple:
        """Score pictures with captions. The scores of a pair do not depend on what else is in the call.

        Args:
            images: one picture or several: `PIL.Image`, uint8 or float array `(H, W, 3)`, tensor `(3, H, W)`, or a
                tensor of a batch.
            texts: one caption or several.
            score, token_mask, cond_only, bias_weight, lse_lambda, sites, on: as `Rule`; None takes what the adapter's
                record says, else the default of `Rule`.
            pairwise: True scores them one to one, False every picture with every caption; may be left out where there
                is one of either.
            timesteps: n of the authors' table (`released_timesteps`), or a list; None: the record's, else 30.
            seed: of the noise, which is one for each step and shared by all. shared_noise: False draws it for each
                pair by itself, as the authors' training does; passes with the empty caption are then not shared.
            maps: also return where each token attends.
            size: stretch pictures to (height, width). value_range: of tensors and arrays, (0, 1) or (-1, 1).
            truncate: cut captions that are too long. batch_size: samples at once.

        Raises:
            ValueError: malformed input or options, before any pass.
            FloatingPointError: a score is not finite.
        """
        # 1. what is asked
        inputs.flags(maps=maps)
        listed = read_texts(texts)
        rule = self.rule(
            score=score, token_mask=token_mask, cond_only=cond_only, bias_weight=bias_weight, lse_lambda=lse_lambda,
            sites=sites, on=on,
        )  # fmt: skip
        pairs, shape = inputs.pair_up(len(inputs.list_pictures(images)), len(listed), pairwise)
        # 2. pictures, captions and options, checked, then encoded
        asked = inputs.Asked(
            timesteps=timesteps,
            seed=seed,
            shared_noise=shared_noise,
            size=size,
            value_range=value_range,
            truncate=truncate,
            batch_size=batch_size,
        )
        sheet = self._sheet(images, texts=listed, rule=rule, asked=asked)
        # 3. every pair at every timestep
        found = []
        with self.progress_bar(total=len(sheet.timesteps)) as progress:
            for k in range(len(sheet.timesteps)):
                found.append(sheet.step(k, pairs, maps))
                progress.update()
        self.maybe_free_model_hooks()
        # 4. scores, and how far each is from its rivals
        output = output_of(
            np.stack(found, 1).reshape(3, len(found), *shape),
            rule,
            lone=pairwise is True,
            timesteps=list(sheet.timesteps),
            forwards=sheet.forwards,
            maps=[sheet.maps[pair] / len(found) for pair in pairs] if maps else None,
        )
        return output if return_dict else output.to_tuple()

    @torch.no_grad()
    def rank(
        self,
        query: str | Pictures,
        candidates: Sequence[str] | Pictures,
        *,
        eliminate: bool = False,
        timesteps: int | Sequence[int] | None = None,
        seed: int = 0,
        size: tuple[int, int] | None = None,
        value_range: inputs.Range = (0, 1),
        truncate: bool = False,
        batch_size: int = 16,
        **options: Any,
    ) -> DiscffusionRanking:
        """Captions of one picture, or pictures of one caption, from best to worst.

        M captions cost n(M + 1) samples: the pass with the empty caption is made once for each timestep. M pictures
        cost 2nM.

        Args:
            query: a picture, or a caption. candidates: captions, or pictures.
            eliminate: look no more at candidates that fall behind beyond doubt (`ranking.run_race`); the others are
                scored as without.
            options: of `Rule`. The rest: as in `__call__`.

        Raises:
            ValueError, FloatingPointError: as `__call__`; no candidate.
        """
        by_text = isinstance(query, str)
        if not by_text and len(inputs.list_pictures(query)) != 1:
            raise ValueError(f"`query` must be one picture or one caption, got {len(query)} pictures")
        inputs.flags(eliminate=eliminate)
        listed = inputs.read_candidates(candidates)
        rule = self.rule(**options)
        images, texts = (listed, [query]) if by_text else (query, read_texts(listed))
        count = len(inputs.list_pictures(listed)) if by_text else len(texts)
        asked = inputs.Asked(
            timesteps=timesteps,
            seed=seed,
            size=size,
            value_range=value_range,
            truncate=truncate,
            batch_size=batch_size,
        )
        sheet = self._sheet(images, texts=read_texts(texts), rule=rule, asked=asked)
        steps = np.full((3, len(sheet.timesteps), count), np.nan)
        with self.progress_bar(total=len(sheet.timesteps)) as progress:

            def look(k: int, left: list[int]) -> np.ndarray:
                pairs = [(c, 0) if by_text else (0, c) for c in left]
                steps[:, k, left] = sheet.step(k, pairs)
                progress.update()
                return rule.combine(steps[0, k, left], steps[1, k, left])

            least = ranking.LEAST if eliminate else len(sheet.timesteps) + 1
            race = ranking.run_race(look, len(sheet.timesteps), count, least=least)
        self.maybe_free_model_hooks()
        return ranking_of(race, steps, rule=rule, eliminate=eliminate, forwards=sheet.forwards)
