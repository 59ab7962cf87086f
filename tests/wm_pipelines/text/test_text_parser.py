"""What the rule parser reads out of captions, and what it refuses."""

import pytest

from wm_pipelines.text.english.words import noun_lemma, verb_lemma
from wm_pipelines.text.parser import Entity, ParsedText, Relation, from_json, parse, parse_triplet


def said(text):
    parsed = parse(text)
    names = {e.id: e.text for e in parsed.entities}
    return (
        [e.text for e in parsed.entities],
        [(names.get(r.subject), r.verb, names.get(r.object)) for r in parsed.relations],
    )


@pytest.mark.parametrize(
    ("text", "entities", "relations"),
    [
        ("young person sit on a boat", ["young person", "boat"], [("young person", "sit", "boat")]),
        ("a man is sitting at a table.", ["man", "table"], [("man", "sit", "table")]),
        ("A bird is flying the sky", ["bird", "sky"], [("bird", "fly", "sky")]),
        ("a man is laying down on a bench", ["man", "bench"], [("man", "lay", "bench")]),
        ("a man hits a ball", ["man", "ball"], [("man", "hit", "ball")]),
        ("an apple is next to a bowl", ["apple", "bowl"], [("apple", "next to", "bowl")]),
        ("a woman is hugging teddy bears", ["woman", "teddy bears"], [("woman", "hug", "teddy bears")]),
        ("a red circle above a blue square", ["red circle", "blue square"], [("red circle", "above", "blue square")]),
        (
            "a red cube left of a blue sphere left of a green cone",
            ["red cube", "blue sphere", "green cone"],
            [("red cube", "left of", "blue sphere"), ("blue sphere", "left of", "green cone")],
        ),
        (
            "a red cube to the left of a blue sphere and behind a green cone",
            ["red cube", "blue sphere", "green cone"],
            [("red cube", "left of", "blue sphere"), ("red cube", "behind", "green cone")],
        ),
        (
            "a red cube left of a blue sphere turning clockwise, moving right, then stopping",
            ["red cube", "blue sphere"],
            [
                ("red cube", "left of", "blue sphere"),
                ("blue sphere", "turn", None),
                ("red cube", "move", None),
                ("red cube", "stop", None),
            ],
        ),
        ("a red cube, and the camera panning left", ["red cube"], []),
        ("a man in a hat rides a horse", ["man", "hat", "horse"], [("man", "in", "hat"), ("man", "ride", "horse")]),
        (
            "a man holds a cup and a woman holds a plate",
            ["man", "cup", "woman", "plate"],
            [("man", "hold", "cup"), ("woman", "hold", "plate")],
        ),
        (
            "man wearing red shirt playing tennis",
            ["man", "red shirt", "tennis"],
            [("man", "wear", "red shirt"), ("man", "play", "tennis")],
        ),
        (
            "a man and a woman ride a horse",
            ["man", "woman", "horse"],
            [("man", "ride", "horse"), ("woman", "ride", "horse")],
        ),
        ("a photo of a cup of coffee.", ["cup of coffee"], []),
        ("a swimming pool", ["swimming pool"], []),
        ("two dogs play on the grass", ["two dogs", "grass"], [("two dogs", "play", "grass")]),
        ("the cube is red", ["red cube"], []),
        # what is said of the subject goes to the subject
        ("the car behind the tree is red", ["red car", "tree"], [("red car", "behind", "tree")]),
        ("the sky above the hills looks very dark", ["dark sky", "hills"], [("dark sky", "above", "hills")]),
        ("the cat is not black", ["cat"], []),
        ("the dog that chases the cat is brown", ["brown dog", "cat"], [("brown dog", "chase", "cat")]),
        ("the cat that the dog chases is white", ["white cat", "dog"], [("dog", "chase", "white cat")]),
        # joined and listed adjectives describe one thing
        ("a black and white dog", ["black white dog"], []),
        ("a big, red ball", ["big red ball"], []),
        ("the fence is white and freshly painted", ["white painted fence"], []),
        ("a red ball and a blue cube", ["red ball", "blue cube"], []),
        # actors
        ("a cat is chased by a dog", ["cat", "dog"], [("dog", "chase", "cat")]),
        ("a cat chased by a dog runs", ["cat", "dog"], [("dog", "chase", "cat"), ("cat", "run", None)]),
        ("a boat is tied to a pier", ["boat", "pier"], [("boat", "tie", "pier")]),
        ("the fish was eaten", ["fish"], [(None, "eat", "fish")]),
        ("a car parked by the house", ["car", "house"], [("car", "park", "house")]),
        # inverted order, participles
        ("behind the cat is a dog", ["cat", "dog"], [("dog", "behind", "cat")]),
        ("on the wall hangs a mirror", ["wall", "mirror"], [("mirror", "hang", "wall")]),
        ("between the towers hangs a flag", ["towers", "flag"], [("flag", "hang", "towers")]),
        ("a dog chasing a cat", ["dog", "cat"], [("dog", "chase", "cat")]),
        ("the mouse chased by the cat escaped", ["mouse", "cat"],
         [("cat", "chase", "mouse"), ("mouse", "escape", None)]),
        ("a thief is chased down the street by a dog", ["thief", "street", "dog"], [("dog", "chase", "thief")]),
        ("wearing a hat, a man rides a horse", ["hat", "man", "horse"],
         [("man", "wear", "hat"), ("man", "ride", "horse")]),
        # what is not so is no relation
        ("a man is not riding a horse", ["man", "horse"], []),
        ("there is no dog on the sofa", ["dog", "sofa"], []),
        ("a girl without a hat", ["girl", "hat"], []),
        # things of things
        ("the girl's dog sleeps", ["girl", "dog"], [("girl", "have", "dog"), ("dog", "sleep", None)]),
        ("the cat 's tail", ["cat", "tail"], [("cat", "have", "tail")]),
        ("the roof of the house is red", ["red roof", "house"], [("red roof", "of", "house")]),
        # questions, agreement
        ("is the dog behind the cat?", ["dog", "cat"], [("dog", "behind", "cat")]),
        ("the man beside the horses that is smiling", ["man", "horses"],
         [("man", "beside", "horses"), ("man", "smile", None)]),
        ("a dog runs", ["dog"], [("dog", "run", None)]),
        ("an empty scene", [], []),
        ("???", [], []),
    ],
)  # fmt: skip
def test_captions_are_read(text, entities, relations):
    assert said(text) == (entities, relations)


