"""What drawn widgets ask the server: one route, so that nothing is parsed in the browser that Python parses too."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

MOST_BYTES = 1 << 20
"""Of a question: a trajectory of a hundred objects at a thousand keyframes."""

ANSWERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Name behind /wm_pipelines/ -> function from the JSON object that is asked to the one that is answered.

A node's module puts its own in. It raises a ValueError for what can't be read, and neither writes nor loads anything.
"""


def answer(name: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON object for a question; of bad ones, 400 and `error`."""
    from wm_pipelines.runtime.readers import decode_text, parse_json

    if name not in ANSWERS:
        return 404, {"error": f"there is no /wm_pipelines/{name:.100}"}
    try:
        asked = parse_json(decode_text(body))
        if not isinstance(asked, dict):
            raise ValueError(f"the question must be a JSON object, got {type(asked).__name__}")
        return 200, ANSWERS[name](asked)
    except ValueError as error:
        return 400, {"error": str(error)}


def register() -> None:
    """Add the route to ComfyUI's server; a script that only lists nodes has none."""
    server = sys.modules.get("server")
    running = getattr(getattr(server, "PromptServer", None), "instance", None)
    if running is None:
        return
    from aiohttp import web

    @running.routes.post("/wm_pipelines/{name}")
    async def ask(request: web.Request) -> web.Response:
        body = await request.content.read(MOST_BYTES + 1) if (request.content_length or 0) <= MOST_BYTES else None
        while body is not None and len(body) <= MOST_BYTES and not request.content.at_eof():
            body += await request.content.read(MOST_BYTES + 1 - len(body))
        if body is None or len(body) > MOST_BYTES:
            return web.json_response({"error": f"the question is larger than {MOST_BYTES >> 20} MiB"}, status=413)
        # In a thread: reading a long text must not hold up the server.
        status, found = await asyncio.to_thread(answer, request.match_info["name"], body)
        return web.json_response(found, status=status)


def text_of(asked: dict[str, Any], name: str, default: str | None = None) -> str:
    """A text of a question.

    Raises:
        ValueError: it is not there, or no text.
    """
    found = asked.get(name, default)
    if not isinstance(found, str):
        raise ValueError(f"`{name}` must be a text, got {type(found).__name__}")
    return found


def number_of(asked: dict[str, Any], name: str) -> int | float:
    """A number of a question.

    Raises:
        ValueError: it is not there, or no number.
    """
    found = asked.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError(f"`{name}` must be a number, got {type(found).__name__}")
    return found
