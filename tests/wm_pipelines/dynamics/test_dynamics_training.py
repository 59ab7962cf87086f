"""Training and its data: what costs, that plain weights are plain cross-entropy, readers, and the gate."""

import json

import pytest
import torch
from diffusers import VQModel
from PIL import Image
from torch.nn import functional

from wm_pipelines import AutoWMPipeline, DynamicsModelPipeline, WorldModelPipeline
from wm_pipelines.config import WMConfig
from wm_pipelines.dynamics.coded import CodedPairs, encode_pairs
from wm_pipelines.dynamics.data import read_aurora, read_folder
from wm_pipelines.dynamics.labelling import (
    held_out_accuracy,
    label_pairs,
    plain,
    say_actions,
    stratified,
    without_cuts,
    word_chances,
)
from wm_pipelines.dynamics.training import LENGTHS, compile_layers, completion_loss, read_pairs, save_whole
from wm_pipelines.hub import seal, verify
from wm_pipelines.training import Recipe, build, train


def coded(count=6, seed=0, actions="move the red cube"):
    drawn = torch.randint(0, 16, (2, count, 4, 4), generator=torch.Generator().manual_seed(seed))
    words = ((actions,),) * count if actions else ((),) * count
    names = tuple(map(str, range(count)))
    kinds = tuple("ab"[n % 2] for n in range(count))
    return CodedPairs(drawn[0], drawn[1], (drawn[0] != drawn[1]).float(), words, kinds, ("",) * count, names)


@pytest.fixture(scope="module", params=["plain", "chameleon"])
def backend(request, token_models):
    return token_models.make(request.param)


def samples_of(backend, pairs):
    said = backend.sequences
    return [
        said.forward_sample(pairs.source[n], words, pairs.target[n])
        for n, words in enumerate(["move red", "turn the blue cone left", "remove"])
    ]


@pytest.mark.parametrize("weights", ["none", "ones"])
def test_the_loss_is_cross_entropy_of_the_completions_bit_for_bit(backend, weights):
    pairs = coded(3)
    samples = samples_of(backend, pairs)
    given = [None if weights == "none" else torch.ones(len(s.completion)) for s in samples]
    found = completion_loss(backend, samples, given, torch.device("cpu"))
    rows = [[*s.prompt, *s.completion[:-1]] for s in samples]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    hidden = backend.model.base_model(input_ids=tokens, attention_mask=mask)[0]
    kept = [hidden[n, len(s.prompt) - 1 : len(s.prompt) - 1 + len(s.completion)] for n, s in enumerate(samples)]
    logits = functional.linear(torch.cat(kept), backend.model.get_output_embeddings().weight)
    wanted = torch.tensor([token for sample in samples for token in sample.completion])
    assert torch.equal(found, functional.cross_entropy(logits, wanted))


def test_weights_weigh_each_token_and_padding_costs_nothing(backend):
    pairs = coded(3)
    samples = samples_of(backend, pairs)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.rand(len(sample.completion), generator=generator) for sample in samples]
    found = completion_loss(backend, samples, weights, torch.device("cpu"))
    total, count = 0.0, 0
    for sample, weight in zip(samples, weights, strict=True):
        unit = torch.zeros(len(sample.completion))
        for place in range(len(unit)):
            unit.zero_()[place] = len(unit)  # of one sample alone, the mean is this token's
            one = completion_loss(backend, [sample], [unit], torch.device("cpu"))
            total, count = total + float(weight[place] * one.detach()), count + 1
    assert abs(float(found.detach()) - total / count) < 1e-3 * abs(total / count)


def test_a_whole_export_has_the_record_of_its_own_files_and_none_of_its_parts(token_models, tmp_path):
    pipe = DynamicsModelPipeline(**token_models.make_parts("plain"))
    pipe.vq.save_pretrained(tmp_path / "vq")
    seal(tmp_path / "vq", WMConfig(method="diorama-tokens"))
    other = WorldModelPipeline(
        **pipe.components | {"vq": VQModel.from_pretrained(tmp_path / "vq")}, layout=pipe.layout
    )
    assert pipe.wm_config is None and other.wm_config is None
    pipe.wm_config = WMConfig(method="dynamics", method_config={"tuning": "full"})
    save_whole(pipe, tmp_path / "export")
    assert verify(tmp_path / "export").method == "dynamics"
    assert next(AutoWMPipeline.from_pretrained(tmp_path / "export").model.parameters()).dtype == torch.float32


