"""KAdaptation's micro-experiments: smoke runs at meaningless sizes, and the verdicts on rows whose answer is known."""

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

SEEDS, PICTURES = 3, 90


def test_quick_run_ends_resumes_and_reports(script, tmp_path, capsys):
    micro, out = script("kadaptation_micro"), tmp_path / "rows.jsonl"

    def run(*arguments):
        small = ["--quick", "--seeds=1", "--draws=50", f"--work={tmp_path}", f"--out={out}"]
        return micro.main([*small, *arguments])

    assert run("--arms=probe,bias,ka,released,full") == 0
    rows = micro.read(out)
    # four arms are tuned on three seeds each: the released initialisation takes the rate of the biases
    assert [r["kind"] for r in rows] == ["base"] + 12 * ["tuning"] + 5 * ["cell"]
    cells = {r["arm"]: r for r in rows if r["kind"] == "cell"}
    assert [cells[arm]["trainable"] for arm in ("probe", "bias", "ka", "released")] == [0, 128, 1280, 1408]
    assert cells["released"]["rates"].keys() == cells["bias"]["rates"].keys()
    assert next(iter(cells["released"]["rates"].values()))["moved"] == 0
    assert next(iter(cells["ka"]["rates"].values()))["moved"] > 0
    said = capsys.readouterr().out
    assert "the released initialisation is bias tuning: HOLDS" in said
    assert "KA keeps up with LoRA of three times its parameters: not measured" in said
    assert (tmp_path / "rows.png").exists()

    assert run("--arms=probe,lora1") == 0
    assert len(micro.read(out)) == len(rows) + 4 and "4 of 8 cells to run" in capsys.readouterr().out
    other = rows[-1] | {"seed": 5, "settings": rows[-1]["settings"] | {"steps": 3}}
    micro.append(out, other)
    with pytest.raises(SystemExit):
        run()
    assert "rows of other settings (steps)" in capsys.readouterr().err


def test_quick_lid_ends_and_resumes(script, tmp_path, capsys):
    lid, out = script("kadaptation_lid"), tmp_path / "lid.jsonl"
    arguments = ["--quick", "--seeds=1", "--draws=50", f"--work={tmp_path}", f"--out={out}"]
    assert lid.main(arguments) == 0
    rows = lid.read(out)
    points = {(r["group"], r["dim"]) for r in rows if r["kind"] == "point"}
    assert {("", 0), ("", "full"), ("vision_model.encoder.layers.1.mlp", "full")} <= points
    assert "Pre-registered claim:" in capsys.readouterr().out and (tmp_path / "lid.png").exists()
    assert lid.main(arguments) == 0
    assert lid.read(out) == rows


def test_smallest_fit_time_has_every_figure(script, tmp_path, capsys):
    fit_time, out = script("kadaptation_fit_time"), tmp_path / "fit.jsonl"
    arguments = ["--tiny", "--classes=3", "--shots=2", "--repeats=2", "--threads=1", "--whole", f"--out={out}"]
    assert fit_time.main(arguments) == 0
    rows = script("records").read(out)
    found = {(r["figure"], r["arm"]): r for r in rows}
    assert len(found) == len(rows) == 9 and all(r.get("seconds", r.get("ratio")) > 0 for r in rows)
    # query and value of one layer of width 32: u and v of one entry a term and rank-one A, against a LoRA of rank 32
    trainable = {arm: found["training step", arm]["trainable"] for arm in fit_time.ARMS}
    assert trainable == {
        "KAdaptation": 2 * 32 * (32 + 32 + 1 + 1),
        "linear probe": 0,
        "LoRA of equal rank": 2 * 64 * 32,
    }
    step, fit = found["training step", "LoRA of equal rank"], found["default fit, extrapolated", "LoRA of equal rank"]
    assert fit["steps"] == 50  # six pictures are one batch
    assert fit["seconds"] == pytest.approx(fit["preparing_s"] + fit["once_s"] + 50 * step["seconds"])
    assert "KAdaptation" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        fit_time.main(["--classes=1"])


