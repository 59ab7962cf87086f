"""A dependency parse into entities and relations, for parsers of the user's choice such as spaCy's (our design).

Labels are those of spaCy's English models (nsubj, dobj, prep, pobj, agent, relcl, acl, ...). What counts as an entity,
an attribute and a relation is as in the rule parser.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from wm_pipelines.text.english import lexicon
from wm_pipelines.text.english import words as w
from wm_pipelines.text.parsed import Entity, ParsedText, Relation

_SUBJECTS = frozenset({"nsubj", "nsubjpass"})
_OBJECTS = frozenset({"dobj", "obj", "dative", "oprd"})
_ATTRIBUTES = frozenset({"amod", "nummod", "compound", "nmod"})


class Token(Protocol):
    """What is read of a word; spaCy's `Token` has it."""

    i: int
    text: str
    lemma_: str
    pos_: str
    tag_: str
    dep_: str

    @property
    def head(self) -> "Token": ...


def from_dependencies(tokens: Iterable[Token]) -> ParsedText:
    """Entities and relations of a caption's words, each with its head and label.

    Raises:
        ValueError: words whose `i` is not their place.
    """
    return _Tree(list(tokens)).read()


class _Tree:
    def __init__(self, tokens: Sequence[Token]):
        for place, token in enumerate(tokens):
            if token.i != place:
                raise ValueError(f"tokens must stand in order from 0; {token.text!r} at {place} has i={token.i!r}")
        self.tokens = tokens
        self.below: dict[int, list[Token]] = {token.i: [] for token in tokens}
        for token in tokens:
            if token.head.i != token.i:
                self.below[token.head.i].append(token)
        self.entities: dict[int, Entity] = {}
        self.absent: set[int] = set()
        self.relations: dict[tuple[str | None, str, str | None], None] = {}

    def read(self) -> ParsedText:
        for token in self.tokens:
            if self._thing(token):
                self._add(token)
        for token in self.tokens:
            if token.i in self.entities:
                self._noun(token)
            elif token.pos_ in ("VERB", "AUX") and token.dep_ not in ("aux", "auxpass"):
                self._verb(token)
        ties = (Relation(f"r{n}", *ends) for n, ends in enumerate(self.relations))
        return ParsedText(tuple(self.entities.values()), tuple(ties))

    def _kids(self, token: Token, *labels: str) -> list[Token]:
        return [kid for kid in self.below[token.i] if kid.dep_ in labels]

    # things

    def _thing(self, token: Token) -> bool:
        if token.pos_ not in ("NOUN", "PROPN") or token.dep_ in ("compound", "nmod", "npadvmod", "attr"):
            return token.pos_ in ("NOUN", "PROPN") and token.dep_ == "attr" and self._expletive(token.head)
        if token.dep_ == "pobj" and self._place(token.head) is None:
            return False  # "front" in "in front of"
        return not (token.dep_ == "pobj" and self._measured(token.head))

    def _expletive(self, verb: Token) -> bool:
        return bool(self._kids(verb, "expl")) or not self._kids(verb, *_SUBJECTS)

    def _measured(self, prep: Token) -> bool:
        """ "of" in "a cup of coffee"."""
        return prep.text.lower() == "of" and w.noun_lemma(prep.head.text.lower()) in lexicon.MEASURES

    def _add(self, token: Token) -> None:
        said = [kid for kid in self.below[token.i] if kid.dep_ in _ATTRIBUTES and kid.i < token.i]
        said += [other for kid in said for other in self._joined(kid)]
        negated = any(kid.text.lower() == "no" for kid in self._kids(token, "det", "neg"))
        attributes = [a.text.lower() for a in sorted(said, key=lambda kid: kid.i)]
        attributes += [] if negated else self._predicates(token)
        name = token.text.lower()
        for prep in self._kids(token, "prep"):
            for kid in self._kids(prep, "pobj") if self._measured(prep) else []:
                inner = [k for k in self.below[kid.i] if k.dep_ in _ATTRIBUTES and k.i < kid.i]
                name = " ".join((name, "of", *(k.text.lower() for k in inner), kid.text.lower()))
        self.entities[token.i] = Entity(f"e{len(self.entities)}", name, tuple(dict.fromkeys(attributes)))
        if negated:
            self.absent.add(token.i)

    def _joined(self, token: Token) -> list[Token]:
        """What "and" adds to a word, and adds to that."""
        return [other for kid in self._kids(token, "conj") for other in (kid, *self._joined(kid))]

    def _predicates(self, token: Token) -> list[str]:
        """What a verb says that the thing is."""
        found = []
        for verb in self.tokens:
            if token in self._subjects(verb) and not self._kids(verb, "neg"):
                for kid in self._kids(verb, "acomp"):
                    said = (kid, *(other for other in self._joined(kid) if other.pos_ == "ADJ"))
                    found += [one.text.lower() for one in said if not self._kids(one, "neg")]
        return found

    def _things(self, token: Token) -> list[Token]:
        """The things that a word and its coordination stand for; a relative pronoun stands for its antecedent."""
        found = []
        for one in (token, *self._joined(token)):
            if one.text.lower() in w.RELATIVES and one.pos_ in ("PRON", "SCONJ", "DET"):
                clause = one.head
                while clause.dep_ not in ("relcl", "acl") and clause.head.i != clause.i:
                    clause = clause.head
                found += [clause.head] if clause.dep_ in ("relcl", "acl") else []
            elif one.pos_ in ("NOUN", "PROPN"):
                found.append(one)
        return found

    # who does what

    def _subjects(self, verb: Token) -> list[Token]:
        """The subjects of a verb, or those of the verb or noun that it leans on; of a passive, what it is done to."""
        own = self._kids(verb, *_SUBJECTS)
        if own:
            return [thing for kid in own for thing in self._things(kid)]
        if self._kids(verb, "expl"):
            return [thing for kid in self._kids(verb, "attr") for thing in self._things(kid)]
        if verb.dep_ in ("csubj", "csubjpass"):  # "sitting on the bench is a man"
            return [thing for kid in self._kids(verb.head, "attr") for thing in self._things(kid)]
        if self._turned(verb):
            return [thing for kid in self._kids(verb, "dobj", "obj") for thing in self._things(kid)]
        if verb.dep_ in ("acl", "relcl"):
            return self._things(verb.head)[:1] if verb.head.pos_ in ("NOUN", "PROPN") else []
        if verb.dep_ in ("conj", "xcomp", "advcl", "ccomp", "pcomp", "dep") and verb.head.i != verb.i:
            above = verb.head
            while above.pos_ not in ("VERB", "AUX", "NOUN", "PROPN") and above.head.i != above.i:
                above = above.head
            return [above] if above.pos_ in ("NOUN", "PROPN") else self._subjects(above)
        if verb.lemma_ == "be" and self._kids(verb, "attr"):
            return [thing for kid in self._kids(verb, "attr") for thing in self._things(kid)]
        return []

    def _turned(self, verb: Token) -> bool:
        """ "on the wall hangs a picture": the place before the verb, and no subject."""
        before = any(kid.i < verb.i for kid in self._kids(verb, "prep"))
        return (
            before
            and verb.lemma_ != "be"
            and verb.tag_ in ("VBZ", "VBP", "VBD")
            and not self._kids(verb, *_SUBJECTS, "expl")
        )

    def _relate(self, who: Sequence[Token | None], what: str, whom: Sequence[Token | None]) -> None:
        for a in who or [None]:
            for b in whom or [None]:
                if any(end is not None and (end.i in self.absent or end.i not in self.entities) for end in (a, b)):
                    continue
                ends = tuple(self.entities[end.i].id if end is not None else None for end in (a, b))
                if ends[0] != ends[1]:
                    self.relations[ends[0], what, ends[1]] = None

    def _places(self, token: Token) -> list[tuple[str, list[Token]]]:
        """Prepositions below a word, several words made one ("to the left of"), each with its things."""
        found = []
        preps = self._kids(token, "prep", "agent")
        preps += [other for prep in preps for other in self._joined(prep) if other.pos_ == "ADP"]
        for prep in preps:
            place = self._place(prep)
            if place is not None:
                found.append((place, [t for kid in self._kids(prep, "pobj") for t in self._things(kid)]))
                continue
            middle = self._kids(prep, "pobj")[0]
            inner = self._kids(middle, "prep")[0]
            said = [prep, *self._kids(middle, "det"), middle, inner]
            text = " ".join(word.text.lower() for word in said)
            known = {" ".join(phrase): meant for phrase, meant in w.PREPOSITIONS}
            found.append((known[text], [t for kid in self._kids(inner, "pobj") for t in self._things(kid)]))
        for near in self._kids(token, "advmod", "acomp", "prep"):
            for prep in self._kids(near, "prep"):
                text = f"{near.text} {prep.text}".lower()
                if any(meant == text for _, meant in w.PREPOSITIONS):
                    found.append((text, [t for kid in self._kids(prep, "pobj") for t in self._things(kid)]))
        return [(text, things) for text, things in found if things and text not in w.LACKING]

    def _place(self, prep: Token) -> str | None:
        """A preposition's word; None where it is the first of several ("in front of")."""
        for middle in self._kids(prep, "pobj"):
            for inner in self._kids(middle, "prep"):
                words = [prep, *self._kids(middle, "det"), middle, inner]
                said = tuple(word.text.lower() for word in words)
                if any(said == phrase for phrase, _ in w.PREPOSITIONS):
                    return None
        return prep.text.lower()

    def _noun(self, token: Token) -> None:
        for owner in self._kids(token, "poss"):
            if owner.text.lower() == "whose":
                clause = owner
                while clause.dep_ != "relcl" and clause.head.i != clause.i:
                    clause = clause.head
                self._relate([clause.head], "have", [token])
            else:
                self._relate(self._things(owner)[:1], "have", [token])
        for text, things in self._places(token):
            if not (text == "of" and w.noun_lemma(token.text.lower()) in lexicon.MEASURES):
                self._relate([token], text, things)

    def _verb(self, verb: Token) -> None:
        if self._kids(verb, "neg"):
            return
        subjects, lemma = self._subjects(verb), self._lemma(verb)
        if lemma in lexicon.CATENATIVE and self._kids(verb, "xcomp"):
            return  # "starts to run"
        objects = [thing for kid in self._kids(verb, *_OBJECTS) for thing in self._things(kid)]
        objects = [] if self._turned(verb) else objects
        places = self._places(verb)
        agents = [
            thing for kid in self._kids(verb, "agent") for pobj in self._kids(kid, "pobj")
            for thing in self._things(pobj)
        ]  # fmt: skip
        if lemma in lexicon.POSITIONAL and not any(w.mover(thing.text.lower()) for thing in agents):
            agents = []  # "parked by the house"
        if lemma in ("be", *lexicon.COPULAR) and (lemma == "be" or self._kids(verb, "acomp")):
            for text, things in places:
                self._relate(subjects, text, things)
        elif self._passive(verb):
            places = [place for place in places if not agents or place[1] != agents]
            covering = lemma in lexicon.COVERING and places and places[0][0] in ("with", "in")
            if agents or covering:
                self._relate(agents or places[0][1], lemma, subjects)
            elif places:
                self._relate(subjects, lemma, places[0][1])
            elif subjects:
                self._relate([], lemma, subjects)
        else:
            if not objects and not places and verb.dep_ == "relcl" and verb.head not in subjects:
                objects = [verb.head]  # "the bird the cat watches"
            if objects:
                self._relate(subjects, lemma, objects)
                for text, things in places:
                    self._relate(subjects if text == "with" else objects[-1:], text, things)
            elif places:
                self._relate(subjects, lemma, places[0][1])
                for text, things in places[1:]:
                    self._relate(subjects, text, things)
            elif subjects:
                self._relate(subjects, lemma, [])

    def _lemma(self, verb: Token) -> str:
        known = w.verb_lemma(verb.text.lower())
        return known[0] if known else verb.lemma_.lower()

    def _passive(self, verb: Token) -> bool:
        if self._kids(verb, "auxpass", "nsubjpass", "agent"):
            return True
        if verb.dep_ == "conj" and not self._kids(verb, *_SUBJECTS):
            return verb.tag_ == "VBN" and self._passive(verb.head)
        return verb.tag_ == "VBN" and verb.dep_ in ("acl", "relcl", "advcl") and not self._kids(verb, "aux")
