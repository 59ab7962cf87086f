"""QuasiAttentionModel: the trained part λ·Ĝ of the attention bias (arXiv 2305.00581), and what a cut cell costs.

The path of this module is part of the file format.
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  pipelines look it up here
from torch import Tensor, nn

from wm_pipelines.graph_transformer.attention import Cells
from wm_pipelines.hub.models import WMModel
from wm_pipelines.runtime.offloading import brought

PENALTY = 4.0  # a cut cell's cost at the start of a soft mask: its weight falls to a fiftieth


class QuasiAttentionModel(WMModel, ConfigMixin):
    """Ĝ of every head, over text positions first and then picture positions, all zeros at the start.

    Text begins at 0 and the picture at `s_text`, so that an index means the same position in every example; shorter
    inputs take a part of it. Zeros leave a backbone as it was, bit for bit.

    Args:
        s_text, s_img: longest text and picture, in tokens; for ViLT-B/32 40 and 145 (or 241 at other proportions).
        heads: of the backbone. layers: of the backbone; counts with `per_layer` alone.
        per_layer: one Ĝ for each layer instead of one for all.
        lam: λ; `lambda` in the configuration.
        soft: a cut cell costs β, trained for each head, instead of being −inf: cut edges can come back.

    Example:
        >>> bias = QuasiAttentionModel(s_text=8, s_img=5, heads=2)
        >>> ghat, beta = bias(text_length=3, length=8)
        >>> ghat.shape, beta
        (torch.Size([2, 8, 8]), None)
    """

    _no_split_modules: list[str] = []

    def __init__(
        self,
        s_text: int = 40,
        s_img: int = 145,
        heads: int = 12,
        per_layer: bool = False,
        lam: float = 1.0,
        layers: int = 12,
        soft: bool = False,
    ):
        super().__init__()
        for name, value in (("s_text", s_text), ("heads", heads), ("layers", layers)):
            if type(value) is not int or value < 1:
                raise ValueError(f"`{name}` is {value!r}; an integer of 1 or more")
        if type(s_img) is not int or s_img < 0:
            raise ValueError(f"`s_img` is {s_img!r}; an integer of 0 or more")
        self.register_to_config(
            s_text=s_text, s_img=s_img, heads=heads, per_layer=per_layer, layers=layers, soft=soft, **{"lambda": lam}
        )
        lead = (layers,) if per_layer else ()
        size = s_text + s_img
        self.quasi_attention = nn.ParameterDict({"ghat": nn.Parameter(torch.zeros(*lead, heads, size, size))})
        if soft:
            self.quasi_attention["beta"] = nn.Parameter(torch.full((*lead, heads), PENALTY))

    @classmethod
    def extract_init_dict(cls, config_dict: Any, **kwargs: Any) -> Any:
        """`lambda`, no name for an argument, is `lam`."""
        renamed = {"lam" if name == "lambda" else name: value for name, value in config_dict.items()}
        return super().extract_init_dict(renamed, **kwargs)

    @property
    def ghat(self) -> nn.Parameter:
        """`(heads, S, S)`, or `(layers, heads, S, S)`; S = s_text + s_img."""
        return self.quasi_attention["ghat"]

    @property
    def beta(self) -> nn.Parameter | None:
        """`(heads,)`, or `(layers, heads)`; None without `soft`."""
        return self.quasi_attention["beta"] if self.config.soft else None

    def forward(self, text_length: int, length: int, layer: int = 0) -> tuple[Tensor, Tensor | None]:
        """λ·Ĝ of a layer for a sequence, `(heads, length, length)`, and β `(heads,)` or None.

        Args:
            text_length: tokens of text; the `length - text_length` others are the picture's.

        Raises:
            ValueError: more tokens than Ĝ has.
        """
        self.check(text_length, length)
        with brought(self.quasi_attention):  # read without being called
            ghat, beta = self.ghat, self.beta
            if self.config.per_layer:
                ghat, beta = ghat[layer], None if beta is None else beta[layer]
            places = torch.arange(length, device=ghat.device)
            places = torch.where(places < text_length, places, places - text_length + self.config.s_text)
            ghat = self.config["lambda"] * ghat[:, places[:, None], places[None]]
            return ghat, None if beta is None else beta + 0  # not the weight itself, which may be sent away

    def check(self, text_length: int, length: int) -> None:
        """ValueError if a sequence is longer than Ĝ."""
        most = self.config.s_text + self.config.s_img
        parts = (("s_text", text_length, self.config.s_text), ("s_img", length - text_length, self.config.s_img))
        for name, found, allowed in parts:
            if found > allowed:
                what = f"sequence {length} exceeds Ghat {most}"
                what = what if length > most else f"{found} of the sequence's {length} tokens exceed Ghat's {allowed}"
                raise ValueError(f"{what}; enlarge {name} or disable ghat")

    def cells(self, allowed: Tensor, valid: Tensor, text_length: int, layer: int = 0) -> Cells:
        """The whole bias of a layer, for `attention.quasi_attention`.

        Args:
            allowed: bool `(B, S, S)`. valid: bool `(B, S)`.
        """
        ghat, beta = self(text_length, allowed.shape[-1], layer)
        return Cells(allowed, valid, ghat, beta)
