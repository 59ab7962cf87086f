"""Every family against the stock classes: logits, scores, greedy words; padding, batches and counted tokens."""

import pytest
import torch

from wm_pipelines.dynamics.backend import TokenBackend
from wm_pipelines.dynamics.families import make_backend
from wm_pipelines.dynamics.pictures import Emu3Pictures, same_codes

ROWS = [[1, 3, 2, 5], [4, 2, 1, 3, 5, 2, 7], [6, 1]]


@pytest.fixture(scope="module", params=["plain", "liquid", "chameleon", "emu3"])
def backend(request, token_models):
    return token_models.make(request.param)


def stock_logits(model, tokens):
    """Of the class itself; Chameleon's are behind its mask, so its own parts are called."""
    tokens = torch.tensor([tokens])
    if type(model).__name__ == "ChameleonForConditionalGeneration":
        return model.lm_head(model.model(input_ids=tokens)[0])[0].float()
    return model(input_ids=tokens).logits[0].float()


@torch.no_grad()
def test_logits_are_those_of_the_stock_class(backend):
    for row in ROWS:
        hidden = backend.hidden(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long))
        wanted = stock_logits(backend.model, row)
        assert torch.allclose(backend.logits(hidden)[0], wanted, atol=1e-4)
        some = backend.codes.ids[:5]
        assert torch.allclose(backend.logits(hidden, some)[0], wanted[:, some], atol=1e-4)


@torch.no_grad()
def test_scores_are_those_of_whole_sequences_one_by_one(backend):
    completions = [[3, 4], [2, 5, 1, 6], [7]]
    state = backend.read([row[:-1] for row in ROWS])
    found = backend.completion_scores(state, [row[-1:] for row in ROWS], completions)
    for row, completion, scores in zip(ROWS, completions, found, strict=True):
        logprobs = stock_logits(backend.model, row + completion[:-1]).log_softmax(-1)
        wanted = logprobs[len(row) - 1 :].gather(1, torch.tensor(completion)[:, None])[:, 0]
        assert torch.allclose(scores, wanted, atol=1e-4)


@torch.no_grad()
def test_write_words_are_those_of_stock_logits_and_never_codes(backend):
    barred = {*backend.codes.ids.tolist(), *backend.marks()}
    found = backend.write_words(backend.read([row[:-1] for row in ROWS]), [row[-1:] for row in ROWS], 5)
    for row, (tokens, logprobs) in zip(ROWS, found, strict=True):
        so_far = list(row)
        for logprob, token in zip(logprobs, [*tokens, backend.sequences.stop], strict=False):
            known = stock_logits(backend.model, so_far)[-1].log_softmax(-1)
            allowed = known.index_fill(0, torch.tensor(sorted(barred)), -torch.inf)
            assert int(allowed.argmax()) == token and abs(float(known[token]) - logprob) < 1e-4
            so_far.append(token)
        assert len(tokens) in (5, len(logprobs) - 1) and not barred & set(tokens)


@torch.no_grad()
def test_tokens_are_counted_without_padding(backend):
    backend.forwards = 0
    state = backend.read(ROWS).repeat(3)
    assert backend.forwards == sum(map(len, ROWS))
    backend.extend(state, torch.ones(9, 2, dtype=torch.long))
    assert backend.forwards == sum(map(len, ROWS)) + 18
    assert state.mask.shape == (9, max(map(len, ROWS)) + 2)


@torch.no_grad()
def test_bf16_scores_are_sums_in_float32_over_the_completion_alone(token_models, monkeypatch):
    """Half precision loses what a softmax over many tokens adds up, and all logits of a prompt would fill memory."""
    made = token_models.make("liquid")
    made.model.to(torch.bfloat16)
    seen, whole = [], made.logits
    monkeypatch.setattr(made, "logits", lambda hidden, ids=None: seen.append(whole(hidden, ids)) or seen[-1])
    completions = [[3, 4], [2, 5, 1, 6], [7]]
    found = made.completion_scores(made.read([row[:-1] for row in ROWS]), [row[-1:] for row in ROWS], completions)
    assert [logits.shape[0] for logits in seen] == [2, 4, 1]
    for logits, scores, completion in zip(seen, found, completions, strict=True):
        assert logits.dtype == scores.dtype == torch.float32
        total = logits.double().log_softmax(-1).exp().sum(-1)
        assert torch.allclose(total, torch.ones_like(total))
        wanted = logits.double().log_softmax(-1)[range(len(completion)), completion]
        assert torch.allclose(scores.double(), wanted, atol=1e-5)


def test_context_is_checked(backend):
    backend.check_context(backend.context)
    with pytest.raises(ValueError, match=rf"context {backend.context + 1} exceeds {backend.context}: reduce"):
        backend.check_context(backend.context + 1)


