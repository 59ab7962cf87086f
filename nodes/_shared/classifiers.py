"""What the nodes of the classifiers have in common: the CLIP to fit, and lines of a report."""

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from . import folders


def clip_input(tooltip: str) -> io.Combo.Input:
    """The choice of `base`: all CLIPs there are, diorama-clip first chosen."""
    bases = folders.list_clips(folders.model_roots())
    preferred = folders.EMBEDDED + "diorama-clip"
    return io.Combo.Input("base", options=bases, default=preferred if preferred in bases else None, tooltip=tooltip)


def clip_fingerprint(base: str) -> str:
    """Changes when the files of a CLIP do."""
    return repr(folders.fingerprint(folders.resolve_clip(base, folders.model_roots())))


def ranked_lines(probs: Any, names: Sequence[str]) -> str:
    """A line for each picture, from 1: all names with their probabilities `(B, C)`, the likeliest first."""
    lines = []
    for i, row in enumerate(probs.tolist()):
        ranked = sorted(zip(row, names, strict=True), reverse=True)
        lines.append(f"{i + 1}: " + ", ".join(f"{name} {p:.3f}" for p, name in ranked))
    return "\n".join(lines)
