"""Word lists and lemma rules of the offline parser and linker: no model, no data file (our design)."""

import re

DETERMINERS = frozenset(
    "a an the another some any each every this these those his her its their my our your no several many few both "
    "all one two three four five six seven eight nine ten".split()
)
# These say how many or which and stay in the entity's words; the other determiners are left out.
COUNTS = frozenset("two three four five six seven eight nine ten several many few".split())
ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}
AUXILIARIES = frozenset(
    "is are was were be been being am has have had does do did can could will would may might should must".split()
)
RELATIVES = frozenset("who which that whose".split())
SUBJECT_PRONOUNS = frozenset("he she it they".split())
OBJECT_PRONOUNS = frozenset("him them itself himself herself themselves each-other".split())
JOINTS = frozenset("and or but while then as".split())
ADVERBS = frozenset(
    "slowly quickly very together away still not there here also just only happily high low clockwise "
    "counterclockwise outside far almost up down forward forwards back backwards too again "
    "it's there's he's she's they're".split()
)
DIRECTIONS = frozenset("left right up down forward back".split())

# Several words that tie two things together, longest first; each maps to how it is said to the matcher.
_PHRASES = {
    "to the left of": "left of", "to the right of": "right of", "on the left of": "left of",
    "on the right of": "right of", "on the left side of": "left of", "on the right side of": "right of",
    "left of": "left of", "right of": "right of", "in front of": "in front of", "on top of": "on top of",
    "on the top of": "on top of", "next to": "next to", "close to": "close to", "inside of": "inside",
    "outside of": "outside", "out of": "out of", "at the side of": "beside", "by the side of": "beside",
    "in the middle of": "in the middle of", "in back of": "behind", "away from": "away from", "facing away from":
    "facing away from",
}  # fmt: skip
_SINGLE = (
    "above below behind beside besides under underneath beneath over on upon in inside at near between among with "
    "without by against along across through around from into onto off past toward towards for of to beyond atop "
    "amid within nextto"
)
PREPOSITIONS: tuple[tuple[tuple[str, ...], str], ...] = tuple(
    sorted(
        [(tuple(said.split()), text) for said, text in _PHRASES.items()]
        + [((word,), "next to" if word == "nextto" else word) for word in _SINGLE.split()],
        key=lambda pair: -len(pair[0]),
    )
)

COLOURS = frozenset(
    "red green blue yellow white black brown grey gray orange purple pink cyan magenta golden gold silver beige "
    "turquoise violet tan".split()
)
ADJECTIVES = COLOURS | frozenset(
    "small large big little tiny huge tall short long old young new wooden metal plastic striped plain shiny matte "
    "medium round square empty full dirty clean wet dry hot cold dark bright open closed".split()
)

# Words for things that move by themselves: a bare verb form after one of these is a verb, not half a compound noun.
KINDS: dict[str, frozenset[str]] = {
    "person": frozenset(
        "man woman boy girl child kid baby guy lady gentleman player surfer skier skater rider worker chef cook "
        "teenager toddler adult student police officer snowboarder skateboarder crowd couple batter catcher "
        "pitcher".split()
    ),
    "animal": frozenset(
        "dog cat horse cow sheep bird bear elephant giraffe zebra lion tiger puppy kitten duck goat monkey pig "
        "chicken rabbit fish deer".split()
    ),
    "vehicle": frozenset(
        "car bus truck train boat ship airplane bicycle motorcycle van taxi scooter tram helicopter".split()
    ),
}
SYNONYMS: tuple[frozenset[str], ...] = tuple(
    frozenset(group.split())
    for group in (
        "man guy gentleman male", "woman lady female", "person people human", "child kid", "baby infant toddler",
        "bicycle bike", "motorcycle motorbike", "car automobile", "couch sofa", "phone cellphone telephone smartphone",
        "television tv", "boat ship", "airplane plane aeroplane aircraft jet", "puppy dog", "kitten cat",
        "street road", "sea ocean", "grass lawn", "rug carpet", "bag handbag purse", "cup mug",
        "picture photo painting image",
        "glasses eyeglasses spectacles", "sunglasses shades", "hat cap", "shirt t-shirt tshirt",
        "trousers pants", "mountain hill", "forest woods", "rock stone", "racket racquet", "soccer football",
        "circle disc disk", "cube box", "sphere ball",
    )
)  # fmt: skip
MOVERS = frozenset({"person", "people", "animal", "human", "vehicle", "plane", "bike"}).union(*KINDS.values())

