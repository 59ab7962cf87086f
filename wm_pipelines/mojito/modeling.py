"""MotionIntensityModel: how much motion there is, from a level of 0 to 10 (the MIM of Mojito, arXiv 2412.08948).

The paper says that the level is learned against optical flow; where it enters, its embedding and its training are our
choice. A level is ten times the percentile of a clip's flow among the training clips, so 5 is the median; None is "not
said", which is learned too. With `text_dim` the model reads the prompt as well: the state of the text encoder at the
last token. That is for bases whose image model never learned the words of motion, as `diorama-sd`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  pipelines look it up here
from torch import nn

from wm_pipelines.hub.models import WMModel
from wm_pipelines.runtime.offloading import execution_device

INJECT = ("timestep", "text", "temporal")
POSITIONS = 5  # terms of `position_terms`
LEVEL_SCALE = 100.0  # the sinusoid of a value in [0, 10] would be nearly constant
TIME_EMBEDDINGS = ("time_embedding", "condition_embedder.time_embedder")
TEMPORAL = ("motion_modules", "temp_attentions", "transformer_in")


class _Layers(nn.Module):
    """The layers under the names of the file format: `mim.linear_1`, `mim.linear_2`, `mim.null`, `mim.text`, and what
    whitens the text: `mim.text_mean`, `mim.text_whitening`.
    """

    def __init__(self, inside: int, hidden: int, outside: int, text_dim: int | None):
        super().__init__()
        self.linear_1 = nn.Linear(inside, hidden)
        self.linear_2 = nn.Linear(hidden, outside)
        self.null = nn.Parameter(torch.zeros(hidden))
        self.text = nn.Linear(text_dim, hidden, bias=False) if text_dim else None
        if text_dim:
            self.register_buffer("text_mean", torch.zeros(text_dim))
            self.register_buffer("text_whitening", torch.eye(text_dim))
        nn.init.zeros_(self.linear_2.weight)
        nn.init.zeros_(self.linear_2.bias)

    def forward(self, waves: torch.Tensor, known: torch.Tensor, text: torch.Tensor | None) -> torch.Tensor:
        """e (B, outputs) of sinusoids (B, inside), whether each level is known (B,), and the text (B, text_dim)."""
        hidden = torch.where(known[:, None], self.linear_1(waves.to(self.null.dtype)), self.null)
        if text is not None:
            hidden = hidden + self.text(self.whitened(text).to(self.null.dtype))
        return self.linear_2(nn.functional.silu(hidden))

    def whitened(self, text: torch.Tensor) -> torch.Tensor:
        with torch.autocast(text.device.type, enabled=False):  # differences of large numbers
            centred = text.float() - self.text_mean.float()
            return nn.functional.layer_norm(centred @ self.text_whitening.float().T, centred.shape[-1:])


class MotionIntensityModel(WMModel, ConfigMixin):
    """e = W2 SiLU(W1 sin/cos(100 level) + b1 [+ Wt norm(M (text - mean))]) + b2, with a learned vector in place of the
    level's part for None. W2 and b2 start at zero, and then nothing changes, bit for bit. M and the mean whiten the
    states of the training captions (`fit_text`), which tell motions apart only in directions of little variance.

    Args:
        inject: "timestep" adds e to the time embedding; "text" adds it to the last `tokens` tokens of the context
            (padding, in most prompts); "temporal" makes of it a scale and a shift for each layer norm of the temporal
            attention blocks.
        targets: names of the modules whose output is changed: the time embedding, or the norms; none for "text".
        widths: their channels; for "text" the width of the context.
        embedding_dim: channels of the sinusoid. hidden_dim: channels in between.
        tokens: how many context tokens "text" changes.
        positions: "temporal" also adds five vectors, times the frame, the column, the row, and the frame times the
            latter two (`position_terms`). Else temporal attention, which sees one place at a time, has no way to say
            "at first on the right, at last on the left" but what the layers between know of places.
        text_dim: width of the context that is read beside the level; None reads no text.
        level_percentiles: flow of level 0, 1, ... 10, px per frame; empty if the table isn't known.
        flow: estimator of that flow and its parameters.
        fps_rule: how frames were chosen before it was measured.
        base: what it was trained on.

    Example:
        >>> from wm_pipelines import MotionIntensityModel, embedded
        >>> intensity = MotionIntensityModel.from_pretrained(embedded("diorama-video") / "intensity")
        >>> len(intensity.config.level_percentiles)  # pixels a frame at level 0, 1, ... 10
        11
    """

    # what whitens the text takes differences of large numbers, which half precision rounds away
    _keep_in_fp32_modules = ["text_mean", "text_whitening"]
    _no_split_modules = ["_Layers"]

    @register_to_config
    def __init__(
        self,
        inject: str = "timestep",
        targets: Sequence[str] = ("time_embedding",),
        widths: Sequence[int] = (1280,),
        embedding_dim: int = 320,
        hidden_dim: int = 1280,
        tokens: int = 1,
        positions: bool = False,
        text_dim: int | None = None,
        level_percentiles: Sequence[float] = (),
        flow: Mapping[str, Any] | None = None,
        fps_rule: str = "",
        base: str | None = None,
    ):
        super().__init__()
        if inject not in INJECT:
            raise ValueError(f"inject is {inject!r}; allowed: {', '.join(INJECT)}")
        if inject != "text" and len(targets) != len(widths) or not widths:
            raise ValueError(f"targets has {len(targets)} names and widths {len(widths)} numbers; one width for each")
        if inject == "text" and not 1 <= tokens <= 4:
            raise ValueError(f"tokens is {tokens!r}; allowed: 1 to 4")
        if embedding_dim % 2:
            raise ValueError(f"embedding_dim is {embedding_dim!r}; it must be even")
        if len(level_percentiles) not in (0, 11):
            raise ValueError(f"level_percentiles has {len(level_percentiles)} numbers; levels 0 to 10 need 11")
        if positions and inject != "temporal":
            raise ValueError(f"positions is True, which is for inject='temporal', not {inject!r}")
        each = {"timestep": 1, "text": tokens, "temporal": 2 + POSITIONS * positions}[inject]
        outside = each * sum(widths)
        self.mim = _Layers(embedding_dim, hidden_dim, outside, text_dim)

    @classmethod
    def from_denoiser(cls, denoiser: nn.Module, inject: str = "timestep", **config: Any) -> "MotionIntensityModel":
        """A new model for `denoiser`, with its places and widths.

        Raises:
            ValueError: the denoiser has no place of that kind.
        """
        if inject == "timestep":
            modules = dict(denoiser.named_modules())
            names = [name for name in TIME_EMBEDDINGS if name in modules]
            widths = [modules[name].linear_2.out_features for name in names]
        elif inject == "temporal":
            norms = temporal_norms(denoiser)
            names, widths = list(norms), [norm.normalized_shape[0] for norm in norms.values()]
        else:
            width = getattr(denoiser.config, "cross_attention_dim", None)
            names, widths = [], [width] if isinstance(width, int) else []
        if not widths:
            raise ValueError(f"inject={inject!r}: {type(denoiser).__name__} has no such place; allowed: {INJECT}")
        return cls(inject=inject, targets=names, widths=widths, **config)

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike, subfolder: str | None = None, **kwargs: Any
    ) -> "MotionIntensityModel":
        """As of any diffusers model.

        In a local folder diffusers would take weights that lie beside `subfolder`, which are the motion adapter's.
        """
        if subfolder and Path(source).is_dir():
            source, subfolder = Path(source) / subfolder, None
        return super().from_pretrained(source, subfolder=subfolder, **kwargs)

    def forward(self, levels: Sequence[float | None], text: torch.Tensor | None = None) -> torch.Tensor:
        """e (B, outputs).

        Args:
            levels: B levels in [0, 10], or None.
            text: (B, text_dim) state of the text encoder at the last token, for a model that reads the text.

        Raises:
            ValueError: a level outside [0, 10], or the text is missing or not asked for.
        """
        check_levels(levels)
        if (text is not None) != (self.mim.text is not None):
            raise ValueError(f"text is {'missing' if text is None else 'given'}; text_dim is {self.config.text_dim}")
        device = execution_device(self)
        known = torch.tensor([level is not None for level in levels], device=device)
        values = torch.tensor([0.0 if level is None else float(level) for level in levels], device=device)
        waves = get_timestep_embedding(
            values * LEVEL_SCALE, self.config.embedding_dim, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return self.mim(waves, known, text)

    @torch.no_grad()
    def fit_text(self, states: torch.Tensor, floor: float = 1e-3) -> None:
        """Sets mean and whitening from the states (N, text_dim) of captions, rounded to fp16 as they are saved.

        Directions with less than `floor` of the largest variance are not raised further than that.

        Raises:
            ValueError: this model reads no text, or the states don't have its width or are not finite.
        """
        wide = states.ndim == 2 and len(states) > 1 and states.shape[1] == self.config.text_dim
        if not wide or not states.isfinite().all():
            raise ValueError(f"states is {tuple(states.shape)}; finite (2 or more, text_dim = {self.config.text_dim})")
        variance, axes = torch.linalg.eigh(torch.cov(states.double().T))
        if variance[-1] <= 0:
            raise ValueError("states are all equal; captions that differ are needed")
        scale = variance.clamp_min(floor * float(variance[-1])).rsqrt()
        self.mim.text_mean.copy_(states.double().mean(0).half())
        self.mim.text_whitening.copy_((scale[:, None] * axes.T).half())

    def flow_of(self, level: float) -> float:
        """Flow that the table gives a level, px per frame.

        Raises:
            ValueError: there is no table, or the level lies outside [0, 10].
        """
        table = self.config.level_percentiles
        if not table:
            raise ValueError("level_percentiles is empty: these weights say nothing of flow")
        check_levels([level])
        low = min(int(level), 9)
        return table[low] + (table[low + 1] - table[low]) * (level - low)


def position_terms(frames: int, height: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """(height * width, frames, 5): t, x, y, t * x and t * y, each of t, x and y from -1 to 1; 0 where there is one."""
    t, y, x = (torch.linspace(-1, 1, n, device=device) if n > 1 else torch.zeros(1, device=device)
               for n in (frames, height, width))  # fmt: skip
    y, x = (a.flatten()[:, None].expand(-1, frames) for a in torch.meshgrid(y, x, indexing="ij"))
    t = t.expand_as(x)
    return torch.stack([t, x, y, t * x, t * y], dim=-1)


def check_levels(levels: Sequence[float | None]) -> None:
    """ValueError unless every level is None or lies in [0, 10]."""
    for level in levels:
        if level is not None and not (isinstance(level, int | float) and 0 <= level <= 10):
            raise ValueError(f"motion_intensity is {level!r}; None or a number from 0 to 10")


def temporal_norms(denoiser: nn.Module) -> dict[str, nn.LayerNorm]:
    """The layer norms of the temporal attention blocks, by name: AnimateDiff's motion modules, UNet3D's temporal ones.

    Their input is (B * places, frames, channels), the rows of a clip together.
    """
    return {
        name: module
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.LayerNorm) and not set(TEMPORAL).isdisjoint(name.split("."))
    }
