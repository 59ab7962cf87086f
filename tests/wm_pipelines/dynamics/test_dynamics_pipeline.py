"""The dynamics model's calls: what they give, that scores agree with what was said, sizes, and what is refused."""

import pytest
import torch
from PIL import Image

from wm_pipelines import DynamicsModelPipeline
from wm_pipelines.dynamics.pictures import to_size


@pytest.fixture(scope="module", params=["plain", "liquid", "chameleon", "emu3"])
def pipe(request, token_models):
    return DynamicsModelPipeline(**token_models.make_parts(request.param))


@pytest.fixture(scope="module")
def plain(token_models):
    return DynamicsModelPipeline(**token_models.make_parts("plain"))


def test_what_was_said_has_the_score_that_it_was_said_with(pipe, token_models):
    before, after = list(token_models.pictures(3)), list(token_models.pictures(3, seed=1))
    out = pipe(before, after, max_new_tokens=5)
    assert len(out.actions) == len(out.token_logprobs) == 3 and out.scores.shape == (3,)
    for n, (action, logprobs) in enumerate(zip(out.actions, out.token_logprobs, strict=True)):
        assert (logprobs <= 0).all() and torch.isclose(out.scores[n], logprobs.mean())
        one = pipe(before[n], after[n], max_new_tokens=5)
        assert one.actions == [action] and torch.allclose(one.token_logprobs[0], logprobs, atol=1e-4)
        tokens = pipe.backend.sequences.words(action)
        if len(tokens) == len(logprobs) == 5:  # no stop came: the score of the sentence has one more
            state = pipe.backend.read([pipe.backend.sequences.inverse_head(pipe.encode(before[n][None])[0])[:-1]])
            head = pipe.backend.sequences.inverse_head(pipe.encode(before[n][None])[0])[-1:]
            tail = pipe.backend.sequences.inverse_tail(pipe.encode(after[n][None])[0])
            with torch.no_grad():
                (again,) = pipe.backend.completion_scores(state, [head + tail], [tokens])
            assert torch.allclose(again, logprobs, atol=1e-4)
    two = pipe(before, after, max_new_tokens=2, return_dict=False)[0]
    assert two == [" ".join(action.split()[:2]) for action in out.actions]


def test_a_score_depends_on_all_three(plain, token_models):
    first, second, third = token_models.pictures(3)
    score = plain.score(first, second, "move the red cube")
    assert score.shape == (1,) and score < 0
    for other in (
        plain.score(third, second, "move the red cube"),
        plain.score(first, third, "move the red cube"),
        plain.score(first, second, "move the blue cube"),
    ):
        assert not torch.allclose(score, other, atol=1e-4)


def test_scores_go_by_one_instruction_whatever_training_drew(token_models):
    """Else scores of two processes could not be compared."""
    parts = token_models.make_parts("liquid")
    first, *rest = parts["layout"].inverse_instructions
    known = "turn a cube"  # words that the tiny vocabulary has
    scores = []
    for instructions in ([known, *rest], [known, "move left", first], ["move left", known]):
        layout = parts["layout"].model_copy(update={"inverse_instructions": instructions})
        pipe = DynamicsModelPipeline(**{**parts, "layout": layout})
        scores.append(pipe.score(*token_models.pictures(2), "move the red cube"))
    assert torch.equal(scores[0], scores[1]) and not torch.allclose(scores[0], scores[2], atol=1e-4)


def test_pictures_are_fitted_alike(plain):
    tall = Image.new("RGB", (20, 40), (200, 10, 10))
    padded = to_size([tall], (16, 16), "pad", (122, 116, 104))
    assert padded.shape == (1, 3, 16, 16)
    assert torch.allclose(padded[0, :, 8, 0], torch.tensor([122, 116, 104]) / 255, atol=0.01)
    assert torch.allclose(padded[0, :, 8, 8], torch.tensor([200, 10, 10]) / 255, atol=0.01)
    cropped = to_size([tall], (16, 16), "crop", (0, 0, 0))
    assert torch.allclose(cropped[0, :, 0, 0], torch.tensor([200, 10, 10]) / 255, atol=0.01)
    square = torch.rand(3, 16, 16)
    for resize in (None, "pad", "crop"):
        assert torch.equal(to_size([square], (16, 16), resize, (0, 0, 0))[0], square)
    assert len(plain(tall, tall, max_new_tokens=1, resize="pad").actions) == 1
    assert len(plain(tall, square, max_new_tokens=1, resize="pad").actions) == 1


ONE = torch.rand(3, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": torch.rand(3, 12, 16)}, r"sizes \(16x16, 12x16\); pass images of one size or `resize='pad'`"),
        ({"target": torch.rand(3, 12, 16), "resize": "crop"}, "would cut them at two boxes"),
        ({"source": torch.rand(3, 8, 8), "target": torch.rand(3, 8, 8)}, "is 8x8, but the model takes 16x16"),
        ({"target": [ONE, ONE]}, "`source` has 1 pictures and `target` 2"),
        ({"source": []}, "`source` is empty"),
        ({"max_new_tokens": 0}, "`max_new_tokens` is 0"),
        ({"max_new_tokens": True}, "`max_new_tokens` is True"),
        ({"resize": "stretch"}, "`resize` is 'stretch'; allowed: pad, crop or None"),
        ({"source": 2 * ONE}, "0, 1"),
    ],
)  # fmt: skip
def test_bad_pairs_are_refused_before_any_work(plain, arguments, message):
    plain.backend.forwards = 0
    with pytest.raises(ValueError, match=message):
        plain(**{"source": ONE, "target": ONE, **arguments})
    assert plain.backend.forwards == 0


@pytest.mark.parametrize("action", ["", "   ", ["move", "turn"], [None], None])
def test_bad_actions(plain, action):
    with pytest.raises(ValueError, match="`action`"):
        plain.score(ONE, ONE, action)


def test_a_context_that_is_too_long(token_models):
    short = DynamicsModelPipeline(**token_models.make_parts("plain", context=40))
    assert len(short(ONE, ONE).token_logprobs[0]) <= 40
    with pytest.raises(ValueError, match=r"context \d+ exceeds 40: reduce"):
        short.score(ONE, ONE, "move the red cube to left little")
