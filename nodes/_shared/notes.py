"""What the library warns of while a node runs goes where its user looks: into the node's report, and onto the node."""

import functools
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .wording import reworded

REPORT = "report"
"""The output that takes them too, by its id or its name."""

log = logging.getLogger("wm_pipelines.nodes")


def with_notes(node: type) -> type:
    """Have a node collect warnings: `execute` then shows them as `wm_notes` of its UI, a sentence each.

    Warnings of other packages, and those for developers, go on to wherever they went.
    """
    from comfy_api.latest import io

    execute = node.execute.__func__
    if hasattr(execute, "__wrapped__"):
        return node

    @functools.wraps(execute)
    def noting(cls: type, *args: Any, **kwargs: Any) -> Any:
        try:
            out, notes = noted(lambda: execute(cls, *args, **kwargs))
        except ValueError as error:
            if reworded(str(error)) != str(error):
                raise ValueError(reworded(str(error))) from error
            raise
        if not notes or not isinstance(out, io.NodeOutput):
            return out
        for note in notes:
            log.warning("%s: %s", node.__name__, note)
        shown = out.ui if isinstance(out.ui, dict) else out.ui.as_dict() if out.ui is not None else {}
        args = _reported(node, out.args, notes)
        more = {"expand": out.expand, "block_execution": out.block_execution}
        return io.NodeOutput(*args, ui={**shown, "wm_notes": notes}, **more)

    node.execute = classmethod(noting)
    return node


def noted(run: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What `run` returns, and what our library warned of meanwhile, each once."""
    import wm_pipelines

    ours = (str(Path(wm_pipelines.__file__).parent), str(Path(__file__).parents[1]))
    notes: dict[str, None] = {}

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning)
        show = warnings.showwarning

        def take(message: Any, category: type, *where: Any, **more: Any) -> None:
            # Who warned is known by the stack: a warning's own file is the one that `stacklevel` blames.
            frame = sys._getframe(1)
            while frame is not None and frame.f_globals.get("__name__") == "warnings":
                frame = frame.f_back
            if issubclass(category, UserWarning) and frame and frame.f_code.co_filename.startswith(ours):
                notes[reworded(str(message))] = None
            else:
                show(message, category, *where, **more)

        warnings.showwarning = take
        out = run()
    return out, list(notes)


def _reported(node: type, args: tuple, notes: list[str]) -> tuple:
    """The outputs, with the notes behind the report where it does not say them."""
    ids = [output.id or output.display_name for output in node.GET_SCHEMA().outputs]
    if REPORT not in ids or not isinstance(args[ids.index(REPORT)], str):
        return args
    index = ids.index(REPORT)
    new = [note for note in notes if note not in args[index]]
    return (*args[:index], "\n".join([args[index], *(f"note: {note}" for note in new)]), *args[index + 1 :])
