"""Annotation end to end: unlabelled clips to triplets, by any executor, through kills, broken clips and full disks."""

import errno
import gc
import json
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch

from wm_pipelines import DynamicsModelPipeline, WorldModelPipeline
from wm_pipelines.config import WMConfig
from wm_pipelines.dynamics.annotation import annotate, frames, labels
from wm_pipelines.dynamics.annotation.annotate import plan_annotation, reduce_annotation, run_annotation
from wm_pipelines.dynamics.annotation.labels import COLUMNS, label_codes
from wm_pipelines.dynamics.annotation.triplets import read_triplets
from wm_pipelines.dynamics.data import Pair
from wm_pipelines.dynamics.labelling import word_chances
from wm_pipelines.media.video import iter_video, write_video
from wm_pipelines.runtime.shards import dead_letters, read_plan, read_rows, run_stage
from wm_pipelines.training import Recipe, build

pytestmark = pytest.mark.slow

pyarrow = pytest.importorskip("pyarrow")
SIDE, SEED = 32, 39  # by this seed some sentences of the random model end
SETTINGS = {"frames": 5, "spacing": 4, "max_ssim": 0.99, "max_new_tokens": 8, "shard_size": 2}
KEEP = 12


def clip(seed, length=24, still=False):
    """A square that jumps every fourth frame over a rough ground."""
    generator = torch.Generator().manual_seed(seed)
    ground = torch.rand(3, SIDE, SIDE, generator=generator)
    places = torch.randint(0, SIDE - 12, (length, 2), generator=generator)
    made = []
    for n in range(length):
        picture = ground.clone()
        x, y = places[0 if still else n // 4 * 4].tolist()
        picture[:, y : y + 12, x : x + 12] = torch.tensor([1.0, 0.1, 0.1])[:, None, None]
        made.append(picture)
    return made


def save_model(token_models, folder, seed=SEED):
    pipeline = DynamicsModelPipeline(**token_models.make_parts("plain", seed=seed))
    pipeline.wm_config = WMConfig(method="dynamics", method_config={"tuning": "full"})
    pipeline.save_pretrained(folder)


@pytest.fixture(scope="module")
def model(token_models, tmp_path_factory):
    """A model with random weights some of whose sentences end."""
    folder = tmp_path_factory.mktemp("model") / "dynamics"
    save_model(token_models, folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six clips of two classes, one with black edges, one in which nothing moves, and one that is cut short."""
    root = tmp_path_factory.mktemp("videos")
    for n in range(6):
        path = root / ("ab"[n % 2]) / f"{n}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(clip(n), path, fps=8)
    bordered = [torch.nn.functional.pad(p, (8, 8, 0, 0))[:, :, 8:-8] for p in clip(7)]
    for picture in bordered:
        picture[:, :10] = 0
    write_video(bordered, root / "a" / "bordered.mp4", fps=8)
    write_video(clip(8, still=True), root / "still.mkv", fps=8)
    whole = (root / "a" / "0.mp4").read_bytes()
    (root / "b" / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (root / "notes.txt").write_text("no video")
    return root


def planned(videos, out, model, **changes):
    return plan_annotation(videos, out, model=str(model), licence="CC0", **{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def done(videos, model, tmp_path_factory):
    """What one process makes of all."""
    out = tmp_path_factory.mktemp("done") / "out"
    planned(videos, out, model)
    run_annotation(out)
    reduce_annotation(out, KEEP)
    return out


def contents(folder):
    """Every file of a run with its bytes, leases and what is on the way left out."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_of(out, step):
    return [r for p in sorted((out / step / "shards").glob("*/rows.parquet")) for r in read_rows(p)]


def test_triplets_carry_where_they_are_from(done, videos, model, token_models):
    pairs = rows_of(done, "labels")
    good = [row for row in pairs if not row["dropped"]]
    assert len(good) >= 4 and {row["class"] for row in good} == {"a", "b"}
    pipeline = DynamicsModelPipeline(**token_models.make_parts("plain", seed=SEED))
    layout = json.loads((done / "annotation.json").read_text())["labels"]
    for row in good:
        assert row["id"] == f"{row['video']}:{row['source_frame']}-{row['target_frame']}" and row["licence"] == "CC0"
        assert row["class"] == row["video"].split("/")[0] and row["model"] == str(model)
        assert row["weights"] == labels.weights_hash(pipeline) and row["prompt"] == layout["prompt"]
        assert row["target_frame"] - row["source_frame"] >= SETTINGS["spacing"] and row["flow"] > 0
        seen = [f.pixels for f in iter_video(videos / row["video"])]
        both = torch.stack([seen[row["source_frame"]], seen[row["target_frame"]]]).float() / 255
        both = pipeline.fitted(list(both), "pad", "source")
        codes = pipeline.encode(both)
        assert codes.flatten(1).tolist() == [row["source_codes"], row["target_codes"]]
        features = pipeline.backend.pictures.features(both)
        wanted = (features[0] - features[1]).square().sum(-1).flatten()
        assert torch.allclose(torch.tensor(row["distances"]), wanted, atol=1e-4)
        score = pipeline.score(both[:1], both[1:], row["action"])
        copy = pipeline.score(both[:1], both[:1], row["action"])
        assert row["score"] == pytest.approx(float(score[0]), abs=1e-4)
        assert row["score"] == pytest.approx(sum(row["token_logprobs"]) / len(row["token_logprobs"]), abs=1e-6)
        assert row["copy_margin"] == pytest.approx(float(score[0] - copy[0]), abs=2e-4)
    assert all(row["action"] is None for row in pairs if row["dropped"] in ("black border", "no change"))


def test_what_is_dropped_says_why(done):
    dropped = {(row["video"], row["dropped"]) for row in rows_of(done, "labels")}
    assert ("a/bordered.mp4", "black border") in dropped
    assert {why for video, why in dropped if video == "still.mkv"} <= {"no change", "same hash"}
    assert any(why.startswith("no end within 8") for _, why in dropped)
    manifest = json.loads((done / "triplets" / "triplets.json").read_text())
    assert sum(manifest["dropped"].values()) + manifest["rows"] <= len(rows_of(done, "labels"))
    assert manifest["dropped"]["black border"] >= 1 and manifest["licence"] == "CC0"


def test_a_broken_clip_is_a_dead_letter_and_the_rest_goes_on(done, videos):
    (letter,) = dead_letters(read_plan(done / "frames", videos))
    assert letter["key"] == "b/cut.mp4" and "cut.mp4" in letter["reason"]
    assert {"b/1.mp4", "b/3.mp4", "b/5.mp4"} <= {row["video"] for row in rows_of(done, "frames")}


def test_a_clip_too_long_to_be_held_gives_the_same_rows(videos, monkeypatch):
    config = {**annotate.FRAMES, "size": [16, 16], "pad_colour": [1, 2, 3], "frames": 5, "spacing": 4}
    held = list(frames.frames_of("a/0.mp4", videos / "a" / "0.mp4", config))
    monkeypatch.setattr(frames, "HELD_BYTES", 5 * 3 * SIDE * SIDE)
    monkeypatch.setattr(frames, "CHUNK", 5)
    assert list(frames.frames_of("a/0.mp4", videos / "a" / "0.mp4", config)) == held
    assert [row["frame"] % 4 for row in held[1:]] == [0] * 4, "the square jumps into every fourth frame"


def test_no_pair_across_a_cut(tmp_path):
    """Two shots one after the other: flow is largest at the cut, and no key frame and no pair comes of that."""
    shots = [clip(n, length=12) for n in (21, 22)]
    write_video([p for shot in shots for p in shot], tmp_path / "cut.mp4", fps=8)
    config = {**annotate.FRAMES, "size": [16, 16], "pad_colour": [1, 2, 3], "spacing": 4, "max_ssim": 1.01}
    rows = list(frames.frames_of("cut.mp4", tmp_path / "cut.mp4", config))
    assert frames.watch(tmp_path / "cut.mp4", 256, 0.35).cuts == [12]
    first = next(n for n, row in enumerate(rows) if row["frame"] >= 12)
    assert first and [n for n, row in enumerate(rows) if row["dropped"] == "scene cut"] == [first]
    assert all(row["flow"] == 0 for row in rows if row["frame"] == 12)
    whole = list(frames.frames_of("cut.mp4", tmp_path / "cut.mp4", {**config, "cut_ssim": 0}))
    assert 12 in [row["frame"] for row in whole] and not any(row["dropped"] == "scene cut" for row in whole)


FORKS = pytest.mark.skipif(
    "WM_TEST_FORKS" not in os.environ, reason="run by test_what_forks_is_tested_where_no_threads_are"
)


def test_what_forks_is_tested_where_no_threads_are():
    """Threads and locks of earlier tests would be missing in the children of this process."""
    told = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "two_ranks or killed",
            "-m", "slow",
        ],
        env={**os.environ, "WM_TEST_FORKS": "1", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert told.returncode == 0 and " passed" in told.stdout, told.stdout[-3000:]


def fork(work):
    """A child that runs `work`, to be waited for with `ended`. A new process would import for longer than it works."""
    child = os.fork()
    if child:
        return child
    try:
        gc.disable()  # what the threads of earlier tests held can't be freed without them
        torch.set_num_threads(1)  # the parent's threads are not there
        work()
        os._exit(0)
    except BaseException as error:  # a fork must never return into the parent's code
        print(repr(error), file=sys.stderr)
    finally:
        os._exit(1)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def rank(out, number, ranks=2):
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(ranks)}
    run_annotation(out, "ranks")


@FORKS
def test_two_ranks_leave_the_bytes_of_one(done, videos, model, tmp_path):
    planned(videos, tmp_path / "out", model)
    children = [fork(partial(rank, tmp_path / "out", number)) for number in range(2)]
    assert [ended(child) for child in children] == [0, 0]
    reduce_annotation(tmp_path / "out", KEEP)
    assert contents(tmp_path / "out") == contents(done)


def test_a_process_of_its_own_leaves_the_same_bytes(done, videos, model, tmp_path):
    planned(videos, tmp_path / "out", model)
    run_stage(read_plan(tmp_path / "out" / "frames", videos), frames.key_frames)
    run_annotation(tmp_path / "out", "processes")  # starts one for the labels alone
    reduce_annotation(tmp_path / "out", KEEP)
    assert contents(tmp_path / "out") == contents(done)


def test_an_actor_of_ray_leaves_the_same_bytes(done, videos, model, tmp_path):
    pytest.importorskip("ray")
    planned(videos, tmp_path / "out", model)
    run_stage(read_plan(tmp_path / "out" / "frames", videos), frames.key_frames)  # actors for the labels alone
    told = []
    run_annotation(tmp_path / "out", "ray", on_shard=lambda *row: told.append(row))
    reduce_annotation(tmp_path / "out", KEEP)
    assert contents(tmp_path / "out") == contents(done)
    assert told[-1] == ("labels", 5, 5)


def killed_at(out, module, name, call, how=run_annotation):
    """A run that kills itself at the n-th call of a function that a stage calls."""
    whole, seen = getattr(module, name), []

    def deadly(*arguments, **more):
        seen.append(1)
        if len(seen) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **more)

    setattr(module, name, deadly)
    how(out)


