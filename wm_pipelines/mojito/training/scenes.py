"""Training of `diorama-video`: clips of the miniature world as a source, and the task that draws them.

Options beside those of `VideoTask` (defaults in `SCENE_DEFAULTS`):
    length: clips. two: share of clips with two objects. cache: file that keeps the encoded clips between runs.
    frames: of the `clip_frames` frames of a clip, with their places in time, so that 8 cost half of 16 and still teach
    16. heads: of the motion modules. backwards: chance that a clip is played backwards, where its caption can say so.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wm_pipelines.media.flow import FARNEBACK, level_of, percentile_table
from wm_pipelines.mojito.training.scene_clips import ClipLatents, clip_caption, reversible
from wm_pipelines.mojito.training.task import VideoTask
from wm_pipelines.runtime.random import keyed
from wm_pipelines.training import KeyedNoise

if TYPE_CHECKING:
    from diffusers import MotionAdapter

SCENE_DEFAULTS: dict[str, Any] = {
    "base": "diorama-sd", "length": 3000, "two": 0.15, "cache": None, "clip_frames": 16, "frames": 16,
    "heads": 4, "hidden_dim": 192, "inject": "temporal", "positions": True,
    "read_text": True,
    "text_drop": 0.1, "level_drop": 0.15, "backwards": 0.5, "late": 2.0, "shared_noise": 0.0,
}  # fmt: skip


class SceneClips(ClipLatents):
    """Clips of the miniature world, forwards and backwards."""

    def __init__(self, vae: nn.Module, options: dict[str, Any]):
        super().__init__(
            vae, options["length"], frames=options["clip_frames"], two=options["two"], cache=options["cache"]
        )
        self.options, self.length = options, options["length"]
        self.data = f"Diorama clips of {options['clip_frames']} frames, train split, {self.length} scenes"
        self.table = percentile_table(self.flow.mean(1))
        self.estimator = {"estimator": "farneback", "region": "objects", "size": 64, **FARNEBACK}
        self.fps_rule = "8 frames a second, every frame"

    def captions(self) -> list[str]:
        """Captions of every clip, forwards and backwards."""
        texts = []
        for i, scene in enumerate(self.scenes):
            ways = (False, True) if reversible(scene) else (False,)
            texts += [clip_caption(scene, keyed("mojito captions", i), backwards) for backwards in ways]
        return texts

    def frames_of(self, noise: KeyedNoise) -> list[int]:
        """The frames of each clip that this step sees: every second one, or some in a row; or all."""
        count, every = self.options["frames"], self.options["clip_frames"]
        rng = noise.generator(0, "frames")
        if 2 * count <= every and rng.random() < 0.5:
            first = int(rng.integers(every - 2 * count + 2))
            return list(range(first, first + 2 * count - 1, 2))
        first = int(rng.integers(every - count + 1))
        return list(range(first, first + count))

    def sample(self, index: int, noise: KeyedNoise) -> tuple[torch.Tensor, str, float]:
        """Latents (F, 4, h, w), caption and level of a clip, played backwards for a share of those that can be."""
        frames, scene = self.frames_of(noise), self.scenes[index]
        backwards = reversible(scene) and bool(noise.uniform(index, (), "backwards") < self.options["backwards"])
        latents, flow = self.latents[index], self.flow[index]
        if backwards:
            latents, flow = latents.flip(0), flow.flip(0)
        level = level_of(float(flow[frames[0] : frames[-1]].mean()), self.table)
        text = clip_caption(scene, noise.generator(index, "caption"), backwards)
        return latents[frames].float(), text, level


class SceneTask(VideoTask):
    """`wm train diorama-video`: a new adapter and its intensity model on clips of the miniature world."""

    defaults = SCENE_DEFAULTS

    def check_options(self) -> None:
        if not 2 <= self.options["frames"] <= self.options["clip_frames"]:
            raise ValueError(f"options.frames is {self.options['frames']}; 2 to options.clip_frames")
        part = self.options["frames"] < self.options["clip_frames"]
        if part and self.options["positions"] and self.options["inject"] is not None:
            raise ValueError(
                f"options.frames is {self.options['frames']} of {self.options['clip_frames']}, but options.positions "
                "tells a clip's first frame from its last: take all, or positions=False"
            )

    def make_clips(self, vae: nn.Module) -> SceneClips:
        return SceneClips(vae, self.options)

    def make_adapter(self, unet: nn.Module) -> "MotionAdapter":
        from diffusers import MotionAdapter

        adapter = MotionAdapter(
            block_out_channels=tuple(unet.config.block_out_channels),
            motion_layers_per_block=unet.config.layers_per_block,
            motion_num_attention_heads=self.options["heads"],
            motion_norm_num_groups=unet.config.norm_num_groups,
            motion_max_seq_length=2 * self.options["clip_frames"],
        )
        for name, module in adapter.named_modules():  # the untrained adapter changes nothing
            if name.endswith("proj_out"):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        return adapter
