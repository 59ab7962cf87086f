"""Local intrinsic dimension on problems whose dimension is known, and everything around the measurement."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from wm_pipelines.kadaptation.subspace import dimension
from wm_pipelines.kadaptation.subspace.dimension import LocalIntrinsicDimension
from wm_pipelines.kadaptation.subspace.groups import block_groups
from wm_pipelines.kadaptation.subspace.results import CurvePoint, GroupDimension, LIDResult, isotonic


class Toy(nn.Module):
    """Three vectors of 32 parameters and a head."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 1)
        self.a, self.b, self.c = (nn.Parameter(torch.zeros(32)) for _ in range(3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self):
        return self.a, self.b


class Reach:
    """The task is to bring the first `k` entries of `a` to 1; of b only the first: intrinsic dimensions k and 1.

    Training is exact least squares in the subspace, so d >= k reaches the target and d < k does not. The score of
    sample i is 1 when half of the squared distance of its part is gone.
    """

    def __init__(self, k):
        self.k, self.trained, self.seeds = k, [], set()

    def train(self, model, head, body, seed):
        assert [p.requires_grad for p in head] == [True, True] and not head[0].grad
        model_ = getattr(model, "model", model)
        model_.calls += 1
        self.trained.append((len(body), body[0].numel() if len(body) == 1 else 0))
        self.seeds.add(seed)
        if not body:
            return
        if model is model_:
            with torch.no_grad():
                for p in body:
                    if p is model_.a:
                        p[: self.k] = 1
                    if p is model_.b:
                        p[0] = 1
            return
        name, z = model.names[0], model.z
        rows = slice(0, self.k if name == "a" else 1)
        jacobian = torch.stack([model.projection(e)[rows] for e in torch.eye(len(z))], 1).detach()
        with torch.no_grad():
            z.copy_(torch.linalg.lstsq(jacobian, torch.ones(len(jacobian), 1), driver="gelsd").solution[:, 0])

    def evaluate(self, model):
        a, b = model()
        scores = ((a[: self.k] - 1).abs() < 0.01).float().repeat(2).tolist()
        return scores + [float((b[0] - 1).abs() < 0.01)] * 2 * self.k


@pytest.mark.parametrize("projection", ["fastfood", "dense"])
def test_dimension_of_linear_problems_is_found(projection):
    model, task = Toy(), Reach(6)
    lid = LocalIntrinsicDimension(model, {"a": ["a"], "b": ["b"], "c": ["c"]}, projection)
    found = lid.measure(task.train, task.evaluate)
    assert (found["a"].d90, found["b"].d90) == (6, 1)
    # the ladder doubled to 8 and two bisection steps made 6 of it
    assert [p.dim for p in found["a"].curve] == [0, 1, 2, 4, 5, 6, 8]
    assert [p.dim for p in found["b"].curve] == [0, 1]
    assert found["c"].d90 is None and found["c"].reason == "its gain over the head alone is not above zero"
    assert (found.head, found.model, found["a"].full) == (0.0, 1.0, 0.5)
    # alone, neither group reaches the whole model
    assert found["a"].d90_of_model is None and found["a"].gain[1:] != found["c"].gain[1:]
    assert [g.name for g in found.ranked()] == ["b", "a"]
    assert task.seeds == {0, 1, 2} and found.seeds == 3 and found.samples == 24


def test_model_is_left_as_it_was():
    model, task = Toy(), Reach(2)
    model.a.requires_grad_(False)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    lid = LocalIntrinsicDimension(model, {"a": ["a"]}, seeds=1)

    def failing(model, head, body, seed):
        task.train(model, head, body, seed)
        if len(task.trained) == 4:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        lid.measure(failing, task.evaluate)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.a.requires_grad and model.b.requires_grad and model.training


def test_points_that_are_there_are_not_measured_again():
    points, task, again = {}, Reach(3), Reach(3)
    first = LocalIntrinsicDimension(Toy(), {"a": ["a"]}).measure(task.train, task.evaluate, points)
    del points["a", 4, 1]
    second = LocalIntrinsicDimension(Toy(), {"a": ["a"]}).measure(again.train, again.evaluate, points)
    assert first == second and len(again.trained) == 1 and len(task.trained) == len(points)
    assert {("", 0, 0), ("", "full", 2), ("a", "full", 1), ("a", 1, 0)} <= set(points)


def test_ladder_and_its_top():
    lid = LocalIntrinsicDimension(Toy(), {"a": ["a"]}, max_dim=12)
    assert lid.ladder("a") == [1, 2, 4, 8, 12]
    task = Reach(20)
    found = lid.measure(task.train, task.evaluate)
    assert found["a"].d90 is None and found["a"].reason == "not reached at 12 dimensions"
    assert LocalIntrinsicDimension(Toy(), {"a": ["a"]}).ladder("a") == [1, 2, 4, 8, 16, 32]


def test_curves_are_smoothed_before_they_are_read():
    assert isotonic([0.1, 0.5, 0.3, 0.6, 0.55, 0.5]) == pytest.approx([0.1, 0.4, 0.4, 0.55, 0.55, 0.55])
    assert isotonic([]) == [] and isotonic([3, 2, 1]) == [2, 2, 2]
    rng = np.random.default_rng(0)
    values = rng.normal(size=50).cumsum()
    smooth = isotonic(values)
    assert np.all(np.diff(smooth) >= 0) and np.isclose(np.sum(smooth), values.sum())
    # one lucky dimension whose neighbour above is bad does not count as enough
    curve = {d: np.array([v]) for d, v in {0: 0.1, 1: 0.9, 2: 0.3, 4: 0.8}.items()}
    assert dimension.first_dimension(curve, 0.75) == 4


def result(*groups):
    made = [
        GroupDimension(n, size, [f"{n}.fc"], 0.9, [0.4, 0.3, 0.5], d90, None, None, [CurvePoint(0, 0.5, 0.5, [0.5])])
        for n, size, d90 in groups
    ]
    return LIDResult(made, 0.5, 0.9, "fastfood", 3, 10)


def test_choice_is_by_d90_then_by_share_of_parameters():
    found = result(("a", 100, 8), ("b", 200, 8), ("c", 50, 2), ("d", 10, None))
    assert [g.name for g in found.ranked()] == ["c", "b", "a"]
    assert [g.name for g in found.select(k=2)] == ["c", "b"]
    assert [g.name for g in found.select(budget=250)] == ["c", "b"]
    assert [g.name for g in found.select(budget=249)] == ["c"]
    assert found.target_modules(k=2) == ["c.fc", "b.fc"]
    for options, said in [
        ({}, "k or budget"), ({"k": 1, "budget": 5}, "k or budget"), ({"k": 4}, "3 of 4 groups are ranked"),
        ({"k": 0}, "k=0"), ({"budget": 49}, "the lowest has 50 parameters"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=said):
            found.select(**options)
    with pytest.raises(ValueError, match="no group is ranked"):
        result(("a", 1, None)).select(budget=3)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_result_is_json_and_a_plot(tmp_path, suffix):
    task = Reach(3)
    found = LocalIntrinsicDimension(Toy(), {"a": ["a"], "c": ["c"]}, seeds=2).measure(task.train, task.evaluate)
    found.save(tmp_path / "lid.json")
    assert LIDResult.load(tmp_path / "lid.json") == found
    assert json.loads((tmp_path / "lid.json").read_text())["ranked"] == ["a"]
    found.plot(tmp_path / f"lid.{suffix}")
    assert (tmp_path / f"lid.{suffix}").read_bytes()[:5] in (b"<?xml", b"\x89PNG\r")
    assert "a: d90 3 of 32" in found.describe()[1] and "c: no d90" in found.describe()[2]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp, self.norm = nn.ModuleDict({"q": nn.Linear(8, 8)}), nn.Linear(8, 8), nn.LayerNorm(8)


def test_the_choice_feeds_a_kronecker_adapter():
    from peft import get_peft_model

    from wm_pipelines.adapters.kronecker import KroneckerConfig

    model = nn.ModuleDict({"layers": nn.ModuleList([Block(), Block()]), "head": nn.Linear(8, 2)})
    groups = block_groups(model)
    assert groups == {
        f"layers.{i}.{kind}": [f"layers.{i}.{leaf}"]
        for i in (0, 1) for kind, leaf in (("attention", "self_attn"), ("mlp", "mlp"))
    }  # fmt: skip
    found = LocalIntrinsicDimension(model, groups, seeds=1).measure(lambda *arguments: None, lambda model: [1.0, 0.0])
    order = ["layers.1.attention", "layers.0.mlp", "layers.0.attention", "layers.1.mlp"]
    made = [replace(found[name], d90=i + 1) for i, name in enumerate(order)]
    chosen = replace(found, groups=made).target_modules(k=2)
    assert chosen == ["layers.1.self_attn.q", "layers.0.mlp"]
    adapted = get_peft_model(model, KroneckerConfig(n=2, target_modules=chosen))
    layers = {n.split(".kronecker_u")[0] for n, _ in adapted.named_parameters() if "kronecker_u" in n}
    assert layers == {f"base_model.model.{name}" for name in chosen}


@pytest.mark.parametrize(
    ("groups", "options", "said"),
    [
        ({}, {}, "groups must be"),
        ({"": ["a"]}, {}, "names that are not empty"),
        ({"a": ["aa"]}, {}, r"groups\['a'\]: 'aa' has no parameters in this Toy; nearest names: a"),
        ({"a": "a"}, {}, "give a list"),
        ({"a": ["a"], "b": ["b", "a"]}, {}, "'a' is in both 'a' and 'b'"),
        ({"a": ["head.weight"]}, {}, "'head.weight' is in both 'head' and 'a'"),
        ({"a": ["a"]}, {"head": ["hat"]}, "head: 'hat' has no parameters"),
        ({"a": ["a"]}, {"projection": "haar"}, "projection='haar'"),
        ({"a": ["a"]}, {"seeds": 0}, "seeds=0"),
        ({"a": ["a"]}, {"max_dim": -1}, "max_dim=-1"),
    ],
)
def test_bad_arguments_are_refused(groups, options, said):
    with pytest.raises(ValueError, match=said):
        LocalIntrinsicDimension(Toy(), groups, **options)


def test_a_ladder_too_high_for_a_dense_projection_is_refused_at_once():
    model = nn.ModuleDict({"big": nn.Linear(200, 100), "head": nn.Linear(1, 1)})
    with pytest.raises(ValueError, match="use projection='fastfood'"):
        LocalIntrinsicDimension(model, {"big": ["big"]}, "dense")
    LocalIntrinsicDimension(model, {"big": ["big"]}, "dense", max_dim=64)


@pytest.mark.parametrize("scores", [[], [float("nan")]])
def test_bad_scores_are_refused(scores):
    with pytest.raises(ValueError, match="eval_fn must give finite scores"):
        LocalIntrinsicDimension(Toy(), {"a": ["a"]}, seeds=1).measure(lambda *a: None, lambda model: scores)


def test_blocks_without_usual_names_are_refused():
    with pytest.raises(ValueError, match="give the groups as"):
        block_groups(nn.Sequential(nn.Linear(2, 2)))