@pytest.mark.parametrize(("module", "name", "call"), [(frames, "frames_of", 4), (labels, "read_picture", 7)])
@FORKS
def test_a_run_killed_in_the_middle_of_a_shard(done, videos, model, tmp_path, module, name, call):
    """Driver and worker in one process: what was done stays and is not done again, the rest is done once."""
    out = tmp_path / "out"
    planned(videos, out, model)
    assert ended(fork(partial(killed_at, out, module, name, call))) == -signal.SIGKILL
    before = {p: p.stat().st_mtime_ns for p in out.glob("*/shards/*/rows.parquet")}
    assert before and list(out.glob("*/leases/0*")), "it was killed before or after all"
    run_annotation(out)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    reduce_annotation(out, KEEP)
    assert contents(out) == contents(done)


@FORKS
def test_a_worker_killed_beside_another(done, videos, model, tmp_path):
    planned(videos, tmp_path / "out", model)
    doomed = partial(killed_at, tmp_path / "out", frames, "frames_of", 2, how=partial(rank, number=0))
    children = [fork(doomed), fork(partial(rank, tmp_path / "out", 1))]
    assert [ended(child) for child in children] == [-signal.SIGKILL, 0]
    reduce_annotation(tmp_path / "out", KEEP)
    assert contents(tmp_path / "out") == contents(done)


