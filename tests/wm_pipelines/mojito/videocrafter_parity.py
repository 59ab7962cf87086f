"""Largest difference, relative to the largest output, of VideoCrafter2's own UNet and the converted one.

    VIDEOCRAFTER_PATH=clone python tests/wm_pipelines/mojito/videocrafter_parity.py

Both are small, random and the same; one clip of 3 frames at 28 frames a second.
"""

import os
import sys

import torch

from wm_pipelines.mojito.convert import UNET_PREFIX, to_unet

sys.path.insert(0, os.environ["VIDEOCRAFTER_PATH"])
from lvdm.modules.networks.openaimodel3d import UNetModel  # noqa: E402

torch.manual_seed(0)
theirs = UNetModel(
    in_channels=4, out_channels=4, model_channels=32, attention_resolutions=[2, 1], num_res_blocks=2,
    channel_mult=[1, 2, 2], num_head_channels=32, transformer_depth=1, context_dim=16, use_linear=True,
    temporal_conv=True, temporal_attention=True, temporal_selfatt_only=True, use_relative_position=False,
    use_causal_attention=False, temporal_length=16, addition_attention=True, fps_cond=True,
).eval()  # fmt: skip
with torch.no_grad():
    for parameter in theirs.parameters():  # many start at zero
        parameter.normal_(std=0.05)
ours, fps = to_unet(
    {UNET_PREFIX + name: tensor for name, tensor in theirs.state_dict().items()},
    dict(
        block_out_channels=(32, 64, 64),
        down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=32,
    ),
)
x, text, t = torch.randn(2, 4, 3, 8, 16), torch.randn(2, 7, 16), torch.tensor([3, 701])
with torch.no_grad():
    wanted = theirs(x, t, context=text, fps=28)
    with fps.applied(ours, 28):
        found = ours(x, t, text).sample
    plain = ours(x, t, text).sample
assert (plain - wanted).abs().max() > 1e-3 * wanted.abs().max(), "the frame rate changes nothing"
print(float((found - wanted).abs().max() / wanted.abs().max()))