def test_the_towers_of_fit_time_are_one(script):
    """Every arm has its own adapter on the same frozen weights, which a step leaves alone."""
    fit_time = script("kadaptation_fit_time")
    pipeline = fit_time.make_pipeline(True, torch.device("cpu"))
    tower = pipeline.vision_model
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    arm = fit_time.Arm(tower, fit_time.ARMS["KAdaptation"](), 3)
    pictures, labels = fit_time.pictures_of(3, 2, 48)
    arm.seconds((pipeline.preprocess(pictures), torch.tensor(labels)))
    assert any(p.abs().max() > 0 for name, p in arm.tower.named_parameters() if "kronecker_u" in name)
    mine = {p.data_ptr() for p in tower.parameters()}
    assert mine <= {p.data_ptr() for p in arm.tower.parameters()} and not any(
        p.requires_grad for p in tower.parameters()
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in tower.state_dict().items())


def test_quick_needs_its_own_places(script, capsys):
    for name in ("kadaptation_micro", "kadaptation_lid"):
        with pytest.raises(SystemExit):
            script(name).main(["--quick"])
        assert "--quick needs --work and --out" in capsys.readouterr().err


def test_kept_base_is_the_one_that_its_record_speaks_of(script):
    world = script("kadaptation_world")
    base = world.Base(world.KEPT_BASE)
    assert base.record["accuracy"] >= 0.95 and base.record["steps"] >= 3000
    model = base.classifier(0, classes=24)
    model.head.load_state_dict(world.load_file(world.KEPT_BASE / "head.safetensors"))
    pictures, labels = world.named_objects("test", range(200))
    assert (world.predict(model, pictures) == labels).float().mean() > 0.9


def test_pictures_are_what_their_labels_say(script):
    world = script("kadaptation_world")
    pictures, labels = world.striped_counts("look", 18)
    assert torch.equal(pictures, world.striped_counts("look", 18)[0])
    assert not torch.equal(pictures, world.striped_counts("other", 18)[0])
    assert pictures.shape == (18, 3, 24, 24) and pictures.abs().max() <= 2
    assert labels.tolist() == 2 * list(range(9))
    # upright stripes (direction 0) vary along rows only: neighbours above and below are alike
    down, across = (pictures.diff(dim=d).abs().mean((1, 2, 3)) for d in (2, 3))
    assert (down < across)[labels % 3 == 0].all()
    assert (down > across)[labels % 3 != 0].all()


def test_every_arm_trains_what_it_says(script):
    arms, world = script("kadaptation_arms"), script("kadaptation_world")
    base, counts = world.Base(world.KEPT_BASE), {}
    for name, arm in arms.ARMS.items():
        with torch.random.fork_rng(devices=[]):
            model = base.classifier(0)
            arm.add(model)
        counts[name] = sum(p.numel() for p in model.vision_model.parameters() if p.requires_grad)
    assert counts == {
        "probe": 0, "bias": 512, "ka": 2048, "ka_dense": 2048, "lora1": 1024, "lora2": 2048, "lora4": 4096,
        "lora6": 6144, "lora8": 8192, "lokr": 2176, "released": 2560, "full": 205_696,
    }  # fmt: skip


def rows(accuracy, given=None):
    """Cells whose arms are right for the first pictures of every seed, as many as their accuracy says."""
    made = []
    counts = {"probe": 0, "bias": 512, "lora1": 1024, "lora2": 2048, "ka": 2048, "lora6": 6144, "lora8": 8192}
    for arm, share in accuracy.items():
        for seed in range(SEEDS):
            labels = np.arange(PICTURES) % 9
            wrong = (labels + 1) % 9
            answer = np.where(np.arange(PICTURES) < share * PICTURES, labels, wrong)
            found = {"train": 1.0, "given": "".join(map(str, answer)), "moved": 0.0}
            made.append(
                {"kind": "cell", "arm": arm, "seed": seed, "trainable": counts.get(arm, 10_000),
                 "rates": {"0.01": found | (given or {}).get(arm, {})}}
            )  # fmt: skip
    return made


GOOD = {
    "probe": 0.3, "bias": 0.3, "lora1": 0.4, "lora2": 0.5, "ka": 0.6, "lora6": 0.6, "lora8": 0.6, "full": 0.5,
    "released": 0.3,
}  # fmt: skip


