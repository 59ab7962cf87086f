"""ComCLIP (arXiv 2211.13854, section 3; rule as in the authors' code): how well a picture and a caption go together.

The caption's entities and relations are found in the picture; what each sees is embedded and added to the embedding of
the whole, weighted by how well it matches its own word. Nothing is trained.
"""

import os
import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from diffusers.utils import BaseOutput
from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from wm_pipelines import hub
from wm_pipelines.comclip import inputs
from wm_pipelines.comclip.cache import EmbeddingCache, remember
from wm_pipelines.comclip.components import NO_WEIGHT, Component, Failure, Linker, components_of
from wm_pipelines.comclip.fusion import MIN_WEIGHT_SUM, Rule, combine, late_score, weights_of
from wm_pipelines.comclip.grounders import Grounder
from wm_pipelines.comclip.linker import link
from wm_pipelines.comclip.matchers import load_parts, make_matcher
from wm_pipelines.comclip.subimages import FITS, subimage
from wm_pipelines.config import CONFIG_NAME, WMConfig
from wm_pipelines.hub.stock import refuse_code
from wm_pipelines.media.boxes import Box, Boxes
from wm_pipelines.pipeline import WMPipeline
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.offloading import brought
from wm_pipelines.text.captions import read_texts
from wm_pipelines.text.parsed import ParsedText
from wm_pipelines.text.parsers import Parser, make_parser
from wm_pipelines.text.vocabulary import check_vocabulary

Pairs = list[tuple[int, int]]


class Passes(NamedTuple):
    """How many pictures and texts went through the towers in a call; what a cache held is not counted."""

    images: int
    texts: int


@dataclass
class ComCLIPOutput(BaseOutput):
    """Result of `ComCLIPPipeline`; its tuple form holds the same six values in this order.

    Args:
        score: float64 `(N,)` in [-1, 1] for pairs, `(images, texts)` for a matrix.
        baseline: the plain similarity of the same pictures and captions, of the same shape.
        detector: the control that boxes alone give, of the same shape: share of the caption's entities that have one.
        components: for each pair its `Component`s, entities then relations; None for a matrix.
        failures: each condition of the data that a score had to work around.
        passes: what the call cost.
    """

    score: torch.Tensor
    baseline: torch.Tensor
    detector: torch.Tensor
    components: list[list[Component]] | None
    failures: list[Failure]
    passes: Passes


@dataclass
class ComCLIPRanking(BaseOutput):
    """Result of `ComCLIPPipeline.rerank`.

    Args:
        order: int64 `(texts, images)`: the images of each caption, best first; the plain order behind the top k.
        baseline_order: the same by plain similarity alone.
        score: float64 `(texts, k)`: the scores of the first k of `order`.
        failures, passes: as in `ComCLIPOutput`.
    """

    order: torch.Tensor
    baseline_order: torch.Tensor
    score: torch.Tensor
    failures: list[Failure]
    passes: Passes