@pytest.mark.slow
def test_compiled_layers_cost_the_same_and_keep_their_names(token_models):
    """At the lengths that training gives them; the compiler is PyTorch's for this processor."""
    backend = token_models.make("plain")
    samples, names = samples_of(backend, coded(3)), list(backend.model.state_dict())
    weights = [torch.linspace(0.2, 1.8, len(sample.completion)) for sample in samples]
    plain_loss = completion_loss(backend, samples, weights, torch.device("cpu"))
    plain_slopes = torch.autograd.grad(plain_loss, list(backend.model.parameters()))
    compile_layers(backend.model)
    assert list(backend.model.state_dict()) == names
    loss = completion_loss(backend, samples, weights, torch.device("cpu"), LENGTHS)
    slopes = torch.autograd.grad(loss, list(backend.model.parameters()))
    torch.testing.assert_close(loss, plain_loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(slopes, plain_slopes, atol=1e-5, rtol=1e-4)


def test_stratified_visits_kinds_in_turn_and_takes_the_best_of_each():
    scores = [-1.0, -2.0, -0.5, -3.0, -0.1, -4.0]
    kinds = ["b", "a", "b", "a", "b", "c"]
    assert stratified(scores, kinds, 6) == [1, 4, 5, 3, 2, 0]
    assert stratified(scores, kinds, 2) == [1, 4] and stratified(scores, kinds, 99) == [1, 4, 5, 3, 2, 0]
    assert stratified([-1.0, -1.0], ["a", "a"], 1) == [0]
    with pytest.raises(ValueError, match="`keep` is 0"):
        stratified(scores, kinds, 0)


@pytest.mark.parametrize("count", [1, 40, 100, 101, 300])
def test_the_pairs_that_changed_most_are_taken_for_cuts(count):
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    nothing, names = ("",) * count, tuple(map(str, range(count)))
    codes = torch.zeros(count, 2, 2, dtype=torch.long)
    distances = order[:, None, None].float().expand(-1, 2, 2)
    pairs = CodedPairs(codes, codes, distances, ((),) * count, nothing, nothing, names)
    kept = without_cuts(pairs, 0.99)
    left = set(range(count)) - set(map(int, kept.names))
    assert {int(order[n]) for n in left} == set(range(count - (count - 1) // 100, count))  # a hundredth, rounded down
    assert without_cuts(pairs, 1.0).names == names
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="`share` is"):
            without_cuts(pairs, share)


def test_a_weak_dynamics_model_labels_nothing(token_models):
    """The gate; and with a model that is right by construction, labels are its own, the surest first."""
    model = DynamicsModelPipeline(**token_models.make_parts("plain"))
    unlabelled, held_out = coded(8, seed=1, actions=""), coded(4, seed=2)
    assert held_out_accuracy(model, held_out, 4) == 0.0
    with pytest.raises(ValueError, match=r"says 0.0% of 4 held-out actions right, below `least_accuracy` 50.0%"):
        label_pairs(model, unlabelled, held_out, keep=4, max_new_tokens=4)
    with pytest.raises(ValueError, match=r"`least_accuracy` is 1.5; it must lie in \[0, 1\]"):
        label_pairs(model, unlabelled, held_out, keep=4, least_accuracy=1.5)
    with pytest.raises(ValueError, match="`pairs` has some without an action"):
        held_out_accuracy(model, unlabelled, 4)
    truth = model.infer_codes(held_out.source, held_out.target, 4).actions
    right = held_out.labelled([sentence.upper() + "." for sentence in truth])
    assert held_out_accuracy(model, right, 4) == 1.0
    found = label_pairs(model, unlabelled, right, keep=4, least_accuracy=0.9, max_new_tokens=4)
    out = model.infer_codes(unlabelled.source, unlabelled.target, 4)
    order = stratified(out.scores.tolist(), unlabelled.kinds, 4)
    assert found.names == tuple(str(n) for n in order)
    assert [words for (words,) in found.actions] == [out.actions[n] for n in order]
    assert plain("  Move  the Cube. ") == "move the cube"


def test_sentences_are_drawn_as_likely_as_they_are(token_models):
    """The first word's shares over many draws, which its pair, its number and the seed alone decide."""
    model = DynamicsModelPipeline(**token_models.make_parts("plain"))
    pairs, count = coded(3, seed=1, actions=""), 600
    chances = word_chances(pairs.names, count, 4)
    found = model.infer_tokens(pairs.source, pairs.target, 4, chances=chances)
    codes = set(model.backend.codes.ids.tolist()) | set(model.backend.marks())
    assert len(found) == 3 * count and not codes & {token for tokens, _ in found for token in tokens}
    said = model.backend.sequences
    for n in range(3):
        prompt = [*said.inverse_head(pairs.source[n]), *said.inverse_tail(pairs.target[n])]
        with torch.no_grad():
            state = model.backend.read([prompt[:-1]])
            logits = model.backend.logits(model.backend.extend(state, torch.tensor([prompt[-1:]]))[0, -1])
        wanted = logits.index_fill(0, torch.tensor(sorted(codes)), -torch.inf).softmax(-1)
        first = [(tokens or [said.stop])[0] for tokens, _ in found[n * count : (n + 1) * count]]
        shares = torch.bincount(torch.tensor(first), minlength=len(wanted)) / count
        assert (shares - wanted).abs().max() < 4 * 0.5 / count**0.5
    few = model.infer_tokens(pairs.source[1:2], pairs.target[1:2], 4, chances=word_chances(["1"], 2, 4))
    assert [tokens for tokens, _ in few] == [tokens for tokens, _ in found[count : count + 2]]
    other = say_actions(model, pairs, 4, num_action_samples=5, seed=1)[0]
    assert other != say_actions(model, pairs, 4, num_action_samples=5)[0]


def test_drawn_sentences_are_a_pairs_wordings(token_models):
    model = DynamicsModelPipeline(**token_models.make_parts("plain"))
    unlabelled, held_out = coded(8, seed=1, actions=""), coded(4, seed=2)
    known = model.infer_codes(held_out.source, held_out.target, 4).actions
    gate = {"held_out": held_out.labelled(known), "max_new_tokens": 4}
    said, scores = say_actions(model, unlabelled, 4, batch=3, num_action_samples=3)
    found = label_pairs(model, unlabelled, keep=4, num_action_samples=3, **gate)
    order = stratified(scores.tolist(), unlabelled.kinds, 4)
    assert found.names == tuple(str(n) for n in order)
    assert found.actions == tuple(tuple(filter(None, said[n])) for n in order)
    assert len({words for actions in found.actions for words in actions}) > 4
    for n, logprobs in enumerate(scores.tolist()):
        drawn = word_chances([str(n)], 3, 4)
        rows = model.infer_tokens(unlabelled.source[n : n + 1], unlabelled.target[n : n + 1], 4, chances=drawn)
        assert logprobs == pytest.approx(sum(sum(row) / len(row) for _, row in rows) / 3, abs=1e-4)
    for bad in (-1, 1.5, True):
        with pytest.raises(ValueError, match=f"`num_action_samples` is {bad}; it must be an integer, 0"):
            label_pairs(model, unlabelled, keep=4, num_action_samples=bad, **gate)


@pytest.fixture
def folder(tmp_path):
    for n in range(3):
        Image.new("RGB", (64, 64), (80 * n, 20, 20)).save(tmp_path / f"{n}.png")
    return tmp_path


AURORA = [{"instruction": "make it red", "input": "0.png", "output": "1.png"},
          {"instruction": "move it", "input": "1.png", "output": "2.png", "task": "kubric"},
          {"instruction": "no truth", "input": "1.png", "output": None, "task": "clevr"}]  # fmt: skip


def test_auroras_layout(folder):
    (folder / "train.json").write_text(json.dumps(AURORA))
    pairs = read_aurora(folder / "train.json")
    assert [pair.actions for pair in pairs] == [("make it red",), ("move it",)] and pairs[1].kind == "kubric"
    before, after = pairs[0].read()
    assert before.shape == after.shape == (3, 64, 64) and after[0, 0, 0] > before[0, 0, 0]


def test_several_files_and_folders_follow_one_another(folder, tmp_path):
    """As AURORA comes in four files."""
    (folder / "train.json").write_text(json.dumps(AURORA))
    (folder / "pairs.jsonl").write_text(json.dumps({"source": "2.png", "target": "0.png", "action": "turn it"}))
    pairs = read_pairs({"data": [str(folder / "train.json"), str(folder), str(folder / "train.json")]}, (16, 16))
    assert [pair.actions[0] for pair in pairs] == ["make it red", "move it", "turn it", "make it red", "move it"]
    assert len({pair.name for pair in pairs}) == 5 and pairs[1].kind == "kubric"
    for bad in ([], ["diorama", str(folder)], 3, [str(folder), "nowhere"], [[str(folder)], 3]):
        with pytest.raises(ValueError, match=r"options.data is .*a list of such files and folders"):
            read_pairs({"data": bad}, (16, 16))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "must hold a list of rows"),
        ({"a": 1}, "must hold a list"),
        ([{**AURORA[0], "instruction": " "}], "row 0.*instruction is ' '"),
        ([AURORA[0], {**AURORA[0], "output": "9.png"}], "row 1.*the picture '9.png' is missing"),
        ([{**AURORA[0], "input": "../0.png"}], "row 0"),
        ([AURORA[2]], "has no row with an output"),
        ([3], "row 0.*not an object"),
    ],
)
def test_rows_that_mean_nothing_are_named(folder, rows, message):
    (folder / "train.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=message):
        read_aurora(folder / "train.json")


def test_a_folder_of_ones_own(folder):
    rows = [{"source": "0.png", "target": "1.png", "action": "make it red", "kind": "x"},
            {"source": "1.png", "target": "2.png"}]  # fmt: skip
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = read_folder(folder)
    assert [(pair.actions, pair.kind) for pair in pairs] == [(("make it red",), "x"), ((), "")]
    for bad, message in (
        ({"source": "0.png"}, "line 1.*source and target"),
        ({**rows[0], "caption": "x"}, "unknown 'caption'; allowed: source, target, action, kind"),
        ({**rows[0], "action": ""}, "action is ''"),
        ({**rows[0], "target": "8.png"}, "'8.png' is missing"),
    ):
        (folder / "pairs.jsonl").write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=message):
            read_folder(folder)
    with pytest.raises(ValueError, match="has no pairs.jsonl"):
        read_folder(folder / "0.png")


