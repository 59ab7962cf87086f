"""Endpoints, proved against a server on this machine that answers, refuses, fails and hangs."""

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from wm_pipelines.evaluation.mcq.endpoint import EndpointError, EndpointModel
from wm_pipelines.evaluation.mcq.runner import evaluate


def said(text, finish="stop", **more):
    return 200, {"choices": [{"message": {"content": text}, "finish_reason": finish, **more}]}


class Server:
    """Answers what `answer(body)` gives: (status, object or bytes or None to hang)."""

    def __init__(self):
        outer = self
        self.seen, self.headers, self.answer = [], [], lambda body: said("A")

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append(body)
                outer.headers.append((self.path, dict(self.headers)))
                status, data = outer.answer(body)
                if data is None:
                    time.sleep(1)
                    return
                data = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_response(status)
                if status in (301, 302, 307):
                    self.send_header("Location", "/elsewhere")
                if status == 429:
                    self.send_header("Retry-After", "7")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def model(server, waits, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return EndpointModel(server.url, "some-model", retries=2, timeout=0.3, sleep=waits.append)


def pictures(body):
    content = body["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))) for url in urls], content[-1]


def test_a_question_goes_out_with_its_frames_in_order(server, model, toy, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    item = toy.item_of(0, way="left")

    def sees(body):
        shown, text = pictures(body)
        options = dict(line.split(". ") for line in text["text"].split("\n") if line[1:3] == ". ")
        return said(f"The answer is: {toy.sees(np.stack(shown) if shown else None, '', options)}.")

    server.answer = sees
    found = evaluate([item], model, controls=("blind", "mirror"))
    assert {row.control: row.correct for row in found.rows}["mirror"] and found.rows[1].correct
    shown, text = pictures(server.seen[0])
    assert np.array_equal(np.stack(shown), item.video[[0, 1, 3, 4, 6, 7, 9, 11]]) and item.question in text["text"]
    body = server.seen[0]
    assert body["model"] == "some-model" and body["temperature"] == 0 and body["max_tokens"] == 16
    path, headers = server.headers[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret-key"
    assert "secret-key" not in json.dumps(server.seen) + json.dumps([row.to_dict() for row in found.rows])
    assert pictures(server.seen[1])[0] == []  # blind
    assert found.rows[0].model == f"some-model at {server.url}"


def test_no_key_no_header(server, model, toy):
    evaluate([toy.item_of(0)], model, controls=())
    assert "Authorization" not in server.headers[0][1]


@pytest.mark.parametrize("trouble", [(429, {}), (500, b"oops"), (503, {}), (200, None), (200, b"<html>"), (200, {})])
def test_trouble_is_asked_again_and_then_counts_as_not_answered(server, model, waits, toy, trouble):
    server.answer = lambda body: trouble
    found = evaluate([toy.item_of(0)], model, controls=())
    assert len(server.seen) == 3 and waits == ([7.0, 7.0] if trouble[0] == 429 else [1.0, 2.0])
    full = found.report["controls"]["full"]
    assert full["not_answered"] == 1 and full["n"] == 0 and full["score"] is None
    assert "1 not answered" in found.headline and "after 3 attempts" in found.rows[0].error
    server.answer = lambda body: said("B") if len(server.seen) > 4 else trouble
    assert evaluate([toy.item_of(0)], model, controls=()).rows[0].letter == "B"


def test_an_endpoint_that_is_not_there_answers_nothing(toy, waits):
    model = EndpointModel("http://127.0.0.1:9/v1", "m", retries=1, sleep=waits.append)
    assert evaluate([toy.item_of(0)], model, controls=()).rows[0].error and waits == [1.0]


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_refusal_ends_the_run(server, model, waits, toy, status):
    server.answer = lambda body: (status, {"error": {"message": "no such model"}})
    with pytest.raises(EndpointError, match=f"HTTP {status}"):
        evaluate([toy.item_of(0)], model, controls=())
    assert len(server.seen) == 1 and not waits  # nor is a redirection followed, which would take the key along


def test_replies_that_are_cut_off_are_told_apart(server, model, toy):
    server.answer = lambda body: said("First we look at", finish="length")
    found = evaluate([toy.item_of(0)], model, controls=(), protocol="cot")
    assert found.rows[0].truncated and found.report["controls"]["full"]["truncated"] == 1
    assert server.seen[0]["max_tokens"] == 1024


def test_log_likelihoods_come_from_the_first_token(server, model, toy):
    top = [("Yes", -0.1), (" C", -0.5), ("C", -2.0), ("A", -1.0), ("b", -9.0)]
    content = [{"top_logprobs": [{"token": token, "logprob": value} for token, value in top]}]
    server.answer = lambda body: said("Yes", logprobs={"content": content})
    row = evaluate([toy.item_of(0)], model, controls=(), protocol="loglik").rows[0]
    assert row.letter == "C" and row.probabilities[0] == pytest.approx(row.probabilities[2] * np.exp(-0.5), rel=1e-4)
    assert row.probabilities[1] == pytest.approx(row.probabilities[3])  # D is not among them
    assert server.seen[0]["logprobs"] is True
    server.answer = lambda body: said("Yes", logprobs={"content": [{"top_logprobs": []}]})
    assert "letters" in evaluate([toy.item_of(0)], model, controls=(), protocol="loglik").rows[0].error


def test_a_grid_is_one_picture(server, toy):
    model = EndpointModel(server.url, "m", layout="grid")
    evaluate([toy.item_of(0)], model, controls=(), num_frames=5)
    (sheet,), _ = pictures(server.seen[0])
    assert sheet.shape == (2 * 24 + 2, 3 * 24 + 4, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": "localhost:8000"}, "`url`"),
        ({"layout": "video"}, "`layout`"),
        ({"layout": "stack"}, "`layout`"),
        ({"retries": -1}, "`retries`"),
        ({"timeout": 0}, "`timeout`"),
        ({"temperature": -1}, "`temperature`"),
    ],
)
def test_bad_arguments(change, words):
    with pytest.raises(ValueError, match=words):
        EndpointModel(**{"url": "http://x/v1", "model": "m", **change})