VERBS = frozenset(
    "adjust aim answer approach arrange ask attach bake balance bark bat bend bite blow board bounce bow box break "
    "brush build burn buy call carry carve catch celebrate chase check chew clap clean climb close collect collide "
    "come comb contain cook count cover crawl cross cry cuddle cut dance decorate deliver dig dip direct dive do "
    "drag draw dress drink drive drop dry eat embrace enter examine exercise exit face fall feed fight fill fish fix "
    "flip float fly fold follow frown fry gather gaze get give glide go grab graze greet grill grip grow guard hang "
    "have help herd hide hike hit hold hop hug hunt iron jog juggle jump kick kiss knead kneel knit knock lay lead "
    "lean leap leave let lick lie lift light listen load look make march measure meet melt milk mix move mow nap nod "
    "observe offer open operate orbit order pack paddle paint pan park pass pat pay pedal peel perch perform pet "
    "photograph pick pilot place plant play plow plug point pose pour practice pray prepare press pull punch push put "
    "race raise reach read receive relax remove repair rest ride rise roll row rub run sail salute say scoop scratch "
    "see sell serve set sew shake share shave shear shine shoot shop shout show shower sing sink sit skate "
    "skateboard ski sleep slice slide smell smile smoke sniff snowboard sort spin splash split spray spread squat "
    "stack stand stare step stick stir stop stretch strike stroll study support surf surround sweep swim swing tackle "
    "take talk tap taste teach tear tell throw tie toss touch tow trim try turn tug type use view visit wade wait "
    "walk wash watch water wave wear weigh whip whisper wipe work wrap write yawn".split()
)
_IRREGULAR = dict(
    pair.split(":")
    for pair in (
        "sat:sit stood:stand ran:run ate:eat eaten:eat held:hold rode:ride ridden:ride wore:wear worn:wear "
        "threw:throw thrown:throw caught:catch drank:drink drove:drive driven:drive flew:fly flown:fly swam:swim "
        "lain:lie laid:lay lying:lie tying:tie fed:feed took:take taken:take gave:give given:give made:make "
        "fell:fall fallen:fall "
        "led:lead met:meet shot:shoot slept:sleep swept:sweep swung:swing told:tell wrote:write written:write "
        "blew:blow blown:blow broke:break broken:break built:build bent:bend bitten:bite drew:draw drawn:draw dug:dig "
        "fought:fight hung:hang hid:hide hidden:hide knelt:kneel lit:light rose:rise risen:rise sang:sing shook:shake "
        "sold:sell shone:shine slid:slide stuck:stick struck:strike taught:teach tore:tear torn:tear went:go gone:go "
        "sank:sink sunk:sink spun:spin leapt:leap brushin:brush seen:see"
    ).split()
)
NOT_VERBS = frozenset(
    "building ceiling clothing wedding string ring king thing wing morning evening painting railing awning pudding "
    "earring stocking spring sling swing-set icing frosting lightning dining living nothing something everything "
    "during sibling duckling bed red shed speed weed seed sled".split()
)
# "a swimming pool": a noun of these behind an -ing word makes a compound.
COMPOUND_HEADS = frozenset(
    "pool board pan machine shoes room lot cart fountain stick cards rink sheet table bag meter trail path chair "
    "desk".split()
)

_PLURALS = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "persons": "person", "feet": "foot",
    "teeth": "tooth", "mice": "mouse", "geese": "goose", "knives": "knife", "leaves": "leaf", "wolves": "wolf",
    "shelves": "shelf", "loaves": "loaf", "halves": "half", "calves": "calf", "buses": "bus", "glasses": "glasses",
    "pants": "pants", "trousers": "trousers", "sunglasses": "sunglasses", "woods": "woods", "skis": "ski",
}  # fmt: skip


def verb_lemma(word: str) -> tuple[str, str] | None:
    """The base form of a verb that is in the list, and the form that came: "base", "s", "ing" or "past"; else None.

    Examples: "carries" -> ("carry", "s"), "sitting" -> ("sit", "ing"), "rode" -> ("ride", "past").
    """
    if word in NOT_VERBS:
        return None
    if word in _IRREGULAR:
        return _IRREGULAR[word], "ing" if word.endswith("in") or word.endswith("ing") else "past"
    if word in VERBS:
        return word, "base"
    for suffix, form in (("s", "s"), ("ing", "ing"), ("ed", "past")):
        for stem in _stems(word, suffix):
            if stem in VERBS:
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
    if word in _PLURALS:
        return _PLURALS[word]
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
            return [word[:-3] + "y"]
        if re.search(r"(?:ss|x|zz|ch|sh|o)es$", word):
            return [word[:-2], stem]
        return [] if word.endswith("ss") else [stem]
    doubled = stem[:-1] if re.search(r"([bdgklmnprtvz])\1$", stem) else None
    found = [doubled] if doubled else []
    found += [stem + "e", stem] if re.search(r"[aeiou][vzscg]$|[^aeiou]l$|at$|ur$", stem) else [stem, stem + "e"]
    if suffix == "ed" and stem.endswith("i"):
        found.insert(0, stem[:-1] + "y")
    return found
