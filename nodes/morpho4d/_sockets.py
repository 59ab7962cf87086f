"""Sockets of Morpho4D's nodes."""

from comfy_api.latest import io

Scene = io.Custom("WM_SCENE4D")
"""A `wm_pipelines.morpho4d.scene.Scene4D`."""

Splat = io.Custom("SPLAT")
"""ComfyUI's own `Types.SPLAT`, by its name, for an older ComfyUI has none."""
