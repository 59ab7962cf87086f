"""Codes as tokens of a language model and back."""

import pytest
import torch

from wm_pipelines.tokens.vocabulary import CodeVocabulary, chameleon_code


def chameleon_name(code):
    return "IMGIMG" + "".join("ABCDEFGHIJ"[int(digit)] for digit in str(code)) + "Z"


def named_vocabulary(num_codes, seed=0):
    """Codes among words, their tokens in no order."""
    names = [chameleon_name(code) for code in range(num_codes)] + ["<image>", "IMG", "IMGIMG", "IMGIMGKZ", "xIMGIMGAZ"]
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    return dict(zip(names, order, strict=True))


@pytest.mark.parametrize("num_codes", [1, 10, 321])
def test_names_lead_to_the_tokens_that_transformers_finds(num_codes):
    from transformers.models.chameleon.modeling_chameleon import ChameleonImageVocabularyMapping

    vocabulary = named_vocabulary(num_codes)
    del vocabulary["IMGIMG"], vocabulary["IMGIMGKZ"]  # transformers takes everything that begins so for a code
    mapping = ChameleonImageVocabularyMapping(vocabulary)
    found = CodeVocabulary.from_names(vocabulary)
    codes = torch.arange(num_codes).flip(0)
    assert found.num_codes == num_codes
    assert torch.equal(found.to_tokens(codes), mapping.convert_img2bpe(codes).long())


@pytest.mark.parametrize(
    "vocabulary",
    [
        CodeVocabulary(torch.arange(256_000, 264_192)),
        CodeVocabulary(torch.tensor([7, 3, 900, 0], dtype=torch.int32)),
        CodeVocabulary.from_names(named_vocabulary(77)),
        CodeVocabulary.from_names({f"<|visual token {k:06d}|>": 9 - k for k in range(5)}, lambda s: int(s[-8:-2])),
    ],
)
def test_there_and_back_in_any_shape(vocabulary):
    codes = torch.randint(0, vocabulary.num_codes, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    tokens = vocabulary.to_tokens(codes)
    assert tokens.shape == codes.shape and tokens.dtype == torch.int64
    assert torch.equal(vocabulary.to_codes(tokens), codes)
    assert torch.equal(vocabulary.to_tokens(codes.to(torch.uint16)), tokens)  # as they are stored
    assert torch.equal(vocabulary.to_codes(vocabulary.ids), torch.arange(vocabulary.num_codes))
    assert vocabulary.to_codes(tokens[:0]).shape == (0, 3, 5)


def test_liquid_s_codes_follow_gemma_s_tokens():
    liquid = CodeVocabulary(torch.arange(256_000, 264_192))
    assert liquid.to_tokens(torch.tensor([0, 8191])).tolist() == [256_000, 264_191]
    with pytest.raises(ValueError, match="`tokens` hold 2 that stand for no code, the first is 264192"):
        liquid.to_codes(torch.tensor([256_000, 264_192, 255_999]))


@pytest.mark.parametrize(
    ("name", "code"),
    [("IMGIMGAZ", 0), ("IMGIMGJZ", 9), ("IMGIMGBCDZ", 123), ("IMGIMGAAABZ", 1), ("IMGIMGIBJBZ", 8191)]
    + [(name, None) for name in ("IMGIMGZ", "IMGIMGKZ", "IMGIMGB", "imgimgbz", "IMGIMGBZ ", "<image>", "")],
)
def test_a_name_says_its_code(name, code):
    assert chameleon_code(name) == code


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ({"a": 0}, "1 tokens, and none is named after a code"),
        ({"IMGIMGAZ": 0, "IMGIMGCZ": 1}, r"no code 1; codes must be 0 \.\.\. 1"),
        ({"IMGIMGBZ": 0}, "no code 0"),
        ({"IMGIMGAZ": 0, "IMGIMGAAZ": 1}, "code 0 twice"),
        ({"IMGIMGAZ": 4, "IMGIMGBZ": 4}, "stands for two codes"),
    ],
)
def test_vocabularies_without_a_token_for_each_code_are_refused(vocabulary, message):
    with pytest.raises(ValueError, match=message):
        CodeVocabulary.from_names(vocabulary)


def test_what_is_no_id_code_or_token_is_refused():
    for ids in (torch.zeros(0, dtype=torch.int64), torch.ones(2, 2), torch.tensor([0.5]), torch.tensor([True])):
        with pytest.raises(ValueError, match="`ids` (are|have)"):
            CodeVocabulary(ids)
    for ids in ([-1, 2], [3, 1, 3]):
        with pytest.raises(ValueError, match="negative token, or one that stands for two codes"):
            CodeVocabulary(torch.tensor(ids))
    vocabulary = CodeVocabulary(torch.tensor([5, 2]))
    with pytest.raises(ValueError, match=r"`codes` lie in 0 \.\.\. 2; there are 0 \.\.\. 1"):
        vocabulary.to_tokens(torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="`tokens` are torch.float32"):
        vocabulary.to_codes(torch.tensor([5.0]))
    with pytest.raises(ValueError, match="the first is 3"):
        vocabulary.to_codes(torch.tensor([5, 3]))
