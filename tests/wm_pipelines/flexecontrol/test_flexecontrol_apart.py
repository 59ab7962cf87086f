"""Phrases with places are read in encodings of their own, the others hidden; other cells read the prompt."""

import pytest
import torch

from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.steering.attention import PhraseAttention
from wm_pipelines.flexecontrol.steering.plan import Request, make_plan

PROMPT = "a red cube left of a blue sphere"
CUBE, SPHERE, LENGTH = slice(2, 4), slice(7, 9), 77


@pytest.fixture
def encoded(flex_pipe, square):
    """`encoded(prompt, *phrases)`: text as it is, text and negative text kept apart."""

    def run(prompt, *phrases, strength=1.0, copies=1):
        given = [
            Condition("canny", square(), phrase=phrase, region=(0.5 * n, 0, 0.5 + 0.5 * n, 1), strength=strength)
            for n, phrase in enumerate(phrases)
        ]
        request = Request(
            prompt,
            1,
            conditions=given or None,
            phrases=None,
            graphs=None,
            size=(64, 64),
            steps=3,
            on_conflict="ignore",
        )
        plan = make_plan(flex_pipe.control, flex_pipe.tokenizer, convert=str, request=request)
        text, negative = flex_pipe.encode_prompt(prompt, num_images_per_prompt=copies)
        return text, negative, *flex_pipe.keep_apart(text, negative, prompt=prompt, plan=plan)

    with torch.no_grad():
        yield run


def test_each_phrase_has_an_encoding_that_does_not_know_the_other(encoded):
    plain, _, apart, _ = encoded(PROMPT, "red cube", "blue sphere")
    *_, other, _ = encoded("a red cube left of a green cone", "red cube", "green cone")
    *_, first, _ = encoded("a green cone left of a blue sphere", "green cone", "blue sphere")
    assert apart.shape[1] == 3 * LENGTH and torch.equal(apart[:, :LENGTH], plain)
    cube, sphere = apart[0, LENGTH : 2 * LENGTH], apart[0, 2 * LENGTH :]
    # all but the hidden words themselves, the end of the text and the padding too
    shown = [i for i in range(LENGTH) if i not in (7, 8)]
    assert torch.allclose(cube[shown], other[0, LENGTH : 2 * LENGTH][shown], atol=1e-6)
    shown = [i for i in range(LENGTH) if i not in (2, 3)]
    assert torch.allclose(sphere[shown], first[0, 2 * LENGTH :][shown], atol=1e-6)
    assert torch.allclose(cube[CUBE], plain[0, CUBE], atol=1e-6)  # nothing came before it
    assert (sphere[SPHERE] - plain[0, SPHERE]).abs().max() > 1e-3


def test_a_phrase_without_a_place_stays_in_the_context(encoded):
    prompt = "a red cube left of a blue sphere and a {} cone"
    *_, apart, _ = encoded(prompt.format("green"), "red cube", "blue sphere")
    *_, other, _ = encoded(prompt.format("white"), "red cube", "blue sphere")
    assert (apart[0, LENGTH + 13 : 2 * LENGTH] - other[0, LENGTH + 13 : 2 * LENGTH]).abs().max() > 1e-3


@pytest.mark.parametrize("phrases, strength", [((), 1.0), (("red cube",), 1.0), (("red cube", "blue sphere"), 0.0)])
def test_where_nothing_is_to_be_told_apart_the_text_is_the_same_object(encoded, phrases, strength):
    plain, negative, apart, other = encoded(PROMPT, *phrases, strength=strength)
    assert apart is plain and other is negative


def test_copies_of_a_prompt_are_alike_and_negative_texts_repeat_themselves(encoded):
    *_, one, _ = encoded(PROMPT, "red cube", "blue sphere")
    _, negative, three, other = encoded(PROMPT, "red cube", "blue sphere", copies=3)
    assert three.shape[0] == 3 and all(torch.equal(row, one[0]) for row in three)
    assert torch.equal(other, torch.cat([negative] * 3, 1))


