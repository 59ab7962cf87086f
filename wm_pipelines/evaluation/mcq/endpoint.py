"""Any OpenAI-compatible endpoint as a model: vLLM, llama.cpp, a hosted one (our design, by that API's reference)."""

import base64
import http.client
import io
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from wm_pipelines.evaluation.mcq.frames import grid
from wm_pipelines.evaluation.mcq.items import Frames
from wm_pipelines.evaluation.mcq.models import Reply, Request, check_layout
from wm_pipelines.record import explain
from wm_pipelines.runtime.readers import decode_text, parse_json

MOST_BYTES = 2**24
"""Of an answer."""

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
"""States that may pass; any other one that is no success ends the run: the next question would fare no better."""


class EndpointError(OSError):
    """An endpoint that refuses what it is asked, whatever the question."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection is an error: the key is for the host that the user named."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


class EndpointModel:
    """Asks `URL/chat/completions`, the frames as pictures in the message, one by one in time order.

    A reply that does not come (a timeout, a broken connection, 429, 5xx) is asked for again, waiting twice as long
    each time and at least as long as the endpoint says, `retries` times; after that the question counts as not
    answered. The key is read from the environment and stands nowhere else.

    Args:
        url: such as "http://localhost:8000/v1". model: name of the model there.
        key: name of the environment variable that holds the key; without one in it none is sent.
        layout: "images", or "grid" for all frames on one picture.
        retries: how often again. wait: seconds before the first. timeout: seconds for a reply.
        temperature: 0 for the likeliest reply. sleep: what waits; for tests.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str = "OPENAI_API_KEY",
        layout: str = "images",
        retries: int = 5,
        wait: float = 1.0,
        timeout: float = 120.0,
        temperature: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ):
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise ValueError(f"`url` is {url!r}; it must begin with http:// or https://")
        check_layout(layout)
        if layout == "video":
            raise ValueError("`layout` is 'video'; an endpoint takes 'images' or 'grid'")
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise ValueError(f"`retries` is {retries!r}; it must be an integer of at least 0")
        for name, value in (("wait", wait), ("timeout", timeout), ("temperature", temperature)):
            if not 0 <= value < math.inf or name == "timeout" and not value:
                raise ValueError(f"`{name}` is {value!r}; it must be a number of at least 0")
        self.url, self.model, self.layout = url.rstrip("/"), model, layout
        self.key, self.retries, self.wait, self.timeout = key, retries, wait, timeout
        self.temperature, self.sleep = temperature, sleep
        self.name = f"{model} at {self.url}" + (f", {layout}" if layout != "images" else "")
        if temperature:
            self.name += f", temperature {temperature:g}"

    def check(self, protocol: str) -> None:
        """Every protocol: `loglik` reads the log-likelihoods of the first token, of which endpoints give up to 20."""

    def answer(self, request: Request) -> Reply:
        """The reply; with `error` where none came.

        Raises:
            EndpointError: the endpoint refuses, such as for a wrong key or a model that it has not.
        """
        body = self._body(request)
        problem = ""
        for attempt in range(self.retries + 1):
            try:
                return _reply(self.post(body), request)
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code}: {_said(error)}"
                if error.code not in RETRIED:
                    raise EndpointError(f"{self.url} refuses: {problem}") from None
                least = _seconds(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem, least = f"{type(error).__name__}: {error}", 0.0
            if attempt < self.retries:
                self.sleep(max(least, self.wait * 2**attempt))
        return Reply(error=f"no answer after {self.retries + 1} attempts; the last: {problem}"[:500])

    def _body(self, request: Request) -> bytes:
        frames = request.frames
        if frames is not None and self.layout == "grid":
            frames = grid(frames)
        pictures = [] if frames is None else [_picture(frame) for frame in frames]
        content = [*pictures, {"type": "text", "text": request.prompt}]
        said: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self.temperature,
            "max_tokens": max(1, request.new_tokens),
            "seed": request.seed,
        }
        if request.protocol == "loglik":
            said |= {"logprobs": True, "top_logprobs": 20}
        return json.dumps(said).encode()

    def post(self, body: bytes) -> Any:
        """What the endpoint answers to a request's JSON, read as JSON."""
        headers = {"Content-Type": "application/json"}
        if os.environ.get(self.key):
            headers["Authorization"] = f"Bearer {os.environ[self.key]}"
        request = urllib.request.Request(f"{self.url}/chat/completions", body, headers)
        with _OPENER.open(request, timeout=self.timeout) as answer:
            return decoded(answer.read(MOST_BYTES + 1))


def _picture(frame: Frames) -> dict[str, Any]:
    from wm_pipelines.media.pictures import to_pil

    data = io.BytesIO()
    to_pil(frame).save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


class _Message(BaseModel):
    content: str | None = None


class _Token(BaseModel):
    token: str
    logprob: FiniteFloat


class _Place(BaseModel):
    top_logprobs: list[_Token]


class _Logprobs(BaseModel):
    content: list[_Place] = Field(min_length=1)


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Answer(BaseModel):
    """Of an answer, what is read."""

    choices: list[_Choice] = Field(min_length=1)


def decoded(data: bytes) -> Any:
    """The JSON of an answer.

    Raises:
        ValueError: it has more than `MOST_BYTES`, or is none.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"the answer has more than {MOST_BYTES} bytes")
    return parse_json(decode_text(data))


def _reply(data: Any, request: Request) -> Reply:
    """ValueError, which is asked again, for an answer that is none."""
    try:
        choice = _Answer.model_validate(data).choices[0]
    except ValidationError as error:
        raise ValueError(f"the answer has no choice as this API has it ({explain(error)[:300]})") from None
    text = choice.message.content
    if request.protocol == "loglik":
        return Reply(text=text, scores=_scores(choice.logprobs, request.options))
    if text is None:
        raise ValueError("the answer has no text")
    return Reply(text=text, truncated=choice.finish_reason == "length")


def _scores(logprobs: _Logprobs | None, options: Mapping[str, str]) -> dict[str, float]:
    """Of each letter the largest log-likelihood among the first token's; a letter that is not named has the least."""
    if logprobs is None:
        raise ValueError("the answer has no log-likelihoods")
    listed = logprobs.content[0].top_logprobs
    found: dict[str, float] = {}
    for entry in listed:
        letter = entry.token.strip().strip("().:").upper()
        if letter in options:
            found[letter] = max(entry.logprob, found.get(letter, -math.inf))
    if not found:
        raise ValueError("none of the options' letters is among the likeliest first tokens")
    least = min(entry.logprob for entry in listed)
    return {letter: found.get(letter, least) for letter in options}


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return " ".join(error.read(300).decode("utf-8", "replace").split()) or error.reason
    except OSError:
        return error.reason


def _seconds(value: str | None) -> float:
    return float(value) if value and value.isdecimal() else 0.0
