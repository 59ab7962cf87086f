"""The benchmark of the miniature world's models: its parts on known figures, and a whole run on random weights."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(script):
    return script("diorama_world")


def test_what_undoes_an_action_is_said_of_the_first_state(bench):
    from wm_pipelines.diorama.actions import apply
    from wm_pipelines.diorama.datasets import DioramaDataset

    data, said = DioramaDataset("pairs", "test", length=30), {}
    for n in range(30):
        chain = data.chain(n)
        said.setdefault(chain.actions[0].kind, []).append(bench.undoing(chain))
        assert said[chain.actions[0].kind][-1] != chain.phrases(0)[0]
        if chain.actions[0].kind in ("move", "turn"):
            back = bench.inverse(chain.actions[0], chain.states[0])
            assert apply(chain.states[1], back).to_json() == chain.states[0].to_json()
    assert all(said["move"]) and all(said["turn"]) and not any(said["swap"])


@pytest.mark.parametrize("seed", range(4))
def test_calibration_is_that_of_known_margins(bench, seed):
    rng = np.random.default_rng(seed)
    margins, right = rng.integers(-3, 4, 60).astype(float), rng.random(60) < 0.4
    found = bench.calibration(margins, right)
    above = [(a > b) + (a == b) / 2 for a in margins[right] for b in margins[~right]]
    assert found["right above wrong"] == pytest.approx(np.mean(above))
    assert found["accepted"] == (margins > 0).mean() and len(found["fifths"]) == 5
    assert found["right if accepted"] == pytest.approx(right[margins > 0].mean())
    perfect = bench.calibration(np.where(right, 1.0, -1.0), right)
    assert (perfect["right above wrong"], perfect["right if accepted"], perfect["right if not"]) == (1.0, 1.0, 0.0)
    nothing = bench.calibration(margins, np.zeros(60, bool))
    assert nothing["right above wrong"] is None and nothing["right if accepted"] == 0.0


def test_a_run_on_random_weights(bench, script, tmp_path, capsys):
    from wm_pipelines import DynamicsModelPipeline, WMConfig, WorldModelPipeline
    from wm_pipelines.config import EvaluationRecord

    base = script("annotation_loop").tiny_base(tmp_path / "base")
    names = []
    for method, kind in (("world-model", WorldModelPipeline), ("dynamics", DynamicsModelPipeline)):
        pipe = kind.from_pretrained(base)
        pipe.wm_config = WMConfig(method=method, method_config={"tuning": "full"})
        pipe.save_pretrained(tmp_path / method)
        names.append(str(tmp_path / method))
    bench.main(["--world", names[0], "--dynamics", names[1], "--pairs", "4", "--chains", "1", "--out", str(tmp_path)])
    assert "right above wrong" in capsys.readouterr().out
    worlds, words = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("diorama_world", "diorama_dynamics")
    )
    assert [row["set"] for row in worlds] == [row["set"] for row in words] == list(bench.SETS)
    for row in worlds + words:
        assert all(EvaluationRecord.model_validate(entry) for entry in row["evaluation"])
    first, held_out = worlds
    assert [row["step"] for row in first["rollouts"]] == [1, 2, 3, 4] and "rollouts" not in held_out
    tokens = first["cost"]
    assert tokens["eight at once"]["tokens"] == tokens["prompt"] + 8 * tokens["codes"] and tokens["codes"] == 64
    assert tokens["eight calls"]["tokens"] == 8 * (tokens["prompt"] + tokens["codes"])
    picks = first["picks"]
    assert {"another action", "no action", "source copied", "black", "true codes"} <= set(picks)
    assert picks["black"]["right"] == 0.0 and picks["oracle 1"] == {"right": picks["first 1"]["right"]}
    probed = {"another action", "inverse action", "copy", "random picture"}
    assert probed == set(first["probe"]) == set(words[0]["probe"])
