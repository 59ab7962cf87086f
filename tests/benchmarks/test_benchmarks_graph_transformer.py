"""The micro-experiment of the graph transformer: its world, a run that resumes, its verdict on made-up rows."""

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture
def micro(script):
    return script("graph_transformer")


@pytest.fixture
def world(script):
    return script("graph_world")


def test_text_and_picture_always_tell_the_answer(world):
    kinds = set()
    for n in range(120):
        scene = world.sample("test", n)
        facts = {(scene.said[a], scene.said[b]): scene.said[c] for a, b, c in scene.places}
        assert len(facts) == world.FACTS
        found = facts[scene.question[1], scene.question[2]]
        if scene.kind == "two hops":
            found = facts[found, scene.question[3]]
        found = dict(scene.things)[found] if scene.kind == "picture" else found
        assert found == scene.answer and (scene.question[0] == "colour") == (scene.kind == "picture")
        assert len(scene.things) == 9 and len(world.pieces_of(scene).ids) <= world.LONGEST
        kinds.add(scene.kind)
    assert kinds == set(world.KINDS)


def test_where_a_fact_ends_is_not_told_by_position(world):
    starts = {world.sample("test", n).places[2][0] for n in range(60)}
    assert len(starts) > 5


def test_graphs_are_those_that_their_names_say(world):
    scene = world.sample("test", 5)
    true, apart = world.true_graph(scene), world.true_graph(scene, across=False)
    questions = len(scene.question) - 1
    across = [edge for edge in true.edges if (edge[0] < questions) != (edge[1] < questions)]
    assert across and not [e for e in apart.edges if (e[0] < questions) != (e[1] < questions)]
    assert len(apart.edges) == len(true.edges) - len(across)
    for share in (0.0, 0.1, 0.3):
        moved = world.corrupted(true, share, "test", 5)
        changed = sum(a != b for a, b in zip(true.edges, moved.edges, strict=True))
        assert round(share * len(true.edges)) - 2 <= changed <= round(share * len(true.edges))
    data = {kind: world.make(6, kind, "test") for kind in (None, "true", "random")}
    assert torch.equal(data["true"].allowed.sum((1, 2)), data["random"].allowed.sum((1, 2)))
    assert not torch.equal(data["true"].allowed, data["random"].allowed)
    assert torch.equal(data[None].allowed, data[None].valid[:, None].expand_as(data[None].allowed))
    assert torch.equal(data["true"].pixels, data[None].pixels) and torch.equal(data["true"].ids, data[None].ids)
    assert 0 < world.edge_f1([world.sample("test", n) for n in range(5)]) < 1


def test_a_smoke_run_ends_resumes_and_reports(micro, tmp_path, capsys):
    out = tmp_path / "micro.jsonl"
    small = ["--quick", "--seeds=1", f"--work={tmp_path / 'work'}", f"--out={out}"]
    assert micro.main([*small, "--arms=a,d", "--scenes=24"]) == 0
    assert "2 of 2 cells to run" in capsys.readouterr().out
    assert micro.main([*small, "--arms=a,d,f,d-parser", "--scenes=24"]) == 0
    said = capsys.readouterr().out
    assert "2 of 4 cells to run" in said and "not enough cells" in said and "SDPA against the explicit" in said
    rows = micro.read(out)
    cells = {row["arm"]: row for row in rows if row["kind"] == "cell"}
    assert list(cells) == ["a", "d", "f", "d-parser"] and cells["a"]["cut_share"] == 0 < cells["d"]["cut_share"]
    assert cells["d"]["parameters"] - cells["a"]["parameters"] == 4 * (micro.LONGEST + micro.PICTURE) ** 2
    assert all(set(row["by_kind"]) == set(micro.KINDS) and row["curve"][-1][0] == 4 for row in cells.values())
    (equal,) = [row for row in rows if row["kind"] == "equality"]
    assert max(equal[name] for name in ("out", "q", "k", "v", "ghat")) < 1e-5
    (parser,) = [row for row in rows if row["kind"] == "parser"]
    assert parser["captions"]["unseen"] > 0.9 > parser["run_on"] > 0
    assert out.with_name("micro.png").exists() and out.with_name("micro_verdicts.jsonl").exists()
    with pytest.raises(SystemExit):
        micro.main(["--quick"])


def test_every_arm_has_the_size_that_was_fixed_before_the_run(micro):
    counts = {arm: 0 for arm in micro.ARMS}
    for arm in micro.ARMS:
        net = micro.RelationalNet(micro.SIZES) if arm == "f" else micro.Answerer(micro.SIZES, micro.ARMS[arm][2])
        counts[arm] = sum(p.numel() for p in net.parameters())
    assert all(0.95e5 <= count <= 2.5e5 for count in counts.values()), counts
    cells = micro.cells_of(list(micro.ARMS), micro.SIZES["scenes"], 5)
    assert len(cells) == 5 * (6 * 3 + 4) and micro.SIZES["scenes"] == [500, 2000, 8000]


def test_arms_of_a_seed_start_alike_and_see_the_same_order(micro):
    nets = []
    for arm in ("a", "d"):
        torch.manual_seed(3)
        nets.append(micro.Answerer(micro.QUICK, micro.ARMS[arm][2]).vilt.state_dict())
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    order = micro.reading_order(1, 10, 25)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10)) and len(order) == 25


@pytest.mark.parametrize(
    ("gains", "controls", "holds", "words"),
    [
        ((0.2, 0.2, 0.0), (0.1, 0.1, 0.0), True, "what the graph says"),
        ((0.2, 0.2, 0.2), (0.1, -0.1, -0.1), False, "regularisation, not what the graph says"),
        ((0.2, 0.0, 0.0), (0.1, 0.1, 0.1), False, "no gain"),
    ],
)
def test_the_verdict_is_by_the_thresholds_as_written(micro, gains, controls, holds, words):
    rows = []
    for count, gain, control in zip((500, 2000, 8000), gains, controls, strict=True):
        for seed in range(5):
            base, noise = 0.4, 0.01 * (seed - 2)
            for arm, value in (("a", base), ("d", base + gain + noise), ("e", base + gain - control)):
                rows.append({"kind": "cell", "arm": arm, "scenes": count, "seed": seed, "accuracy": value})
    judged, said = micro.judge(micro.Results(rows), 5)
    assert judged[0]["holds"] is holds and judged[0]["complete"] and said == words
    few = [row for row in rows if row["scenes"] == 500]
    missing = [micro.verdict(judged[0]["claim"], None, None, 5)]
    assert micro.judge(micro.Results(few), 5) == (missing, "not enough cells")
