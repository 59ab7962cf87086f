"""How a prompt learner is fitted: CoOp's recipe (SGD, cosine, one slow epoch first) with CPL's counterfactual term.

Every draw is keyed by the seed, so a fit repeats itself. With `lambda_cf=0` it is CoCoOp: no negative is chosen, no
mask is solved, nothing is drawn that CoCoOp does not draw.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from wm_pipelines.clip.towers import MAX_TOKENS, encode_images, encode_texts
from wm_pipelines.cpl.crops import crop_and_flip
from wm_pipelines.cpl.losses import LAMBDA, TAU, VARIANTS, class_logits, counterfactual_loss
from wm_pipelines.cpl.negatives import Similarity, choose_negatives
from wm_pipelines.cpl.prompts import conditional_features, make_prompts, words
from wm_pipelines.cpl.solver import Masks, counterfactual, greedy_masks
from wm_pipelines.runtime.random import keyed

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

    from wm_pipelines.cpl.modeling import CPLPromptLearner

WARMUP_RATE = 1e-5
MASKS = ("greedy", "random")


@dataclasses.dataclass(frozen=True)
class CPLSettings:
    """What decides the numbers of a fit. The defaults are the authors' (CoOp's `vit_b16_c4_ep10_batch1_ctxv1`).

    Attributes:
        variant: "released", the loss of the published code, or "paper"; see `losses`.
        lambda_cf: weight of the counterfactual term: 1 for "released" and 0.5 for "paper" when None; 0 is CoCoOp.
        tau: temperature of "paper".
        augment: random crops and flips of the pictures (never of the negatives).
        similarity: how negatives are chosen; see `negatives`.
        mask: "greedy", or "random" entries of the same number, the control that tells whether a small change matters.
        parity: masks as in the published code: in the raw feature space, one for each class, from the first picture of
            the class and the first of its negative. Otherwise: unit space, one mask for each pair of pictures, and a
            negative picture drawn anew each epoch.
        max_tokens: memory bound of a text pass.
    """

    variant: str = "released"
    lambda_cf: float | None = None
    tau: float = TAU
    epochs: int = 10
    batch_size: int = 1
    learning_rate: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: bool = True
    similarity: Similarity = "clip_text"
    mask: str = "greedy"
    parity: bool = False
    seed: int = 0
    max_tokens: int = MAX_TOKENS

    def __post_init__(self) -> None:
        for name, allowed in (("variant", VARIANTS), ("mask", MASKS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("max_tokens", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        for name in ("learning_rate", "tau"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, got {value!r}")
        for name in ("momentum", "weight_decay", "lambda_cf"):
            value = getattr(self, name)
            if value is None and name == "lambda_cf":
                continue
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0, got {value!r}")

    @property
    def weight(self) -> float:
        return LAMBDA[self.variant] if self.lambda_cf is None else self.lambda_cf


class Examples(NamedTuple):
    """Training pictures with their texts, whatever the task.

    Attributes:
        pictures: N of float32 `(3, H, W)` in [0, 1], of any sizes.
        texts: C class names, captions or filled prompts. labels: the true text of each picture, int64 `(N,)`.
        candidates: the texts that each picture is compared with, its own among them, int64 `(N, K)`; all when None.
        what: the word for one text in messages.
    """

    pictures: Sequence[torch.Tensor]
    texts: Sequence[str]
    labels: torch.Tensor
    candidates: torch.Tensor | None = None
    what: str = "prompt for class"


class FitReport(NamedTuple):
    """`history`: a row for each epoch (epoch, learning_rate, loss, ce, cf, sparsity, flipped).
    `negatives`: text to text, as used."""

    history: list[dict[str, float]]
    negatives: dict[str, str]


def fit(
    clip: "CLIPModel",
    tokenizer: "CLIPTokenizer",
    learner: "CPLPromptLearner",
    preprocess: Callable[[Sequence[torch.Tensor]], torch.Tensor],
    examples: Examples,
    settings: CPLSettings,
    on_step: Callable[[dict[str, float]], Any] = lambda figures: None,
    on_epoch: Callable[[dict[str, float]], bool] = lambda row: False,
) -> FitReport:
    """Fit `learner` in place; `clip` is only read.

    Args:
        preprocess: pictures to pixel values `(B, 3, S, S)`.
        on_step: called with the figures of each step. on_epoch: called with the row of each epoch; True stops the fit.

    Raises:
        ValueError: a prompt that is too long, no possible negative, or a negative without a picture.
        FloatingPointError: a loss that is not finite.
    """
    run = Run(clip, tokenizer, learner, preprocess, examples, settings)
    parameters = [p.requires_grad_(True) for p in learner.parameters()]
    optimizer = torch.optim.SGD(
        parameters, settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    count = len(examples.pictures)
    history = []
    learner.train()
    with torch.enable_grad():
        for epoch in range(settings.epochs):
            rate = rate_of(epoch, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows: list[tuple[int, dict[str, float]]] = []
            order = keyed("cpl order", settings.seed, epoch).permutation(count)
            for start in range(0, count, settings.batch_size):
                indices = order[start : start + settings.batch_size].tolist()
                optimizer.zero_grad()
                loss, figures = run.loss(indices, epoch)
                if not math.isfinite(figures["loss"]):
                    raise FloatingPointError(
                        f"loss is {figures['loss']} in epoch {epoch}; lower learning_rate={settings.learning_rate}"
                    )
                loss.backward()
                optimizer.step()
                rows.append((len(indices), figures))
                on_step(figures)
            weights = sum(n for n, _ in rows)
            means = {k: sum(n * figures[k] for n, figures in rows) / weights for k in rows[0][1]}
            history.append({"epoch": epoch + 1, "learning_rate": rate, **means})
            if on_epoch(history[-1]):
                break
    learner.requires_grad_(False).eval()
    texts = examples.texts
    return FitReport(history, {} if run.negatives is None else {texts[i]: texts[n] for i, n in run.named()})


def rate_of(epoch: int, settings: CPLSettings) -> float:
    """1e-5 in the first epoch, then the cosine from `learning_rate` to 0 over all epochs."""
    if epoch == 0 and settings.epochs > 1:
        return min(WARMUP_RATE, settings.learning_rate)
    return settings.learning_rate * (1 + math.cos(math.pi * epoch / settings.epochs)) / 2


class Run:
    """What stays the same through a fit: frozen features, prompts and negatives, computed once."""

    def __init__(
        self,
        clip: "CLIPModel",
        tokenizer: "CLIPTokenizer",
        learner: "CPLPromptLearner",
        preprocess: Callable[[Sequence[torch.Tensor]], torch.Tensor],
        examples: Examples,
        settings: CPLSettings,
    ):
        self.clip, self.learner, self.preprocess = clip, learner, preprocess
        self.examples, self.settings = examples, settings
        texts = list(examples.texts)
        self.prompts = make_prompts(clip, tokenizer, texts, learner.config.n_ctx, examples.what)
        self.scale = clip.logit_scale.detach().exp().to(learner.dtype)
        self.negatives = self.frozen = None
        with torch.no_grad():
            if settings.weight or not settings.augment:
                self.raw = self._encode(examples.pictures)
            if settings.weight:
                bare = [words(text) for text in texts]
                self.text = encode_texts(clip, tokenizer, bare, False, settings.max_tokens).to(learner.dtype)
                self._choose(texts)

    def _encode(self, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        """Raw features (N, d), preprocessed a few pictures at a time."""
        parts = [pictures[start : start + 64] for start in range(0, len(pictures), 64)]
        return torch.cat([encode_images(self.clip, self.preprocess(part), False) for part in parts]).to(
            self.learner.dtype
        )

    def _choose(self, texts: list[str]) -> None:
        self.shown: dict[int, list[int]] = {}  # text -> its pictures
        for picture, label in enumerate(self.examples.labels.tolist()):
            self.shown.setdefault(label, []).append(picture)
        # all classes may be negatives, and one without a picture is an error; of captions only those with a picture
        pool = range(len(texts)) if self.examples.candidates is None else sorted(self.shown)
        unit = functional.normalize(self.text, dim=-1)
        self.negatives = choose_negatives(texts, pool, self.settings.similarity, unit)
        for _, negative in self.named():
            if negative not in self.shown:
                raise ValueError(f"no training image for negative class {texts[negative]!r}")
        if self.settings.parity:
            used = sorted(self.shown)
            rows = torch.tensor([self.shown[label][0] for label in used])
            others = torch.tensor([self.shown[int(self.negatives[label])][0] for label in used])
            masks = self._solve(self.raw[rows], self.raw[others], torch.tensor(used), "raw")
            self.frozen = {label: n for n, label in enumerate(used)}, masks

    def named(self) -> list[tuple[int, int]]:
        """(text, its negative) of the texts that some picture shows."""
        return [(label, int(self.negatives[label])) for label in sorted(self.shown)]

    def _solve(self, positive: torch.Tensor, negative: torch.Tensor, labels: torch.Tensor, space: str) -> Masks:
        return greedy_masks(positive, negative, self.text[labels], self.text[self.negatives[labels]], space)

    def loss(self, indices: list[int], epoch: int) -> tuple[torch.Tensor, dict[str, float]]:
        examples, settings = self.examples, self.settings
        labels = examples.labels[indices]
        image = self._image(indices, epoch)
        candidates = None if examples.candidates is None else examples.candidates[indices].to(image.device)
        text = conditional_features(self.clip, self.learner, self.prompts, image, candidates, settings.max_tokens)
        targets = labels.to(image.device)
        if candidates is not None:
            targets = (candidates == targets[:, None]).int().argmax(1)
        loss = ce = functional.cross_entropy(class_logits(text, image, self.scale), targets)
        figures = {"ce": ce.item()}
        if settings.weight:
            changed, masks = self._changed(indices, labels, image, epoch)
            cf = counterfactual_loss(text, image, changed, targets, settings.variant, settings.tau)
            loss = ce + settings.weight * cf
            figures |= {"cf": cf.item(), "sparsity": masks.mask.mean().item()}
            figures["flipped"] = masks.flipped.double().mean().item()
        return loss, {"loss": loss.item(), **figures}

    @torch.no_grad()
    def _image(self, indices: list[int], epoch: int) -> torch.Tensor:
        """Unit features (B, d) of the pictures as this epoch shows them."""
        if not self.settings.augment:
            return functional.normalize(self.raw[indices], dim=-1)
        size = self.clip.config.vision_config.image_size
        crops = [
            crop_and_flip(self.examples.pictures[i], size, keyed("cpl augment", self.settings.seed, epoch, i))
            for i in indices
        ]
        return functional.normalize(self._encode(crops), dim=-1)

    @torch.no_grad()
    def _changed(
        self, indices: list[int], labels: torch.Tensor, image: torch.Tensor, epoch: int
    ) -> tuple[torch.Tensor, Masks]:
        """Counterfactual features (B, d), and the masks that made them."""
        shown = [self.shown[int(self.negatives[label])] for label in labels]
        if self.frozen:
            places, masks = self.frozen
            rows = [places[int(label)] for label in labels]
            masks = Masks(masks.mask[rows], masks.flipped[rows], [masks.swaps[row] for row in rows])
            chosen = [pictures[0] for pictures in shown]
        else:
            chosen = [
                pictures[int(keyed("cpl negative", self.settings.seed, epoch, i).integers(len(pictures)))]
                for i, pictures in zip(indices, shown, strict=True)
            ]
        negative = functional.normalize(self.raw[chosen], dim=-1)
        if not self.frozen:
            masks = self._solve(image, negative, labels, "unit")
        if self.settings.mask == "random":
            masks = masks._replace(mask=self._shuffled(masks.mask, indices, epoch))
        return counterfactual(masks.mask, image, negative), masks

    def _shuffled(self, mask: torch.Tensor, indices: list[int], epoch: int) -> torch.Tensor:
        """As many ones in each row, elsewhere."""
        drawn = [keyed("cpl random mask", self.settings.seed, epoch, i).permutation(mask.shape[1]) for i in indices]
        return torch.stack([row[torch.from_numpy(order)] for row, order in zip(mask, drawn, strict=True)])


def settings_of(options: Mapping[str, Any]) -> CPLSettings:
    """Settings from names and values.

    Raises:
        ValueError: an unknown name (the nearest known one is given), or a value out of range.
    """
    from wm_pipelines.training import check_keys

    check_keys(options, [field.name for field in dataclasses.fields(CPLSettings)], "fit")
    return CPLSettings(**options)
