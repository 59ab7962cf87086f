"""Editors measured: what a copy gets, what the truth gets, judges that fail, runs that are killed, and the page."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from wm_pipelines import WorldModelPipeline
from wm_pipelines.aurora_bench import evaluate
from wm_pipelines.aurora_bench.editors import as_draw, copy_source, load_editor
from wm_pipelines.aurora_bench.items import EditItem
from wm_pipelines.aurora_bench.judge import EditJudge, calibrate, read_scores
from wm_pipelines.aurora_bench.pipeline import AuroraBenchPipeline
from wm_pipelines.aurora_bench.summary import compare, summarise
from wm_pipelines.config import WMConfig
from wm_pipelines.evaluation.mcq.endpoint import EndpointModel
from wm_pipelines.media.pictures import to_pil
from wm_pipelines.world_model.editing import EditorWorldModel
from wm_pipelines.world_model.editors import EDITORS, Capability, Editor


def make_items(count=6, steps=1, side=16, truth=True):
    """Pictures whose corner turns white, then the next one."""

    def reader(seed):
        states = [torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed)) * 0.8]
        for n in range(steps if truth else 0):
            after = states[-1].clone()
            after[:, 4 * n : 4 * n + 4, :6] = 1.0
            states.append(after)
        return states

    words = tuple(f"corner {n}" for n in range(steps))
    return [
        EditItem(f"{n}", ("left", "right")[n % 2], words, lambda n=n: reader(n), lambda n=n: reader(n)[0] * 0.5)
        for n in range(count)
    ]


def oracle(source, instruction, seed):
    n = int(instruction.split()[1])
    made = source.clone()
    made[:, 4 * n : 4 * n + 4, :6] = 1.0
    return made


def sloppy(source, instruction, seed):
    """Right, but for a third of the seeds it spoils all else."""
    return oracle(source, instruction, seed) if seed % 3 else torch.ones_like(source)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_truth_and_a_copy(steps):
    items = make_items(steps=steps)
    right, copy = (AuroraBenchPipeline(editor)(items) for editor in (oracle, copy_source))
    assert len(right.rows) == 6 * steps
    for task in ("left", "right", "all"):
        figures = right.summary[task]
        assert all(figures[name]["value"] == 1.0 for name in ("change", "preserve", "success", "shown", "nearer"))
        assert figures["l1"]["value"] == 0.0 and figures["l1"]["copy"] > 0 and figures["copied"]["value"] == 0.0
        assert figures["change"]["gain"]["value"] == figures["change"]["value"] - figures["change"]["copy"]
        none = copy.summary[task]
        assert none["success"]["value"] == 0.0 and none["copied"]["value"] == 1.0
        assert none["success"]["high"] < 1 and none["l1"]["value"] == none["l1"]["copy"]
        if steps == 1:
            assert none["change"]["value"] == 0.0 and none["preserve"]["value"] == 1.0
    first = [row for row in copy.rows if row["step"] == 0]
    assert all(row["measures"] == row["copy"] for row in copy.rows) and first[0]["measures"]["preserve"] == 1.0


def test_what_is_drawn_depends_on_the_item_alone():
    seen = {}

    def notes(source, instruction, seed):
        seen[float(source.sum()), instruction] = seed
        return source

    AuroraBenchPipeline(notes)(make_items(4, steps=2))
    before = dict(seen)
    AuroraBenchPipeline(notes)(make_items(4, steps=2)[2:])
    assert seen == before and len(set(seen.values())) == 8
    AuroraBenchPipeline(notes)(make_items(4, steps=2), seed=1)
    assert not set(seen.values()) & set(before.values())


def test_clip_and_dino_by_name(tmp_path):
    from transformers import Dinov2Config, Dinov2Model
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path / "dino")
    crop = {"height": 28, "width": 28}
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size=crop).save_pretrained(tmp_path / "dino")
    items = [EditItem("a", "t", ("a red cube",), make_items()[0].read)]
    bench = AuroraBenchPipeline.from_models(oracle_words, clip="diorama-clip", dino=str(tmp_path / "dino"))
    (row,) = bench(items).rows
    for name in ("clip_i", "dino"):
        assert row["measures"][name] == pytest.approx(1.0, abs=1e-5) and row["copy"][name] < 1 - 1e-4
    assert -1 <= row["measures"]["clip_t"] <= 1
    no_truth = [EditItem("a", "t", ("a red cube",), lambda: make_items()[0].states()[:1])]
    assert {"clip_i", "dino"} & bench(no_truth).rows[0]["measures"].keys() == set()
    with pytest.raises(ValueError, match="`clip` needs its model and its processors"):
        AuroraBenchPipeline(oracle, clip=bench.clip)


def oracle_words(source, instruction, seed):
    return oracle(source, "corner 0", seed)


def test_world_models_and_editors_are_asked_alike(token_models):
    world = WorldModelPipeline(**token_models.make_parts("plain"))
    source = token_models.pictures(1)[0]
    draw = as_draw(world)
    first, again, other = (draw(source, "move the red cube", seed) for seed in (1, 1, 2))
    assert first.shape == (3, 16, 16) and torch.equal(first, again) and not torch.equal(first, other)
    picked = as_draw(world, num_candidates=3, verifier="likelihood")(source, "move the red cube", 1)
    out = world(source, "move the red cube", num_candidates=3, verifier="likelihood", output_type="pt",
                generator=torch.Generator().manual_seed(1))  # fmt: skip
    assert torch.equal(picked, out.chosen()[0])

    class Fixed:
        def draw(self, source, action, seed, count):
            return torch.stack([source * 0 + n / 4 for n in range(count)])

    scorer = lambda source, candidates, action: candidates.mean((1, 2, 3))  # noqa: E731
    best = as_draw(EditorWorldModel(Fixed()), 3, scorer)(source, "move", 0)
    assert torch.allclose(best, torch.full_like(best, 0.5))

    class Grey:
        def __call__(self, prompt, image, generator=None, output_type="pil"):
            drawn = torch.rand(1, generator=generator)[:, None, None].expand(3, 16, 16)
            return SimpleNamespace(images=[to_pil(drawn)])

    several = EditorWorldModel(Editor(Grey(), Capability()))(
        source, "move", 4, scorer, torch.Generator().manual_seed(7), output_type="pt"
    )
    best = as_draw(Editor(Grey(), Capability()), 4, scorer)(source, "move", 7)
    assert torch.equal(best, several.images[0][int(several.scores[0].argmax())])
    for editor, options, message in (
        (3, {}, "`editor` is a int"), (oracle, {"num_candidates": 2}, "are for world models"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            as_draw(editor, **options)


def test_an_editor_that_draws_another_size():
    bench = AuroraBenchPipeline(lambda source, instruction, seed: source[:, :8])
    with pytest.raises(ValueError, match="`editor` drew 8x16 for a source of 16x16"):
        bench(make_items())
    with pytest.raises(ValueError, match="`items` is empty"):
        bench([])
    with pytest.raises(ValueError, match="`items` has '0' twice"):
        bench([*make_items(1), *make_items(1)])


def test_without_a_truth_nothing_is_claimed():
    out = AuroraBenchPipeline(oracle)(make_items(truth=False))
    assert "success" not in out.summary["all"] and "l1" not in out.summary["all"]
    assert 0 < out.summary["all"]["change"]["value"] < 0.2 and out.summary["all"]["change"]["copy"] == 0.0
    mixed = AuroraBenchPipeline(copy_source)([*make_items(2, truth=False), *make_items(6)[3:]])
    assert mixed.summary["all"]["l1"]["n"] == 3 and mixed.summary["all"]["copied"]["n"] == 5


def test_two_models_are_compared_on_the_same_items():
    items = make_items(12)
    good, bad = (AuroraBenchPipeline(editor)(items).rows for editor in (oracle, copy_source))
    found = compare(good, bad)
    assert found["all"]["mcnemar"] == {"only_first": 12, "only_second": 0, "p": pytest.approx(2 * 0.5**12)}
    assert found["all"]["difference"]["change"]["value"] == 1.0
    assert found["left"]["mcnemar"]["p_holm"] == pytest.approx(min(1, 2 * found["left"]["mcnemar"]["p"]))
    back = compare(bad, good)
    assert back["all"]["difference"]["change"]["value"] == -1.0
    same = compare(good, good)
    assert same["all"]["mcnemar"]["p"] == 1.0 and same["all"]["difference"]["l1"]["value"] == 0.0
    with pytest.raises(ValueError, match="not of the same items"):
        compare(good, bad[1:])


@pytest.fixture
def server():
    """`server(answer)`: an endpoint on this machine; `answer(body, n)` gives the text, or a status, of request n."""
    started = []

    def start(answer):
        calls = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                calls.append(body)
                found = answer(body, len(calls) - 1)
                status = found if isinstance(found, int) else 200
                data = json.dumps({"choices": [{"message": {"content": found}, "finish_reason": "stop"}]}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        started.append(web)
        return f"http://127.0.0.1:{web.server_port}/v1", calls

    yield start
    for web in started:
        web.shutdown()
        web.server_close()


def asked(url, **options):
    return EditJudge(EndpointModel(url, "seer", retries=0, timeout=5), **options)


def test_a_judge_is_asked_three_times_and_the_smaller_score_counts(server):
    said = ['{"success": 8, "minimal": 5}', 'Well. {"success": 4.5, "minimal": 9}', '```{"success":7,"minimal":7}```']
    url, calls = server(lambda body, n: said[n % 3])
    judge = asked(url)
    source, edited = make_items()[0].states()
    verdict = judge(source, edited, "corner 0")
    assert verdict.scores == ((8, 5), (4.5, 9), (7, 7)) and verdict.score == pytest.approx((5 + 4.5 + 7) / 3)
    content = calls[0]["messages"][0]["content"]
    assert [part["type"] for part in content].count("image_url") == 2 and "corner 0" in content[-1]["text"]
    assert [call["seed"] for call in calls] == [0, 1, 2]


def test_failures_and_nonsense_are_counted_and_never_scored(server):
    said = [500, "I like it", '{"success": 6, "minimal": 8}', '{"success": 11, "minimal": 8}', '{"success": true}',
            401, '{"success": 2, "minimal": 4}', "", '{"success": null, "minimal": 3}']  # fmt: skip
    url, _ = server(lambda body, n: said[n] if n < len(said) else 503)
    out = AuroraBenchPipeline(oracle)(make_items(4), judge=asked(url))
    judged = [row["judge"] for row in out.rows]
    assert [len(row["scores"]) for row in judged] == [1, 0, 1, 0]
    assert [len(row["failures"]) for row in judged] == [2, 3, 2, 3]
    found = out.summary["all"]["judge"]
    assert (found["value"], found["n"], found["unanswered"]) == (4.0, 2, 2), "the mean of 6 and 2, not of 6, 0, 2, 0"
    assert (found["failed"], found["runs"]) == (10, 12)
    silent, _ = server(lambda body, n: 503)
    nothing = AuroraBenchPipeline(oracle)(make_items(2), judge=asked(silent)).summary["all"]["judge"]
    assert nothing["value"] is None and nothing["unanswered"] == 2


@pytest.mark.parametrize("text", ["", "8", "{}", '{"success": 3}', '{"success": "3", "minimal": 4}', "[3, 4]",
                                  '{"success": -1, "minimal": 4}', '{"success": NaN, "minimal": 4}'])  # fmt: skip
def test_no_scores(text):
    with pytest.raises(ValueError, match="the judge gave"):
        read_scores(text)


class Seer:
    """Answers from the two pictures: a fair one sees what changed and where; a blind one says the same of all."""

    def __init__(self, fair):
        self.fair = fair

    def answer(self, request):
        from wm_pipelines.evaluation.mcq.models import Reply

        changed = abs(request.frames[0].astype(int) - request.frames[1]).max(-1) > 12
        inside, outside = changed[:4, :6].mean(), changed.sum() - changed[:4, :6].sum()
        success = round(10 * inside) if self.fair else 7
        return Reply(text=json.dumps({"success": success, "minimal": 9 if not outside or not self.fair else 1}))


def test_calibration_says_what_a_score_means():
    items = make_items(6)
    fair, blind = (calibrate(EditJudge(Seer(kind), runs=1), items) for kind in (True, False))
    assert fair["kinds"]["truth"]["value"] == 9 and fair["kinds"]["copy"]["value"] == 0
    assert fair["kinds"]["spoiled"]["value"] <= 1 and fair["kinds"]["other"]["value"] <= 1
    assert fair["right_above_wrong"] == 1.0 and fair["rank_correlation"] > 0.5
    assert blind["right_above_wrong"] == 0.5 and blind["rank_correlation"] is None
    assert (fair["asked"], fair["failed"]) == (24, 0) and fair["kinds"]["truth"]["n"] == 6
    with pytest.raises(ValueError, match="calibration needs two or more"):
        calibrate(EditJudge(Seer(True)), make_items(6, truth=False))
    for options, message in (({"runs": 0}, "`runs` is 0"), ({"prompt": "say"}, "has no {instruction}")):
        with pytest.raises(ValueError, match=message):
            EditJudge(Seer(True), **options)


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_and_leaves_the_same(tmp_path, monkeypatch):
    names = {"good": oracle, "sloppy": sloppy}
    drawn = []

    def loaded(name, *rest):
        def draw(source, instruction, seed):
            drawn.append(name)
            if len(drawn) == 9 and monkeypatch_active:
                raise Killed
            return names[name](source, instruction, seed)

        return draw

    monkeypatch.setattr(evaluate, "load_editor", loaded)
    items = make_items(6)
    monkeypatch_active = False
    whole = evaluate.evaluate(["good", "sloppy"], items, tmp_path / "whole")
    drawn.clear()
    monkeypatch_active = True
    with pytest.raises(Killed):
        evaluate.evaluate(["good", "sloppy"], items, tmp_path / "out")
    with open(tmp_path / "out" / "1" / "rows.jsonl", "a") as file:
        file.write('[{"item": "cut')
    monkeypatch_active = False
    again = evaluate.evaluate(["good", "sloppy"], items, tmp_path / "out")
    assert again == whole and len(drawn) == 6 + 3 + 4
    for name in ("report.json", "0/rows.jsonl", "1/rows.jsonl", "index.html"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    page = (tmp_path / "whole" / "index.html").read_text()
    assert "Worst and best of sloppy" in page and "after Holm" in page and page.count("data:image/png") >= 12
    worst = whole["shown"][1]["items"][0]
    assert worst["kind"] == "worst" and worst["row"]["measures"]["preserve"] < 0.5
    with pytest.raises(ValueError, match=r"another evaluation \(seed differ\)"):
        evaluate.evaluate(["good", "sloppy"], items, tmp_path / "out", seed=1)
    with pytest.raises(ValueError, match=r"another evaluation \(count, items differ\)"):
        evaluate.evaluate(["good", "sloppy"], items[1:], tmp_path / "out")
    for models in ([], ["good", "good"]):
        with pytest.raises(ValueError, match="`models` is"):
            evaluate.evaluate(models, items, tmp_path / "new")


def test_the_command_line(tmp_path, token_models, monkeypatch, server):
    from wm_pipelines.cli import app

    url, _ = server(lambda body, n: '{"success": 3, "minimal": 9}')
    world = WorldModelPipeline(**token_models.make_parts("plain"))
    world.wm_config = WMConfig(method="world-model", method_config={"tuning": "full"})
    world.save_pretrained(tmp_path / "world")
    rows = []
    for n, item in enumerate(make_items(3)):
        from wm_pipelines.media.pictures import save_image

        for name, picture in zip("ab", item.states(), strict=True):
            save_image(picture, tmp_path / f"{n}{name}.png")
        rows.append({"input": f"{n}a.png", "output": f"{n}b.png", "instruction": "move the red cube", "task": "ag"})
    (tmp_path / "test.json").write_text(json.dumps(rows))
    words = ["eval", "aurora", "--model", "copy", "--model", str(tmp_path / "world"), "--data",
             str(tmp_path / "test.json")]  # fmt: skip
    told = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out"), "--endpoint", url, "--judge", "seer"],
                              catch_exceptions=False)  # fmt: skip
    assert told.exit_code == 0 and "copy: change 0.000, preserve 1.000" in told.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["models"][0]["summary"]["ag"]["judge"]["value"] == 3.0 and report["calibration"]["asked"] == 12
    told = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "new"), "--judge", "seer"])
    assert "`--endpoint` and `--judge` go together" in str(told.exception) and not (tmp_path / "new").exists()


def test_editors_by_name(tmp_path, monkeypatch):
    assert load_editor("copy") is copy_source
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match="is a StableDiffusionPipeline; known are WorldModelPipeline"):
        load_editor(str(tmp_path))
    assert set(EDITORS) >= {"StableDiffusionInstructPix2PixPipeline", "FluxKontextPipeline"}


def test_summary_of_one_item_has_no_interval():
    figures = summarise(AuroraBenchPipeline(oracle)(make_items(1)).rows)["all"]
    assert figures["change"]["value"] == 1.0 and figures["change"]["low"] is None
