"""The prompt learner: counts of the real sizes, where it starts, what it gives, and how it is kept."""

import copy
import math

import pytest
import torch
from torch.nn import functional

from wm_pipelines.clip.towers import encode_images, encode_texts
from wm_pipelines.cpl.losses import class_logits, counterfactual_loss
from wm_pipelines.cpl.modeling import CPLPromptLearner
from wm_pipelines.cpl.prompts import conditional_features, make_prompts

NAMES = ["red cube", "blue_sphere", "small green cone"]


@pytest.mark.parametrize(("width", "joint", "count"), [(512, 512, 35_360), (768, 768, 77_616)])
def test_counts_on_the_real_sizes(width, joint, count):
    from transformers import CLIPConfig

    config = CLIPConfig(text_config={"hidden_size": width}, projection_dim=joint)
    with torch.device("meta"):
        learner = CPLPromptLearner.from_clip(config)
    assert sum(p.numel() for p in learner.parameters()) == count
    assert learner.ctx.is_meta and learner.config.init is None


def test_it_starts_from_the_words_or_at_random(tiny_clip):
    clip, tokenizer = tiny_clip["clip"], tiny_clip["tokenizer"]
    learner = CPLPromptLearner.from_clip(clip, tokenizer)
    ids = tokenizer("a photo of a", add_special_tokens=False)["input_ids"]
    assert torch.equal(learner.ctx, clip.text_model.embeddings.token_embedding.weight[torch.tensor(ids)])
    drawn = CPLPromptLearner.from_clip(clip, n_ctx=64, init=None)
    assert drawn.ctx.shape == (64, 16) and 0.018 < drawn.ctx.std() < 0.022
    state = torch.get_rng_state()
    same, other = (CPLPromptLearner.from_clip(clip, n_ctx=64, init=None, seed=s) for s in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(drawn.parameters(), same.parameters(), strict=True))
    assert not torch.equal(drawn.ctx, other.ctx)
    assert not torch.equal(drawn.meta_net.linear1.weight, other.meta_net.linear1.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokenizer": None}, "init='a photo of a' needs the tokenizer"),
        ({"n_ctx": 2}, "'a photo of a' is 4 tokens, n_ctx=2"),
        ({"n_ctx": 0, "init": None}, "n_ctx=0; it must be at least 1"),
    ],
)
def test_bad_starts(tiny_clip, arguments, message):
    with pytest.raises(ValueError, match=message):
        CPLPromptLearner.from_clip(tiny_clip["clip"], **{"tokenizer": tiny_clip["tokenizer"], **arguments})
    with pytest.raises(ValueError, match="joint_dim=8"):
        CPLPromptLearner(16, 8)


def fixture(tiny_clip, dtype=torch.float64):
    clip = copy.deepcopy(tiny_clip["clip"]).to(dtype)
    learner = CPLPromptLearner.from_clip(clip, tiny_clip["tokenizer"]).to(dtype).requires_grad_(False)
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    return clip, learner, encode_images(clip, pixels)


@torch.no_grad()
def test_a_silent_net_is_zero_shot_clip(tiny_clip):
    clip, learner, image = fixture(tiny_clip)
    learner.meta_net.linear2.weight.zero_()
    learner.meta_net.linear2.bias.zero_()
    prompts = make_prompts(clip, tiny_clip["tokenizer"], NAMES, 4)
    text = conditional_features(clip, learner, prompts, image)
    plain = encode_texts(clip, tiny_clip["tokenizer"], [f"a photo of a {n.replace('_', ' ')}." for n in NAMES])
    logits = class_logits(text, image, clip.logit_scale.exp())
    expected = clip.logit_scale.exp() * image @ plain.T
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-11)


