"""Parsers behind one interface: by name, from dependency trees, and from the text of a FACTUAL model."""

from dataclasses import dataclass

import pytest

from wm_pipelines.text.dependencies import from_dependencies
from wm_pipelines.text.factual import FactualParser, read_facts
from wm_pipelines.text.parser import parse
from wm_pipelines.text.parsers import SpacyParser, make_parser


def said(parsed):
    names = {e.id: e.text for e in parsed.entities} | {None: None}
    return [e.text for e in parsed.entities], [(names[r.subject], r.verb, names[r.object]) for r in parsed.relations]


def test_parsers_by_name():
    assert make_parser("rules") is parse
    assert make_parser(len) is len


@pytest.mark.parametrize("wrong", ["", "rule", "spacy", "spacy:", "factual:", "llm:x", None, 3])
def test_other_names_are_refused(wrong):
    with pytest.raises(ValueError, match=f"parser={wrong!r}; it must be a callable, 'rules', 'spacy:MODEL' or"):
        make_parser(wrong)


# dependency trees


@dataclass
class Word:
    """A word as spaCy's `Token` shows it."""

    i: int
    text: str
    lemma_: str
    pos_: str
    tag_: str
    dep_: str
    head: "Word | None" = None


def tree(*rows):
    """Words of (text, lemma, pos, tag, label, place of its head)."""
    words = [Word(i, *row[:5]) for i, row in enumerate(rows)]
    for word, row in zip(words, rows, strict=True):
        word.head = words[row[5]]
    return words


A, THE = ("a", "a", "DET", "DT", "det"), ("the", "the", "DET", "DT", "det")

