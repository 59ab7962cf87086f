"""FlexEControl from the command line: one prompt with its conditions, to pictures, maps, overlays and a report."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME
from wm_pipelines.flexecontrol.condition import Condition, prepare
from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.overlay import attention_overlays
from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline
from wm_pipelines.media import atomic, save_image, to_pil
from wm_pipelines.pipeline import AutoWMPipeline
from wm_pipelines.scene_graph import SceneGraph


def load(base: str | None = None, control: str = "flexecontrol", verify: bool = True) -> FlexEControlPipeline:
    """The pipeline of an adapter on its own base, or on another base that fits.

    Args:
        base, control: embedded name, folder or Hub id; without a base, the one that the adapter's record names.
        verify: compare files with their recorded hashes before any tensor is read, where there is a record.
    """
    if base is None:
        return AutoWMPipeline.from_pretrained(control, verify=verify)
    folders = [hub.resolve(base), hub.resolve(control)]
    for folder in folders:
        if verify and (folder / CONFIG_NAME).is_file():
            hub.verify(folder)
    model = FlexEControlModel.from_pretrained(folders[1])
    return FlexEControlPipeline.from_pretrained(folders[0], control=model)


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


def write_json(path: str | os.PathLike, value: Any) -> None:
    with atomic(Path(path)) as partial:
        partial.write_text(json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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

    Args:
        prompt: the text; may be None with a scene graph.
        conditions: `Condition`s, or texts as `Condition.parse` reads them.
        scene_graph: a JSON file of `SceneGraph`.
        options: passed to `FlexEControlPipeline.__call__`.

    Returns:
        The report that was written.

    Raises:
        ValueError: before any sampling; nothing is written then.
    """
    parsed = [c if isinstance(c, Condition) else Condition.parse(c) for c in conditions]
    graph = None
    if scene_graph is not None:
        try:
            graph = SceneGraph.from_json(Path(scene_graph).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"scene_graph {str(scene_graph)!r} can't be read: {error}") from None
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed={seed!r}; it must be an integer of 0 or more")
    pipeline = load(base, control)
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
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = result.images.float().cpu()
    for i, picture in enumerate(pictures):
        save_image(to_pil(picture), folder / f"picture_{i}.png")
    size = tuple(pictures.shape[-2:])
    config = pipeline.control.config
    grounds = dict(zip(config.types, config.backgrounds, strict=True))
    for c in prepare(parsed, *size, pipeline.control.multiple, grounds):
        save_image(c.image, folder / f"condition_{c.index}_{c.type}.png")
    if result.attention_maps:
        overlays, labels = attention_overlays(pictures, result.attention_maps)
        for overlay, label in zip(overlays, labels, strict=True):
            name = "_".join(label.replace(":", "").split())
            save_image(overlay, folder / f"attention_{name}.png")
    report = {"seed": seed, **(result.report or {}), "conflicts": plain(result.conflicts or [])}
    write_json(folder / "report.json", report)
    return report
