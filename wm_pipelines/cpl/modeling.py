"""CPLPromptLearner: the only weights that CPL trains, a soft prompt and the net that conditions it on a picture.

The architecture is CoCoOp's (Zhou et al. 2022, arXiv 2203.05557); CPL (arXiv 2210.10362) changes how it is trained.
The path of this module is part of the file format.
"""

import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  pipelines look it up here
from torch import nn

from wm_pipelines.hub.models import WMModel
from wm_pipelines.hub.weights import align
from wm_pipelines.runtime.noise import randn

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

INIT = "a photo of a"
CTX_STD = 0.02  # of a context that starts at random
PICKLES = (".tar", ".pt", ".pth", ".bin", ".pkl", ".ckpt")


class CPLPromptLearner(WMModel, ConfigMixin):
    """Context vectors that stand in for the words "a photo of a", shifted by a small net of the picture's feature.

    For each picture, all classes share one context: `ctx + meta_net(v)`, the same shift for each of its tokens. Made
    by `from_clip`, loaded by `from_pretrained`.

    Args:
        text_width: width of CLIP's text tower. joint_dim: dimension of its joint space.
        n_ctx: context tokens. init: the words that the context started from, None for a random start.

    Example:
        >>> learner = CPLPromptLearner.from_pretrained(embedded("cpl"))
        >>> features = torch.nn.functional.normalize(torch.ones(2, 128), dim=-1)
        >>> learner(features).shape
        torch.Size([2, 4, 128])
    """

    _no_split_modules: list[str] = []

    @register_to_config
    def __init__(self, text_width: int = 512, joint_dim: int = 512, n_ctx: int = 4, init: str | None = None):
        super().__init__()
        if n_ctx < 1:
            raise ValueError(f"n_ctx={n_ctx}; it must be at least 1")
        hidden = joint_dim // 16
        if hidden < 1:
            raise ValueError(f"joint_dim={joint_dim}; the net that reads it has joint_dim / 16 units, so at least 16")
        self.ctx = nn.Parameter(torch.empty(n_ctx, text_width))
        parts = {"linear1": nn.Linear(joint_dim, hidden), "relu": nn.ReLU(), "linear2": nn.Linear(hidden, text_width)}
        self.meta_net = nn.Sequential(OrderedDict(parts))
        nn.init.normal_(self.ctx, std=CTX_STD)

    @classmethod
    def from_clip(
        cls,
        clip: "CLIPModel | CLIPConfig",
        tokenizer: "CLIPTokenizer | None" = None,
        n_ctx: int = 4,
        init: str | None = INIT,
        seed: int = 0,
    ) -> "CPLPromptLearner":
        """A new learner for `clip`, on its device (meta included), in fp32.

        Args:
            clip: the frozen base, or its configuration alone.
            tokenizer: reads `init`.
            init: words whose embeddings the context starts from, as many tokens as `n_ctx`. With None, or a
                configuration that has no embeddings, it starts from N(0, 0.02^2).
            seed: of what starts at random; PyTorch's own default initialisation for the net, as in CoCoOp.

        Raises:
            ValueError: `init` without a tokenizer, or of another number of tokens than `n_ctx`.
        """
        config = getattr(clip, "config", clip)
        words = init if isinstance(clip, nn.Module) else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # by keyword: diffusers takes positional arguments for defaults when it copies a configuration
            made = cls(
                text_width=config.text_config.hidden_size, joint_dim=config.projection_dim, n_ctx=n_ctx, init=words
            )
        with torch.no_grad():
            made.ctx.copy_(CTX_STD * randn(tuple(made.ctx.shape), "cpl context", seed))
            if words is not None:
                made.ctx.copy_(_embedded(clip, tokenizer, words, n_ctx))
        align(made)
        return made.to(clip.device) if isinstance(clip, nn.Module) else made

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, **kwargs: Any) -> "CPLPromptLearner":
        """As `ModelMixin`, from safetensors only.

        Raises:
            ValueError: `path` is a pickled checkpoint, or the file lacks tensors.
        """
        if Path(path).suffix in PICKLES:
            raise ValueError(f"refusing pickled {str(path)!r}; convert it with `wm convert cpl FILE FOLDER`")
        return super().from_pretrained(path, **kwargs)

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """Contexts `(B, n_ctx, text_width)` for unit picture features `(B, joint_dim)`."""
        return self.ctx + self.meta_net(image_features)[:, None]

    def check_compatible(self, clip: "CLIPModel") -> None:
        """Refuse a CLIP of other widths than this learner was made for.

        Raises:
            ValueError: names both widths.
        """
        text, joint = clip.config.text_config.hidden_size, clip.config.projection_dim
        if self.config.text_width != text:
            raise ValueError(
                f"checkpoint ctx width {self.config.text_width} does not match text width {text} of this CLIP"
            )
        if self.config.joint_dim != joint:
            raise ValueError(
                f"checkpoint reads picture features of dimension {self.config.joint_dim}, this CLIP's have {joint}"
            )


def _embedded(clip: "CLIPModel", tokenizer: "CLIPTokenizer | None", words: str, n_ctx: int) -> torch.Tensor:
    """Token embeddings (n_ctx, width) of `words`."""
    if tokenizer is None:
        raise ValueError(f"init={words!r} needs the tokenizer; or pass init=None for a random start")
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    if len(ids) != n_ctx:
        raise ValueError(f"init={words!r} is {len(ids)} tokens, n_ctx={n_ctx}; they must agree, or pass init=None")
    table = clip.text_model.embeddings.token_embedding.weight
    return table[torch.tensor(ids, device=table.device)].to("cpu" if not table.is_meta else "meta")
