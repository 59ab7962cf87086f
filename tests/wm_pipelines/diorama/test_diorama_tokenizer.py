import json

import pytest

from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.scene import sample_scene
from wm_pipelines.diorama.tokenizer import build_tokenizer, learn_merges, tokenizer_tables
from wm_pipelines.diorama.words import VOCABULARY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder)


def test_every_grammar_word_is_one_token(tokenizer):
    assert len(VOCABULARY) < 160
    for word in (*VOCABULARY, ",", "."):
        assert len(tokenizer(f"red {word} cube").input_ids) == 5, word


def test_special_ids_are_the_last_and_padding_is_end_of_text(tokenizer):
    ids = tokenizer("a red cube", padding="max_length").input_ids
    assert tokenizer.eos_token_id == len(tokenizer) - 1 == max(ids)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert tokenizer.bos_token_id == len(tokenizer) - 2 == ids[0]
    assert len(ids) == tokenizer.model_max_length == 77
    assert ids.index(tokenizer.eos_token_id) == 4


@pytest.mark.parametrize("text", ["zebra", "Zürich 42!", "猫 $%&'()*+-/:;<=>?@[]^_`{|}~", "redcube", "don't"])
def test_nothing_turns_into_end_of_text(tokenizer, text):
    assert tokenizer.eos_token_id not in tokenizer(text).input_ids[:-1]
    assert tokenizer.unk_token_id not in tokenizer(text).input_ids[:-1]


def test_every_printable_character_is_present_inside_and_at_the_end_of_a_word(tokenizer):
    vocab = tokenizer.get_vocab()
    for code in range(33, 127):
        assert chr(code) in vocab and chr(code) + "</w>" in vocab


def test_case_and_spaces_do_not_matter_and_decoding_returns_the_text(tokenizer):
    ids = tokenizer("a red cube left of a blue sphere").input_ids
    assert tokenizer("  A Red   cube LEFT of a blue\nsphere ").input_ids == ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a red cube left of a blue sphere"


def test_the_three_files_agree(folder, tokenizer, tmp_path):
    """vocab.json + merges.txt alone, tokenizer.json alone, and AutoTokenizer on all give the same ids."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, CLIPTokenizer

    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    slow = CLIPTokenizer.from_pretrained(tmp_path)
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    auto = AutoTokenizer.from_pretrained(folder)
    assert json.loads((folder / "vocab.json").read_text()) == tokenizer.get_vocab() == auto.get_vocab()
    texts = [caption(sample_scene("tokens", i), "full", i).text for i in range(30)] + ["Zebra 3,5 !?", "猫", ""]
    for text in texts:
        ids = tokenizer(text).input_ids
        assert slow(text).input_ids == fast.encode(text).ids == auto(text).input_ids == ids


def test_saving_and_loading_keeps_the_ids(tokenizer, tmp_path):
    from transformers import CLIPTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again("a red cube, then!").input_ids == tokenizer("a red cube, then!").input_ids
    assert again.model_max_length == 77


def test_offsets_map_spans_to_tokens(tokenizer):
    scene = sample_scene("spans", 3, num_objects=4)
    said = caption(scene, "full", 3)
    encoded = tokenizer(said.text, return_offsets_mapping=True)
    for id, (start, end) in said.spans.items():
        words = [said.text[a:b] for a, b in encoded.offset_mapping if start <= a and b <= end and a < b]
        assert " ".join(words) == said.text[start:end]
        assert scene.object(id).shape == words[-1]


def test_building_twice_gives_the_same_bytes_and_replaces_old_files(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    build_tokenizer(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_merges_make_whole_words_of_overlapping_words():
    words = ["red", "green", "greed", "reed", "re"]
    vocab, merges = tokenizer_tables(words)
    assert all(f"{w}</w>" in vocab for w in words)
    assert len(set(merges)) == len(merges) == len(learn_merges(words))


def test_a_word_that_is_not_a_word_is_refused(tmp_path):
    with pytest.raises(ValueError, match="counter-clockwise"):
        build_tokenizer(tmp_path, ["red", "counter-clockwise"])


def test_a_text_encoder_with_these_ids_pools_at_the_first_end_of_text(tokenizer):
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    out = CLIPTextModel(config).eval()(tokenizer("a red cube", padding="max_length", return_tensors="pt").input_ids)
    distance = (out.pooler_output[:, None] - out.last_hidden_state).abs().amax(-1)[0]
    assert torch.argmin(distance) == 4 and distance[4] == 0