TREES = {
    "the car behind the tree is red": (
        [(*THE, 1), ("car", "car", "NOUN", "NN", "nsubj", 5), ("behind", "behind", "ADP", "IN", "prep", 1), (*THE, 4),
         ("tree", "tree", "NOUN", "NN", "pobj", 2), ("is", "be", "AUX", "VBZ", "ROOT", 5),
         ("red", "red", "ADJ", "JJ", "acomp", 5)],
        (["red car", "tree"], [("red car", "behind", "tree")]),
    ),
    "a cat is chased by a dog": (
        [(*A, 1), ("cat", "cat", "NOUN", "NN", "nsubjpass", 3), ("is", "be", "AUX", "VBZ", "auxpass", 3),
         ("chased", "chase", "VERB", "VBN", "ROOT", 3), ("by", "by", "ADP", "IN", "agent", 3), (*A, 6),
         ("dog", "dog", "NOUN", "NN", "pobj", 4)],
        (["cat", "dog"], [("dog", "chase", "cat")]),
    ),
    "a black and white dog": (
        [(*A, 4), ("black", "black", "ADJ", "JJ", "amod", 4), ("and", "and", "CCONJ", "CC", "cc", 1),
         ("white", "white", "ADJ", "JJ", "conj", 1), ("dog", "dog", "NOUN", "NN", "ROOT", 4)],
        (["black white dog"], []),
    ),
    "a man sits in front of the dog that chases no cat": (
        [(*A, 1), ("man", "man", "NOUN", "NN", "nsubj", 2), ("sits", "sit", "VERB", "VBZ", "ROOT", 2),
         ("in", "in", "ADP", "IN", "prep", 2), ("front", "front", "NOUN", "NN", "pobj", 3),
         ("of", "of", "ADP", "IN", "prep", 4), (*THE, 7), ("dog", "dog", "NOUN", "NN", "pobj", 5),
         ("that", "that", "PRON", "WDT", "nsubj", 9), ("chases", "chase", "VERB", "VBZ", "relcl", 7),
         ("no", "no", "DET", "DT", "det", 11), ("cat", "cat", "NOUN", "NN", "dobj", 9)],
        (["man", "dog", "cat"], [("man", "sit", "dog")]),
    ),
    "behind the cat is a dog": (
        [("behind", "behind", "ADP", "IN", "prep", 3), (*THE, 2), ("cat", "cat", "NOUN", "NN", "pobj", 0),
         ("is", "be", "AUX", "VBZ", "ROOT", 3), (*A, 5), ("dog", "dog", "NOUN", "NN", "attr", 3)],
        (["cat", "dog"], [("dog", "behind", "cat")]),
    ),
    "the girl's cup of tea and a cake": (
        [(*THE, 1), ("girl", "girl", "NOUN", "NN", "poss", 3), ("'s", "'s", "PART", "POS", "case", 1),
         ("cup", "cup", "NOUN", "NN", "ROOT", 3), ("of", "of", "ADP", "IN", "prep", 3),
         ("tea", "tea", "NOUN", "NN", "pobj", 4), ("and", "and", "CCONJ", "CC", "cc", 3), (*A, 8),
         ("cake", "cake", "NOUN", "NN", "conj", 3)],
        (["girl", "cup of tea", "cake"], [("girl", "have", "cup of tea")]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("caption", TREES)
def test_dependency_trees_are_read_as_the_rules_read_their_captions(caption):
    rows, wanted = TREES[caption]
    assert said(SpacyParser({caption: tree(*rows)}.__getitem__)(caption)) == wanted
    assert said(parse(caption)) == wanted


def test_words_out_of_order_are_refused():
    words = tree((*A, 1), ("cat", "cat", "NOUN", "NN", "ROOT", 1))
    with pytest.raises(ValueError, match="'cat' at 0 has i=1"):
        from_dependencies(words[::-1])
    with pytest.raises(ValueError, match="a caption must be a string, got 3"):
        SpacyParser(lambda text: words)(3)


def test_spacy_that_is_not_there_is_named():
    try:
        import spacy  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="parser='spacy:en_core_web_sm' needs spaCy.*pip install spacy"):
            make_parser("spacy:en_core_web_sm")
    else:
        with pytest.raises(ValueError, match="has no pipeline 'no_such_pipeline'"):
            make_parser("spacy:no_such_pipeline")


def test_spacy_reads_a_caption():
    pytest.importorskip("spacy", reason="spaCy is not installed; it is the user's own")
    pytest.importorskip("en_core_web_sm", reason="spaCy's pipeline en_core_web_sm is not installed")
    assert said(make_parser("spacy:en_core_web_sm")("a dog chases a cat")) == (
        ["dog", "cat"],
        [("dog", "chase", "cat")],
    )


# FACTUAL


@pytest.mark.parametrize(
    ("text", "entities", "relations"),
    [
        # as the repository of FACTUAL shows them
        (
            "( dog , is , brown ) , ( dog , chase , cat ) , ( dogs , is , 2 )",
            ["brown dog", "cat", "2 dogs"], [("brown dog", "chase", "cat")],
        ),
        ("( people , sit in , bleachers )", ["people", "bleachers"], [("people", "sit in", "bleachers")]),
        ("( city bus )", ["city bus"], []),
        ("(cat,is,black),(cat,is,white)", ["black white cat"], []),
        ("( cat , on , mat ) , ( cat , on , mat )", ["cat", "mat"], [("cat", "on", "mat")]),
        ("( man:1 , v:hold , cup ) , ( man:2 , is , old )", ["man", "cup", "old man"], [("man", "hold", "cup")]),
        ("( cat , pv:chase by , dog )", ["cat", "dog"], [("dog", "chase", "cat")]),
        ("( boats , pv:tie to , dock )", ["boats", "dock"], [("boats", "tie to", "dock")]),
        ("", [], []),
    ],
)  # fmt: skip
def test_facts_are_read(text, entities, relations):
    assert said(read_facts(text)) == (entities, relations)


@pytest.mark.parametrize(
    "text",
    [
        "a dog",
        "( dog , is )",
        "( dog , is , brown",
        "( dog , , cat )",
        "( dog ) ( cat )",
        "( dog ) ,",
        "( a , b , c , d )",
    ],
)
def test_text_that_is_no_scene_graph_is_refused(text):
    with pytest.raises(ValueError, match="a FACTUAL scene graph is"):
        read_facts(text)


@pytest.fixture(scope="module")
def factual(tmp_path_factory):
    """A tiny T5 with random weights, as a folder: what it writes is no scene graph."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    words = "<pad> </s> <unk> Generate Scene Graph : a red dog chases cat ( ) , is chase".split()
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=len(words), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, dropout_rate=0.0,
                decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
            )
        )  # fmt: skip
    folder = tmp_path_factory.mktemp("factual")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_factual_model_writes_what_is_then_read(factual, monkeypatch):
    parser = make_parser(f"factual:{factual}")
    assert parser.beams == 5 and not parser.model.training
    written = parser.write("a red dog chases a cat ")
    asked = parser.tokenizer("Generate Scene Graph: a red dog chases a cat", return_tensors="pt")
    ids = parser.model.generate(**asked, num_beams=5, max_new_tokens=256, do_sample=False)
    assert (
        written == parser.tokenizer.decode(ids[0], skip_special_tokens=True) == parser.write("a red dog chases a cat")
    )
    short = FactualParser(parser.model, parser.tokenizer, beams=1, length=3)
    assert len(short.write("a red dog").split()) <= 3
    with pytest.raises(ValueError, match="a caption must be a string, got None"):
        parser(None)
    monkeypatch.setattr(parser, "write", lambda text: "( dog , is , red ) , ( dog , chase , cat )")
    assert said(parser("a red dog chases a cat")) == (["red dog", "cat"], [("red dog", "chase", "cat")])


def test_other_models_and_settings_are_refused(factual, tmp_path):
    parser = make_parser(f"factual:{factual}")
    for name, value in (("beams", 0), ("length", 1.5), ("beams", True)):
        with pytest.raises(ValueError, match=f"{name}={value}; it must be an integer of at least 1"):
            FactualParser(parser.model, parser.tokenizer, **{name: value})
    from transformers import CLIPConfig

    CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'clip'; FACTUAL models are 't5'"):
        make_parser(f"factual:{tmp_path}")
    with pytest.raises(ValueError, match="is not an embedded checkpoint"):
        make_parser("factual:nowhere")