@torch.no_grad()
def test_prompts_are_those_of_cocoop_at_77_tokens(tiny_clip):
    """Row by row as the published code builds it: full length, context in place of tokens 1 to 4, one picture each."""
    clip, learner, image = fixture(tiny_clip)
    tokenizer = tiny_clip["tokenizer"]
    prompts = make_prompts(clip, tokenizer, NAMES, 4)
    text = conditional_features(clip, learner, prompts, image)
    some = conditional_features(clip, learner, prompts, image, torch.tensor([[2, 0], [1, 2], [0, 1]]), max_tokens=1)
    written = [f"a photo of a {n.replace('_', ' ')}." for n in NAMES]
    ids = tokenizer(written, padding="max_length", max_length=77, return_tensors="pt").input_ids
    for b in range(3):
        context = learner.ctx + learner.meta_net(image[b])
        embeds = clip.text_model.embeddings.token_embedding(ids)
        embeds[:, 1:5] = context
        embeds = embeds + clip.text_model.embeddings.position_embedding.weight
        mask = torch.full((77, 77), float("-inf"), dtype=embeds.dtype).triu(1)[None, None]
        hidden = clip.text_model.encoder(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        pooled = clip.text_model.final_layer_norm(hidden)[range(3), (ids == tokenizer.eos_token_id).int().argmax(-1)]
        expected = functional.normalize(clip.text_projection(pooled), dim=-1)
        torch.testing.assert_close(text[b], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(some[b], expected[[[2, 0], [1, 2], [0, 1]][b]], rtol=1e-12, atol=1e-12)


def test_a_prompt_too_long_is_named(tiny_clip):
    name = " ".join(["red"] * 74)
    message = rf"prompt for class '{name}.' is 81 tokens; limit is 77 \(4 context \+ SOS/EOS\)"
    with pytest.raises(ValueError, match=message):
        make_prompts(tiny_clip["clip"], tiny_clip["tokenizer"], ["cube", name], 4)


def test_losses_of_three_dimensions_worked_by_hand():
    image, changed = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0.0, 1, 0]])
    text = torch.tensor([[[0.3, 0.2, math.sqrt(1 - 0.13)]]])
    label = torch.zeros(1, dtype=torch.int64)
    assert round(counterfactual_loss(text, image, changed, label).item(), 5) == 0.64440
    same = counterfactual_loss(text, image, image, label)
    assert same.item() == pytest.approx(math.log(2), abs=1e-7)
    assert counterfactual_loss(text, image, image, label, "paper").item() == pytest.approx(math.log(2), abs=1e-7)
    a, b = math.exp(0.3 / 0.1), math.exp(0.2 / 0.1)
    paper = counterfactual_loss(text, image, changed, label, "paper", tau=0.1)
    assert paper.item() == pytest.approx(-math.log(a / (a + b)), rel=1e-5)


def test_released_means_over_classes_paper_reads_the_true_one():
    text = functional.normalize(torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    image, changed = functional.normalize(torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(1)), dim=-1)
    labels = torch.tensor([3, 1])
    gap = [[float(text[b, c] @ (changed[b] - image[b])) for c in range(4)] for b in range(2)]
    released = sum(math.log1p(math.exp(g)) for row in gap for g in row) / 8
    assert counterfactual_loss(text, image, changed, labels).item() == pytest.approx(released, rel=1e-5)
    paper = sum(math.log1p(math.exp(gap[b][c] / 0.2)) for b, c in ((0, 3), (1, 1))) / 2
    assert counterfactual_loss(text, image, changed, labels, "paper", 0.2).item() == pytest.approx(paper, rel=1e-5)
    with pytest.raises(ValueError, match="variant must be one of released, paper; got 'mine'"):
        counterfactual_loss(text, image, changed, labels, "mine")


def test_it_is_kept_bit_for_bit_and_never_read_from_a_pickle(tiny_clip, tmp_path):
    learner = CPLPromptLearner.from_clip(tiny_clip["clip"], tiny_clip["tokenizer"])
    learner.save_pretrained(tmp_path / "learner")
    again = CPLPromptLearner.from_pretrained(tmp_path / "learner")
    assert again.config.init == "a photo of a"
    for (name, a), (_, b) in zip(learner.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert {name for name, _ in again.named_parameters()} == {
        "ctx", "meta_net.linear1.weight", "meta_net.linear1.bias", "meta_net.linear2.weight", "meta_net.linear2.bias",
    }  # fmt: skip
    with pytest.raises(ValueError, match="refusing pickled 'model.pth.tar-10'|refusing pickled"):
        CPLPromptLearner.from_pretrained("prompt_learner/model-best.pth.tar")
    with pytest.raises(ValueError, match="use_safetensors=False"):
        CPLPromptLearner.from_pretrained(tmp_path / "learner", use_safetensors=False)