def test_codes_are_kept_with_what_they_were_made_of(folder, token_models, tmp_path):
    from wm_pipelines.tokens.pictures import PictureTokens
    from wm_pipelines.world_model.weights import vq_l2

    (folder / "train.json").write_text(json.dumps(AURORA))
    pairs, tokens, cache = read_aurora(folder / "train.json"), PictureTokens(token_models.make_vq()), tmp_path / "c"
    made = encode_pairs(pairs, tokens, (16, 16), resize="pad", cache=cache)
    again = encode_pairs(pairs, tokens, (16, 16), resize="pad", cache=cache)
    for name in ("source", "target", "distances"):
        assert torch.equal(getattr(made, name), getattr(again, name))
    assert again.actions == made.actions and again.names == made.names and made.source.shape == (2, 4, 4)
    assert torch.equal(made.distances, (made.source != made.target).float())
    named = encode_pairs(pairs, tokens, (16, 16), vq_l2(tokens), "pad", cache=tmp_path / "d", recognizer_name="vq_l2")
    any_ = encode_pairs(pairs, tokens, (16, 16), None, "pad", cache=tmp_path / "d")  # codes are the same for all
    assert torch.equal(named.distances, any_.distances) and not torch.equal(named.distances, made.distances)
    assert torch.equal(named.source, made.source)
    with pytest.raises(ValueError, match="holds distances of codes that differ, asked for vq_l2; delete it or name"):
        encode_pairs(pairs, tokens, (16, 16), vq_l2(tokens), "pad", cache=cache, recognizer_name="vq_l2")
    with pytest.raises(ValueError, match="asked for .*; delete it or name another"):
        encode_pairs(pairs, PictureTokens(token_models.make_vq(seed=5)), (16, 16), resize="pad", cache=cache)
    cache.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no file of codes"):
        encode_pairs(pairs, tokens, (16, 16), resize="pad", cache=cache)
    with pytest.raises(ValueError, match="`data` is 64x64, but the model takes 16x16"):
        encode_pairs(pairs, tokens, (16, 16))


