"""What a fit does and what it leaves alone."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from wm_pipelines.adapters.injected import without
from wm_pipelines.adapters.kronecker import KroneckerConfig
from wm_pipelines.kadaptation import adapter
from wm_pipelines.kadaptation.pipeline import KAdaptationOutput, KAdaptationPipeline

RATES = {"learning_rate": 2e-2, "head_learning_rate": 2e-2}


def tower_weights(pipe):
    with without(pipe.vision_model):
        return {key: tensor.clone() for key, tensor in pipe.vision_model.state_dict().items()}


def test_it_learns_and_the_base_stays_as_it_was(pipe, pictures, config):
    before = tower_weights(pipe)
    assert pipe.fit(*pictures, config=config, epochs=25, **RATES) is pipe
    assert [row["epoch"] for row in pipe.history] == list(range(1, 26))
    assert pipe.history[-1]["loss"] < 0.5 * pipe.history[0]["loss"]
    output = pipe(pictures[0])
    assert isinstance(output, KAdaptationOutput) and output.labels == pictures[1]
    assert output.logits.shape == (12, 3) and output.logits.dtype == torch.float32
    torch.testing.assert_close(output.probs.sum(1), torch.ones(12))
    after = tower_weights(pipe)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    factors = adapter.parameters(pipe.vision_model)
    assert all(factor.abs().sum() > 0 for factor in factors)  # U, which starts at zero, has moved
    # two layers x (q, v) x (u, v), and one pair of shared factors for each of q and v
    assert sum(factor.numel() for factor in factors) == 4 * (24 + 24) + 4 * 16


def test_the_adapter_serves_what_the_head_alone_can_not(pipe, pictures, config):
    """Classes by what only attention mixes: whether the two bright patches lie side by side or cornerwise."""
    rng = np.random.default_rng(0)
    rows, labels = [], []
    for i in range(24):
        picture = rng.normal(0.2, 0.02, (2, 2))
        cells = [(0, 0), (1, 1)] if i % 2 else [(0, 0), (0, 1)]
        for cell in cells:
            picture[cell] += 0.6
        rows.append(np.kron(picture, np.ones((8, 8))).clip(0, 1))
        labels.append(i % 2)
    images = [np.repeat(row[..., None], 3, -1).astype(np.float32) for row in rows]
    names = {"class_names": ["left", "right"]}
    loss = {}
    for probe in (False, True):
        pipe.fit(images, labels, config=config, epochs=12, probe=probe, **names, **RATES)
        loss[probe] = pipe.history[-1]["loss"]
        assert adapter.has_adapter(pipe.vision_model) is not probe
    assert loss[False] < loss[True]


def test_no_epoch_is_zero_shot_classification_by_the_class_names(pipe, pictures, clip_folder, config):
    from transformers import CLIPModel, CLIPTokenizer

    names = ["red", "green", "blue"]
    pipe.fit(*pictures, class_names=names, epochs=0, config=config)
    clip, tokenizer = CLIPModel.from_pretrained(clip_folder), CLIPTokenizer.from_pretrained(clip_folder)
    tokens = tokenizer([f"a photo of a {name}." for name in names], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = clip(**tokens, pixel_values=pipe.preprocess(pictures[0])).logits_per_image
    torch.testing.assert_close(pipe(pictures[0]).logits, expected, rtol=1e-5, atol=1e-5)
    assert pipe.history == []


def test_several_templates_are_averaged(pipe, pictures, config):
    templates = ("a photo of a {}.", "a {} sphere")
    pipe.fit(*pictures, templates=templates, epochs=0, config=config)
    each = [pipe.encode_classes([[template.format("blue")]])[0] for template in templates]
    mean = functional.normalize(sum(each), dim=-1)
    torch.testing.assert_close(pipe.head.weight[0].detach(), mean, rtol=1e-5, atol=1e-6)


def test_the_same_seed_fits_the_same_and_the_global_seed_stays(pipe, pictures, clip_folder):
    config = KroneckerConfig(n=4, dropout=0.3, target_modules=["q_proj", "v_proj"])
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    logits = []
    for seed in (0, 0, 1):
        pipe.fit(*pictures, config=config, epochs=2, batch_size=5, seed=seed)
        logits.append(pipe(pictures[0]).logits)
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])
    assert torch.equal(torch.rand(1), expected)
    fresh = KAdaptationPipeline.from_clip(clip_folder)
    fresh.set_progress_bar_config(disable=True)
    fresh.fit(*pictures, config=config, epochs=2, batch_size=5)
    assert torch.equal(fresh(pictures[0]).logits, logits[0])


def test_validation_keeps_the_best_epoch(pipe, pictures, config):
    images, labels = pictures
    wrong = ["red", "red", "red", *labels[9:]]  # of two of these the fit grows ever surer, and is ever more wrong
    seen = []

    def watch(pipe, epoch, row):
        seen.append((row["validation_accuracy"], -row["validation_loss"]))

    options = {"epochs": 10, "validation": (images[6:], wrong), "config": config, "callback_on_epoch_end": watch}
    pipe.fit(images[:6], labels[:6], **options, **RATES)
    logits = pipe(images[6:]).logits
    targets = torch.tensor([pipe.head.config.class_names.index(name) for name in wrong])
    kept = ((logits.argmax(1) == targets).float().mean().item(), -functional.cross_entropy(logits, targets).item())
    assert kept == pytest.approx(max(seen), abs=1e-5) and max(seen) != seen[-1]


def test_a_callback_can_stop_the_fit(pipe, pictures, config):
    def stop(pipe, epoch, row):
        pipe._interrupt = epoch == 2

    steps = []

    def watch(pipe, step, figures):
        steps.append((step, figures["loss"]))

    options = {"callback_on_step_end": watch, "callback_on_epoch_end": stop}
    pipe.fit(*pictures, config=config, epochs=9, batch_size=5, **options)
    assert [step for step, _ in steps] == [1, 2, 3, 4, 5, 6]  # three in each of two epochs
    assert [sum(loss for _, loss in part) / 3 for part in (steps[:3], steps[3:])] == [
        row["loss"] for row in pipe.history
    ]
    assert len(pipe.history) == 2 and len(pipe(pictures[0]).labels) == 12
    pipe.fit(*pictures, config=config, epochs=3)
    assert len(pipe.history) == 3


def test_a_fit_that_dies_leaves_the_earlier_one(fitted, pictures, config):
    logits, record = fitted(pictures[0]).logits, fitted.wm_config

    def die(pipe, epoch, row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted.fit(*pictures, config=config, epochs=3, callback_on_epoch_end=die)
    with pytest.raises(FloatingPointError, match="not finite in epoch"):
        fitted.fit(*pictures, config=config, epochs=9, learning_rate=1e30, head_learning_rate=1e30)
    with pytest.raises(ValueError, match="n=5 does not divide"):
        fitted.fit(*pictures, config=KroneckerConfig(n=5))
    assert torch.equal(fitted(pictures[0]).logits, logits) and fitted.wm_config == record
    assert fitted.head.config.class_names == ["blue", "green", "red"]


def test_without_names_or_text_tower_the_head_starts_at_zero(pipe, pictures, config):
    numbers = [["red", "green", "blue"].index(name) for name in pictures[1]]
    with pytest.warns(UserWarning, match="the classes have no names: the head starts at zero"):
        pipe.fit(pictures[0], torch.tensor(numbers), epochs=0, config=config)
    assert pipe.head.config.class_names == ["0", "1", "2"] and not pipe.head.weight.any()
    alone = KAdaptationPipeline(pipe.vision_model, pipe.image_processor)
    alone.set_progress_bar_config(disable=True)
    with pytest.warns(UserWarning, match="no text_model: the head starts at zero"):
        alone.fit(*pictures, epochs=15, config=config, **RATES)
    assert alone.history[0]["loss"] > alone.history[-1]["loss"]
    assert sum(a == b for a, b in zip(alone(pictures[0]).labels, pictures[1], strict=True)) >= 10
    pipe.fit(*pictures, templates=None, epochs=0, config=config)  # asked for: no warning
    assert not pipe.head.weight.any()


def test_the_released_head_normalises_by_batch_statistics_of_the_first_epoch(pipe, pictures, config):
    pipe.fit(*pictures, head="linear_bn", epochs=1, config=config, learning_rate=1e-9, head_learning_rate=1e-9)
    first = pipe.head.norm.running_mean.clone()
    with torch.no_grad():
        features = pipe.vision_model(pipe.preprocess(pictures[0])).image_embeds
    torch.testing.assert_close(first, 0.1 * features.mean(0), rtol=1e-3, atol=1e-5)
    start = pipe.encode_classes([[f"a photo of a {name}."] for name in pipe.head.config.class_names])
    torch.testing.assert_close(pipe.head.weight.detach(), start, rtol=1e-5, atol=1e-6)
    pipe.fit(*pictures, head="linear_bn", epochs=3, config=config, learning_rate=1e-9, head_learning_rate=1e-9)
    torch.testing.assert_close(pipe.head.norm.running_mean, first, rtol=1e-3, atol=1e-5)
    # thirteen pictures in batches of twelve: the last has one, and no variance
    images = [*pictures[0], pictures[0][0]]
    pipe.fit(images, [*pictures[1], "red"], head="linear_bn", epochs=2, batch_size=12, config=config)
    assert np.isfinite(pipe.history[-1]["loss"])
    assert pipe.wm_config.training.steps == 3  # one in the first epoch, two in the second


def test_counts_of_the_paper():
    """ViT-B: 40,960 without bias, 50,176 with the shared one; ViT-L: 126,976 with it."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {
        "base": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        "large": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    }
    for size, bias, count in (("base", "none", 40_960), ("base", "shared", 50_176), ("large", "shared", 126_976)):
        with torch.device("meta"):
            tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes[size]))
            config = adapter.default_config()
            config.bias = bias
            assert sum(p.numel() for p in adapter.start(tower, config, seed=0)) == count
