"""Fitting: CoCoOp at lambda 0 bit for bit, the three tasks, negatives, parity, and what is refused."""

import copy

import pytest
import torch
from torch.nn import functional

from wm_pipelines.clip.towers import encode_images
from wm_pipelines.cpl import training
from wm_pipelines.cpl.losses import class_logits
from wm_pipelines.cpl.negatives import choose_negatives
from wm_pipelines.cpl.prompts import conditional_features, make_prompts, sentence
from wm_pipelines.cpl.tasks import retrieval_examples
from wm_pipelines.runtime.random import keyed

FAST = {"epochs": 2, "batch_size": 4, "augment": False, "learning_rate": 0.05}


def weights(pipe):
    return {name: tensor.clone() for name, tensor in pipe.prompt_learner.state_dict().items()}


def twin(pipe):
    """The same pipeline with a learner of its own."""
    other = type(pipe)(**{**pipe.components, "prompt_learner": copy.deepcopy(pipe.prompt_learner)})
    other.set_progress_bar_config(disable=True)
    return other


def test_lambda_zero_is_cocoop_bit_for_bit(cpl_pipe, coloured, monkeypatch):
    """CoCoOp written out: SGD over keyed batches, cross entropy; no negative, no mask, no random state."""
    pictures, labels, names = coloured()
    plain = copy.deepcopy(cpl_pipe.prompt_learner).requires_grad_(True)
    monkeypatch.setattr(training, "choose_negatives", None)
    monkeypatch.setattr(training, "greedy_masks", None)
    state = torch.get_rng_state()
    cpl_pipe.fit(pictures, labels, names, lambda_cf=0.0, seed=3, **FAST)
    assert torch.equal(torch.get_rng_state(), state)
    assert cpl_pipe.negatives == {} and set(cpl_pipe.history[0]) == {"epoch", "learning_rate", "loss", "ce"}

    clip = cpl_pipe.clip
    prompts = make_prompts(clip, cpl_pipe.tokenizer, names, 4)
    image = functional.normalize(encode_images(clip, cpl_pipe.preprocess(pictures), unit=False), dim=-1)
    truth, optimizer = torch.tensor(labels), torch.optim.SGD(plain.parameters(), 0.05, 0.9, weight_decay=5e-4)
    for epoch, rate in enumerate((1e-5, 0.025)):
        optimizer.param_groups[0]["lr"] = rate
        order = keyed("cpl order", 3, epoch).permutation(6)
        for batch in (order[:4].tolist(), order[4:].tolist()):
            optimizer.zero_grad()
            text = conditional_features(clip, plain, prompts, image[batch])
            logits = class_logits(text, image[batch], clip.logit_scale.exp())
            functional.cross_entropy(logits, truth[batch]).backward()
            optimizer.step()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, cpl_pipe.prompt_learner.state_dict()[name]), name


def test_a_fit_repeats_itself_and_its_seed_matters(cpl_pipe, coloured):
    pictures, labels, names = coloured()
    runs = []
    for seed in (0, 0, 1):
        pipe = twin(cpl_pipe)
        torch.manual_seed(seed + 100 * len(runs))  # no global generator is read
        pipe.fit(pictures, labels, names, seed=seed, epochs=2, batch_size=4, learning_rate=0.05)
        runs.append(weights(pipe))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_it_learns_and_says_how(cpl_pipe, coloured):
    pictures, labels, names = coloured(4)
    before = {name: p.clone() for name, p in cpl_pipe.clip.state_dict().items()}
    seen, rows = [], []
    fast = {**FAST, "epochs": 12, "learning_rate": 0.3}
    result = cpl_pipe.fit(
        pictures,
        labels,
        names,
        callback_on_step_end=lambda *told: seen.append(told),
        callback_on_epoch_end=lambda *told: rows.append(told),
        **fast,
    )
    assert result is cpl_pipe and [pipe for pipe, *_ in seen] == [cpl_pipe] * 36
    assert [step for _, step, _ in seen] == list(range(1, 37)) and all("loss" in figures for *_, figures in seen)
    assert [epoch for _, epoch, _ in rows] == list(range(1, 13)) and [row for *_, row in rows] == cpl_pipe.history
    assert cpl_pipe.history[-1]["ce"] < cpl_pipe.history[0]["ce"] - 0.2
    assert {"cf", "sparsity", "flipped"} <= set(cpl_pipe.history[0]) and cpl_pipe.history[0]["learning_rate"] == 1e-5
    assert set(cpl_pipe.negatives) == set(names) and all(k != v for k, v in cpl_pipe.negatives.items())
    assert all(torch.equal(p, before[name]) for name, p in cpl_pipe.clip.state_dict().items())
    held, truth, _ = coloured(4, key=1)
    right = [names[label] for label in truth]
    assert sum(a == b for a, b in zip(cpl_pipe(held, names).labels, right, strict=True)) > 4  # chance
    record = cpl_pipe.wm_config
    assert record.method == "cpl" and record.training.steps == 36 and record.method_config.variant == "released"
    assert not cpl_pipe.prompt_learner.ctx.requires_grad


