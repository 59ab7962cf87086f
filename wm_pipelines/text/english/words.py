"""The small words of English, and lemma rules, for the offline parser and linker: no model (our design)."""

import re

from wm_pipelines.text.english import lexicon

DETERMINERS = frozenset(
    "a an the another some any each every this these those his her its their my our your no several many few "
    "both all one two three four five six seven eight nine ten eleven twelve dozens".split()
)
# These say how many or which and stay in the entity's words; the other determiners are left out.
COUNTS = frozenset("two three four five six seven eight nine ten eleven twelve several many few".split())
# What follows one of these is one thing: an -s word behind a noun there is a verb ("a mechanic repairs").
SINGULAR = frozenset("a an another each every this one".split())
POSSESSIVES = frozenset("his her its their my our your".split())
ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}
AUXILIARIES = frozenset(
    "is are was were be been being am has have had having does do did can could will would may might should "
    "must shall".split()
)
BE = frozenset("is are was were be been being am".split())
HAVE = frozenset("has have had having".split())
NEGATIONS = frozenset("not never cannot neither".split())
NOBODY = frozenset("nobody nothing none noone".split())
RELATIVES = frozenset("who which that whose whom what".split())
SUBJECT_PRONOUNS = frozenset("he she it they i we you".split())
OBJECT_PRONOUNS = frozenset("him them itself himself herself themselves each-other her me us".split())
JOINTS = frozenset("and or but nor then".split())
# These begin a clause of its own.
SUBORDINATES = frozenset("while as when because although though since if until where whereas".split())
ADVERBS = frozenset(
    "slowly quickly very together away still not there here also just only happily high low clockwise "
    "counterclockwise outside far almost up down forward forwards back backwards too again often always "
    "sometimes really quite rather extremely so more most less nearby now outdoors indoors upstairs "
    "downstairs apart already yet even once twice ever soon well right-side-up perhaps maybe fully half all "
    "slightly sideways out altogether around-the-clock somewhat yesterday today tomorrow tonight".split()
)
# Words in -ly that are no adverbs.
NOT_ADVERBS = frozenset(
    "fly family butterfly dragonfly lily belly jelly bully holly ally assembly reply supply friendly lovely "
    "curly lonely woolly wooly silly ugly hilly holy daily elderly bubbly wrinkly early lively "
    "cuddly prickly chilly wobbly sparkly smelly only-child".split()
)
DIRECTIONS = frozenset("left right up down forward back".split())

# Several words that tie two things together, longest first; each maps to how it is said to the matcher.
_PHRASES = {
    "to the left of": "left of", "to the right of": "right of", "on the left of": "left of",
    "except for": "except for", "apart from": "except for", "on the right of": "right of",
    "on the left side of": "left of", "on the right side of": "right of",
    "left of": "left of", "right of": "right of", "in front of": "in front of", "on top of": "on top of",
    "on the top of": "on top of", "next to": "next to", "close to": "close to", "inside of": "inside",
    "outside of": "outside", "out of": "out of", "at the side of": "beside", "by the side of": "beside",
    "in the middle of": "in the middle of", "in back of": "behind", "away from": "away from", "facing away from":
    "facing away from", "across from": "across from", "full of": "full of", "up to": "to", "because of": "because of",
    "far from": "far from", "in the center of": "in the middle of",
    "in the centre of": "in the middle of", "to the side of": "beside", "on the side of": "on the side of",
    **{
        f"{at} {which}{part} of": f"{at} {which or 'the '}{part} of"
        for at, parts in {"on": "side back front end bottom corner", "at": "bottom back end base corner foot edge top",
                          "in": "corner middle back front"}.items()
        for part in parts.split() for which in ("", "the ") if (at, part, which) != ("in", "front", "")
    },
    "on each side of": "on the side of", "on both sides of": "on the side of",
    "on the other side of": "on the other side of",
    "on either side of": "beside", "along with": "with", "together with": "with", "such as": "such as",
    "opposite to": "opposite", "on the edge of": "on the edge of",
    "adjacent to": "next to", "left to": "left of", "right to": "right of", "just outside": "outside",
    "all over": "over", "ahead of": "in front of",
}  # fmt: skip
_SINGLE = (
    "above below behind beside besides under underneath beneath over on upon in inside at near between among with "
    "without by against along across through around from into onto off past toward towards for of to beyond atop "
    "amid within alongside nextto opposite amongst throughout beyond aboard outside"
)
PREPOSITIONS: tuple[tuple[tuple[str, ...], str], ...] = tuple(
    sorted(
        [(tuple(said.split()), text) for said, text in _PHRASES.items()]
        + [((word,), "next to" if word == "nextto" else word) for word in _SINGLE.split()],
        key=lambda pair: -len(pair[0]),
    )
)

