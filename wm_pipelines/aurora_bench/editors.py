"""What can be measured: world models, editors of diffusers, and any function that draws."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline

from wm_pipelines.media.pictures import to_tensor
from wm_pipelines.pipeline import AutoWMPipeline
from wm_pipelines.runtime.devices import on_accelerator
from wm_pipelines.world_model.editing import EditorWorldModel
from wm_pipelines.world_model.editors import Editor
from wm_pipelines.world_model.loading import load_drawing
from wm_pipelines.world_model.pipeline import WorldModelPipeline
from wm_pipelines.world_model.selection import check_verifier

Draw = Callable[[torch.Tensor, str, int], Any]
"""A source `(3, H, W)` in [0, 1], an instruction and a seed, to a picture of the source's size."""
COPY = "copy"


def copy_source(source: torch.Tensor, instruction: str, seed: int) -> torch.Tensor:
    """The editor that does nothing."""
    return source


def as_draw(editor: Any, num_candidates: int = 1, verifier: Any = None) -> Draw:
    """Any editor as a function that draws one picture.

    Args:
        editor: a `WorldModelPipeline`, an `EditorWorldModel`, an `Editor`, a pipeline of diffusers that `EDITORS`
            knows, or a `Draw`.
        num_candidates, verifier: several are drawn and the best is taken; not by a `Draw`.

    Raises:
        ValueError: none of these, or candidates for what can't rank them.
    """
    if isinstance(editor, DiffusionPipeline) and not isinstance(editor, WorldModelPipeline):
        editor = Editor(editor)
    if isinstance(editor, Editor) and (num_candidates != 1 or verifier is not None):
        check_verifier(verifier, None, rescore_pixels=True)
        editor = EditorWorldModel(editor)
    if isinstance(editor, WorldModelPipeline | EditorWorldModel):
        pixels = isinstance(editor, EditorWorldModel) and verifier is not None

        def draw(source: torch.Tensor, instruction: str, seed: int) -> torch.Tensor:
            out = editor(
                source,
                instruction,
                num_candidates=num_candidates,
                verifier=verifier,
                generator=torch.Generator().manual_seed(seed),
                rescore_pixels=pixels,
                output_type="pt",
            )
            return out.images[0][int(out.selected[0])]

        return draw
    if num_candidates != 1 or verifier is not None:
        raise ValueError("`num_candidates` and `verifier` are for world models; this function draws one picture")
    if isinstance(editor, Editor):
        return lambda source, instruction, seed: editor.draw(source, instruction, seed, 1)[0]
    if callable(editor):
        return editor
    raise ValueError(f"`editor` is a {type(editor).__name__}; it must be a world model, an editor or a function")


def drawn(draw: Draw, source: torch.Tensor, instruction: str, seed: int) -> torch.Tensor:
    """One picture, checked: `(3, H, W)` of the source's size.

    Raises:
        ValueError: another size, or no picture.
    """
    picture = to_tensor(draw(source, instruction, seed)).cpu()
    if picture.shape != source.shape:
        sizes = [f"{p.shape[1]}x{p.shape[2]}" for p in (picture, source)]
        raise ValueError(f"`editor` drew {sizes[0]} for a source of {sizes[1]}; it must keep the size, or give `side`")
    return picture


def load_editor(name: str, num_candidates: int = 1, verifier: str | None = None) -> Draw:
    """An editor by name: "copy", a world model's checkpoint, or a folder or Hub id of an editor of diffusers.

    Args:
        verifier: dynamics model that ranks the candidates, by name, or "likelihood" of a world model itself.

    Raises:
        ValueError: a name that leads nowhere, or a pipeline that is no editor.
    """
    if name == COPY:
        return copy_source
    judge = verifier
    if verifier not in (None, "likelihood"):
        judge = on_accelerator(AutoWMPipeline.from_pretrained(verifier))
    return as_draw(on_accelerator(load_drawing(name)), num_candidates, judge)
