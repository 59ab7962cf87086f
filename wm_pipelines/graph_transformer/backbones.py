"""Stock ViLT and LXMERT of transformers, called part by part so that each attention layer takes a bias.

ViLT (arXiv 2102.03334) is one encoder over words and patches. It draws the order of the patches at random, also in
inference; here they are put back, row by row, so that a patch's index means its place and a pass repeats itself.
LXMERT (arXiv 1908.07490) has an encoder for words and one for regions, which take G_text and G_vis, and cross-modality
layers, which stay as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from wm_pipelines.graph_transformer.attention import Cells, attending
from wm_pipelines.graph_transformer.bias import Regions
from wm_pipelines.runtime.offloading import brought

BiasOf = Callable[[int], Cells]


class Inputs(NamedTuple):
    """A batch: words, and a picture's values.

    Attributes:
        ids, mask, types: int64 `(B, T)`.
        visual: ViLT: pixels `(B, 3, H, W)` and which of them are there `(B, H, W)`; LXMERT: features `(B, N, F)` and
            boxes `(B, N, 4)` and which regions are there `(B, N)`.
    """

    ids: Tensor
    mask: Tensor
    types: Tensor
    visual: tuple[Tensor, ...]

    def to(self, device: torch.device) -> "Inputs":
        moved = tuple(t.to(device) for t in self.visual)
        return Inputs(self.ids.to(device), self.mask.to(device), self.types.to(device), moved)


class Embedded(NamedTuple):
    """What the layers start from: states of the text `(B, T, D)` and of the picture `(B, V, D)`, and the regions."""

    text: Tensor
    image: Tensor
    text_mask: Tensor
    regions: Regions


class Backbone(Protocol):
    """What the pipeline and the training need of a joint transformer.

    Attributes: `heads`, `layers` (how many take a bias), `limit` (tokens of text), `answers` (how many).
    """

    model: nn.Module
    heads: int
    layers: int
    limit: int
    answers: int

    def embed(self, inputs: Inputs) -> Embedded: ...

    def encode(
        self, embedded: Embedded, bias: BiasOf, attentions: bool = False, backend: str = "stock"
    ) -> tuple[Tensor, tuple[Tensor, ...]]: ...


def backbone_of(model: nn.Module) -> Backbone:
    """The backbone of a stock model.

    Raises:
        ValueError: neither `ViltForQuestionAnswering` nor `LxmertForQuestionAnswering`.
    """
    kinds = {"ViltForQuestionAnswering": ViltBackbone, "LxmertForQuestionAnswering": LxmertBackbone}
    kind = kinds.get(type(model).__name__)
    if kind is None:
        raise ValueError(f"`model` is a {type(model).__name__}; it must be one of {', '.join(kinds)}")
    return kind(model)


class ViltBackbone:
    """`ViltForQuestionAnswering`."""

    def __init__(self, model: Any):
        config = model.config
        self.model, self.heads, self.layers = model, config.num_attention_heads, config.num_hidden_layers
        self.limit, self.answers = config.max_position_embeddings, config.num_labels

    def embed(self, inputs: Inputs) -> Embedded:
        """Words, and patches row by row behind one token for the whole picture; padding is at the end."""
        table = self.model.vilt.embeddings
        pixels, there = inputs.visual
        with brought(table), _drawn_alike(self.model):
            states, mask, (index, _) = table.visual_embed(
                pixels, there, max_image_length=self.model.config.max_image_length
            )
        real = mask[:, 1:].bool()
        width = int(index[..., 1].max()) + 1
        place = (index[..., 0] * width + index[..., 1]).masked_fill(~real, 2**31)
        order = place.argsort(stable=True, dim=1) + 1
        order = torch.cat([torch.zeros_like(order[:, :1]), order], 1)
        rows = torch.arange(len(order), device=order.device)[:, None]
        states, mask = states[rows, order], mask[rows, order]
        both, _ = table(inputs.ids, inputs.mask, inputs.types, None, mask, None, states)
        boxes = _patch_regions(index[rows, order[:, 1:] - 1], mask[:, 1:].bool(), there, self.model.config.patch_size)
        length = inputs.ids.shape[1]
        return Embedded(both[:, :length], both[:, length:], inputs.mask, Regions(boxes, mask.bool(), special=1))

    def encode(
        self, embedded: Embedded, bias: BiasOf, attentions: bool = False, backend: str = "stock"
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits `(B, C)`, and the weights `(B, H, S, S)` of each layer if asked for.

        Args:
            bias: layer -> its bias. backend: "stock", the layers' own attention, or as
                `attention.quasi_attention` takes it.
        """
        vilt, kept = self.model.vilt, []
        hidden = torch.cat([embedded.text, embedded.image], 1)
        own = [layer.attention.attention for layer in vilt.encoder.layer]
        cells = mask = None
        with nullcontext() if backend == "stock" else attending(own, backend):
            for n, layer in enumerate(vilt.encoder.layer):
                if bias(n) is not cells:
                    cells = bias(n)
                    mask = cells.additive(hidden.dtype) if backend == "stock" else cells
                hidden, *weights = layer(hidden, mask, attentions)
                kept += weights
        hidden = vilt.layernorm(hidden)
        return self.model.classifier(vilt.pooler(hidden)), tuple(kept)