@pytest.mark.parametrize(("rank", "head"), [(2, False), (2, True), (0, False)])
def test_a_run_on_a_folder_moves_what_it_should_and_loads_again(folder, token_models, tmp_path, rank, head):
    DynamicsModelPipeline(**token_models.make_parts("plain")).save_pretrained(tmp_path / "base")
    rows = [{"source": f"{n % 3}.png", "target": f"{(n + 1) % 3}.png", "action": "move the cube"} for n in range(4)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = {"base": str(tmp_path / "base"), "data": str(folder), "resize": "pad", "rank": rank}
    options["train_lm_head"] = head
    recipe = Recipe(task="dynamics", steps=3, batch_size=2, lr=1e-2, options=options)
    task = build(recipe)
    before = {name: p.detach().clone() for name, p in task.backend.model.named_parameters()}
    record = train(task, recipe, tmp_path / "run")
    every = dict(task.backend.model.named_parameters())
    counts = [sum(p.numel() for name, p in every.items() if (".dynamics." in name) == bool(rank)),
              sum(p.numel() for p in every.values())]  # fmt: skip
    assert [record.stages[0][f"{name}_parameters"] for name in ("trained", "all")] == counts
    moved = {name for name, p in task.backend.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all((".dynamics." in name) == bool(rank) for name in moved)
    assert any("lm_head" in name for name in moved) == head
    export = tmp_path / "run" / "export"
    if rank:
        assert sorted(path.name for path in export.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        loaded = DynamicsModelPipeline.from_base(tmp_path / "base", export)
    else:
        loaded = DynamicsModelPipeline.from_pretrained(export)
    codes = task.pairs
    first = loaded.score_codes(codes.source[:1], codes.target[:1, None], ["move the cube"])
    mine = DynamicsModelPipeline(**task.pipeline.components, layout=task.pipeline.layout)
    second = mine.score_codes(codes.source[:1], codes.target[:1, None], ["move the cube"])
    assert torch.allclose(first, second, atol=0.05)  # fp16 on disk
    other = build(recipe)
    if not rank:
        with pytest.raises(ValueError, match="init_from holds an adapter; with options.rank 0 give"):
            other.load_weights(str(export))
        return
    assert other.load_weights(str(export)) == {"parameters": counts[0]}
    mine = DynamicsModelPipeline(**other.pipeline.components, layout=other.pipeline.layout)
    assert torch.equal(mine.score_codes(codes.source[:1], codes.target[:1, None], ["move the cube"]), first)
    with pytest.raises(ValueError, match="has rank 2; it must be 4, that of the model's"):
        build(recipe.model_copy(update={"options": options | {"rank": 4}})).load_weights(str(export))


@pytest.mark.parametrize("options", [{"rank": 0}, {"rank": 2, "train_lm_head": True, "dropout": 0.2}])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(folder, token_models, tmp_path, options):
    DynamicsModelPipeline(**token_models.make_parts("plain")).save_pretrained(tmp_path / "base")
    rows = [{"source": f"{n % 3}.png", "target": f"{(n + 1) % 3}.png", "action": "move the cube"} for n in range(4)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = {"base": str(tmp_path / "base"), "data": str(folder), "resize": "pad", **options}
    part, whole = (Recipe(task="dynamics", steps=n, batch_size=2, lr=1e-2, options=options) for n in (2, 4))
    train(build(whole), whole, tmp_path / "whole")
    train(build(part), part, tmp_path / "stopped")
    train(build(whole), whole, tmp_path / "stopped")
    files = [sorted((tmp_path / name / "export").rglob("*.safetensors")) for name in ("whole", "stopped")]
    assert len(files[0]) == len(files[1]) == (1 if options["rank"] else 2)
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_all_weights_are_trained_of_a_base_without_adapters(token_models, folder, tmp_path):
    from wm_pipelines.dynamics.adapters import add_adapter

    pipeline = DynamicsModelPipeline(**token_models.make_parts("plain"))
    add_adapter(pipeline.model, "world", rank=2)
    pipeline.save_pretrained(tmp_path / "base")
    (folder / "pairs.jsonl").write_text(json.dumps({"source": "0.png", "target": "1.png", "action": "move"}))
    options = {"base": str(tmp_path / "base"), "data": str(folder), "resize": "pad", "rank": 0}
    with pytest.raises(ValueError, match="options.base has the adapters world; options.rank 0 trains all weights of"):
        build(Recipe(task="dynamics", steps=1, batch_size=1, options=options))


def test_options_that_mean_nothing_are_refused(tmp_path):
    for options, message in (
        ({"targets": "all"}, "options.targets is 'all'; allowed: attention, linear"),
        ({"rnak": 3}, "unknown 'rnak', did you mean 'rank'"),
        ({"rank": 0, "train_lm_head": True}, "options.train_lm_head stands beside a LoRA; options.rank 0 trains all"),
    ):
        with pytest.raises(ValueError, match=message):
            build(Recipe(task="dynamics", steps=1, batch_size=1, options=options))
