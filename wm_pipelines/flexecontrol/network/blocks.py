"""Building blocks of the FlexEControl adapter: feature denormalisation, the down block that uses it, the extractor."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from torch import nn


class FDN(nn.Module):
    """Feature denormalisation (Uni-ControlNet, arXiv 2305.16322): GroupNorm without affine, then scale and shift by f.

    `GN(h) * (1 + gamma(f)) + beta(f)`; gamma and beta are 3x3 convolutions with bias, so f = 0 is not the identity.

    Args:
        channels: channels of h. feature_channels: channels of f. groups, eps: of the GroupNorm (the UNet's own).
    """

    def __init__(self, channels: int, feature_channels: int, groups: int, eps: float):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=eps, affine=False)
        self.conv_gamma = nn.Conv2d(feature_channels, channels, 3, padding=1)
        self.conv_beta = nn.Conv2d(feature_channels, channels, 3, padding=1)

    def forward(self, hidden_states: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        """h (N,C,h,w) and f (B,F,h,w) with B dividing N (guidance doubles the batch, not the features)."""
        gamma, beta = self.conv_gamma(feature), self.conv_beta(feature)
        repeat = hidden_states.shape[0] // feature.shape[0]
        if repeat > 1 and feature.shape[0] > 1:  # a single feature broadcasts by itself
            gamma, beta = gamma.repeat(repeat, 1, 1, 1), beta.repeat(repeat, 1, 1, 1)
        return self.norm(hidden_states) * (1 + gamma) + beta


class FeatureResnet(nn.Module):
    """A stock residual block whose two norms are FDNs; convolutions and projections are the stock block's own."""

    def __init__(self, resnet: ResnetBlock2D, feature_channels: int):
        super().__init__()
        self.norm1 = FDN(resnet.norm1.num_channels, feature_channels, resnet.norm1.num_groups, resnet.norm1.eps)
        self.conv1 = resnet.conv1
        self.time_emb_proj = resnet.time_emb_proj
        self.norm2 = FDN(resnet.norm2.num_channels, feature_channels, resnet.norm2.num_groups, resnet.norm2.eps)
        self.dropout = resnet.dropout
        self.conv2 = resnet.conv2
        self.conv_shortcut = resnet.conv_shortcut
        self.nonlinearity = resnet.nonlinearity
        self.output_scale_factor = resnet.output_scale_factor
        self.skip_time_act = resnet.skip_time_act

    def forward(self, hidden_states: torch.Tensor, temb: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        residual = hidden_states if self.conv_shortcut is None else self.conv_shortcut(hidden_states)
        hidden_states = self.conv1(self.nonlinearity(self.norm1(hidden_states, feature)))
        temb = self.time_emb_proj(temb if self.skip_time_act else self.nonlinearity(temb))
        hidden_states = self.norm2(hidden_states + temb[:, :, None, None], feature)
        hidden_states = self.conv2(self.dropout(self.nonlinearity(hidden_states)))
        return (residual + hidden_states) / self.output_scale_factor


class FeatureDownBlock(nn.Module):
    """A stock (CrossAttn)DownBlock2D whose first residual block takes condition features.

    Parameter names stay those of the stock block, so the UNet's own state dict fills it.
    """

    def __init__(self, block: nn.Module, feature_channels: int):
        super().__init__()
        self.has_cross_attention = bool(getattr(block, "has_cross_attention", False))
        self.resnets = nn.ModuleList([FeatureResnet(block.resnets[0], feature_channels), *block.resnets[1:]])
        self.attentions = block.attentions if self.has_cross_attention else None
        self.downsamplers = block.downsamplers
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: torch.Tensor,
        temb: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        feature: torch.Tensor,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Returns the last hidden state and every skip (one per layer, one per downsampler)."""
        skips: tuple[torch.Tensor, ...] = ()
        for i, resnet in enumerate(self.resnets):
            args = (hidden_states, temb, feature) if i == 0 else (hidden_states, temb)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden_states = self._gradient_checkpointing_func(resnet, *args)
            else:
                hidden_states = resnet(*args)
            if self.attentions is not None:
                hidden_states = self.attentions[i](
                    hidden_states, encoder_hidden_states=encoder_hidden_states, return_dict=False
                )[0]
            skips += (hidden_states,)
        for downsampler in self.downsamplers or ():
            hidden_states = downsampler(hidden_states)
            skips += (hidden_states,)
        return hidden_states, skips


class FeatureExtractor(nn.Module):
    """Condition maps -> one feature map per UNet level; computed once per picture, for it does not see the timestep.

    3x3 convolutions with SiLU. `pre_channels` c_0, c_1, ...: one convolution to c_0, then for each further c a
    stride-2 and a stride-1 one. Each stage adds a stride-2 convolution (the first only if `stride` > 1), and a
    zero-initialised 3x3 convolution makes the feature. Stride of the first feature: `stride`; of the l-th: times 2^l.

    The first kernel is the concatenation of one (c_0,3,3,3) slice per condition type.
    """

    def __init__(self, in_channels: int, pre_channels: Sequence[int], feature_channels: Sequence[int], stride: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, pre_channels[0], 3, padding=1), nn.SiLU()]
        for before, after in zip(pre_channels[:-1], pre_channels[1:], strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.SiLU()]
        self.pre_extractor = nn.Sequential(*layers)
        self.extractors, self.zero_convs = nn.ModuleList(), nn.ModuleList()
        channels = pre_channels[-1]
        for level, width in enumerate(feature_channels):
            step = 1 if level == 0 and stride == 1 else 2
            self.extractors.append(nn.Sequential(nn.Conv2d(channels, width, 3, stride=step, padding=1), nn.SiLU()))
            self.zero_convs.append(zero_conv(width, 3))
            channels = width

    def forward(self, maps: torch.Tensor) -> list[torch.Tensor]:
        """maps (B, 3 * types, H, W) in [0, 1] -> features, finest first."""
        hidden = self.pre_extractor(maps)
        features = []
        for extractor, zero in zip(self.extractors, self.zero_convs, strict=True):
            hidden = extractor(hidden)
            features.append(zero(hidden))
        return features


class GlobalAdapter(nn.Module):
    """Image vector -> four extra text tokens (Uni-ControlNet's global adapter).

    LayerNorm, GEGLU feed-forward D -> 2D, LayerNorm, GEGLU feed-forward 2D -> 4C, split in four tokens of C.
    """

    tokens = 4

    def __init__(self, embed_dim: int, cross_attention_dim: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.ff1 = FeedForward(embed_dim, dim_out=2 * embed_dim, mult=4, dropout=0.1)
        self.norm2 = nn.LayerNorm(2 * embed_dim)
        self.ff2 = FeedForward(2 * embed_dim, dim_out=self.tokens * cross_attention_dim, mult=4, dropout=0.3)

    def forward(self, embeds: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, 4, C)."""
        hidden = self.ff2(self.norm2(self.ff1(self.norm1(embeds))))
        return hidden.reshape(embeds.shape[0], self.tokens, -1)


def zero_conv(channels: int, kernel: int) -> nn.Conv2d:
    """A convolution that starts at zero, so that an untrained adapter changes nothing."""
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def max_pool_to(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks (..., H, W) -> (..., h, w) by adaptive max-pooling: a thin line survives, as it does not in a resize."""
    flat = masks.reshape(-1, 1, *masks.shape[-2:]).float()
    return F.adaptive_max_pool2d(flat, size).reshape(*masks.shape[:-2], *size)
