"""What a scene is fitted to: video of one camera or several, with depth and masks of the objects."""

from dataclasses import dataclass, field, replace

import torch

from wm_pipelines.morpho4d.gaussians import Cameras
from wm_pipelines.runtime.random import keyed

CODE_SIZE = 8


@dataclass
class Capture:
    """V views of T frames.

    Args:
        video: (V, T, 3, H, W) float32 in [0, 1], sRGB.
        cameras: V of them over T frames, of size (H, W).
        depth: (V, T, H, W) float32, metres along the optical axis, above 0; inf where there is nothing.
        masks: (V, T, H, W) int64, object ids, 0 = background.
        names: object id -> what it is called.
        fps: frames a second.
        features: optional (V, T, F, H, W) float32, what a teacher says of each pixel; without it, a unit code of 8
            numbers for each object.
    """

    video: torch.Tensor
    cameras: Cameras | None
    depth: torch.Tensor | None
    masks: torch.Tensor | None
    names: dict[int, str] = field(default_factory=dict)
    fps: float = 8.0
    features: torch.Tensor | None = None

    @property
    def views(self) -> int:
        return self.video.shape[0]

    @property
    def frames(self) -> int:
        return self.video.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.video.shape[-2:])

    def select(self, views: list[int]) -> "Capture":
        """Only some of the views."""
        cameras = Cameras(self.cameras.K[views], self.cameras.T_cw[views], self.cameras.size)
        features = None if self.features is None else self.features[views]
        return Capture(
            *(self.video[views], cameras, self.depth[views], self.masks[views], self.names, self.fps, features)
        )

    def differentiable(self) -> "Capture":
        """The same; what was made under `torch.inference_mode` as copies that a loss may be made of."""

        def copied(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return tensor.clone() if isinstance(tensor, torch.Tensor) and tensor.is_inference() else tensor

        tensors = {name: copied(getattr(self, name)) for name in ("video", "depth", "masks", "features")}
        cameras = self.cameras
        if isinstance(cameras, Cameras):
            cameras = replace(cameras, K=copied(cameras.K), T_cw=copied(cameras.T_cw))
        return replace(self, cameras=cameras, **tensors)

    def check(self) -> None:
        """Raises ValueError, which names the argument, where one is missing or not as the class says."""
        if not isinstance(self.video, torch.Tensor) or self.video.dim() != 5 or self.video.shape[2] != 3:
            came = tuple(getattr(self.video, "shape", ())) or type(self.video).__name__
            raise ValueError(f"`video` is {came}; it must be a tensor (V, T, 3, H, W)")
        if not self.video.is_floating_point() or not 0 <= self.video.min() <= self.video.max() <= 1:
            raise ValueError("`video` must be floats in [0, 1]")
        if self.cameras is None:
            raise ValueError(
                "cameras missing: monocular video without cameras needs a pose solver; pass cameras= or install "
                "extra [pose]"
            )
        self.cameras.check(self.frames)
        if len(self.cameras) != self.views or tuple(self.cameras.size) != self.size:
            raise ValueError(
                f"`cameras` are {len(self.cameras)} of size {tuple(self.cameras.size)}; `video` has {self.views} "
                f"views of {self.size}"
            )
        self._check_maps()

    def _check_maps(self) -> None:
        shape = (self.views, self.frames, *self.size)
        for name, dtype in (("depth", torch.float32), ("masks", torch.int64)):
            value = getattr(self, name)
            if value is None:
                raise ValueError(f"`{name}` is missing: without it nothing says where Gaussians are; pass {name}=")
            if not isinstance(value, torch.Tensor) or value.shape != shape or value.dtype != dtype:
                came = (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else type(value).__name__
                raise ValueError(f"`{name}` is {came}; as `video` it must be {shape} of {dtype}")
        bad = (~(self.depth > 0)).flatten(2).float().mean(-1)
        if bad.any():
            view, frame = (bad > 0).nonzero()[0].tolist()
            percent = 100 * float(bad[view, frame])
            share = f"{percent:.0f}%" if percent >= 1 else f"{percent:.1g}%"
            raise ValueError(f"depth has {share} non-positive values in view {view} frame {frame}")
        if int(self.masks.min()) < 0:
            raise ValueError(f"`masks` has {int(self.masks.min())}; 0 is the background, objects are above")
        if not self.depth.isfinite().any():
            raise ValueError("`depth` is infinite everywhere; there is nothing to fit")
        if self.features is not None:
            wanted = (*shape[:2], None, *shape[2:])
            fits = self.features.dim() == 5 and all(
                w in (None, g) for w, g in zip(wanted, self.features.shape, strict=True)
            )
            if not fits or not self.features.isfinite().all():
                raise ValueError(f"`features` is {tuple(self.features.shape)}; finite (V, T, F, H, W) as `video`")

    def teacher(self) -> torch.Tensor:
        """(V, T, F, H, W): `features`, or the code of each pixel's object."""
        if self.features is not None:
            return self.features
        known, whose = self.masks.unique(return_inverse=True)
        return object_codes(known.tolist())[whose].permute(0, 1, 4, 2, 3)

    def points(self, view: int, frame: int) -> torch.Tensor:
        """(H, W, 3), the world points of a picture's pixels; not finite where depth is infinite."""
        return lift(self.depth[view, frame], self.cameras.K[view], self.cameras.T_cw[view, frame])


def object_codes(ids: list[int]) -> torch.Tensor:
    """(number of ids, 8), a unit code for each object id; the same id has the same code everywhere."""
    drawn = [torch.from_numpy(keyed("morpho4d", "code", i).standard_normal(CODE_SIZE)) for i in ids]
    return torch.nn.functional.normalize(torch.stack(drawn).float(), dim=-1)


def lift(depth: torch.Tensor, k: torch.Tensor, t_cw: torch.Tensor) -> torch.Tensor:
    """World points (H, W, 3) of depth (H, W) along the optical axis, through pixel centres."""
    height, width = depth.shape
    x = (torch.arange(width, dtype=depth.dtype) + 0.5 - k[0, 2]) / k[0, 0]
    y = (torch.arange(height, dtype=depth.dtype) + 0.5 - k[1, 2]) / k[1, 1]
    rays = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), torch.ones_like(depth)], dim=-1)
    return (rays * depth[..., None] - t_cw[:3, 3]) @ t_cw[:3, :3]