def test_cells_of_a_place_look_at_its_encoding_alone():
    index = torch.zeros(1, 3, 5, dtype=torch.bool)
    index[0, 0, 1], index[0, 1, 3], index[0, 2, 2] = True, True, True
    regions = torch.zeros(1, 3, 8, 8)
    regions[0, 0, :, :3], regions[0, 1, :, 5:] = 1, 1
    block = torch.tensor([[1, 2, 0]])
    held = torch.tensor([[True, True, False]])
    state = PhraseAttention(index, regions, True, None, (8, 8), held=held, block=block)
    bias = state.bias((8, 8), 17, torch.zeros(1))[0, 0].unflatten(0, (8, 8))
    assert set(bias.unique().tolist()) == {0.0, float("-inf")}
    free = [[(row == 0).nonzero().flatten().tolist() for row in line] for line in bias]
    shown = [15, 16]  # image tokens behind the text
    assert all(line[x] == [5, 6, 7, 9, *shown] for line in free for x in range(3))  # without the other's word, 3
    assert all(line[x] == [10, 12, 13, 14, *shown] for line in free for x in range(5, 8))
    assert all(line[x] == [0, 2, 4, *shown] for line in free for x in range(3, 5))


def test_a_phrase_is_recorded_where_it_is_read():
    index = torch.zeros(1, 2, 5, dtype=torch.bool)
    index[0, 0, 1], index[0, 1, 3] = True, True
    state = PhraseAttention(index, None, False, 1, (2, 2), block=torch.tensor([[1, 2]]))
    chances = torch.zeros(1, 1, 4, 15)
    chances[..., 6], chances[..., 13] = 0.25, 0.75
    state.record("layer", chances, (2, 2))
    assert torch.equal(state.maps["layer"], torch.tensor([0.25, 0.75]).view(1, 2, 1, 1).expand(1, 2, 2, 2))


def test_an_object_sees_nothing_of_the_other_phrase_in_its_place(sample, square):
    """Attention in a place is the same whatever the other phrase says; only what the layers mix differs."""
    left = Condition("canny", square(), phrase="red cube", region=(0, 0, 0.5, 1))

    def first_map(prompt, other):
        right = Condition("canny", square(), phrase=other, region=(0.5, 0, 1, 1))
        out = sample(prompt, conditions=[left, right], num_inference_steps=1, guidance_scale=1.0)
        return out.attention_maps[0]["red cube"]

    one, two = first_map(PROMPT, "blue sphere"), first_map("a red cube left of a green cone", "green cone")
    assert one[:, 4:].max() == 0 and one[:, :4].min() > 0
    assert torch.allclose(one, two, atol=0.02)


def test_a_removed_condition_leaves_the_other_phrase_alone(sample, square):
    left = Condition("canny", square(), phrase="red cube", region=(0, 0, 0.5, 1))
    right = Condition("canny", square(), phrase="blue sphere", region=(0.5, 0, 1, 1), strength=0)
    one, both = (sample(conditions=given, num_inference_steps=1).images for given in ([left], [left, right]))
    assert torch.equal(one, both)


def test_a_batch_of_prompts_is_each_of_them(sample, square):
    left = Condition("canny", square(), phrase="red cube", region=(0, 0, 0.5, 1))
    right = Condition("canny", square(), phrase="blue sphere", region=(0.5, 0, 1, 1))
    prompts, given = [PROMPT, "a red cube", PROMPT], [[left, right], [left], []]
    noise = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    many = sample(prompts, conditions=given, latents=noise, num_inference_steps=2).images
    for n in range(3):
        one = sample(prompts[n], conditions=given[n] or None, latents=noise[n : n + 1], num_inference_steps=2).images
        assert torch.allclose(many[n], one[0], atol=1e-4)


def test_without_binding_nothing_is_encoded_again(sample, square, flex_pipe, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("encoded again")

    monkeypatch.setattr(flex_pipe, "keep_apart", refused)
    condition = Condition("canny", square(), phrase="red cube", region=(0, 0, 0.5, 0.5))
    sample(conditions=condition, binding="none", num_inference_steps=1)
    with pytest.raises(AssertionError, match="encoded again"):
        sample(conditions=condition, num_inference_steps=1)
