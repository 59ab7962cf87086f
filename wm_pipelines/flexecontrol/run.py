"""FlexEControl from the command line: one prompt with its conditions, to pictures, maps, overlays and a report."""

import os
import re
from collections.abc import Sequence
from typing import Any

import torch

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME
from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.overlay import attention_overlays
from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline
from wm_pipelines.media.pictures import save_image
from wm_pipelines.pipeline import AutoWMPipeline
from wm_pipelines.runtime.claims import holding
from wm_pipelines.runtime.devices import on_accelerator
from wm_pipelines.runtime.readers import read_text
from wm_pipelines.runtime.reports import report_folder
from wm_pipelines.text.scene_graph import SceneGraph


def load(base: str | None = None, control: str = "flexecontrol", verify: bool = True) -> FlexEControlPipeline:
    """The pipeline of an adapter on its own base, or on another base that fits.

    Args:
        base, control: embedded name, folder or Hub id; without a base, the one that the adapter's record names.
            A given base need not be the recorded one (a fine-tuned one may serve), but it must have its shape.
        verify: compare files with their recorded hashes before any tensor is read, where there is a record.

    Raises:
        ValueError: a name that leads nowhere, altered or truncated files, or parts that don't fit.
    """
    if base is None:
        pipeline = AutoWMPipeline.from_pretrained(control, verify=verify)
        if not isinstance(pipeline, FlexEControlPipeline):
            raise ValueError(f"control {control!r} is a {type(pipeline).__name__}; name a FlexEControl checkpoint")
        return pipeline
    folders = hub.resolve(base), hub.resolve(control)
    for folder, name in zip(folders, ("model_index.json", "config.json"), strict=True):
        if not (folder / name).is_file():
            raise ValueError(f"{'base' if folder is folders[0] else 'control'} {folder} has no {name}")
        if verify and (folder / CONFIG_NAME).is_file():
            hub.verify(folder)
        hub.check_weights(folder)
    return FlexEControlPipeline.from_base(*folders)


def plain(value: Any) -> Any:
    """`value` as JSON can hold it."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return plain(vars(value)) if hasattr(value, "__dict__") else str(value)


@holding("out")
def run(
    prompt: str | None,
    conditions: Sequence[str | Condition] = (),
    out: str | os.PathLike = "outputs/flexecontrol",
    base: str | None = None,
    control: str = "flexecontrol",
    scene_graph: str | os.PathLike | None = None,
    seed: int = 0,
    images: int = 1,
    height: int | None = None,
    width: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Samples and writes `picture_*.png`, `condition_*.png` (the maps as used), `attention_*.png` and `report.json`.

    Runs on the accelerator if there is one; the noise comes from the CPU, so that a seed means the same everywhere.

    Args:
        prompt: the text; may be None with a scene graph.
        conditions: `Condition`s, or texts as `Condition.parse` reads them.
        scene_graph: a JSON file of `SceneGraph`.
        options: passed to `FlexEControlPipeline.__call__`.

    Returns:
        The report that was written.

    The files move to `out` together when all are written. Those of an earlier run stay unless they are overwritten.

    Raises:
        ValueError: before any sampling; nothing is written then.
    """
    for name, value, least in (("seed", seed, 0), ("images", images, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
            raise ValueError(f"{name}={value!r}; it must be an integer from {least} to 2**63 - 1")
    parsed = [c if isinstance(c, Condition) else Condition.parse(c) for c in conditions]
    graph = None
    if scene_graph is not None:
        try:
            graph = SceneGraph.from_json(read_text(scene_graph))
        except ValueError as error:
            raise ValueError(f"scene_graph {str(scene_graph)!r}: {error}") from None
    pipeline = load(base, control)
    on_accelerator(pipeline)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(images)]
    result = pipeline(
        prompt,
        conditions=parsed or None,
        scene_graph=graph,
        height=height,
        width=width,
        num_images_per_prompt=images,
        generator=generators,
        output_type="pt",
        **options,
    )
    report = {"seed": seed, **(result.report or {}), "conflicts": plain(result.conflicts or [])}
    pictures = result.images.float().cpu()
    with report_folder(out, plain(report)) as folder:
        for i, picture in enumerate(pictures):
            save_image(picture, folder / f"picture_{i}.png")
        for c in (c for c in result.prepared[0] if c.source != "graph"):
            save_image(c.image, folder / f"condition_{c.index}_{c.type}.png")
        if result.attention_maps:
            overlays, labels = attention_overlays(pictures, result.attention_maps)
            for overlay, label in zip(overlays, labels, strict=True):
                name = re.sub(r"[^\w@-]+", "_", label)
                save_image(overlay, folder / f"attention_{name}.png")
    return report