@torch.no_grad()
def test_liquid_greedy_equals_stock_generate(token_models):
    """`generate` with a mask over logits is what Liquid's authors sample with."""
    made = token_models.make("liquid")
    text = [n for n in range(made.model.config.vocab_size) if n not in {*made.codes.ids.tolist(), *made.marks()}]
    for row in ROWS:
        out = made.model.generate(
            torch.tensor([row]), max_new_tokens=4, do_sample=False, eos_token_id=made.sequences.stop, pad_token_id=0,
            prefix_allowed_tokens_fn=lambda batch, ids: text,
        )[0, len(row) :].tolist()  # fmt: skip
        ((tokens, _),) = made.write_words(made.read([row[:-1]]), [row[-1:]], 4)
        assert tokens == out[: len(tokens)] and len(tokens) == len([t for t in out if t != made.sequences.stop])


class TestChameleon:
    """Why there is a bypass; when one of these fails, read `families.py` again."""

    def test_stock_masks_every_picture_token_and_its_loss_is_infinite(self, token_models):
        model = token_models.make_model("chameleon")
        # the mask goes by the vocabulary map of the config
        codes = [n for name, n in model.config.vocabulary_map.items() if name.startswith("IMGIMG")]
        with torch.no_grad():
            out = model(input_ids=torch.tensor([[1, 2, *codes[:2]]]), labels=torch.tensor([[1, 2, *codes[:2]]]))
        assert (out.logits[0, :, codes] <= torch.finfo(out.logits.dtype).min).all()
        assert out.loss.isinf() or out.loss > 1e30

    def test_a_plain_backend_says_which_one_serves(self, token_models):
        parts = token_models.make_parts("chameleon")
        good = make_backend(parts["model"], parts["vq"], parts["tokenizer"], parts["layout"])
        with pytest.raises(ValueError, match="logits are masked in transformers.; use `ChameleonTokenB"):
            TokenBackend(good.model, good.pictures, good.codes, good.tokenizer, good.layout)

    def test_codes_go_through_names_not_an_offset(self, token_models):
        made = token_models.make("chameleon")
        names = {n: name for name, n in made.model.config.vocabulary_map.items()}
        assert [names[int(n)] for n in made.codes.ids] == [token_models.letters(c) for c in range(token_models.CODES)]
        assert (made.codes.ids.diff() < 0).all()  # the tiny vocabulary has them backwards


class TestEmu3:
    def test_codes_and_pictures_are_those_of_the_stock_model(self, token_models):
        made = token_models.make("emu3")
        pictures = token_models.pictures(2)
        codes = made.pictures.encode(pictures)
        assert codes.shape == (2, 4, 4) and isinstance(made.pictures, Emu3Pictures)
        with torch.no_grad():
            stock = made.model.model.get_image_tokens(2 * pictures - 1, torch.tensor([[16, 16]] * 2)).reshape(2, -1)
            for n in range(2):
                assert stock[n].tolist() == made.sequences.body(codes[n])
                padded = torch.tensor([[*made.sequences.body(codes[n]), 0, 0, 0]])
                drawn = made.model.decode_image_tokens(image_tokens=padded, height=4, width=4)
                again = made.pictures.decode(codes[n : n + 1])
                assert torch.allclose(again, (drawn / 2 + 0.5).clamp(0, 1), atol=1e-5)

    def test_its_own_tokeniser_only(self, token_models):
        parts = token_models.make_parts("emu3")
        with pytest.raises(ValueError, match="`vq` is given, but Emu3 holds its own tokeniser"):
            make_backend(parts["model"], token_models.make_vq(), parts["tokenizer"], parts["layout"])

    @pytest.mark.parametrize("shape", [(3, 16, 16), (1, 3, 15, 16)])
    def test_pictures_that_do_not_fit(self, token_models, shape):
        with pytest.raises(ValueError, match="`pictures` are"):
            token_models.make("emu3").pictures.encode(torch.rand(shape))


def test_parts_that_do_not_fit_are_refused(token_models):
    parts = token_models.make_parts("plain")
    model, vq, words, layout = parts["model"], parts["vq"], parts["tokenizer"], parts["layout"]
    with pytest.raises(ValueError, match="`layout` is missing, and no layout belongs to LlamaForCausalLM"):
        make_backend(model, vq, words)
    with pytest.raises(ValueError, match="`vq` is missing: LlamaForCausalLM draws nothing"):
        make_backend(model, None, words, layout)
    with pytest.raises(ValueError, match=r"`codes` reach token 45; `model` has \d+"):
        make_backend(model, vq, words, layout.model_copy(update={"first_code": 30}))

    class JanusForConditionalGeneration(type(model)):
        pass

    janus = JanusForConditionalGeneration(model.config)
    with pytest.raises(ValueError, match="JanusForConditionalGeneration cannot generate images from a source picture"):
        make_backend(janus, vq, words, layout)


def test_same_codes_knows_equal_weights(token_models):
    from wm_pipelines.tokens.pictures import PictureTokens

    one, two, other = (PictureTokens(token_models.make_vq(seed)) for seed in (0, 0, 1))
    assert same_codes(one, one) and same_codes(one, two) and not same_codes(one, other)
    assert not same_codes(one, token_models.make("emu3").pictures)
