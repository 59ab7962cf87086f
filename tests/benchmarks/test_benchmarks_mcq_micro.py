"""The micro-experiment on questions about videos: its data, blindness of its models, a run that resumes, verdicts."""

import json

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture
def world(script):
    return script("mcq_world")


@pytest.fixture
def arms(script):
    return script("mcq_arms")


@pytest.fixture
def micro(script):
    return script("mcq_micro")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("mcq")


@pytest.fixture
def data(world, kept):
    return world.make_main("test", 24, False, kept)


def test_the_data_say_what_the_questions_say(world, data):
    for n in range(len(data)):
        one = world.item("test", False, n)
        question = one.question
        assert [world.WORDS[w] for w in data.words[n] if w] == question.text.replace("?", "").split()
        assert data.answer[n] == question.answer and data.there[n].sum() == len(question.options)
        said = [" ".join(world.WORDS[w] for w in option if w) for option in data.options[n][data.there[n]]]
        assert said == list(question.options)
        for name in ("mirror", "reverse"):
            twin = question.twin(name)
            assert getattr(data, name)[n] == (-1 if twin is None else twin.answer)
        assert data.sideways[n] == (question.right in ("left", "right"))
    assert len(set(data.kind.tolist())) == 3 and data.sideways.any()
    again = world.make_main("test", 24, False)
    assert torch.equal(again.frames, data.frames) and torch.equal(again.state, data.state)


def test_biased_data_lean_to_the_first_answer(world):
    asked = {biased: [world.item("train", biased, n).question for n in range(40)] for biased in (False, True)}
    share = {b: np.mean([q.right == "left" for q in some if q.family == "translation"]) for b, some in asked.items()}
    assert share[True] > share[False] + 0.1
    for a, b in zip(*asked.values(), strict=True):
        assert a.family == b.family


def test_a_mirrored_state_is_the_state_of_the_mirrored_clip(world, arms):
    items = [world.item("test", False, n) for n in range(3)]
    data = world.to_data(items)
    other = torch.stack([world.state_of(one.mirrored()) for one in items])
    torch.testing.assert_close(arms.shown(data, "mirror").state, other, atol=1e-4, rtol=0)
    back = torch.stack([world.state_of(one.backwards()) for one in items])
    torch.testing.assert_close(arms.shown(data, "reverse").state, back, atol=1e-4, rtol=0)
    assert torch.equal(arms.shown(data, "reverse").frames, data.frames.flip(1))


def test_models_are_blind_to_what_their_names_say(world, arms, data):
    nets = {arm: arms.Net(arm, 16).eval() for arm in ("text", "bag", "temporal", "oracle")}
    with torch.no_grad():
        for arm, net in nets.items():
            full, blank, mixed = (net(arms.shown(data, c))[data.there] for c in ("full", "blank", "shuffle"))
            assert torch.equal(full, blank) == (arm == "text")
            assert torch.allclose(full, mixed, atol=1e-5) == (arm in ("text", "bag"))
    orders = arms.shown(data, "shuffle").frames
    assert not any(torch.equal(a, b) for a, b in zip(orders, data.frames, strict=True) if len(b.unique(dim=0)) > 2)


def test_circular_asks_every_order_and_wants_all_right(arms, data):
    class Reader(torch.nn.Module):
        def __init__(self, scores):
            super().__init__()
            self.scores = scores

        def forward(self, some):
            return self.scores(some).masked_fill(~some.there, -torch.inf)

    first = Reader(lambda some: torch.tensor([3.0, 2.0, 1.0, 0.0]).expand(len(some), 4))
    assert not arms.circular(first, data).any() and arms.answered(first, data).any()
    words = Reader(lambda some: some.options.float().mean(-1))  # depends on the words of an option alone
    assert (arms.circular(words, data) == arms.answered(words, data)).all()