def test_it_stops_after_the_epoch_in_which_it_was_asked_to(cpl_pipe, coloured):
    pictures, labels, names = coloured()
    whole, steps = twin(cpl_pipe), -(-len(pictures) // FAST["batch_size"])
    whole.fit(pictures, labels, names, **FAST)

    def stop(pipe, step, figures):
        pipe._interrupt = True

    cpl_pipe.fit(pictures, labels, names, callback_on_step_end=stop, **FAST)
    assert cpl_pipe.history == whole.history[:1] and cpl_pipe.wm_config.training.steps == steps
    cpl_pipe.renew().fit(pictures, labels, names, **FAST)  # an interrupt does not outlive its fit
    assert len(cpl_pipe.history) == FAST["epochs"]


@pytest.mark.parametrize(
    "settings",
    [
        {"variant": "paper"},
        {"mask": "random"},
        {"parity": True},
        {"similarity": {"red": "blue", "green": "red", "blue": "red"}},
    ],
)
def test_every_arm_trains_another_prompt(cpl_pipe, coloured, settings):
    pictures, labels, names = coloured()
    plain, changed = twin(cpl_pipe), twin(cpl_pipe)
    plain.fit(pictures, labels, names, **FAST)
    changed.fit(pictures, labels, names, **{**FAST, **settings})
    assert any(not torch.equal(a, b) for a, b in zip(weights(plain).values(), weights(changed).values(), strict=True))
    if "similarity" in settings:
        assert changed.negatives == settings["similarity"]
    if settings.get("mask") == "random":
        assert changed.history[0]["sparsity"] == pytest.approx(plain.history[0]["sparsity"])


def test_parity_solves_one_mask_for_each_class_in_raw_space(cpl_pipe, coloured, monkeypatch):
    pictures, labels, names = coloured(3)
    calls, solve = [], training.greedy_masks
    monkeypatch.setattr(training, "greedy_masks", lambda *a: calls.append(a) or solve(*a))
    cpl_pipe.fit(pictures, labels, names, parity=True, **{**FAST, "epochs": 3})
    assert len(calls) == 1 and calls[0][0].shape[0] == 3 and calls[0][4] == "raw"
    first = encode_images(cpl_pipe.clip, cpl_pipe.preprocess(pictures[:3]), unit=False)
    torch.testing.assert_close(calls[0][0], first)


def test_negatives_are_the_nearest_others(tiny_clip):
    features = functional.normalize(torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [1.0, 0]]), dim=-1)
    texts = ["a", "b", "c", "a"]
    assert choose_negatives(texts, range(4), "clip_text", features).tolist() == [1, 0, 1, 1]
    assert choose_negatives(texts, [2, 3], "clip_text", features).tolist() == [2, 3, 3, 2]
    assert choose_negatives(texts, [0, 1], {"a": "b", "b": "a"}, features).tolist() == [1, 0, -1, 1]
    table = {"a": "c", "b": "a", "c": "b"}
    assert choose_negatives(texts, range(4), table, features).tolist() == [2, 0, 1, 2]


def test_one_prompt_written_twice_is_no_negative_of_itself():
    features = functional.normalize(torch.tensor([[1.0, 0], [1.0, 0], [1.0, 0.1], [0, 1]]), dim=-1)
    texts = ["red cube", "red_cube", "red cube. ", "blue cube"]
    assert choose_negatives(texts, range(4), "clip_text", features).tolist() == [3, 3, 3, 2]
    with pytest.raises(ValueError, match="names 'red_cube' as the negative of 'red cube', itself"):
        choose_negatives(texts, range(4), {"red cube": "red_cube"}, features)
    assert [sentence(name) for name in ("cat. ", "cat", " red_cube.")] == ["cat.", "cat.", "red cube."]


