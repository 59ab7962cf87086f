"""Training on clips of one's own: a folder of captioned videos, and the task that reads it.

Recipe options beside those of `VideoTask` (`base`, `frames`, `inject`, `positions`, `hidden_dim`, `read_text`,
`text_drop`, `level_drop`, `late`, `shared_noise`):
    data: the folder. size: side of its frames. fps: rate at which frames are taken.
    motion_adapter: folder or Hub id of an AnimateDiff motion adapter for `base`; it stays as it is but for the update.
    update: "none" trains the intensity model alone; "lora" or "kronecker" adapts the temporal attention too, with
    rank `rank` (for "kronecker": the number of its terms).
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wm_pipelines.data.captioned import CaptionedFolder
from wm_pipelines.hub import resolve
from wm_pipelines.hub.stock import load_model
from wm_pipelines.media.flow import FARNEBACK, level_of, measure_flow, percentile_table
from wm_pipelines.media.video import VIDEO_SUFFIXES, pick_frames
from wm_pipelines.mojito.training.task import VideoTask
from wm_pipelines.training import KeyedNoise, Recipe, Task

UPDATES = ("none", "lora", "kronecker")
TARGETS = r".*motion_modules.*\.(to_q|to_k|to_v|to_out\.0)"


class ClipFolder(CaptionedFolder):
    """`anno.txt` (id TAB caption) and `videos/ID.mp4` (or .webm, .mov, .mkv), all of one size.

    Raises:
        ValueError: a file that is missing, a line without a TAB.
    """

    def __init__(self, root: str | Path):
        super().__init__(root)
        self.paths = [self.path("videos", name, VIDEO_SUFFIXES) for name in self.names]

    def clip(self, index: int, frames: int, size: int, fps: float) -> torch.Tensor:
        """The first `frames` frames at `fps`, chosen by their times, (F, 3, size, size) in [0, 1].

        Raises:
            ValueError: another size, or a video that is too short.
        """
        path = self.paths[index]
        pixels = pick_frames(path, frames, fps)
        if tuple(pixels.shape[-2:]) != (size, size):
            raise ValueError(f"{path.name} is {pixels.shape[-2]}x{pixels.shape[-1]}; options.size is {size}")
        return pixels.float() / 255


class FolderClips:
    """The first frames of every video of a folder, encoded once."""

    @torch.no_grad()
    def __init__(self, vae: nn.Module, options: dict[str, Any]):
        folder = ClipFolder(options["data"])
        self.texts, self.length = folder.captions, len(folder.names)
        self.frames = options["frames"]
        latents, flow = [], []
        for index in range(self.length):
            clip = folder.clip(index, options["frames"], options["size"], options["fps"])
            flow.append(float(measure_flow(clip).mean()))
            means = torch.cat([vae.encode(part * 2 - 1).latent_dist.mean for part in clip.split(8)])
            latents.append((means * vae.config.scaling_factor).to(torch.float16))
        self.latents, self.table = torch.stack(latents), percentile_table(flow)
        self.levels = [level_of(value, self.table) for value in flow]
        self.data = f"folder of {self.length} captioned videos, {options['frames']} frames of each"
        self.estimator = {"estimator": "farneback", "region": "frame", "size": options["size"], **FARNEBACK}
        self.fps_rule = f"{options['fps']:g} frames a second, the first {options['frames']}"

    def captions(self) -> list[str]:
        return list(self.texts)

    def frames_of(self, noise: KeyedNoise) -> list[int]:
        """All of them."""
        return list(range(self.frames))

    def sample(self, index: int, noise: KeyedNoise) -> tuple[torch.Tensor, str, float]:
        """Latents (F, 4, h, w), caption and level of a clip."""
        return self.latents[index].float(), self.texts[index], self.levels[index]


class FolderTask(VideoTask):
    """`wm train mojito`: an intensity model for any AnimateDiff base, and an update of its temporal attention."""

    defaults = {
        "base": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "motion_adapter": "guoyww/animatediff-motion-adapter-v1-5-3",
        "data": None, "size": 512, "fps": 8.0, "frames": 16, "inject": "timestep", "hidden_dim": 1280,
        "positions": False, "read_text": False, "update": "none", "rank": 16, "text_drop": 0.1, "level_drop": 0.15,
        "late": 1.0, "shared_noise": 0.0,
    }  # fmt: skip

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        if self.options["update"] != "none":
            from peft import inject_adapter_in_model

            inject_adapter_in_model(self._update(), self.adapter)

    def check_options(self) -> None:
        options = self.options
        if options["data"] is None:
            raise ValueError("options.data is missing: a folder with anno.txt and videos/")
        if options["update"] not in UPDATES:
            raise ValueError(f"options.update is {options['update']!r}; allowed: {', '.join(UPDATES)}")
        if options["frames"] < 2:
            raise ValueError(f"options.frames is {options['frames']}; 2 or more")

    def make_clips(self, vae: nn.Module) -> FolderClips:
        return FolderClips(vae, self.options)

    def make_adapter(self, unet: nn.Module) -> nn.Module:
        from diffusers import MotionAdapter

        return load_model(MotionAdapter, resolve(self.options["motion_adapter"])).requires_grad_(False)

    def _update(self) -> Any:
        rank = self.options["rank"]
        if self.options["update"] == "lora":
            from peft import LoraConfig

            return LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS)
        from wm_pipelines.adapters.kronecker import KroneckerConfig

        return KroneckerConfig(n=rank, target_modules=TARGETS)

    def modules(self) -> dict[str, nn.Module]:
        """The intensity model and the update's weights; the motion adapter under it is not the run's."""
        found = {} if self.intensity is None else {"intensity": self.intensity}
        update = {n.replace(".", "-"): p for n, p in self.adapter.named_parameters() if p.requires_grad}
        return found | ({"update": nn.ParameterDict(update)} if update else {})

    def export(self, folder: Path) -> None:
        """Writes the adapter with its update merged, and the intensity model in `intensity/`, both in fp16."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        kept = self.adapter
        merged = copy.deepcopy(kept)
        for name, layer in list(merged.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                parent, _, last = name.rpartition(".")
                setattr(merged.get_submodule(parent), last, layer.get_base_layer())
        self.adapter = merged
        try:
            super().export(folder)
        finally:
            self.adapter = kept

    def load_weights(self, source: str) -> dict[str, Any]:
        """Another run's weights are no start: give its export as `options.motion_adapter`."""
        return Task.load_weights(self, source)
