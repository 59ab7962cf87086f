"""Morpho4D (arXiv 2510.04390): a command or a video becomes a scene in time, played from any camera and edited."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from wm_pipelines.morpho4d.capture import Capture
from wm_pipelines.morpho4d.fitting import FitReport, FitSettings, Fitter
from wm_pipelines.morpho4d.gaussians import Cameras
from wm_pipelines.morpho4d.outputs import Morpho4DOutput
from wm_pipelines.morpho4d.scene import Scene4D
from wm_pipelines.pipeline import WMPipeline

Source = Callable[[str], Capture]


class Morpho4DPipeline(WMPipeline):
    """Fits dynamic Gaussians to what a command describes, or to video with cameras, depth and masks.

    It has no weights. `source` makes a capture of a prompt: of the miniature world (`worlds.prompt_capture`), of a
    clip that Mojito samples (`clips.mojito_capture`: one fixed camera, depth from the floor), or of any video model
    with cameras, depth and masks.

    Example:

        >>> from wm_pipelines import Morpho4DPipeline
        >>> from wm_pipelines.morpho4d.worlds import prompt_capture
        >>> pipe = Morpho4DPipeline(source=prompt_capture)
        >>> out = pipe("a red cube slides right and a ball bounces", steps=20)
        >>> out.scene.edit("remove the red cube").render(0).frames.shape
        torch.Size([12, 3, 64, 64])
    """

    def __init__(self, source: Source | None = None) -> None:
        super().__init__()
        self.source = source

    def check_inputs(self, prompt: Any, video: Any, cameras: Any, depth: Any, masks: Any) -> None:
        """Raises ValueError, which names the argument, unless there is a prompt and nothing else, or no prompt."""
        if (prompt is None) == (video is None):
            raise ValueError("give `prompt`, or `video` with `cameras`, `depth` and `masks`; not both, not neither")
        if prompt is not None:
            given = [n for n, v in {"cameras": cameras, "depth": depth, "masks": masks}.items() if v is not None]
            if given:
                raise ValueError(f"`{given[0]}` goes with `video`, not with `prompt`")
            if not isinstance(prompt, str) or not prompt.strip():
                raise ValueError(f"`prompt` is {prompt!r}; a sentence of some words")
            if self.source is None:
                raise ValueError(
                    "`prompt` needs a source of video: Morpho4DPipeline(source=...), a function from the prompt to a "
                    "`Capture`; `wm run morpho4d` takes that of the miniature world"
                )

    def fit(
        self, capture: Capture, on_step: Callable[[float], None] | None = None, **settings: Any
    ) -> tuple[Scene4D, FitReport]:
        """A scene from a capture.

        Args:
            on_step: called with the share that is done, 0 to 1, before each step; it may raise to stop.
            settings: of `FitSettings`.

        Raises:
            ValueError: something is missing or does not fit; the message names it.
        """
        # ComfyUI runs nodes in inference mode
        with torch.inference_mode(False), torch.enable_grad(), self.progress_bar(total=100) as bar:
            fitter = Fitter(capture.differentiable(), FitSettings(**settings))

            def show(progress: float) -> None:
                bar.update(min(round(100 * progress), 100) - bar.n)
                if on_step is not None:
                    on_step(progress)

            return fitter.run(show)

    def __call__(
        self,
        prompt: str | None = None,
        video: torch.Tensor | None = None,
        cameras: Cameras | tuple[torch.Tensor, torch.Tensor] | None = None,
        depth: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,
        names: Mapping[int, str] | None = None,
        features: torch.Tensor | None = None,
        fps: float = 8.0,
        on_step: Callable[[float], None] | None = None,
        return_dict: bool = True,
        **settings: Any,
    ) -> Morpho4DOutput | tuple:
        """Makes a scene in time, and plays it from its first camera.

        Args:
            prompt: what happens, for `source`; or
            video: (V, T, 3, H, W) or, of one camera, (T, 3, H, W), in [0, 1], sRGB.
            cameras: `Cameras`, or (K, T_cw): (V, 3, 3) in pixels and (V, T, 4, 4), world to camera, OpenCV axes.
            depth: (V, T, H, W), metres along the optical axis, above 0, inf where there is nothing.
            masks: (V, T, H, W) int64, object ids, 0 = background.
            names: object id -> what it is called.
            features: optional (V, T, F, H, W), what a teacher says of each pixel.
            fps: frames a second.
            on_step: as in `fit`.
            settings: of `FitSettings`: `steps`, `seconds`, `static`, `dynamic`, `nodes`, `motion`, `seed` and more.

        Returns:
            `Morpho4DOutput`, or its tuple.

        Raises:
            ValueError: something is missing or does not fit; the message names it.
        """
        # 1. what there is
        self.check_inputs(prompt=prompt, video=video, cameras=cameras, depth=depth, masks=masks)
        FitSettings(**settings)
        # 2. a capture
        if prompt is not None:
            capture = self.source(prompt)
        else:
            given = {"video": video, "cameras": cameras, "depth": depth, "masks": masks, "features": features}
            capture = self.prepare_capture(**given, names=names, fps=fps)
        # 3. the fit
        scene, report = self.fit(capture, on_step, **settings)
        # 4. what it shows
        shown = scene.render(0)
        output = Morpho4DOutput(scene=scene, **vars(shown), report=report)
        return output if return_dict else output.to_tuple()

    def prepare_capture(
        self,
        video: torch.Tensor | None,
        cameras: Cameras | tuple[torch.Tensor, torch.Tensor] | None,
        depth: torch.Tensor | None,
        masks: torch.Tensor | None,
        names: Mapping[int, str] | None,
        features: torch.Tensor | None,
        fps: float,
    ) -> Capture:
        """A capture of what `__call__` was given, with the view of a single camera put in front."""
        single = isinstance(video, torch.Tensor) and video.dim() == 4

        def views(value: Any, sides: int) -> Any:
            return value[None] if single and isinstance(value, torch.Tensor) and value.dim() == sides else value

        if cameras is not None and not isinstance(cameras, Cameras):
            k, poses = cameras
            size = tuple(video.shape[-2:])
            cameras = Cameras(views(k, 2).float(), views(poses, 3).float(), size)
        return Capture(
            video=views(video, 4),
            cameras=cameras,
            depth=views(depth, 3),
            masks=views(masks, 3),
            names=dict(names or {}),
            fps=fps,
            features=views(features, 4),
        )