@pytest.mark.parametrize(
    ("texts", "pool", "similarity", "message"),
    [
        (["a"], [0], "clip_text", "class_names has 1 entry; CPL needs ≥2 to choose a counterfactual negative"),
        (["a", "b"], [0, 1], "nearest", "similarity must be one of clip_text, bertscore or a table, got 'nearest'"),
        (["a", "b"], [0, 1], {"a": "b"}, "similarity has no entry for 'b'"),
        (["a", "b"], [0, 1], {"a": "a", "b": "a"}, "names 'a' as the negative of 'a', itself"),
        (["a", "b"], [0, 1], {"a": "z", "b": "a"}, "names 'z' as the negative of 'a', which is not among the texts"),
        (["a", "b"], [0], "clip_text", "no other text with a picture that could be the negative of 'a'"),
    ],
)
def test_negatives_that_can_not_be(texts, pool, similarity, message):
    with pytest.raises(ValueError, match=message):
        choose_negatives(texts, pool, similarity, torch.eye(2)[: len(texts)])


def test_bertscore_is_optional():
    try:
        import bert_score  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="needs the package bert-score"):
            choose_negatives(["a", "b"], [0, 1], "bertscore", torch.eye(2))
    else:
        pytest.skip("bert-score is installed, and its weights would be downloaded")


def test_retrieval_compares_with_the_nearest_captions_and_its_own(cpl_pipe, coloured):
    pictures, labels, names = coloured(2)
    captions = [[f"a photo of a {names[label]} cube", f"a {names[label]} cube"] for label in labels]
    cpl_pipe.fit_retrieval(pictures, captions, candidates=2, seed=5, **FAST)
    assert cpl_pipe.wm_config.training.recipe["data"] == "retrieval"
    assert all(k != v for k, v in cpl_pipe.negatives.items())
    texts = ["x", "y", "z", "x"]
    scores = torch.tensor([[0.1, 0.5, 0.3]] * 4)
    made = retrieval_examples([None] * 4, texts, 2, lambda p, t: scores.clone())
    assert made.texts == ["x", "y", "z"] and made.labels.tolist() == [0, 1, 2, 0]
    assert made.candidates.tolist() == [[0, 1], [1, 2], [2, 1], [0, 1]]


def test_filled_prompts(cpl_pipe, coloured):
    pictures, labels, names = coloured(2)
    prompts = [[f"the cube is {name}" for name in names[:2]], [f"the cone is {name}" for name in names[1:]]] * 3
    cpl_pipe.fit_vqa(pictures, prompts, [0, 1] * 3, **FAST)
    out = cpl_pipe(pictures, prompts)
    assert out.logits.shape == (6, 2) and all(a in own for a, own in zip(out.labels, prompts, strict=True))
    shared = cpl_pipe(pictures[:1], prompts[0])
    torch.testing.assert_close(shared.logits, out.logits[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0] * 6, "class_names": ["red"]}, "class_names has 1 entry; CPL needs ≥2"),
        ({"labels": [0, 1, 2, 0, 1, 998]}, r"label 998 outside \[0,3\)"),
        ({"labels": [0, 1]}, "labels has 2 entries for 6 pictures"),
        ({"labels": ["red"] * 5 + ["rod"]}, "the class 'rod', which is unknown; the nearest is 'red'"),
        ({"class_names": None}, "class_names must be given where labels are numbers"),
        ({"class_names": ["red", "red", "blue"]}, "class_names has 'red' more than once"),
        ({"class_names": ["red", " ", "blue"]}, "class_names must be non-empty strings, got ' '"),
        ({"class_names": ["red", "green", " ".join(["blue"] * 74)]}, r"is 81 tokens; limit is 77 \(4 context"),
        ({"labels": [0, 1] * 3}, "no training image for negative class 'blue'"),
        ({"images": torch.rand(6, 2, 8, 8)}, r"images\[0\]: "),
        ({"variant": "mine"}, "variant must be one of released, paper; got 'mine'"),
        ({"lambda_cf": -1.0}, "lambda_cf must be at least 0, got -1.0"),
        ({"tau": 0.0}, "tau must be above 0, got 0.0"),
        ({"learning_rate": "a"}, "learning_rate must be above 0, got 'a'"),
        ({"momentum": None}, "momentum must be at least 0, got None"),
        ({"epochs": 0}, "epochs must be an integer of at least 1, got 0"),
        ({"epoch": 3}, "fit: unknown 'epoch', did you mean 'epochs'"),
    ],
)
def test_bad_input_changes_nothing(cpl_pipe, coloured, arguments, message):
    pictures, labels, names = coloured()
    table = {"similarity": {"red": "blue", "green": "blue", "blue": "red"}} if "no training" in message else {}
    before = weights(cpl_pipe)
    with pytest.raises(ValueError, match=message):
        cpl_pipe.fit(**{"images": pictures, "labels": labels, "class_names": names, **table, **arguments})
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(cpl_pipe).items())
    assert cpl_pipe.wm_config is None


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("fit_retrieval", {"captions": ["a cube"]}, "captions has 1 entries for 6 pictures"),
        ("fit_retrieval", {"captions": ["a cube"] * 6}, "captions has 1 different entry; CPL needs ≥2"),
        ("fit_retrieval", {"captions": ["a cube", []] * 3}, r"captions\[1\] is empty"),
        (
            "fit_retrieval",
            {"captions": list("abcdef"), "candidates": 1},
            "candidates must be an integer of at least 2",
        ),
        (
            "fit_vqa",
            {"prompts": ["a", "b"], "labels": [0] * 6},
            "prompts must be a list of statements for each picture",
        ),
        ("fit_vqa", {"prompts": [["a", "b"]] * 6, "labels": [0] * 6}, "the true statement of every picture is 'a'"),
        ("fit_vqa", {"prompts": [["a", "b"]] * 6, "labels": [0] * 5 + [2]}, r"label 2 outside \[0,2\)"),
        ("fit_vqa", {"prompts": [["a", "b"]] * 5 + [["a"]], "labels": [0] * 6}, "all of one length"),
    ],
)
def test_bad_input_of_the_other_tasks(cpl_pipe, coloured, method, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(cpl_pipe, method)(coloured()[0], **arguments)


def test_a_loss_that_is_not_finite_leaves_the_prompt_as_it_was(cpl_pipe, coloured):
    pictures, labels, names = coloured()
    before = weights(cpl_pipe)
    with pytest.raises(FloatingPointError, match="lower learning_rate=1e\\+30"):
        cpl_pipe.fit(pictures, labels, names, **{**FAST, "epochs": 4, "learning_rate": 1e30})
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(cpl_pipe).items())