class LxmertBackbone:
    """`LxmertForQuestionAnswering`; regions come as features of a detector, which transformers does not have."""

    def __init__(self, model: Any):
        config = model.config
        self.model, self.heads = model, config.num_attention_heads
        self.layers = max(config.l_layers, config.r_layers)
        self.limit, self.answers = config.max_position_embeddings, config.num_qa_labels

    def embed(self, inputs: Inputs) -> Embedded:
        """Words and regions, each through its own table."""
        features, boxes, there = inputs.visual
        text = self.model.lxmert.embeddings(inputs.ids, inputs.types)
        dtype = text.dtype
        image = self.model.lxmert.encoder.visn_fc(features.to(dtype), boxes.to(dtype))
        return Embedded(text, image, inputs.mask, Regions(boxes.float(), there.bool()))

    def encode(
        self, embedded: Embedded, bias: BiasOf, attentions: bool = False, backend: str = "stock"
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `ViltBackbone.encode`; the weights are those of the word layers, then of the region layers.

        Raises:
            ValueError: another backend than the layers' own.
        """
        if backend != "stock":
            raise ValueError(f"`attention` is {backend!r}; LXMERT has its own attention, 'stock', alone")
        lxmert, words, regions = self.model.lxmert, [], []
        text, image = embedded.text, embedded.image
        length = text.shape[1]
        for n, layer in enumerate(lxmert.encoder.layer):
            text, *weights = layer(text, _block(bias(n), slice(0, length), text.dtype), attentions)
            words += weights
        for n, layer in enumerate(lxmert.encoder.r_layers):
            image, *weights = layer(image, _block(bias(n), slice(length, None), image.dtype), attentions)
            regions += weights
        masks = [_padding(mask, text.dtype) for mask in (embedded.text_mask, embedded.regions.valid)]
        for layer in lxmert.encoder.x_layers:
            text, image = layer(text, masks[0], image, masks[1])[:2]
        return self.model.answer_head(lxmert.pooler(text)), (*words, *regions)


def _block(cells: Cells, block: slice, dtype: torch.dtype) -> Tensor:
    return cells.additive(dtype)[:, :, block, block]


def _padding(mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """`(B, 1, 1, L)` as LXMERT makes it; None where all is there."""
    return None if bool(mask.all()) else (1.0 - mask.to(dtype))[:, None, None] * torch.finfo(dtype).min


@contextmanager
def _drawn_alike(model: nn.Module) -> Iterator[None]:
    """Outside training ViLT's draw of patches is the same each time, and PyTorch's generator is left alone."""
    if model.training:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def _patch_regions(index: Tensor, real: Tensor, there: Tensor, patch: int | Sequence[int]) -> Tensor:
    """Boxes `(B, 1 + V, 4)` of patches by (row, column) `(B, V, 2)`; zeros for the whole picture and for padding."""
    sides = torch.stack([there[:, :, 0].sum(1), there[:, 0].sum(1)], -1).to(index.device)
    size = torch.as_tensor(patch, device=index.device).expand(2)
    cells = -(-sides // size)[:, None]  # (B, 1, 2)
    low, high = (index / cells).flip(-1), ((index + 1) / cells).flip(-1)
    boxes = torch.cat([low, high], -1).clamp(0, 1) * real[..., None]
    return torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1).float()