def test_a_full_disk_ends_the_run_and_it_goes_on_later(done, videos, model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    planned(videos, out, model)
    whole, seen = frames.frames_of, []

    def full(key, path, config):
        seen.append(key)
        if len(seen) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", "/scratch")
        return whole(key, path, config)

    with monkeypatch.context() as patch:
        patch.setattr(frames, "frames_of", full)
        with pytest.raises(OSError, match="Make room and run the stage again"):
            run_annotation(out)
    assert not list((out / "frames" / "failed").iterdir()) and not (out / "labels").exists()
    run_annotation(out)
    with monkeypatch.context() as patch:
        patch.setattr(annotate, "write_json", lambda *a: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            reduce_annotation(out, KEEP)
    assert not (out / "triplets").exists()
    reduce_annotation(out, KEEP)
    assert contents(out) == contents(done)


CHANGES = {"spacing": 5, "max_ssim": 0.9, "frames": 3, "max_new_tokens": 9, "batch": 7, "resize": "crop",
           "num_action_samples": 2}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_another_configuration_needs_another_folder(done, videos, model, name):
    before = contents(done)
    with pytest.raises(ValueError, match=rf"shard config hash differs from plan; start a new.*\.{name}"):
        planned(videos, done, model, **{name: CHANGES[name]})
    assert contents(done) == before
    assert planned(videos, done, model)["videos"] == 9  # the same again is no change


def test_another_model_under_the_same_name(videos, token_models, tmp_path):
    model = tmp_path / "dynamics"
    save_model(token_models, model)
    planned(videos, tmp_path / "out", model)
    save_model(token_models, model, seed=4)
    with pytest.raises(ValueError, match="shard config hash differs from plan.*another model"):
        run_annotation(tmp_path / "out")
    assert not list((tmp_path / "out" / "labels" / "shards").iterdir())


def test_buckets_change_no_label(token_models):
    pipeline = DynamicsModelPipeline(**token_models.make_parts("plain", seed=SEED))
    source, target = (pipeline.encode(token_models.pictures(14, seed)) for seed in (1, 2))
    found = [label_codes(pipeline, source, target, 16, batch, buckets) for batch, buckets in
             ((4, True), (4, False), (1, False))]  # fmt: skip
    assert len({len(label.logprobs) for label in found[0]}) > 2, "sentences of one length test nothing"
    for other in found[1:]:
        for mine, yours in zip(found[0], other, strict=True):
            assert (mine.action, mine.ended) == (yours.action, yours.ended)
            assert mine.logprobs == pytest.approx(yours.logprobs, abs=1e-4)
            assert mine.margin == pytest.approx(yours.margin, abs=1e-4)
    same = label_codes(pipeline, source, source, 16)
    assert [label.margin for label in same] == pytest.approx([0.0] * 14, abs=1e-5)


def test_drawn_sentences_are_triplets_of_their_own(done, videos, model, token_models, tmp_path):
    """The pairs are those of the likeliest words; each has as many rows as were asked for, whatever the batch."""
    out = tmp_path / "out"
    planned(videos, out, model, num_action_samples=3, seed=5)
    run_annotation(out)
    single = [row for row in rows_of(done, "labels") if row["action"] is not None]
    rows = [row for row in rows_of(out, "labels") if row["action"] is not None]
    assert [row["id"] for row in rows] == [f"{row['id']}#{n}" for row in single for n in range(3)]
    assert len({row["action"] for row in rows}) > len({row["action"] for row in single})
    pipeline = DynamicsModelPipeline(**token_models.make_parts("plain", seed=SEED))
    for n, row in enumerate(rows):
        pair = single[n // 3]
        source, target = (torch.tensor(pair[name]).reshape(1, 4, 4) for name in ("source_codes", "target_codes"))
        assert (row["source_codes"], row["target_codes"]) == (pair["source_codes"], pair["target_codes"])
        assert row["twin"] == f"{pair['twin']} {row['action']}"
        chances = word_chances([pair["id"]], 3, SETTINGS["max_new_tokens"], 5)
        tokens, logprobs = pipeline.infer_tokens(source, target, 8, chances=chances)[n % 3]
        assert row["action"] == pipeline.words_of(tokens)
        assert row["token_logprobs"] == pytest.approx(logprobs, abs=1e-4)
        copy = pipeline.score_tokens(
            source, source[:, None], [[*tokens, pipeline.backend.sequences.stop][: len(logprobs)]]
        )
        assert row["copy_margin"] == pytest.approx(row["score"] - float(copy[0].mean()), abs=2e-4)
    manifest = reduce_annotation(out, 1000)
    good = {(row["twin"], row["class"]) for row in rows if not row["dropped"]}
    assert manifest["rows"] == len(good) and manifest["num_action_samples"] == 3
    found = read_triplets(out / "triplets", pipeline.backend.pictures)
    assert len(found) == len(good) and all("#" in name for name in found.names)


def test_training_reads_triplets(done, token_models, tmp_path):
    parts = token_models.make_parts("plain")
    WorldModelPipeline(**parts).save_pretrained(tmp_path / "base")
    found = read_triplets(done / "triplets", WorldModelPipeline(**parts).backend.pictures)
    good = {row["id"]: row for row in rows_of(done, "labels")}
    assert len(found) and set(found.names) <= set(good)
    for n, name in enumerate(found.names):
        row = good[name]
        assert found.source[n].flatten().tolist() == row["source_codes"] and found.source.shape[1:] == (4, 4)
        assert found.target[n].flatten().tolist() == row["target_codes"]
        assert found.actions[n] == (row["action"],) and found.kinds[n] == (row["class"] or row["action"].split()[0])
        assert found.distances[n].flatten().tolist() == row["distances"]
    (tmp_path / "own").mkdir()
    from PIL import Image

    Image.new("RGB", (16, 16), (9, 99, 9)).save(tmp_path / "own" / "0.png")
    (tmp_path / "own" / "pairs.jsonl").write_text('{"source": "0.png", "target": "0.png", "action": "turn"}\n' * 3)
    options = {"base": str(tmp_path / "base"), "data": str(tmp_path / "own"), "rank": 2}
    recipe = {"task": "world-model", "steps": 1, "batch_size": 2, "lr": 1e-3}
    for recognizer in ("vq_l2", "code_change"):
        more = {"triplets": str(done / "triplets"), "recognizer": recognizer}
        task = build(Recipe(**recipe, options={**options, **more}))
        assert (task.labelled, len(task.pairs)) == (3, 3 + len(found)) and "annotated in" in task.data
        assert recognizer != "code_change" or set(task.pairs.distances.unique().tolist()) <= {0.0, 1.0}
    other = token_models.make_parts("plain")
    other["vq"] = token_models.make_vq(seed=5)
    with pytest.raises(ValueError, match="codes of tokeniser"):
        read_triplets(done / "triplets", WorldModelPipeline(**other).backend.pictures)
    bad = {"triplets": str(done / "triplets"), "dynamics": "x", "unlabelled": "y"}
    with pytest.raises(ValueError, match="have their labels"):
        build(Recipe(**recipe, options={**options, **bad}))
    with pytest.raises(ValueError, match="triplets.json"):
        read_triplets(tmp_path, None)


def test_the_gate_on_accuracy(videos, model, token_models, tmp_path):
    pictures = token_models.pictures(4)
    pairs = [Pair(str(n), partial(tuple, pictures[[n, 3 - n]]), ("remove the cone",)) for n in range(4)]
    with pytest.raises(ValueError, match="0.0% of 4 held-out actions right, below `least_accuracy` 50.0%"):
        planned(videos, tmp_path / "out", model, held_out=pairs)
    assert not (tmp_path / "out").exists()
    assert planned(videos, tmp_path / "out", model, held_out=pairs, least_accuracy=0.0)["accuracy"] == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": " "}, "`licence` is ' '"),
        ({"frames": 1}, "`frames` is 1; it must be an integer, 2 or more"),
        ({"spacing": 0}, "`spacing` is 0"),
        ({"spacing": 2.5}, "`spacing` is 2.5"),
        ({"max_ssim": 0}, "`max_ssim` is 0"),
        ({"cut_ssim": 1.0}, "`cut_ssim` is 1.0"),
        ({"max_border": True}, "`max_border` is True"),
        ({"max_gap_s": -1.0}, "`max_gap_s` is -1.0"),
        ({"resize": "stretch"}, "`resize` is 'stretch'; allowed: pad, crop or None"),
        ({"max_new_tokens": 0}, "`max_new_tokens` is 0"),
        ({"num_action_samples": -2}, "`num_action_samples` is -2; it must be an integer, 0"),
        ({"shard_size": 0}, "`size` must be"),
        ({"colour": 3}, "unknown setting `colour`"),
        ({"videos": "none"}, "`videos` is no folder"),
        ({"videos": "."}, "holds no video; endings are .mp4"),
    ],
)
def test_bad_settings_say_so(videos, model, tmp_path, changes, message):
    given = {"videos": videos, "out": tmp_path / "out", "model": str(model), "licence": "CC0", **SETTINGS, **changes}
    given["videos"] = tmp_path / given["videos"]
    with pytest.raises(ValueError, match=message):
        plan_annotation(**given)
    assert not (tmp_path / "out" / "frames").exists()


def test_steps_out_of_order_and_altered_files(done, videos, model, tmp_path):
    with pytest.raises(ValueError, match="`wm annotate plan` makes one"):
        run_annotation(tmp_path)
    planned(videos, tmp_path / "out", model)
    with pytest.raises(ValueError, match="can't read"):
        reduce_annotation(tmp_path / "out", 3)
    with pytest.raises(ValueError, match="`keep` is 0"):
        reduce_annotation(done, 0)
    with pytest.raises(ValueError, match="no label of .* is left to keep.*low copy margin"):
        reduce_annotation(done, KEEP, least_margin=1e9)


def test_the_command_line(videos, model, done, tmp_path):
    from typer.testing import CliRunner

    from wm_pipelines.cli import app

    def wm(*arguments):
        return CliRunner().invoke(app, ["annotate", *map(str, arguments)], catch_exceptions=False)

    out = tmp_path / "out"
    told = wm("plan", videos, out, "--model", model, "--licence", "CC0", "--frames", 5, "--spacing", 4, "--max-ssim",
              0.99, "--max-new-tokens", 8, "--shard-size", 2)  # fmt: skip
    assert told.exit_code == 0 and "9 videos in 5 shards" in told.output
    told = wm("run", out)
    assert told.exit_code == 0 and "frames: 5 of 5 shards" in told.output and "1 failures" in told.output
    told = wm("reduce", out, "--keep", KEEP)
    assert told.exit_code == 0 and "triplets of" in told.output and "black border" in told.output
    assert contents(out) == contents(done)


def test_columns_are_those_of_parquet(done):
    table = pyarrow.parquet.read_table(done / "triplets" / "triplets.parquet")
    assert table.column_names == list(COLUMNS) and str(table.schema.field("source_codes").type.value_type) == "uint16"