def test_a_refused_fit_leaves_half_precision_as_it_was(cpl_pipe, coloured):
    pictures, labels, names = coloured()
    cpl_pipe.register_modules(prompt_learner=copy.deepcopy(cpl_pipe.prompt_learner).half())
    before = weights(cpl_pipe)
    table = {"red": "blue", "green": "blue", "blue": "red"}
    with pytest.raises(ValueError, match="no training image for negative class 'blue'"):
        cpl_pipe.fit(pictures, [0, 1] * 3, names, similarity=table)
    after = weights(cpl_pipe)
    assert all(torch.equal(before[n], after[n]) and after[n].dtype == torch.float16 for n in before)


def test_chunks_of_text_do_not_change_a_fit(cpl_pipe, coloured):
    pictures, labels, names = coloured()
    whole, chunked = twin(cpl_pipe), twin(cpl_pipe)
    whole.fit(pictures, labels, names, **FAST)
    chunked.fit(pictures, labels, names, max_tokens=16, **FAST)
    for a, b in zip(weights(whole).values(), weights(chunked).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_rate_is_slow_at_first_and_then_the_cosine():
    settings = training.CPLSettings(epochs=10)
    rates = [training.rate_of(epoch, settings) for epoch in range(10)]
    assert rates[0] == 1e-5 and rates[5] == pytest.approx(0.001) and rates[1] > rates[2] > rates[9] > 0
    assert training.rate_of(0, training.CPLSettings(epochs=1)) == 2e-3


def test_augmentation_cuts_flips_and_repeats():
    from wm_pipelines.cpl.crops import crop_and_flip

    picture = torch.zeros(3, 40, 60)
    picture[:, :, 30:] = 1
    made = [crop_and_flip(picture, 16, keyed("t", i)) for i in range(30)]
    assert all(m.shape == (3, 16, 16) and 0 <= m.min() and m.max() <= 1 for m in made)
    assert torch.equal(made[0], crop_and_flip(picture, 16, keyed("t", 0)))
    bright_left = sum(float(m[:, :, 0].mean()) > float(m[:, :, -1].mean()) for m in made)
    assert 3 <= bright_left <= 27
    assert crop_and_flip(torch.rand(3, 1, 1), 16, keyed("one")).shape == (3, 16, 16)