def test_what_is_named_again_is_the_same_thing_but_nothing_acts_on_itself():
    assert said("a red cube and a blue sphere, the cube above the sphere")[1] == [("red cube", "above", "blue sphere")]
    parsed = parse("the dog chases the dog")
    assert len(parsed.entities) == 2 and parsed.relations[0].subject != parsed.relations[0].object
    assert len(parse("a red cube and another red cube").entities) == 2


def test_a_verb_that_equals_an_entity_and_two_relations_with_one_verb_stay_apart():
    parsed = parse("a play with a girl and a boy who play in a play")
    ids = [part.id for part in (*parsed.entities, *parsed.relations)]
    assert len(set(ids)) == len(ids)
    same = parse("a man sits on a chair and a dog sits on a table")
    assert [r.verb for r in same.relations] == ["sit", "sit"] and len({r.id for r in same.relations}) == 2


def test_diorama_captions_give_their_objects():
    from wm_pipelines.diorama.language import caption
    from wm_pipelines.diorama.scene import sample_scene

    right = total = 0
    for i in range(24):
        scene = sample_scene("comclip parser", i, num_objects=(1, 3))
        words = caption(scene, ("objects", "attributes", "full")[i % 3], seed=i, relations=True)
        found = parse(words.text).entities
        wanted = {tuple(words.text[a:b].split()[1:]) for a, b in words.spans.values()}
        total += 1
        right += {(*e.attributes, e.name) for e in found} == wanted
    assert right == total


@pytest.mark.parametrize("text", ["man,sit,table", "('man', 'sit', 'table')", " man , sit, table "])
def test_triplets(text):
    parsed = parse_triplet(text)
    assert [e.name for e in parsed.entities] == ["man", "table"]
    assert parsed.relations == (Relation("r0", "e0", "sit", "e1"),)


def test_the_layout_of_language_models():
    parsed = from_json(
        {
            "objects": {"person": {"attributes": "young"}, "boat": {"attributes": ["old", "red"]}, "sea": {}},
            "connections": [
                {"subject": "person", "verb": "sit", "object": "boat"},
                {"subject": "boat", "verb": "", "object": "sea"},
                {"subject": "person", "verb": "see", "object": "whale"},
            ],
        }
    )
    assert [e.text for e in parsed.entities] == ["young person", "old red boat", "sea"]
    assert parsed.relations == (Relation("r0", "e0", "sit", "e1"), Relation("r1", "e0", "see", None))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: parse(3), "a caption must be a string, got 3"),
        (lambda: parse_triplet("man,sit"), "must hold subject, verb and object"),
        (lambda: from_json({"objects": ["man"]}), "needs 'objects' (a mapping)"),
        (lambda: from_json({"objects": {"man": {"attributes": [1]}}}), "attributes of 'man'"),
        (lambda: ParsedText((Entity("e", "man"), Entity("e", "dog"))), "id 'e' occurs 2 times"),
        (lambda: ParsedText((Entity("e", " "),)), "empty name"),
        (lambda: ParsedText((Entity("e", "man"),), (Relation("r", "e", "see", "x"),)), "names 'x'"),
        (lambda: ParsedText((Entity("e", "man"),), (Relation("r", "e", ""),)), "empty verb"),
    ],
)
def test_malformed_parses_are_refused(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("word", "lemma"),
    [
        ("sitting", "sit"), ("riding", "ride"), ("carries", "carry"), ("watches", "watch"), ("lying", "lie"),
        ("laying", "lay"), ("rode", "ride"), ("hugged", "hug"), ("drying", "dry"), ("catches", "catch"),
        ("chasing", "chase"), ("tied", "tie"), ("sees", "see"), ("goes", "go"),
    ],
)  # fmt: skip
def test_verb_lemmas(word, lemma):
    assert verb_lemma(word)[0] == lemma


def test_no_verb_and_plurals():
    assert verb_lemma("building") is None and verb_lemma("table") is None
    found = [noun_lemma(word) for word in ("men", "boxes", "ponies", "dogs", "glass", "bus", "knives", "circles")]
    assert found == ["man", "box", "pony", "dog", "glass", "bus", "knife", "circle"]


@pytest.mark.parametrize(
    "text",
    ["of", "and", "the", "is", "by the", "who", "not", "a very", ", , ,", "'s 's", "to", "there is", "what?", "no",
     "is is", "the the of and", "a man and", "riding", "behind is a", "whose", "in front of", "that that that", "☂ ü",
     "a" * 300, "a man who who is is red and and blue of of by"],
)  # fmt: skip
def test_broken_captions_are_read_without_failing(text):
    parse(text)


def test_a_caption_of_a_thousand_words_is_read():
    text = " and ".join(["a black and white dog behind the old tree that the man likes chases a cat"] * 60)
    assert len(parse(text).entities) > 60