# These say that something is not there.
LACKING = frozenset({"without", "except for"})
PREPOSITIONS_BY_FIRST: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    said[0]: tuple(pair for pair in PREPOSITIONS if pair[0][0] == said[0]) for said, _ in PREPOSITIONS
}


def adjective(word: str) -> bool:
    """Whether a word is a listed adjective or has the ending of one."""
    return word in lexicon.ADJECTIVES or (
        len(word) > 4 and word.endswith(lexicon.ADJECTIVE_ENDINGS) and not plural(word)
    )


def plural(word: str) -> bool:
    """Whether a noun stands in the plural."""
    return word in lexicon.PLURALS or (len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")))


def mover(word: str) -> bool:
    """Whether a noun, singular or plural, is something that moves by itself."""
    return word in lexicon.MOVERS or noun_lemma(word) in lexicon.MOVERS


def verb_lemma(word: str) -> tuple[str, str] | None:
    """The base form of a verb that is in the list, and the form that came: "base", "s", "ing" or "past"; else None.

    Examples: "carries" -> ("carry", "s"), "sitting" -> ("sit", "ing"), "rode" -> ("ride", "past").
    """
    if word in lexicon.NOT_VERBS:
        return None
    if word in lexicon.IRREGULAR:
        return lexicon.IRREGULAR[word], "ing" if word.endswith("ing") or word == "brushin" else "past"
    if word in lexicon.VERBS:
        return word, "base"
    for suffix, form in (("s", "s"), ("ing", "ing"), ("ed", "past")):
        for stem in _stems(word, suffix):
            if stem in lexicon.VERBS or (stem in lexicon.PARTICIPIAL and form == "past"):
                return stem, form
    return None


def guessed_lemma(word: str) -> str:
    """`verb_lemma` of a word that is taken for a verb although it is in no list: its likeliest base form."""
    known = verb_lemma(word)
    if known:
        return known[0]
    for suffix in ("ing", "ed", "s"):
        stems = _stems(word, suffix)
        if stems:
            return stems[0]
    return word


def noun_lemma(word: str) -> str:
    """The singular: "boxes" -> "box", "ponies" -> "pony", "men" -> "man"; words in -ss, -us and -is stay."""
    if word in lexicon.PLURALS:
        return lexicon.PLURALS[word]
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if re.search(r"(?:s|x|z|ch|sh)es$", word):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _stems(word: str, suffix: str) -> list[str]:
    """Base forms that `word` could have without `suffix`, likeliest first; none without that suffix."""
    stem = word.removesuffix(suffix)
    if stem == word or len(stem) < 2:
        return []
    if suffix == "s":
        if word.endswith("ies"):
            return [word[:-1]] if len(word) < 5 else [word[:-3] + "y", word[:-1]]
        if re.search(r"(?:ss|x|zz|ch|sh|o)es$", word):
            return [word[:-2], stem]
        return [] if word.endswith("ss") else [stem]
    doubled = stem[:-1] if re.search(r"([bdgklmnprtvz])\1$", stem) else None
    found = [doubled] if doubled else []
    found += [stem + "e", stem] if re.search(r"[aeiou][vzscg]$|[^aeiou]l$|at$|ur$", stem) else [stem, stem + "e"]
    if suffix == "ed" and stem.endswith("i"):
        found.insert(0, stem[:-1] + "y")
    return found