class ComCLIPPipeline(WMPipeline):
    """Scores pictures against captions by their parts, beside the plain similarity and what boxes alone would say.

    Args:
        model: `CLIPModel` (OpenCLIP checkpoints in transformers' format too), `SiglipModel` or
            `Blip2ForImageTextRetrieval`.
        tokenizer, image_processor: as its checkpoint has them.
        parser: caption -> `ParsedText`, or "rules", "spacy:MODEL", "factual:FOLDER_OR_HUB_ID"; default: the rules.
        grounder: (picture, phrases) -> boxes of labels; asked where a call gives no boxes. None finds nothing.
        linker: (entity, labels) -> labels that it may be; default: lemmas and synonyms.

    Attributes:
        vocabulary: all words that the model knows, where that list is closed; other words are refused.

    Example:
        ```py
        from wm_pipelines import ComCLIPPipeline, DioramaDataset

        picture = DioramaDataset(length=1)[0]["rgb"]  # or a file, a PIL picture, an array
        pipe = ComCLIPPipeline.from_matcher("diorama-clip")
        boxes = {"cube": [(4, 20, 30, 50)], "sphere": [(34, 20, 60, 50)]}
        out = pipe(picture, "a red cube left of a blue sphere", boxes=boxes)
        print(out.score, out.baseline, [(c.text, c.weight) for c in out.components[0]])
        ```
    """

    model_cpu_offload_seq = "model"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: BaseImageProcessor,
        parser: Parser | str | None = None,
        grounder: Grounder | None = None,
        linker: Linker | None = None,
    ) -> None:
        super().__init__()
        self.matcher = make_matcher(model, tokenizer, image_processor)
        self.register_modules(model=model, tokenizer=tokenizer, image_processor=image_processor)
        self.parser = make_parser("rules" if parser is None else parser)
        self.grounder, self.linker = grounder, linker or link
        self._words, self._sights = EmbeddingCache(), EmbeddingCache()
        self._parses: dict[str, ParsedText] = {}
        self._grounded: dict[Hashable, dict[str, list[Box]]] = {}
        self.vocabulary: list[str] | None = None

    @classmethod
    def from_matcher(cls, source: str, **parts: Any) -> "ComCLIPPipeline":
        """A pipeline on a checkpoint of CLIP, SigLIP or BLIP-2 as transformers keeps it.

        Args:
            source: embedded name ("diorama-clip"), folder or Hub id.
            parts: `parser`, `grounder`, `linker`.

        Raises:
            ValueError: no such checkpoint, pickled weights, or another model.
        """
        refuse_code(parts)
        folder = hub.resolve(source)
        pipeline = cls(**load_parts(folder), **parts)
        if (folder / CONFIG_NAME).is_file():
            pipeline.vocabulary = WMConfig.load(folder).vocabulary
        return pipeline

    @classmethod
    def from_base(
        cls,
        base: str | os.PathLike,
        folder: str | os.PathLike,
        *,
        parser: Parser | str | None = None,
        grounder: Grounder | None = None,
        linker: Linker | None = None,
        **kwargs: Any,
    ) -> "ComCLIPPipeline":
        """A pipeline on the CLIP, SigLIP or BLIP-2 checkpoint `base`, with the record in `folder`.

        The method has no weights, so a record is all that a ComCLIP checkpoint on another base holds.

        Args:
            parser, grounder, linker: as of the class.
            kwargs: passed to the model's `from_pretrained`, for example `dtype`.
        """
        base, folder = hub.resolve(base), hub.resolve(folder)
        pipeline = cls(**load_parts(base, **kwargs), parser=parser, grounder=grounder, linker=linker)
        known = WMConfig.load(base).vocabulary if (base / CONFIG_NAME).is_file() else None
        pipeline.wm_config = WMConfig.load(folder).model_copy(update={"vocabulary": known})
        return pipeline

    def save_record(self, folder: str | os.PathLike, base: str | os.PathLike, **settings: Any) -> None:
        """Writes a checkpoint without weights: the record, which names the base and how to score on it.

        `AutoWMPipeline.from_pretrained` loads the folder; `wm run comclip --base FOLDER` scores by its settings.

        Args:
            base: embedded name or Hub id that the pipeline stands on.
            settings: of `comclip.method.ComCLIPConfig`.

        Raises:
            ValueError: a base that no one else could find, or an unknown setting.
        """
        record = WMConfig(
            method="comclip",
            pipeline=type(self).__name__,
            base_model=hub.base_ref(base),
            method_config=settings,
            paper="arXiv:2211.13854",
        )
        with atomic_folder(folder, last=CONFIG_NAME, listed=hub.recorded_files) as partial:
            hub.seal(partial, record)

    def activation_bytes(self, pictures: int, training: bool = False) -> int:
        """Bytes to keep free for a call on so many pictures: a pass of 32 sub-images, with room to spare."""
        weight = next(self.model.parameters())
        vision = self.model.config.vision_config
        tokens = (vision.image_size // vision.patch_size) ** 2 + 1
        return 32 * tokens * vision.hidden_size * 16 * weight.element_size()

    def to(self, *args: Any, **kwargs: Any) -> "ComCLIPPipeline":
        """As in diffusers; embeddings made elsewhere or in another number format are forgotten."""
        self.clear_caches()
        return super().to(*args, **kwargs)

    def clear_caches(self) -> None:
        """Forget every embedding, parse and detection; needed after weights, parser or grounder were changed."""
        for cache in (self._words, self._sights, self._parses, self._grounded):
            cache.clear()

    @torch.no_grad()
    def __call__(
        self,
        images: inputs.Pictures,
        texts: inputs.Texts,
        boxes: Boxes | Sequence[Boxes | None] | None = None,
        parsed: ParsedText | Sequence[ParsedText | None] | None = None,
        *,
        fusion: str = "released",
        missing: str = "full",
        embed: str = "unit",
        clamp: bool = True,
        min_weight_sum: float = MIN_WEIGHT_SUM,
        fit: str = "pad",
        box_format: str = "xyxy",
        linker: Linker | None = None,
        strict: bool = False,
        batch_size: int = 32,
        return_dict: bool = True,
    ) -> ComCLIPOutput | tuple:
        """Score pairs: picture i with caption i, or the only one of a side with all of the other.

        Args:
            images: RGB pictures of any sizes; see `inputs.read_pictures`.
            texts: captions.
            boxes: for each picture label -> boxes; the grounder is asked where there are none.
            parsed: for each caption its entities and relations; the parser is asked where there are none.
            fusion, missing, embed, clamp, min_weight_sum: see `fusion.Rule`. `embed="raw", clamp=False` is the
                authors' code.
            fit: how a picture that is not square gets square: "pad", "stretch", or "crop" as CLIP does, which refuses
                boxes outside the crop.
            box_format: "xyxy" or "xywh" in pixels, "xyxy_norm" or "cxcywh_norm" in fractions.
            linker: in place of the pipeline's own, for this call.
            strict: raise where the data asks for a detour (no entity, no box, weights that sum to zero). Otherwise it
                is warned of once and listed in `failures`.
            batch_size: pictures, or texts, in one pass.

        Raises:
            ValueError: before any pass: malformed pictures, captions, boxes or options; with `strict` any failure.
        """
        # 1. everything that was given, checked
        rule = Rule(fusion, missing=missing, embed=embed, clamp=clamp, min_weight_sum=min_weight_sum)
        given = self.check_inputs(
            images, texts=texts, boxes=boxes, parsed=parsed, fit=fit, box_format=box_format, batch_size=batch_size
        )
        # 2. which picture goes with which caption
        pairs = inputs.read_pairs(len(given.pictures), len(given.texts))
        # 3. components, their embeddings, and the scores
        result = self._score(
            given, pairs=pairs, rule=rule, fit=fit, linker=linker or self.linker, strict=strict, batch_size=batch_size
        )
        return result if return_dict else result.to_tuple()

    @torch.no_grad()
    def matrix(
        self,
        images: inputs.Pictures,
        texts: inputs.Texts,
        boxes: Sequence[Boxes | None] | Boxes | None = None,
        parsed: Sequence[ParsedText | None] | ParsedText | None = None,
        *,
        rule: Rule | None = None,
        fit: str = "pad",
        box_format: str = "xyxy",
        strict: bool = False,
        batch_size: int = 32,
    ) -> ComCLIPOutput:
        """Every picture with every caption; `score`, `baseline` and `detector` are `(images, texts)`.

        Args: as in `__call__`, with the options of scoring in one `Rule`.
        """
        given = self.check_inputs(
            images, texts=texts, boxes=boxes, parsed=parsed, fit=fit, box_format=box_format, batch_size=batch_size
        )
        shape = (len(given.pictures), len(given.texts))
        pairs = [(i, t) for i in range(shape[0]) for t in range(shape[1])]
        out = self._score(
            given, pairs=pairs, rule=rule or Rule(), fit=fit, linker=self.linker, strict=strict, batch_size=batch_size
        )
        grids = {name: out[name].reshape(shape) for name in ("score", "baseline", "detector")}
        return ComCLIPOutput(**grids, components=None, failures=out.failures, passes=out.passes)

    @torch.no_grad()
    def rerank(
        self,
        images: inputs.Pictures,
        texts: inputs.Texts,
        boxes: Sequence[Boxes | None] | Boxes | None = None,
        parsed: Sequence[ParsedText | None] | ParsedText | None = None,
        *,
        top_k: int = 10,
        rule: Rule | None = None,
        fit: str = "pad",
        box_format: str = "xyxy",
        strict: bool = False,
        batch_size: int = 32,
    ) -> ComCLIPRanking:
        """The images of each caption, best first: the top k by plain similarity are scored by their parts.

        Equal scores keep the plain order.

        Args:
            top_k: how many images of each caption are scored; the rest keep their plain order behind them.
        """
        given = self.check_inputs(
            images, texts=texts, boxes=boxes, parsed=parsed, fit=fit, box_format=box_format, batch_size=batch_size
        )
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"top_k must be a positive integer, got {top_k!r}")
        plain, first = self._plain(given, fit, batch_size)
        order = plain.sort(dim=1, descending=True, stable=True).indices
        kept = order[:, : min(top_k, len(given.pictures))]
        pairs = [(int(i), t) for t, row in enumerate(kept) for i in row]
        out = self._score(
            given, pairs=pairs, rule=rule or Rule(), fit=fit, linker=self.linker, strict=strict, batch_size=batch_size
        )
        scores = out.score.reshape(kept.shape)
        best = scores.sort(dim=1, descending=True, stable=True)
        new = torch.cat([kept.gather(1, best.indices), order[:, kept.shape[1] :]], 1)
        passes = Passes(first.images + out.passes.images, first.texts + out.passes.texts)
        return ComCLIPRanking(new, baseline_order=order, score=best.values, failures=out.failures, passes=passes)

    @torch.no_grad()
    def similarity(
        self, images: inputs.Pictures, texts: inputs.Texts, *, fit: str = "pad", batch_size: int = 32
    ) -> torch.Tensor:
        """Plain similarity of every picture with every caption, float64 `(images, texts)`: the `baseline` of `matrix`.

        Args: as in `__call__`.
        """
        given = self.check_inputs(
            images, texts=texts, boxes=None, parsed=None, fit=fit, box_format="xyxy", batch_size=batch_size
        )
        return self._plain(given, fit, batch_size)[0].T

    def _plain(self, given: "Given", fit: str, batch_size: int) -> tuple[torch.Tensor, Passes]:
        """Plain similarities `(texts, images)`, and what they cost."""
        sights, words, passes = self._embed(
            given, needed=self._whole(given, fit), said=given.texts, fit=fit, batch_size=batch_size
        )
        whole = torch.stack([sights[_sight(key, fit, None)] for key in given.keys])
        return torch.stack([self.matcher.match(whole, words[t][None]) for t in given.texts]), passes

    def check_inputs(
        self, images: Any, texts: Any, boxes: Any, parsed: Any, fit: str, box_format: str, batch_size: int
    ) -> "Given":
        """Everything a call was given, read and checked.

        Raises:
            ValueError: as `__call__`.
        """
        if fit not in FITS:
            raise ValueError(f"fit={fit!r}; choose from {', '.join(FITS)}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
        pictures, captions = inputs.read_pictures(images), read_texts(texts)
        known = self.vocabulary or (self.wm_config.vocabulary if self.wm_config else None)
        if known:
            check_vocabulary(known, captions, "texts")
        grounding = inputs.read_grounding(boxes, pictures, box_format)
        return Given(
            pictures,
            texts=captions,
            keys=[inputs.picture_key(picture) for picture in pictures],
            grounding=grounding,
            parsed=inputs.read_parsed(parsed, len(captions)),
        )

    def parse_text(self, text: str) -> ParsedText:
        """The parser's reading of a caption, kept for the next time.

        Raises:
            ValueError: the parser gave something else than a `ParsedText`.
        """
        if text not in self._parses:
            read = self.parser(text)
            if not isinstance(read, ParsedText):
                raise ValueError(f"the parser must give a ParsedText, got {type(read).__name__} for {text!r}")
            remember(self._parses, text, read)
        return self._parses[text]

    def ground(self, picture: torch.Tensor, key: Hashable, parsed: ParsedText) -> dict[str, list[Box]]:
        """The grounder's boxes for a caption's entities in a picture, kept for the next time."""
        phrases = tuple(dict.fromkeys(entity.text for entity in parsed.entities))
        if self.grounder is None or not phrases:
            return {}
        if (key, phrases) not in self._grounded:
            found = self.grounder(picture, list(phrases))
            remember(self._grounded, (key, phrases), inputs.read_boxes(found, tuple(picture.shape[-2:])))
        return self._grounded[key, phrases]

    def _score(
        self, given: "Given", pairs: Pairs, rule: Rule, fit: str, linker: Linker, strict: bool, batch_size: int
    ) -> ComCLIPOutput:
        # 1. what each caption names and where it is in its picture
        failures: list[Failure] = []
        parts: list[list[Component]] = []
        for i, t in pairs:
            parsed = given.parsed[t] or self.parse_text(given.texts[t])
            boxes = given.grounding[i]
            if boxes is None:
                boxes = self.ground(given.pictures[i], given.keys[i], parsed)
            made, problems = components_of(
                given.texts[t],
                parsed=parsed,
                picture=given.pictures[i],
                boxes=boxes,
                link=linker,
                missing=rule.missing,
                relations=rule.fusion != "late",
                fit=fit,
            )
            parts.append(made)
            failures += [Failure(kind, message, i, t) for kind, message in problems]
        _refuse(failures, strict)
        # 2. embeddings of pictures, sub-images, captions and words, each once
        needed = self._whole(given, fit, {i for i, _ in pairs})
        for (i, _), made in zip(pairs, parts, strict=True):
            for part in made:
                needed.setdefault(_sight(given.keys[i], fit, part.seen), (given.pictures[i], part.seen))
        said = [given.texts[t] for t in sorted({t for _, t in pairs})] + [p.text for made in parts for p in made]
        sights, words, passes = self._embed(given, needed=needed, said=said, fit=fit, batch_size=batch_size)
        # 3. each pair by the rule
        rows, degenerate = [], []
        for n, (i, t) in enumerate(pairs):
            image, caption = sights[_sight(given.keys[i], fit, None)], words[given.texts[t]]
            seen = [sights[_sight(given.keys[i], fit, part.seen)] for part in parts[n]]
            spoken = [words[part.text] for part in parts[n]]
            score, baseline, weights, bad = self._fuse(image, caption=caption, seen=seen, spoken=spoken, rule=rule)
            parts[n] = [replace(p, weight=w) for p, w in zip(parts[n], weights, strict=True)]
            if bad:
                what = f"the similarities of caption {given.texts[t]!r} to its sub-images sum to at most"
                degenerate.append(Failure(NO_WEIGHT, f"{what} {rule.min_weight_sum:g}; weights are equal", i, t))
            rows.append((score, baseline, _found(parts[n])))
        _refuse(degenerate, strict)
        failures += degenerate
        _warn(failures)
        score, baseline, detector = torch.tensor(rows, dtype=torch.float64).T.contiguous()
        return ComCLIPOutput(
            score, baseline=baseline, detector=detector, components=parts, failures=failures, passes=passes
        )

    def _fuse(
        self,
        image: torch.Tensor,
        caption: torch.Tensor,
        seen: list[torch.Tensor],
        spoken: list[torch.Tensor],
        rule: Rule,
    ) -> tuple[float, float, list[float], bool]:
        """Score, baseline, weights, and whether the weights had no sum to be divided by."""
        matcher = self.matcher
        baseline = matcher.match(image, caption)
        if not seen:
            return float(baseline), float(baseline), [], False
        parts, words = torch.stack(seen), torch.stack(spoken)
        own = matcher.match(parts, words)
        if rule.fusion == "late":
            return float(late_score(baseline, own)), float(baseline), [1 / len(seen)] * len(seen), False
        raw = rule.embed == "raw"
        similarity = matcher.dot(parts, words) if raw and rule.fusion == "released" else own
        weights, bad = weights_of(similarity, rule.fusion, rule.clamp, rule.min_weight_sum)
        if raw:
            fused = combine(image, parts, weights)
        else:
            unit = torch.nn.functional.normalize
            fused = matcher.restore(combine(unit(image, dim=-1), unit(parts, dim=-1), weights), image)
        return float(matcher.match(fused, caption)), float(baseline), weights.tolist(), bad

    def _whole(self, given: "Given", fit: str, which: set[int] | None = None) -> dict[Hashable, tuple]:
        """The whole pictures as things to be embedded."""
        chosen = range(len(given.pictures)) if which is None else sorted(which)
        return {_sight(given.keys[i], fit, None): (given.pictures[i], None) for i in chosen}

    def _embed(
        self, given: "Given", needed: dict[Hashable, tuple], said: Sequence[str], fit: str, batch_size: int
    ) -> tuple[dict[Hashable, torch.Tensor], dict[str, torch.Tensor], Passes]:
        """Float64 embeddings of sub-images by key and of texts, and the passes that were made for them."""
        texts, things = list(said), list(needed.values())

        def encode_sights(places: list[int]) -> torch.Tensor:
            return self.matcher.encode_images([subimage(*things[p]) for p in places], fit)

        def encode_words(places: list[int]) -> torch.Tensor:
            return self.matcher.encode_texts([texts[p] for p in places])

        # texts first: one that is too long is refused before the dearer passes
        with brought(self.model):
            words, new_texts = self._words.fill(texts, encode_words, batch_size)
            sights, new_images = self._sights.fill(list(needed), encode_sights, batch_size)
        self._check_finite(given, sights, words)
        return _double(sights), _double(words), Passes(new_images, new_texts)

    def _check_finite(
        self, given: "Given", sights: dict[Hashable, torch.Tensor], words: dict[str, torch.Tensor]
    ) -> None:
        """Refuse embeddings with NaN or infinity, which no score may hide."""
        made = f"the {type(self.model).__name__} in {self.model.dtype} gives NaN or infinity for"
        for text, embedding in words.items():
            if not bool(embedding.isfinite().all()):
                raise ValueError(f"{made} the text {text!r}")
        for key, embedding in sights.items():
            if not bool(embedding.isfinite().all()):
                which = [i for i, own in enumerate(given.keys) if own == key[: len(own)]]
                raise ValueError(f"{made} {f'images[{which[0]}]' if which else 'a black picture'}")


class Given(NamedTuple):
    """A call's checked input: pictures `(3, H, W)`, captions, keys of the pictures, their boxes, parsed captions."""

    pictures: list[torch.Tensor]
    texts: list[str]
    keys: list[Hashable]
    grounding: list[dict[str, list[Box]] | None]
    parsed: list[ParsedText | None]


def _sight(key: Hashable, fit: str, seen: tuple[Box, ...] | None) -> Hashable:
    """What makes two sub-images the same: the picture and the set of boxes; all black ones of a size are one."""
    if seen == ():
        return key[0], fit, ()
    return (*key, fit, None if seen is None else frozenset(tuple(map(int, box)) for box in seen))


def _double(found: dict[Any, torch.Tensor]) -> dict[Any, torch.Tensor]:
    return {key: value.double() for key, value in found.items()}


def _found(parts: list[Component]) -> float:
    entities = [part for part in parts if part.kind == "entity"]
    return sum(not part.missing for part in entities) / len(entities) if entities else 0.0


def _refuse(failures: list[Failure], strict: bool) -> None:
    if strict and failures:
        raise ValueError(failures[0].message.split("; returning", 1)[0])


def _warn(failures: list[Failure]) -> None:
    """One warning for each kind of failure, with its first message and how many there were."""
    for kind, count in Counter(failure.kind for failure in failures).items():
        first = next(failure.message for failure in failures if failure.kind == kind)
        more = f" (and {count - 1} more of this kind; see `failures`)" if count > 1 else ""
        warnings.warn(first + more, stacklevel=5)
