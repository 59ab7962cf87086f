"""In which order things stand, for every layout that ships, and what is refused."""

import pytest
import torch

from wm_pipelines.dynamics.families import default_layout, emu3_code
from wm_pipelines.dynamics.layout import Layout

SOURCE, TARGET = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5, 6], [7, 8]])


def names_of(sequences, tokens):
    """Tokens as names, codes as c<number>."""
    names = {token: name for name, token in sequences.tokenizer.get_vocab().items()}
    codes = {int(token): f"c{code}" for code, token in enumerate(sequences.codes.ids)}
    return " ".join(codes.get(token) or names[token] for token in tokens)


@pytest.fixture(scope="module")
def sequences(token_models):
    return {family: token_models.make(family).sequences for family in token_models.FAMILIES}


def test_liquid_reads_as_its_authors_write_it(sequences):
    said = sequences["liquid"]
    made = said.forward_sample(SOURCE, "move red", TARGET, "make")
    assert names_of(said, made.prompt) == "<boi> c1 c2 c3 c4 <eoi> make move red <boi>"
    assert names_of(said, made.completion) == "c5 c6 c7 c8 <eoi> <eos>"
    made = said.inverse_sample(SOURCE, "move red", TARGET, "make")
    assert names_of(said, made.prompt) == (
        "<start_of_turn> user <boi> c1 c2 c3 c4 <eoi> <boi> c5 c6 c7 c8 <eoi> make <end_of_turn> <start_of_turn> model"
    )
    assert names_of(said, made.completion) == "move red <eos>"
    plain = said.unconditional_prompt(SOURCE)
    assert names_of(said, plain) == "<boi> c1 c2 c3 c4 <eoi> <unconditional> <boi>"


def test_chameleon_has_words_first_and_the_separator_last(sequences):
    said = sequences["chameleon"]
    made = said.forward_sample(SOURCE, "move red", TARGET, "make")
    picture = "<racm3:break> c1 c2 c3 c4 <eoss>"
    assert names_of(said, made.prompt) == f"<s> make move red {picture} <reserved08706> <racm3:break>"
    made = said.inverse_sample(SOURCE, "move red", TARGET, "make")
    assert names_of(said, made.prompt).endswith("c4 <eoss> <racm3:break> c5 c6 c7 c8 <eoss> <reserved08706>")


def test_emu3_says_the_size_and_ends_each_row(sequences):
    said = sequences["emu3"]
    rows = "c1 c2 <|extra_200|> c3 c4 <|extra_200|>"
    picture = f"<|image start|> 2 * 2 <|image token|> {rows} <|extra_201|> <|image end|>"
    assert picture in names_of(said, said.forward_prompt(SOURCE, "move red"))
    tokens, codes = said.forward_completion(TARGET)
    assert [t for t, c in zip(tokens, codes, strict=True) if c] == said.codes.to_tokens(TARGET.flatten()).tolist()
    assert codes == [True, True, False, True, True, False, False, False, False]
    assert emu3_code("<|visual token 012345|>") == 12345 and emu3_code("<image>") is None


def test_a_target_changes_only_what_stands_behind_its_begin(sequences, token_models):
    """Which is why a source is read once for all candidates; and a row's codes are in raster order."""
    for family in token_models.FAMILIES:
        said = sequences[family]
        whole = said.inverse_sample(SOURCE, "move red", TARGET)
        head, tail = said.inverse_head(SOURCE), said.inverse_tail(TARGET)
        assert whole.prompt == head + tail and head[-len(said.begin((2, 2))) :] == said.begin((2, 2))
        flags = said.forward_completion(TARGET)[1]
        found = [t for t, code in zip(said.forward_completion(TARGET)[0], flags, strict=True) if code]
        assert said.codes.to_codes(torch.tensor(found)).tolist() == TARGET.flatten().tolist()


def test_instructions_are_ten_and_differ(token_models):
    for family in ("liquid", "chameleon", "emu3"):
        layout = default_layout(family)
        for known in (layout.forward_instructions, layout.inverse_instructions):
            assert len(set(known)) == len(known) == 10
    assert Layout.model_validate(default_layout("liquid").model_dump(mode="json")) == default_layout("liquid")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forward": [{"text": "{action}"}]}, "forward must have the pictures source"),
        ({"inverse": [{"picture": "target"}, {"picture": "source"}]}, "in this order and once"),
        ({"begin": [{"text": "a", "token": "b"}]}, "exactly one of text, token and picture"),
        ({"forward_instructions": []}, "forward_instructions"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_layouts_that_mean_nothing_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Layout.model_validate({**default_layout("plain").model_dump(), **change})


def test_names_that_are_not_there(token_models):
    from wm_pipelines.dynamics.layout import Sequences

    with pytest.raises(ValueError, match="`layout` 'nothing' is none of chameleon, emu3, liquid, plain"):
        default_layout("nothing")
    made = token_models.make("plain")
    strange = made.layout.model_copy(update={"stop": "<stop>"})
    with pytest.raises(ValueError, match="`layout` names the token '<stop>', which the tokenizer doesn't have"):
        Sequences(strange, made.tokenizer, made.codes)
