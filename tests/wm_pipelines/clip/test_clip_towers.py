import copy

import pytest
import torch

from wm_pipelines.clip.towers import (
    encode_embeds,
    encode_ids,
    encode_images,
    encode_rows,
    encode_texts,
    eos_positions,
    tokenize,
)

TEXTS = ["a photo of a red cube.", "a cube", "a small blue sphere left of a large green cone", "a photo of a cone."]


def padded(tokenizer, texts, length=77):
    ids = tokenize(tokenizer, texts, length)
    return torch.nn.functional.pad(ids, (0, length - ids.shape[1]), value=tokenizer.pad_token_id)


# transformers' eager attention takes its softmax in fp32, whatever the weights are
@pytest.mark.parametrize(
    ("dtype", "tolerance", "attention"),
    [(torch.float32, 1e-5, "sdpa"), (torch.float64, 1e-12, "sdpa"), (torch.float32, 1e-5, "eager")],
)
def test_truncated_texts_equal_the_run_of_77_tokens(tiny_clip, dtype, tolerance, attention):
    clip = copy.deepcopy(tiny_clip["clip"]).to(dtype)
    clip.set_attn_implementation(attention)
    with torch.no_grad():
        full = clip.get_text_features(padded(tiny_clip["tokenizer"], TEXTS)).pooler_output
        ours = encode_texts(clip, tiny_clip["tokenizer"], TEXTS, unit=False)
    assert (ours - full).norm() <= tolerance * full.norm()
    image = torch.randn(8, full.shape[1], dtype=dtype, generator=torch.Generator().manual_seed(1))
    assert torch.equal((image @ ours.T).argmax(-1), (image @ full.T).argmax(-1))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_cache_of_the_mask_has_either_name(tiny_clip, monkeypatch, attention):
    """`past_key_values` up to transformers 5.23, `cache` after it; each without a default, unknown to the other."""
    from transformers import masking_utils

    clip = copy.deepcopy(tiny_clip["clip"])
    clip.set_attn_implementation(attention)
    stock, called = masking_utils.create_causal_mask, []

    def before(config, inputs_embeds, attention_mask, past_key_values, position_ids=None):
        called.append(past_key_values)
        return stock(config, inputs_embeds, attention_mask, past_key_values)

    def after(config, inputs_embeds, attention_mask, cache, position_ids=None):
        called.append(cache)
        return stock(config, inputs_embeds, attention_mask, cache)

    with torch.no_grad():
        now = encode_texts(clip, tiny_clip["tokenizer"], TEXTS)
        for made in (before, after):
            monkeypatch.setattr(masking_utils, "create_causal_mask", made)
            assert torch.equal(encode_texts(clip, tiny_clip["tokenizer"], TEXTS), now)
    assert called == [None, None]


def test_only_the_tokens_up_to_the_last_end_of_text_are_run(tiny_clip):
    seen = []
    hook = tiny_clip["clip"].text_model.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    with torch.no_grad():
        encode_ids(tiny_clip["clip"], padded(tiny_clip["tokenizer"], TEXTS))
        longest = max(len(row) for row in tiny_clip["tokenizer"](TEXTS)["input_ids"])
        assert seen == [(4, longest)]
        seen.clear()
        encode_ids(tiny_clip["clip"], padded(tiny_clip["tokenizer"], TEXTS), max_tokens=2 * longest)
        assert [rows for rows, _ in seen] == [2, 2] and all(r * length <= 2 * longest for r, length in seen)
        assert seen[1][1] == longest and seen[0][1] < longest
        seen.clear()
        encode_ids(tiny_clip["clip"], padded(tiny_clip["tokenizer"], TEXTS), max_tokens=1)
        assert [rows for rows, _ in seen] == [1, 1, 1, 1]
    hook.remove()


def test_passes_do_not_change_features_or_gradients(tiny_clip):
    clip, table = tiny_clip["clip"], tiny_clip["clip"].text_model.embeddings.token_embedding
    ids = tokenize(tiny_clip["tokenizer"], TEXTS, 77)
    eos = eos_positions(ids, clip.config.text_config)
    results = []
    for bound in (8192, 1):
        shift = torch.zeros(16, requires_grad=True)
        features = encode_rows(clip, lambda a, b, n, s=shift: table(ids[a:b, :n]) + s, eos, bound)
        features.square().sum().backward()
        results.append((features.detach(), shift.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
    assert results[0][1].abs().max() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(encode_embeds(clip, table(ids), eos), encode_ids(clip, ids), rtol=0, atol=0)


def test_end_of_text_by_both_rules(tiny_clip):
    config = copy.deepcopy(tiny_clip["clip"].config.text_config)
    eos = config.eos_token_id
    ids = torch.tensor([[5, 7, eos, eos, 3], [5, eos, 9, 9, 9]])
    assert eos_positions(ids, config).tolist() == [2, 1]
    config.eos_token_id = 2
    ids = torch.tensor([[5, 7, 40, 1, 0], [5, 2, 9, 40, 40]])
    assert eos_positions(ids, config).tolist() == [2, 3]
    config.eos_token_id = eos
    with pytest.raises(ValueError, match=f"row 1 has no end-of-text token \\({eos}\\)"):
        eos_positions(torch.tensor([[1, eos], [1, 2]]), config)


def test_legacy_models_are_read_where_transformers_reads_them(tiny_clip):
    clip = copy.deepcopy(tiny_clip["clip"])
    clip.config.text_config.eos_token_id = clip.text_model.eos_token_id = 2
    ids = padded(tiny_clip["tokenizer"], TEXTS)
    with torch.no_grad():
        full = clip.get_text_features(ids).pooler_output
        torch.testing.assert_close(encode_ids(clip, ids), full, rtol=1e-5, atol=1e-6)


def test_a_text_too_long_is_named_with_its_length(tiny_clip):
    long = " ".join(["red"] * 76)
    with pytest.raises(ValueError, match="caption 'red red .* is 78 tokens; limit is 77"):
        encode_texts(tiny_clip["clip"], tiny_clip["tokenizer"], ["a cube", long], what="caption")
    with pytest.raises(ValueError, match=r"is 80 tokens; limit is 77 \(4 context \+ SOS/EOS\)"):
        tokenize(tiny_clip["tokenizer"], [" ".join(["red"] * 74)], 77, reserved=4)
    assert tokenize(tiny_clip["tokenizer"], [" ".join(["red"] * 75)], 77).shape == (1, 77)


@pytest.mark.parametrize(("texts", "message"), [([], "no text given"), (["a", " "], "' '"), (["a", 3], "got 3")])
def test_texts_that_are_none_are_refused(tiny_clip, texts, message):
    with pytest.raises(ValueError, match=message):
        tokenize(tiny_clip["tokenizer"], texts, 77)


def test_pictures_are_those_of_clip(tiny_clip):
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full = tiny_clip["clip"].get_image_features(pixels).pooler_output
        torch.testing.assert_close(
            encode_images(tiny_clip["clip"], pixels, unit=False, max_images=2), full, rtol=1e-5, atol=1e-6
        )
        unit = encode_images(tiny_clip["clip"], pixels)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(5))
