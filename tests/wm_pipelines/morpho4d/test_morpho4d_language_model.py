"""A language model behind a loopback endpoint, in place of the grammar: the same JSON, validated the same way."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from wm_pipelines.evaluation.mcq.endpoint import EndpointError
from wm_pipelines.morpho4d.grammar import parse_instruction
from wm_pipelines.morpho4d.language_model import LanguageModelParser
from wm_pipelines.morpho4d.operations import as_json
from wm_pipelines.morpho4d.run import edit


@pytest.fixture
def server():
    """Replies what `replies` holds, one after the other, and the last one for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.asked.append(body["messages"][0]["content"][-1]["text"])
            replies = self.server.replies
            text = replies.pop(0) if len(replies) > 1 else replies[0]
            if isinstance(text, int):
                self.send_error(text)
                return
            data = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.replies = [], []
    made.url = f"http://127.0.0.1:{made.server_port}/v1"
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def parser(server):
    return LanguageModelParser(server.url, "some-model", retries=0, timeout=5)


COMMANDS = [
    "remove the red cube",
    "paint the blue sphere green",
    "move the sphere left by 0.3 m from frame 1 to frame 3",
    "slow the sphere down to half speed",
    "duplicate the cube to the right by 1 metre",
    "freeze everything at frame 2",
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("frame", ["{}", "```json\n{}\n```", "<think>[hmm]</think>\n{}", "Sure:\n```\n{}\n```\nDone."])
def test_the_same_json_makes_the_same_scene(scene, server, parser, command, frame):
    operations = [as_json(op) for op in parse_instruction(command, scene.fps)]
    server.replies[:] = [frame.replace("{}", json.dumps(operations))]
    edited, plain = scene.edit(command, parser=parser), scene.edit(command)
    assert edited.edits == plain.edits and edited.edits[0]["said"] == command
    for t in (0, 2):
        assert torch.equal(edited.at(t).means, plain.at(t).means)
    (asked,) = server.asked
    assert command in asked and "red cube, blue sphere" in asked and '"recolor"' in asked


BAD = [
    "I would rather not.",
    '[{"op": "explode", "target": {"query": "cube"}}]',
    '[{"op": "remove", "target": {"query": "cube"}, "lambda": "lambda x: x"}]',
    '[{"op": "scale", "target": {"query": "cube"}, "factor": NaN}]',
    '[{"op": "recolor", "target": {"query": "cube"}, "rgb": [2, 0, 0]}]',
    "__import__('os').system('true')",
    "[" * 100,
]


@pytest.mark.parametrize("bad", BAD)
def test_a_reply_that_is_not_valid_is_asked_for_again_and_then_refused(scene, server, parser, bad):
    good = '[{"op": "remove", "target": {"query": "cube"}}]'
    server.replies[:] = [bad, good]
    assert scene.edit("away with the cube", parser=parser).edits[0]["operation"]["op"] == "remove"
    assert "refused" in server.asked[1] and bad[:30] in server.asked[1]
    server.replies[:] = [bad]
    with pytest.raises(ValueError, match="no valid operations for 'away with the cube' in 3 replies"):
        scene.edit("away with the cube", parser=parser)


def test_what_a_model_says_is_about_nothing_is_an_error(scene, server, parser):
    server.replies[:] = ["[]"]
    with pytest.raises(ValueError, match="finds no operation in 'sing'"):
        scene.edit("sing", parser=parser)
    server.replies[:] = ['[{"op": "remove", "target": {"query": "cup"}}]']
    with pytest.raises(ValueError, match="query 'cup' matched 0 of 21 Gaussians.*known objects: red cube"):
        scene.edit("remove the cup", parser=parser)
    server.replies[:] = [500]
    with pytest.raises(ValueError, match="gave no answer"):
        scene.edit("remove the cube", parser=parser)
    server.replies[:] = [401]
    with pytest.raises(EndpointError, match="401"):
        scene.edit("remove the cube", parser=parser)


def test_bad_arguments_are_named_before_anything_is_asked(scene, parser, server, tmp_path):
    with pytest.raises(ValueError, match="`url` is 'ftp://x'"):
        LanguageModelParser("ftp://x", "m")
    with pytest.raises(ValueError, match="`tries` is -1"):
        LanguageModelParser("http://x", "m", tries=-1)
    with pytest.raises(ValueError, match="`instruction` is ' '"):
        scene.edit(" ", parser=parser)
    with pytest.raises(ValueError, match="go together"):
        edit(tmp_path, "remove the cube", tmp_path / "out", endpoint="http://x/v1")
    assert not server.asked


def test_wm_edit_takes_an_endpoint(scene, server, tmp_path):
    scene.save_pretrained(tmp_path / "scene")
    server.replies[:] = ['[{"op": "remove", "target": {"query": "cube"}}]']
    report = edit(tmp_path / "scene", "off with it", tmp_path / "out", endpoint=server.url, model="m")
    assert report["edits"][0]["operation"] == {"op": "remove", "target": {"query": "cube"}}