def test_a_smoke_run_ends_resumes_and_reports(micro, kept, tmp_path, capsys):
    out = tmp_path / "micro.jsonl"
    small = ["--quick", "--seeds=1", "--draws=50", f"--work={kept}", f"--out={out}"]
    assert micro.main([*small, "--arms=text-biased,bag-balanced"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row.get("arm") or row["test"] for row in rows] == ["balanced", "biased", "text-biased", "bag-balanced"]
    assert rows[2]["accuracy"]["biased"]["full"] == rows[2]["accuracy"]["biased"]["blank"]
    assert "2 of 2 cells to run" in capsys.readouterr().out
    assert micro.main([*small, "--arms=text-biased,bag-balanced"]) == 0
    assert "0 of 2 cells to run" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        micro.main(["--quick", "--seeds=1"])


def made_up(micro, temporal, conflict_right):
    """Rows of five seeds in which the temporal model has given accuracies; the others as the claim wants them."""
    count = 400
    rng = np.random.default_rng(0)
    sideways = np.arange(count) % 2 == 0
    main = {"kind": "items", "test": "balanced", "kinds": ["translation"] * count, "sideways": micro.packed(sideways),
            "counter": micro.packed(np.zeros(count, bool)), "conflict": micro.packed(np.zeros(count, bool)),
            "chance": [0.25] * count}  # fmt: skip
    worlds = {**main, "test": "worlds", "counter": micro.packed(np.arange(count) % 2 == 1),
              "conflict": micro.packed(np.ones(count, bool))}  # fmt: skip
    rows = [main, worlds]

    def cell(arm, seed, test, **shares):
        right = {c: micro.packed(rng.random(count) < shares.get(c, shares["full"])) for c in micro.CONTROLS}
        if arm == "bag-balanced":
            right["shuffle"] = right["full"]
        if arm.startswith("text"):
            right["blank"] = right["full"]
        rows.append({"kind": "cell", "arm": arm, "seed": seed, "right": {test: right}})

    for seed in range(5):
        cell("text-balanced", seed, "balanced", full=0.4)
        cell("bag-balanced", seed, "balanced", full=0.6, mirror=0.1, reverse=0.1)
        cell("temporal-balanced", seed, "balanced", **temporal)
        cell("oracle-balanced", seed, "balanced", full=0.995)
        for arm, share in conflict_right.items():
            cell(arm, seed, "worlds", full=share)
    return rows


GOOD = {"full": 0.995, "shuffle": 0.5, "mirror": 0.995, "reverse": 0.995}


@pytest.mark.parametrize(
    ("temporal", "worlds", "holds"),
    [
        (GOOD, {"temporal-normal": 0.05, "temporal-both": 0.9}, (True, True)),
        (GOOD | {"reverse": 0.9}, {"temporal-normal": 0.05, "temporal-both": 0.1}, (False, False)),
        (GOOD | {"shuffle": 0.8}, {"temporal-normal": 0.25, "temporal-both": 0.9}, (False, False)),
        (GOOD, {}, (True, None)),
    ],
)
def test_verdicts_follow_the_figures(micro, temporal, worlds, holds):
    results = micro.Results(made_up(micro, temporal, worlds), 200)
    judged = (micro.judge_controls(results, 5), micro.judge_worlds(results, 5))
    assert tuple(row["holds"] for row in judged) == holds
    assert judged[0]["complete"]


def test_the_parts_of_a_score_add_up(micro):
    results = micro.Results(made_up(micro, GOOD, {"temporal-normal": 0.1}), 200)
    (main, reliance) = micro.decompositions(results)
    parts = [main[name]["value"] for name in ("F - B", "R - F", "1 - R")]
    blind = 100 * results.right("text-balanced", "balanced", "full", range(5)).mean()
    assert sum(parts) + blind == pytest.approx(100)
    assert reliance["arm"] == "temporal-normal" and abs(reliance["consistent - counter"]["value"]) < 10
