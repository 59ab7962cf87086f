"""Attention of an answered question, by its words and regions, and as heat over the picture."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from wm_pipelines.graph_transformer.bias import GraphBias
from wm_pipelines.media.drawing import draw_heat
from wm_pipelines.media.pictures import Picture, to_pil


@dataclass(frozen=True)
class AttentionMaps:
    """The weights of one example, padding left out.

    Args:
        tokens: word pieces of the text, in their order.
        boxes (`(V, 4)`): of the picture's regions, in fractions.
        special: tokens of the picture before its regions (ViLT has one).
        layers: for each layer `(heads, S, S)`, S the text's tokens, then the picture's. LXMERT's are `(heads, T, T)`
            of its word layers, then `(heads, V, V)` of its region layers.
    """

    tokens: tuple[str, ...]
    boxes: Tensor
    special: int
    layers: tuple[Tensor, ...]

    def on_regions(self, layer: int = -1) -> Tensor:
        """How much each region is attended to, `(V,)`, mean over heads: by the first token, from which the answer is
        read, where words and regions share a layer; else by the other regions."""
        weights = self.layers[layer].mean(0)
        regions = len(self.boxes)
        if len(weights) == len(self.tokens) + self.special + regions:
            return weights[0, -regions:]
        if len(weights) == regions:
            return weights.mean(0)
        raise ValueError(f"`layer` {layer} is over words alone; choose one of the last layers")

    def overlay(self, picture: Picture, layer: int = -1) -> Image.Image:
        """`on_regions` as heat over the picture."""
        picture = to_pil(picture)
        heat = torch.zeros(picture.height, picture.width)
        share = torch.zeros_like(heat)
        for value, (x0, y0, x1, y1) in zip(self.on_regions(layer).tolist(), self.boxes.tolist(), strict=True):
            rows = slice(round(y0 * picture.height), max(round(y1 * picture.height), round(y0 * picture.height) + 1))
            columns = slice(round(x0 * picture.width), max(round(x1 * picture.width), round(x0 * picture.width) + 1))
            heat[rows, columns] += value
            share[rows, columns] += 1
        return draw_heat(picture, heat / share.clamp_min(1))


def maps_of(bias: GraphBias, weights: tuple[Tensor, ...], special: int) -> list[AttentionMaps]:
    """The maps of each example of a batch, from its weights `(B, H, S, S)` by layer."""
    found, length = [], bias.text_length
    for b in range(len(bias.texts)):
        keys = bias.valid[b].cpu().nonzero().flatten()
        words, regions = keys[keys < length], keys[keys >= length]
        layers = []
        for layer in weights:
            size = layer.shape[-1]
            own = keys if size == len(bias.valid[b]) else words if size == length else regions - length
            layers.append(layer[b].float().cpu()[:, own[:, None], own[None]])
        boxes = bias.boxes[b].cpu()[regions[special:] - length]
        found.append(AttentionMaps(tuple(bias.pieces[b][: len(words)]), boxes, special, tuple(layers)))
    return found
