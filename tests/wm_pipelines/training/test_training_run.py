"""One run: its maths against plain PyTorch, what it leaves, what it refuses."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from wm_pipelines.config import TrainingRecord
from wm_pipelines.training import KeyedNoise, load_state
from wm_pipelines.training.half import bf16_autocast
from wm_pipelines.training.trainer import Trainer


def run(wave, folder, **fields):
    recipe = wave.recipe(**fields)
    task = wave.WaveTask(recipe)
    return task, wave.train(task, recipe, folder)


def state_of(folder):
    (state,) = (folder / "state").glob("step-*")
    return state


def test_update_equals_plain_pytorch(wave):
    """Clipping, AdamW, schedule and averaging of six steps, against torch.nn.utils and an unfused optimiser."""
    recipe = wave.recipe(clip=0.5, weight_decay=0.1)
    ours, theirs = wave.WaveTask(recipe), wave.WaveTask(recipe)
    trainer = Trainer(ours, recipe, torch.device("cpu"))
    plain = [p for _, p in theirs.trainable()]
    groups = [
        {"params": [p for p in plain if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in plain if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, foreach=False, fused=False)
    averaged = [p.detach().clone() for p in plain]
    for step in range(6):
        noise = KeyedNoise(0, step)
        trainer.flat.zero_()
        torch.manual_seed(step)
        ours.loss([0, 1, 2, 3], step, noise)["loss"].backward()
        norm = trainer.update(step)
        optimizer.zero_grad(set_to_none=False)
        torch.manual_seed(step)
        theirs.loss([0, 1, 2, 3], step, noise)["loss"].backward()
        for p in plain:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(plain, 0.5))
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1, (step + 1) / 3)
        optimizer.step()
        decay = min(0.9, (1 + step) / (10 + step))
        averaged = [decay * old + (1 - decay) * new.detach() for old, new in zip(averaged, plain, strict=True)]
    torch.testing.assert_close(trainer.parameters, plain)
    torch.testing.assert_close(trainer.ema, averaged)


def test_memory_layout_changes_nothing(wave, tmp_path):
    """A channels_last network takes the same steps as a plain one, also after a resume."""

    class Pictures(wave.WaveTask):
        def __init__(self, recipe, layout):
            super().__init__(recipe)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                self.net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, (3, 2)))
            self.net.to(memory_format=layout)

        def loss(self, indices, step, noise):
            return {"loss": self.net(noise.randn(indices, (3, 6, 6), "x")).sub(0.5).square().mean()}

    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        for steps in (5, 20):
            recipe = wave.recipe(steps=steps, weight_decay=0.1, eps=1e-3)
            task = Pictures(recipe, layout)
            wave.train(task, recipe, tmp_path / str(layout))
        assert task.net[0].weight.is_contiguous(memory_format=layout)
        state = state_of(tmp_path / str(layout))
        found.append({kind: load_file(state / f"{kind}.safetensors") for kind in ("model", "ema")})
    for kind in ("model", "ema"):
        for name, tensor in found[0][kind].items():
            torch.testing.assert_close(found[1][kind][name], tensor, rtol=1e-3, atol=1e-5)


def test_a_parameter_that_is_not_dense_is_refused(wave, tmp_path):
    recipe = wave.recipe()
    task = wave.WaveTask(recipe)
    task.unused.weight = torch.nn.Parameter(torch.zeros(2, 4)[:, ::2])
    with pytest.raises(ValueError, match="'unused.weight' is not dense"):
        wave.train(task, recipe, tmp_path)


def test_folder_after_a_run(wave, tmp_path):
    task, record = run(wave, tmp_path / "run")
    folder = tmp_path / "run"
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    state = ["ema.safetensors", "model.safetensors", "optimizer.safetensors", "state.json"]
    expected = [".lock", "export/model.safetensors", "log.jsonl", "record.json"]
    assert left == expected + [f"state/step-00000012/{name}" for name in state]
    assert TrainingRecord(**json.loads((folder / "record.json").read_text())) == record
    assert (record.steps, record.seed, record.data) == (12, 0, "running sums of keyed noise")
    assert record.recipe["lr"] == 1e-2 and record.recipe["batch_size"] == 4
    assert record.versions["torch"] == torch.__version__ and record.wall_time_s > 0
    assert f"{torch.get_num_threads()} threads" in record.hardware and "1 process" in record.hardware
    assert [stage["event"] for stage in record.stages] == ["started"]
    assert 0 < record.stages[0]["trained_parameters"] <= record.stages[0]["all_parameters"]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[0]["lr"] == pytest.approx(1e-2 / 3) and lines[-1]["lr"] == 1e-2
    averaged = load_file(state_of(folder) / "ema.safetensors")
    exported = load_file(folder / "export" / "model.safetensors")
    assert all(torch.equal(tensor, averaged[f"net.{name}"].half()) for name, tensor in exported.items())
    trained = dict(task.net.named_parameters())
    assert any(not torch.equal(trained[name].half(), tensor) for name, tensor in exported.items())


def test_it_learns(wave, tmp_path):
    run(wave, tmp_path, steps=200, batch_size=32, log_every=20, save_every=200)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 10 and losses[-1] < 0.2 * losses[0]


def test_a_finished_run_is_left_as_it_is(wave, tmp_path):
    _, first = run(wave, tmp_path)
    before = (state_of(tmp_path) / "model.safetensors").stat().st_mtime_ns
    _, again = run(wave, tmp_path)
    assert again.stages == first.stages and again.wall_time_s == first.wall_time_s
    assert (state_of(tmp_path) / "model.safetensors").stat().st_mtime_ns == before


def test_wall_time_and_stages_add_up_over_resumes(wave, tmp_path):
    _, first = run(wave, tmp_path, steps=4)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        _, second = run(wave, tmp_path, steps=8)
    finally:
        torch.set_num_threads(threads)
    assert second.wall_time_s > first.wall_time_s
    assert [(stage["event"], stage["step"]) for stage in second.stages] == [("started", 0), ("resumed", 4)]
    assert second.stages[1]["note"] == f"{threads + 1} threads instead of {threads}: not bit-equal"


def test_changed_recipe_is_refused_and_nothing_is_touched(wave, tmp_path):
    run(wave, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for fields, message in (
        ({"lr": 0.02}, "'lr' changed: .* has 0.01, the recipe has 0.02"),
        ({"options": {"width": 8}}, "'options' changed"),
        ({"steps": 3}, "steps is 3, but the state .* is already at 12"),
        ({"schedule": "cosine"}, "'schedule' changed"),
    ):
        with pytest.raises(ValueError, match=message):
            run(wave, tmp_path, **fields)
    recipe = wave.recipe()
    with pytest.raises(ValueError, match="holds a run at step 12"):
        wave.train(wave.WaveTask(recipe), recipe, tmp_path, resume=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_another_network_is_refused(wave, tmp_path):
    run(wave, tmp_path)
    recipe = wave.recipe(steps=20)
    task = wave.WaveTask(recipe)
    task.net = torch.nn.Sequential(torch.nn.Linear(8, 8))
    with pytest.raises(ValueError, match="differ in what they train: 'net.3.bias'"):
        wave.train(task, recipe, tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json"])
def test_truncated_state_is_refused_by_name(wave, tmp_path, name):
    run(wave, tmp_path)
    path = state_of(tmp_path) / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"no state can be resumed: .*{name}"):
        run(wave, tmp_path, steps=20)


def test_flipped_bit_falls_back_to_the_previous_state(wave, tmp_path):
    run(wave, tmp_path / "one", steps=8)
    run(wave, tmp_path / "two", steps=4)
    older = state_of(tmp_path / "two")
    newest = older.with_name("step-00000008")
    state_of(tmp_path / "one").rename(newest)
    data = bytearray((newest / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "model.safetensors").write_bytes(data)
    with pytest.warns(UserWarning, match="model.safetensors is damaged.*going back to step 4"):
        _, record = run(wave, tmp_path / "two", steps=8)
    assert record.stages[-1]["step"] == 4
    assert (tmp_path / "two" / "export" / "model.safetensors").read_bytes() == (
        tmp_path / "one" / "export" / "model.safetensors"
    ).read_bytes()


def test_a_folder_in_use_is_refused(wave, tmp_path):
    recipe = wave.recipe()
    outer = wave.WaveTask(recipe)

    def intrude(step, line):
        with pytest.raises(ValueError, match="in use by another training process"):
            wave.train(wave.WaveTask(recipe), recipe, tmp_path)
        seen.append(step)

    seen = []
    wave.train(outer, recipe, tmp_path, on_log=intrude)
    assert seen == list(range(1, 13))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(wave, tmp_path, number):
    recipe = wave.recipe(save_every=100)
    handler = signal.getsignal(number)

    def send(step, line):
        if step == 5:
            os.kill(os.getpid(), number)

    with pytest.raises(SystemExit) as stopped:
        wave.train(wave.WaveTask(recipe), recipe, tmp_path / "a", on_log=send)
    assert stopped.value.code == 128 + number and signal.getsignal(number) == handler
    assert state_of(tmp_path / "a").name == "step-00000006"
    run(wave, tmp_path / "a", save_every=100)
    run(wave, tmp_path / "b", save_every=100)
    for name in ("model", "optimizer", "ema"):
        one, two = (state_of(tmp_path / side) / f"{name}.safetensors" for side in "ab")
        assert one.read_bytes() == two.read_bytes()


def test_loss_that_is_not_finite_stops_and_keeps_the_state(wave, tmp_path):
    class Exploding(wave.WaveTask):
        def loss(self, indices, step, noise):
            losses = super().loss(indices, step, noise)
            return {**losses, "loss": losses["loss"] * (float("inf") if step == 6 else 1)}

    recipe = wave.recipe(log_every=5)
    with pytest.raises(FloatingPointError, match="not finite at step 7; the last saved state is of step 4"):
        wave.train(Exploding(recipe), recipe, tmp_path)
    assert state_of(tmp_path).name == "step-00000004"


def test_start_from_exported_weights(wave, tmp_path):
    run(wave, tmp_path / "first")
    source = tmp_path / "first" / "export"
    task, record = run(wave, tmp_path / "second", steps=1, init_from=str(source), lr=1e-12)
    stage = record.stages[0]
    assert stage["event"] == "resumed from weights with fresh optimiser"
    assert stage["from"] == str(source) and stage["tensors"] == 4
    for name, tensor in load_file(source / "model.safetensors").items():
        torch.testing.assert_close(task.net.state_dict()[name], tensor.float())
    with pytest.raises(ValueError, match="cannot start from weights"):
        super(wave.WaveTask, task).load_weights("somewhere")


def test_look_at_a_run_in_the_middle(wave, tmp_path):
    run(wave, tmp_path, steps=5)
    recipe = wave.recipe(steps=50)
    for averaged, name in ((True, "ema"), (False, "model")):
        task = wave.WaveTask(recipe)
        assert load_state(task, recipe, tmp_path, averaged) == 5
        saved = load_file(state_of(tmp_path) / f"{name}.safetensors")
        assert torch.equal(task.net[0].weight, saved["net.0.weight"])
        assert task.net[0].weight.grad is None
    with pytest.raises(ValueError, match="holds no saved state"):
        load_state(wave.WaveTask(recipe), recipe, tmp_path / "none")


def test_what_a_task_may_not_do(wave, tmp_path):
    recipe = wave.recipe()

    class Twice(wave.WaveTask):
        def trainable(self):
            return super().trainable() * 2

    class Nothing(wave.WaveTask):
        def trainable(self):
            return []

    class Vector(wave.WaveTask):
        def loss(self, indices, step, noise):
            return {"loss": torch.zeros(3)}

    class Dropped(wave.WaveTask):
        def loss(self, indices, step, noise):
            self.net.zero_grad(set_to_none=True)
            return super().loss(indices, step, noise)

    half = wave.WaveTask(recipe)
    half.net.half()
    for task, error, message in (
        (Twice(recipe), ValueError, "lists a trainable parameter twice"),
        (Nothing(recipe), ValueError, "no trainable parameter"),
        (half, ValueError, "'net.0.weight' is torch.float16"),
        (Vector(recipe), ValueError, "scalar under 'loss'"),
        (Dropped(recipe), RuntimeError, "replaced or moved a parameter's .grad"),
    ):
        with pytest.raises(error, match=message):
            wave.train(task, recipe, tmp_path / type(task).__name__)


def test_global_generator_is_left_alone(wave, tmp_path):
    before = torch.get_rng_state()
    run(wave, tmp_path, steps=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_bf16_keeps_attention_in_fp32_on_a_cpu():
    linear, x = torch.nn.Linear(8, 8), torch.randn(1, 4, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    with bf16_autocast("cpu"):
        q = linear(x)
        out = attend(q, q, q)
    assert q.dtype == torch.bfloat16 and out.dtype == torch.float32
    assert torch.equal(out, attend(q.float(), q.float(), q.float()))
    assert attend(x.bfloat16(), x.bfloat16(), x.bfloat16()).dtype == torch.bfloat16


def test_tied_tensors_and_bf16(wave, tmp_path):
    class Tied(wave.WaveTask):
        def modules(self):
            return {**super().modules(), "again": self.net}

        def trainable(self):
            return [(name, p) for name, p in super().trainable() if name.startswith("net.")]

    recipe = wave.recipe(steps=4, precision="bf16")
    task = Tied(recipe)
    wave.train(task, recipe, tmp_path)
    recipe = recipe.model_copy(update={"steps": 6})
    wave.train(Tied(recipe), recipe, tmp_path)
    saved = load_file(state_of(tmp_path) / "model.safetensors")
    assert torch.equal(saved["net.0.weight"], saved["again.0.weight"])
    assert saved["net.0.weight"].dtype == torch.float32


def test_export_is_whole_or_absent(wave, tmp_path):
    class Failing(wave.WaveTask):
        def export(self, folder):
            save_file({"x": torch.zeros(1)}, folder / "half.safetensors")
            raise OSError("disk full")

    recipe = wave.recipe(steps=2)
    with pytest.raises(OSError, match="disk full"):
        wave.train(Failing(recipe), recipe, tmp_path)
    assert not (tmp_path / "export").exists()
    run(wave, tmp_path, steps=2)
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["model.safetensors"]
    assert not list(tmp_path.rglob("*.tmp"))
