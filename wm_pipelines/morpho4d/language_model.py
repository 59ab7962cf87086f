"""Commands as operations by a language model, in place of the grammar (our design).

The model is asked for the JSON that the grammar gives, and what it replies is read as data and validated as that is;
nothing in a reply is ever run.
"""

import json
import re
from typing import TYPE_CHECKING, Any

from wm_pipelines.evaluation.mcq.endpoint import EndpointModel
from wm_pipelines.evaluation.mcq.models import Request
from wm_pipelines.morpho4d.operations import operations_schema, read_operations
from wm_pipelines.record import Record
from wm_pipelines.runtime.readers import parse_json

if TYPE_CHECKING:
    from wm_pipelines.morpho4d.scene import Scene4D

NEW_TOKENS = 2000
FRAME = """You turn one English command about a scene in time into edit operations.
Reply with JSON alone: a list of operations by the schema below, first to last, without comment.

Rules: a target is usually {{"query": words}}, with words of the objects' names; times are frames, of which there are \
{frames} at {fps:g} a second (0 to {last}); lengths are metres; colours are (red, green, blue) from 0 to 1.
For a command that the schema cannot say, reply with an empty list.

Objects: {objects}; background

Example: "paint the red cube blue, then remove the sphere" ->
[{{"op": "recolor", "target": {{"query": "red cube"}}, "rgb": [0.12, 0.26, 0.88]}}, \
{{"op": "remove", "target": {{"query": "sphere"}}}}]

Schema: {schema}

Command: {command}"""
AGAIN = """

Your last reply was refused: {complaint}
It was: {reply}
Reply with a valid list alone."""


class LanguageModelParser:
    """Asks any OpenAI-compatible endpoint.

    Args:
        url, model: as `EndpointModel` takes them.
        tries: how often a reply that is not valid is asked for again, with what is wrong with it.
        options: of `EndpointModel`: `key`, `retries`, `wait`, `timeout`, `temperature`.

    Raises:
        ValueError: an argument out of range.

    Example:
        ```py
        parser = LanguageModelParser("http://localhost:8000/v1", "Qwen2.5-7B-Instruct")
        edited = scene.edit("let the cube wander off to the left", parser=parser)
        ```
    """

    def __init__(self, url: str, model: str, tries: int = 2, **options: Any) -> None:
        if not isinstance(tries, int) or isinstance(tries, bool) or tries < 0:
            raise ValueError(f"`tries` is {tries!r}; a whole number, 0 or more")
        self.endpoint, self.tries = EndpointModel(url, model, **options), tries

    def __call__(self, command: str, scene: "Scene4D") -> list[Record]:
        """The operations that `command` asks for.

        Raises:
            ValueError: no words, no answer, no valid one in `tries + 1` replies, or the model says that the command
                is none.
            EndpointError: the endpoint refuses.
        """
        if not isinstance(command, str) or not command.strip():
            raise ValueError(f"`instruction` is {command!r}; an English command")
        asked = prompt = self._prompt(command.strip(), scene)
        complaint = ""
        for _ in range(self.tries + 1):
            reply = self.endpoint.answer(Request(prompt, command, {}, None, None, "direct", NEW_TOKENS))
            if reply.error is not None:
                raise ValueError(f"{self.endpoint.name} gave no answer: {reply.error}")
            try:
                data = _json_of(reply.text)
                if data == []:
                    raise LookupError
                return read_operations(data)
            except LookupError:
                raise ValueError(f"{self.endpoint.name} finds no operation in {command!r}") from None
            except ValueError as error:
                complaint = str(error)[:500]
                prompt = asked + AGAIN.format(complaint=complaint, reply=(reply.text or "")[:1000])
        raise ValueError(
            f"{self.endpoint.name} gave no valid operations for {command!r} in {self.tries + 1} replies; the last: "
            f"{complaint}"
        )

    @staticmethod
    def _prompt(command: str, scene: "Scene4D") -> str:
        return FRAME.format(
            frames=scene.frames,
            fps=scene.fps,
            last=scene.frames - 1,
            objects=", ".join(scene.names.values()) or "none",
            schema=json.dumps(operations_schema(), separators=(",", ":")),
            command=json.dumps(command, ensure_ascii=False),
        )


def _json_of(text: str) -> Any:
    """The JSON value of a reply, also from behind thinking and between the marks of a code block."""
    text = text.rpartition("</think>")[2].strip()
    block = re.search(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    return parse_json(block[1] if block else text)
