"""Smoke runs of ComCLIP's experiments at meaningless sizes, and the words that their verdicts are given in."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def run(script, tmp_path):
    """run(*arguments) runs the micro-experiment in `tmp_path`; run.rows() reads its results."""
    micro, out = script("comclip_micro"), tmp_path / "results.jsonl"

    def start(*arguments: str) -> int:
        places = [f"--work={tmp_path / 'work'}", f"--out={out}"]
        return micro.main(["--quick", "--seeds=1", "--draws=50", *places, *arguments])

    start.rows = lambda: micro.read(out)
    return start


def test_quick_run_ends_resumes_and_reports(run, capsys, tmp_path):
    assert run() == 0
    rows = {row["boxes"]: row for row in run.rows()}
    assert list(rows) == ["oracle", "noisy", "none"]
    said = capsys.readouterr().out
    assert "3 of 3 cells to run" in said and "beats global CLIP" in said
    assert 'missing="blank" becomes the default' in said
    assert (tmp_path / "results.png").exists() and (tmp_path / "results_verdicts.jsonl").exists()

    oracle, none = rows["oracle"]["right"], rows["none"]["right"]
    for foil in ("subject", "object", "verb", "swap"):
        assert set(oracle[foil]) == {"global", "released", "gclip", "equal", "blank", "late", "detector"}
        assert all(len(values) == 4 for values in oracle[foil].values())
        # without boxes every part of the released rule sees the whole picture: the plain decision, up to rounding
        assert none[foil]["released"] == none[foil]["equal"] == none[foil]["global"]
        assert none[foil]["detector"] == [0.5] * 4
    # exact boxes answer who is there, and say nothing of the relation
    assert oracle["subject"]["detector"] == oracle["swap"]["detector"] == [1.0] * 4
    assert oracle["verb"]["detector"] == [0.5] * 4
    assert rows["oracle"]["cost"]["subject"]["failures"] > 0

    assert run() == 0
    assert len(run.rows()) == 3 and "0 of 3 cells to run" in capsys.readouterr().out


def test_noise_leaves_out_a_fifth_and_moves_the_rest_a_little(script):
    micro, shapes = script("comclip_micro"), script("shapes")
    from wm_pipelines.runtime.random import keyed

    scenes = [shapes.counter_scene(keyed("noise", n)) for n in range(200)]
    exact = [micro.boxes_of(s, "oracle", micro.SIZES) for s in scenes]
    noisy = [micro.boxes_of(s, "noisy", micro.SIZES) for s in scenes]
    assert noisy == [micro.boxes_of(s, "noisy", micro.SIZES) for s in scenes]
    assert 0.15 < 1 - sum(map(len, noisy)) / sum(map(len, exact)) < 0.25
    for one, other in zip(exact, noisy, strict=True):
        for words, (box,) in other.items():
            (own,) = one[words]
            side = max(own[2] - own[0], own[3] - own[1]) + 1
            assert box != own and all(abs(a - b) <= 0.15 * side for a, b in zip(own, box, strict=True))
    assert all(micro.boxes_of(s, "none", micro.SIZES) == {} for s in scenes)


def test_every_caption_of_the_world_is_read_as_two_things_and_a_relation(script):
    shapes = script("shapes")
    from wm_pipelines.runtime.random import keyed
    from wm_pipelines.text.parser import parse

    for n in range(300):
        scene = shapes.training_scene(keyed("captions", n))
        parsed = parse(scene.caption)
        assert [e.text for e in parsed.entities] == [thing.words for thing in scene.things]
        assert [r.verb for r in parsed.relations] == [scene.relation] * (len(scene.things) - 1)


def test_verdicts_follow_the_intervals(script):
    foils = script("comclip_foils")

    def cell(seed, boxes, **accuracy):
        rng = np.random.default_rng(seed)
        fill = {rule: (rng.random(200) < accuracy.get(rule, 0.5)).astype(float).tolist() for rule in foils.NAMES}
        return {"kind": "cell", "seed": seed, "boxes": boxes, "right": {foil: fill for foil in foils.FOILS}}

    rows = [cell(s, b, blank=0.95, equal=0.2) for s in range(2) for b in ("oracle", "noisy")]
    judged = {row["claim"]: row for row in foils.verdicts(foils.Results(rows, 200), 2)}
    assert judged["blank beats global CLIP, oracle boxes"]["holds"] is True
    assert judged["equal beats global CLIP, noisy boxes"]["holds"] is False
    assert judged['missing="blank" becomes the default']["holds"] is True
    rows = [cell(s, b, blank=0.95, detector=1.0) for s in range(2) for b in ("oracle", "noisy")]
    judged = foils.verdicts(foils.Results(rows, 200), 2)
    assert judged[-1]["holds"] is False  # boxes alone do it better
    assert foils.verdicts(foils.Results(rows[:1], 50), 2)[-1]["holds"] is None


def test_quick_needs_its_own_places(script, capsys):
    with pytest.raises(SystemExit):
        script("comclip_micro").main(["--quick"])
    assert "--quick needs --work and --out" in capsys.readouterr().err


def test_diorama_figures_on_a_small_clip(script, tiny_clip, tmp_path, capsys):
    for part in tiny_clip.values():
        part.save_pretrained(tmp_path / "base")
    out = tmp_path / "rows.jsonl"
    assert script("comclip_diorama").main([f"--base={tmp_path / 'base'}", "--trials=3", f"--out={out}"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 28 and {row["foil"] for row in rows} == {"subject", "object", "verb", "swap"}
    swap = {row["rule"]: row["figure"]["value"] for row in rows if row["foil"] == "swap"}
    assert swap["detector"] == 100 and rows[1]["evaluation"][0]["n"] == 3
    verb = {row["rule"]: row["figure"]["value"] for row in rows if row["foil"] == "verb"}
    assert verb["detector"] == 50