def judged(script, change=None, given=None):
    module = script("kadaptation_verdicts")
    found = module.verdicts(module.Results(rows(GOOD | (change or {}), given), 100), SEEDS)
    return [v["holds"] for v in found]


def test_all_claims_hold_where_they_should(script):
    assert judged(script) == [True, True, True, True]


@pytest.mark.parametrize(
    ("change", "given", "falls"),
    [
        ({"probe": 0.6}, None, {0}),
        ({"full": 0.7}, None, {0}),
        ({"lora8": 0.7}, None, {1}),
        ({"lora2": 0.7}, None, {2}),
        ({"bias": 0.35}, None, {3}),
        ({}, {"released": {"moved": 1e-3}}, {3}),
    ],
)
def test_each_claim_can_fall(script, change, given, falls):
    assert {i for i, holds in enumerate(judged(script, change, given)) if not holds} == falls


def test_a_rate_is_the_best_of_the_tuning_seeds_and_ties_go_to_the_smaller(script):
    tuning = [
        {"kind": "tuning", "arm": "ka", "rates": {"0.01": {"val": a}, "0.003": {"val": b}, "0.03": {"val": c}}}
        for a, b, c in ((0.5, 0.3, 0.4), (0.3, 0.5, 0.3))
    ]  # fmt: skip
    assert script("kadaptation_verdicts").Results(tuning, 10).rate("ka") == 0.003


def lid_result(script, d90s):
    results = script("wm_pipelines.kadaptation.subspace.results")
    names = {"attention": [f"self_attn.{n}_proj" for n in ("q", "k", "v", "out")], "mlp": ["mlp.fc1", "mlp.fc2"]}
    groups = []
    for i, d90 in enumerate(d90s):
        layer, kind = f"vision_model.encoder.layers.{i // 2}", ("attention", "mlp")[i % 2]
        linears = [f"{layer}.{name}" for name in names[kind]]
        group = results.GroupDimension(f"{layer}.{kind}", 100, linears, 0.9, [0.4, 0.3, 0.5], d90, None, None, [])
        groups.append(group)
    return results.LIDResult(groups, 0.5, 0.9, "fastfood", 3, 10)


@pytest.mark.parametrize("d90s", [[1, 2, 3, 4], [1, 3, 2, 4], [8, 1, 9, None]])
def test_halves_cost_exactly_the_same(script, d90s):
    lid, world = script("kadaptation_lid"), script("kadaptation_world")
    halves, counts = lid.halves_of(lid_result(script, d90s)), {}
    for half, groups in halves.items():
        model = world.Base(world.KEPT_BASE).classifier(0)
        lid.inject_adapter_in_model(lid.config_of(groups), model.vision_model)
        adapted = [n for n, _ in model.vision_model.named_parameters() if n.endswith("kronecker_u.default")]
        assert len(adapted) == sum(len(g.linears) for g in groups)
        counts[half] = sum(p.numel() for p in model.vision_model.parameters() if p.requires_grad)
    assert counts["lowest"] == counts["highest"] == 2560 * len(halves["lowest"]) + 32
    assert not lid.halves_of(lid_result(script, [1, None, None, None]))


def test_lid_claim_is_judged_on_shared_seeds(script):
    lid, result = script("kadaptation_lid"), lid_result(script, [1, 2, 4, 3])
    made = [
        {"kind": "half", "half": half, "seed": s, "groups": [], "trainable": 5, "right": right}
        for half, right in (("lowest", "1110"), ("highest", "1101"))
        for s in range(3)
    ]
    *_, seen, verdict = lid.verdicts(made, result, 3, 50)
    assert verdict["complete"] and verdict["seeds"] == 3
    assert seen == {"kind": "observation", "layers": 2, "attention_below_mlp": 1}
    assert verdict["holds"] is False
    far = [r | {"right": "1111" if r["half"] == "lowest" else "0000"} for r in made]
    assert lid.verdicts(far, result, 3, 50)[-1]["holds"] is True
    assert lid.verdicts(made[:3], result, 3, 50)[-1]["holds"] is None
