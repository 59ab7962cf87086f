"""A VQGAN with the module names of taming-transformers, written from the architecture (2012.09841) for comparison."""

import torch
import torch.nn.functional as F
from torch import nn


def norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


def swish(x):
    return x * torch.sigmoid(x)


class ResnetBlock(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.norm1, self.conv1 = norm(into), nn.Conv2d(into, out, 3, padding=1)
        self.norm2, self.conv2 = norm(out), nn.Conv2d(out, out, 3, padding=1)
        if into != out:
            self.nin_shortcut = nn.Conv2d(into, out, 1)

    def forward(self, x):
        h = self.conv1(swish(self.norm1(x)))
        h = self.conv2(swish(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """One head over all positions; its projections are 1x1 convolutions."""

    def __init__(self, channels):
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (part(h).flatten(2) for part in (self.q, self.k, self.v))  # (N, C, HW)
        weights = torch.einsum("nci,ncj->nij", q, k).mul(x.shape[1] ** -0.5).softmax(-1)
        return x + self.proj_out(torch.einsum("nij,ncj->nci", weights, v).reshape(x.shape))


class Resample(nn.Module):
    def __init__(self, channels, up):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if up else nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        if self.up:
            return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # to the right and below only


def middle(channels):
    mid = nn.Module()
    mid.block_1, mid.attn_1 = ResnetBlock(channels, channels), AttnBlock(channels)
    mid.block_2 = ResnetBlock(channels, channels)
    return mid


def level(into, out, count, attends):
    """`block`, `attn`; the resampler is put in by the caller."""
    part = nn.Module()
    part.block = nn.ModuleList(ResnetBlock(into if i == 0 else out, out) for i in range(count))
    part.attn = nn.ModuleList(AttnBlock(out) for _ in range(count if attends else 0))
    return part


def run_level(part, x):
    for i, block in enumerate(part.block):
        x = block(x)
        if len(part.attn):
            x = part.attn[i](x)
    return x


def run_middle(mid, x):
    return mid.block_2(mid.attn_1(mid.block_1(x)))


class Encoder(nn.Module):
    def __init__(self, ch, ch_mult, num_res_blocks, z_channels, resolution, attn_resolutions, in_channels):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        widths = [ch, *(ch * m for m in ch_mult)]
        for i in range(len(ch_mult)):
            part = level(widths[i], widths[i + 1], num_res_blocks, resolution // 2**i in attn_resolutions)
            if i < len(ch_mult) - 1:
                part.downsample = Resample(widths[i + 1], up=False)
            self.down.append(part)
        self.mid = middle(widths[-1])
        self.norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], z_channels, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for part in self.down:
            x = run_level(part, x)
            x = part.downsample(x) if hasattr(part, "downsample") else x
        return self.conv_out(swish(self.norm_out(run_middle(self.mid, x))))


class Decoder(nn.Module):
    def __init__(self, ch, ch_mult, num_res_blocks, z_channels, resolution, attn_resolutions, out_ch):
        super().__init__()
        widths = [ch * m for m in ch_mult]
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = middle(widths[-1])
        parts = []
        for i in reversed(range(len(ch_mult))):  # runs from the coarsest, numbered from the finest
            into = widths[min(i + 1, len(widths) - 1)]
            part = level(into, widths[i], num_res_blocks + 1, resolution // 2**i in attn_resolutions)
            if i > 0:
                part.upsample = Resample(widths[i], up=True)
            parts.insert(0, part)
        self.up = nn.ModuleList(parts)
        self.norm_out, self.conv_out = norm(widths[0]), nn.Conv2d(widths[0], out_ch, 3, padding=1)

    def forward(self, z):
        x = run_middle(self.mid, self.conv_in(z))
        for part in reversed(self.up):
            x = run_level(part, x)
            x = part.upsample(x) if hasattr(part, "upsample") else x
        return self.conv_out(swish(self.norm_out(x)))


class VQGAN(nn.Module):
    """Arguments as `model.params` of a `vqgan.yaml`."""

    def __init__(self, ddconfig, embed_dim, n_embed):
        super().__init__()
        sizes = {k: v for k, v in ddconfig.items() if k not in ("in_channels", "out_ch", "double_z", "dropout")}
        self.encoder = Encoder(**sizes, in_channels=ddconfig["in_channels"])
        self.decoder = Decoder(**sizes, out_ch=ddconfig["out_ch"])
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(n_embed, embed_dim)
        self.quant_conv = nn.Conv2d(ddconfig["z_channels"], embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)

    def features(self, pictures):
        return self.quant_conv(self.encoder(pictures)).permute(0, 2, 3, 1)

    def codes(self, pictures):
        difference = self.features(pictures)[..., None, :] - self.quantize.embedding.weight
        return difference.square().sum(-1).argmin(-1)

    def decode(self, codes):
        return self.decoder(self.post_quant_conv(self.quantize.embedding(codes).permute(0, 3, 1, 2)))
