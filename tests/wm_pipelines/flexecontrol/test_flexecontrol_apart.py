"""No word that is encoded knows of a bound phrase but those of the phrase itself, and the text's end keeps out."""

import pytest
import torch

from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.steering.attention import PhraseAttention
from wm_pipelines.flexecontrol.steering.plan import Request, make_plan

PROMPT = "a red cube left of a blue sphere"
CUBE, SPHERE, LOOSE = slice(2, 4), slice(7, 9), [0, 1, 4, 5, 6, *range(9, 77)]


@pytest.fixture
def embedded(flex_pipe, square):
    """`embedded(prompt, *phrases)`: text embeddings (77, C) as they are and kept apart."""

    def run(prompt, *phrases, strength=1.0, copies=1):
        given = [
            Condition("canny", square(), phrase=phrase, region=(0.5 * n, 0, 0.5 + 0.5 * n, 1), strength=strength)
            for n, phrase in enumerate(phrases)
        ]
        request = Request(
            prompt, 1, conditions=given, phrases=None, graphs=None, size=(64, 64), steps=3, on_conflict="ignore"
        )
        plan = make_plan(flex_pipe.control, flex_pipe.tokenizer, convert=str, request=request)
        text = flex_pipe.encode_prompt(prompt, num_images_per_prompt=copies, do_classifier_free_guidance=False)[0]
        return text, flex_pipe.keep_apart(text, prompt, plan)

    with torch.no_grad():
        yield run


def test_a_phrase_is_encoded_as_if_the_other_was_not_there(embedded):
    plain, apart = embedded(PROMPT, "red cube", "blue sphere")
    _, other = embedded("a red cube left of a green cone", "red cube", "green cone")
    _, first = embedded("a green cone left of a blue sphere", "green cone", "blue sphere")
    assert torch.allclose(apart[0, CUBE], other[0, CUBE], atol=1e-6)
    assert torch.allclose(apart[0, SPHERE], first[0, SPHERE], atol=1e-6)
    assert torch.allclose(apart[0, CUBE], plain[0, CUBE], atol=1e-6)  # nothing came before it
    assert (apart[0, SPHERE] - plain[0, SPHERE]).abs().max() > 1e-3


def test_all_other_words_and_the_end_of_the_text_know_of_neither(embedded):
    plain, apart = embedded(PROMPT, "red cube", "blue sphere")
    _, other = embedded("a green cone left of a red cube", "green cone", "red cube")
    assert torch.allclose(apart[0, LOOSE], other[0, LOOSE], atol=1e-6)
    assert (apart[0, LOOSE] - plain[0, LOOSE]).abs().max() > 1e-3


def test_a_phrase_without_a_place_stays_in_the_context(embedded):
    _, apart = embedded(PROMPT, "red cube")
    _, other = embedded("a red cube left of a green cone", "red cube")
    assert torch.allclose(apart[0, :7], other[0, :7], atol=1e-6)
    assert (apart[0, 9:] - other[0, 9:]).abs().max() > 1e-3


@pytest.mark.parametrize("phrases, strength", [((), 1.0), (("red cube",), 0.0)])
def test_where_nothing_is_held_the_text_is_the_same_object(embedded, phrases, strength):
    plain, apart = embedded(PROMPT, *phrases, strength=strength)
    assert apart is plain


def test_copies_of_a_prompt_are_alike(embedded):
    _, one = embedded(PROMPT, "red cube", "blue sphere")
    _, three = embedded(PROMPT, "red cube", "blue sphere", copies=3)
    assert three.shape[0] == 3 and all(torch.equal(row, one[0]) for row in three)


def test_the_end_of_the_text_is_kept_out_of_the_places_alone():
    index = torch.zeros(1, 2, 7, dtype=torch.bool)
    index[0, 0, 1], index[0, 1, 3] = True, True
    regions = torch.zeros(1, 2, 8, 8)
    regions[:, 0, :, :4] = 1
    tail = torch.arange(7)[None] >= 5
    held = torch.tensor([[True, False]])
    state = PhraseAttention(index, regions, True, None, (8, 8), held=held, tail=tail)
    bias = state.bias((8, 8), 9, torch.zeros(1))[0, 0].unflatten(0, (8, 8))
    inside, outside = bias[:, :4], bias[:, 4:]
    assert (inside[..., 5:7] == -torch.inf).all() and (inside[..., [0, 1, 2, 3, 4, 7, 8]] == 0).all()
    assert (outside[..., 1] == -torch.inf).all() and (outside[..., [0, 2, 3, 4, 5, 6, 7, 8]] == 0).all()


def test_without_binding_nothing_is_encoded_again(sample, square, flex_pipe, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("encoded again")

    monkeypatch.setattr(flex_pipe, "keep_apart", refused)
    condition = Condition("canny", square(), phrase="red cube", region=(0, 0, 0.5, 0.5))
    sample(conditions=condition, binding="none", num_inference_steps=1)
    with pytest.raises(AssertionError, match="encoded again"):
        sample(conditions=condition, num_inference_steps=1)
