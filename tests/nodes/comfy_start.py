"""How a script begins that runs inside a ComfyUI's Python, with COMFYUI_PATH set, and answers in JSON."""

import os
import sys
from typing import TextIO


def start() -> TextIO:
    """Make ComfyUI's code importable, on the CPU; returns the standard output, for the answer alone.

    Newer cores write lines of their log to standard output, some of them from compiled code, before and after ours.
    From here on they all go to standard error.
    """
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    sys.argv = sys.argv[:1]  # ComfyUI reads the command line too
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from comfy.cli_args import args

    args.cpu = True
    import comfy_api.latest  # noqa: F401  ComfyUI has it long before it loads a custom node

    return answer
