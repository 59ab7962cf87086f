"""`Scene4D`: Gaussians that move, the cameras that saw them, and what their objects are called."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from wm_pipelines.morpho4d.gaussians import Cameras, Gaussians, PosedGaussians
from wm_pipelines.morpho4d.motion import Motion
from wm_pipelines.morpho4d.rendering import RenderedScene, render_posed


@dataclass
class Scene4D:
    """A scene in time.

    Args:
        gaussians: N of them.
        motion: of those that are dynamic, in their order; None where nothing moves.
        cameras: over the scene's T frames.
        frames: T.
        fps: frames a second.
        names: object id -> what it is called.
        background: (red, green, blue) in [0, 1] where nothing is.
        dilation: what was added to the 2-D covariance while it was fitted, square pixels.
        up: the world's axis that points up, "z" or "-y".
        unit: of lengths, "m" where depth was metric, else "unknown".
    """

    gaussians: Gaussians
    motion: Motion | None
    cameras: Cameras
    frames: int
    fps: float = 8.0
    names: dict[int, str] = field(default_factory=dict)
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    dilation: float = 0.3
    up: str = "z"
    unit: str = "m"

    def __len__(self) -> int:
        return len(self.gaussians)

    @property
    def times(self) -> list[float]:
        """Seconds of each frame."""
        return [t / self.fps for t in range(self.frames)]

    def at(self, time: float) -> PosedGaussians:
        """The Gaussians as they stand at `time` in frames, which may lie between two and is clamped at both ends."""
        g = self.gaussians
        means, quats = self._pose(torch.arange(len(g)), torch.full((len(g),), float(time)))
        return PosedGaussians.of(g, means, quats)

    def _pose(self, rows: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """World means (n, 3) and quaternions (n, 4) of stored Gaussians, each at a time of its own (n,)."""
        g = self.gaussians
        means, quats = g.means[rows], g.quats[rows]
        moving = g.is_dynamic[rows].nonzero().squeeze(1)
        if self.motion is None or not len(moving):
            return means, quats
        number = (g.is_dynamic.cumsum(0) - 1)[rows[moving]]
        moved = self.motion.pose(number, means[moving], quats[moving], times[moving])
        return means.index_copy(0, moving, moved[0]), quats.index_copy(0, moving, moved[1])

    def render(
        self,
        camera: int | tuple[torch.Tensor, torch.Tensor] = 0,
        times: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
        backend: str = "auto",
    ) -> RenderedScene:
        """Plays the scene.

        Args:
            camera: number of one of the scene's own, or (K, T_cw): (3, 3) in pixels, and world to camera (4, 4), or
                (T', 4, 4) for a camera that moves.
            times: T' times in frames; None: every frame.
            size: (height, width); None: that of the scene's cameras. Another one scales the intrinsics of the scene's
                own cameras; a K that is given is taken as it is.
            backend: "auto", "torch", "triton" or "gsplat".

        Raises:
            ValueError: no such camera, shapes or numbers that do not fit, or an unusable backend.
        """
        times = [float(t) for t in (range(self.frames) if times is None else times)]
        if not times or not all(map(math.isfinite, times)):
            raise ValueError(f"`times` is {times}; give one finite time or more")
        k, poses, size = self._camera(camera, times, size)
        with torch.no_grad():
            shown = [
                render_posed(self.at(t), k, pose, size, self.background, self.dilation, backend)
                for t, pose in zip(times, poses, strict=True)
            ]
        return RenderedScene.stack(shown)

    def _camera(self, camera, times: list[float], size) -> tuple[torch.Tensor, Sequence[torch.Tensor], tuple]:
        own = self.cameras
        size = own.size if size is None else tuple(size)
        if len(size) != 2 or not all(isinstance(s, int) and 1 <= s <= 16384 for s in size):
            raise ValueError(f"`size` is {size!r}; (height, width) in whole pixels, 1 to 16384")
        if isinstance(camera, int):
            if not 0 <= camera < len(own):
                raise ValueError(f"`camera` is {camera}; the scene has cameras 0 to {len(own) - 1}")
            scale = torch.tensor([size[1] / own.size[1], size[0] / own.size[0], 1.0])
            return own.K[camera] * scale[:, None], [own.at(camera, t)[1] for t in times], size
        k, pose = camera
        k, pose = torch.as_tensor(k, dtype=torch.float32), torch.as_tensor(pose, dtype=torch.float32)
        pose = pose.expand(len(times), 4, 4) if pose.dim() == 2 else pose
        if k.shape != (3, 3) or pose.shape != (len(times), 4, 4):
            raise ValueError(
                f"`camera` is of K {tuple(k.shape)} and T_cw {tuple(pose.shape)}; it must be (3, 3), and (4, 4) or "
                f"({len(times)}, 4, 4) for these times"
            )
        return k, pose, size

    def check(self) -> None:
        """Raises ValueError where the parts are not as the class says, or do not fit each other."""
        self.gaussians.check()
        self.cameras.check(self.frames)
        moving = int(self.gaussians.is_dynamic.sum())
        if self.motion is None and moving:
            raise ValueError(f"`motion` is None, but {moving} of the Gaussians are dynamic")
        if self.motion is not None:
            self.motion.check()
            if self.motion.count != moving or self.motion.frames != self.frames:
                raise ValueError(
                    f"`motion` is of {self.motion.count} Gaussians over {self.motion.frames} frames; "
                    f"{moving} are dynamic, over {self.frames}"
                )

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes `scene4d.safetensors`, `config.json` and the record `wm_config.json`, all or none.

        Raises:
            ValueError: the scene is not whole, or `folder` is a file.
        """
        from wm_pipelines.morpho4d.storage import save

        save(self, folder)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, verify: bool = True) -> "Scene4D":
        """A scene from a folder, a Hub id or an embedded name.

        Args:
            verify: compare the files with their recorded hashes first.

        Raises:
            ValueError: a file is missing, altered or truncated, or says something that does not fit; names it.
        """
        from wm_pipelines.morpho4d.storage import load

        return load(source, verify)
