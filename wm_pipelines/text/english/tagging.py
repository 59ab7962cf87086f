"""Verb or noun? What a word is where it stands, by word lists, endings, agreement and neighbours (our design)."""

from dataclasses import dataclass

from wm_pipelines.text.english import lexicon
from wm_pipelines.text.english import words as w
from wm_pipelines.text.english.tokens import STOPS, Tokens


@dataclass(frozen=True)
class Chunk:
    """A piece of a caption.

    Args:
        kind: np, verb, cop ("is" and what works like it), aux (a question's "does"), adj, prep, joint, comma, stop,
            sub ("while"), rel, pronoun, there, not, camera.
        text: the lemma, preposition or word.
        words: of an np, the last of them its name, or adjectives.
        form: of a verb: base, s, ing, past, or "" where an auxiliary decides.
        finite: whether the verb makes a clause; None where only the sentence tells.
        owner: of an np: whose it is ("the girl's shoes").
    """

    kind: str
    text: str = ""
    words: tuple[str, ...] = ()
    definite: bool = False
    ordinal: int | None = None
    form: str = ""
    finite: bool | None = None
    passive: bool = False
    negated: bool = False
    plural: bool = False
    owned: bool = False
    owner: "Chunk | None" = None


class Tagger(Tokens):
    """Decides which words are verbs, given the chunks before them."""

    def __init__(self, text: str):
        super().__init__(text)
        self.found: list[Chunk] = []

    def _kind(self, back: int = 1) -> str:
        return self.found[-back].kind if len(self.found) >= back else ""

    def _infinitive(self, i: int) -> bool:
        token = self._at(i)
        if token == "be" or token in lexicon.VERBS and token not in w.DETERMINERS:
            bare = token in lexicon.NOUNY and (self._closed(i + 1) and self._at(i + 1) not in w.DETERMINERS)
            return not bare or (self._kind() == "verb" and self.found[-1].text in lexicon.CATENATIVE)
        return self._open(i) and self._kind() == "verb" and self._at(i + 1) in ("a", "an", "the", *w.POSSESSIVES)

    def _finite_ahead(self, i: int) -> bool:
        """Whether the clause still has a finite verb, from `i` on."""
        for n in range(i, len(self.tokens)):
            token = self.tokens[n]
            if token in STOPS or token == "," or token in w.JOINTS | w.RELATIVES | w.SUBORDINATES:
                return False
            if token in w.AUXILIARIES and token not in ("be", "been", "being", "having"):
                return True
            known = w.verb_lemma(token)
            before = self._at(n - 1)
            if known and known[1] == "s" and n > i and before not in w.DETERMINERS and not self._preposition(n - 1):
                if before not in lexicon.ADJECTIVES and self._closed(n + 1) and self._at(n + 1) not in ("", ",", "."):
                    return True
        return False

    def _lacks_verb(self) -> bool:
        """Whether the clause that is being read has a subject before this phrase, and no verb yet."""
        subject = False
        for chunk in reversed(self.found):
            if chunk.kind in ("stop", "sub", "rel"):
                break
            if chunk.kind == "cop":
                return False
            if chunk.kind == "verb" and (chunk.finite or chunk.form in ("s", "base")):
                return False
            subject = subject or chunk.kind == "np"
        return subject

    def _fronted(self) -> bool:
        """Whether the clause has begun with a preposition and has no subject yet."""
        kinds = [chunk.kind for chunk in self.found]
        n = max((k for k, kind in enumerate(kinds) if kind in ("stop", "sub")), default=-1) + 1
        return kinds[n : n + 1] == ["prep"] and "comma" not in kinds[n:] and "verb" not in kinds[n:]

    def _relative_open(self) -> bool:
        """Whether a relative clause waits for its verb: "the car that the man ..."."""
        for chunk in reversed(self.found):
            if chunk.kind == "rel":
                return True
            if chunk.kind in ("stop", "sub", "cop", "joint") or chunk.kind == "verb" and chunk.form != "ing":
                return False
        return False

    def _many_before(self) -> bool:
        """Whether the clause's subject is more than one thing."""
        joined, found, after = False, False, "np"
        for n in range(len(self.found) - 1, -1, -1):
            chunk = self.found[n]
            if chunk.kind in ("stop", "sub", "rel", "cop"):
                break
            joined = joined or (chunk.kind == "joint" and after == "np" and not self._verb_between(n))
            after = chunk.kind
            if chunk.kind == "np":
                found = chunk.plural
        return joined or found

    def _verb_between(self, n: int) -> bool:
        """Whether "and" at `n` goes on with a verb's objects, not with subjects."""
        for chunk in reversed(self.found[:n]):
            if chunk.kind in ("verb", "cop"):
                return True
            if chunk.kind in ("stop", "sub", "rel", "joint"):
                return False
        return False

    def _waits(self) -> bool:
        """Whether fewer verbs are finite than there are clauses: "a girl who wears glasses ..."."""
        clauses = 1
        for n, chunk in enumerate(self.found):
            if chunk.kind in ("stop", "sub"):
                clauses = 1
            elif chunk.kind == "rel":
                clauses += 1
            elif chunk.kind == "cop" or chunk.kind == "verb" and chunk.finite:
                clauses -= self.found[n - 1].kind not in ("joint", "comma") if n else 1
        return clauses > 0

    def _after_verb(self) -> bool:
        """Whether the caption has a finite verb, which "and" may go on from."""
        return any(c.kind == "cop" or c.kind == "verb" and c.finite for c in self.found)

    def _after_base(self) -> bool:
        return any(chunk.kind == "verb" and chunk.form in ("base", "") for chunk in self.found)

    def _object_follows(self, i: int) -> bool:
        """ "holds a cup and carries books": the same form as the verb before, and something to do it to."""
        form = w.verb_lemma(self.tokens[i])[1]
        return any(c.kind == "verb" and c.form == form for c in self.found) and form == "s" and self._open(i + 1)

    def _hidden(self, i: int, known: tuple[str, str] | None) -> bool:
        """ "hidden behind a curtain": a participle that is an adjective too, before a place."""
        place = self._preposition(i + 1)
        return bool(known) and known[1] == "past" and place is not None and place[0] not in ("of", "than")

    def _verb_here(self, i: int, words: tuple[str, ...], determined: bool, single: bool = False):
        """Lemma and form if the token is a verb where it stands.

        Args:
            words: of the noun phrase that it would end. single: whether its determiner says that it is one thing.
        """
        token, known = self.tokens[i], w.verb_lemma(self.tokens[i])
        if token in lexicon.NOT_VERBS or (words and words[-1] == "of") or self._at(i + 1) == "'s":
            return None
        if not words:
            return None if determined else self._verb_first(i, token, known)
        if (
            token in lexicon.ADJECTIVES
            and not (known and self._at(i + 1) in w.DETERMINERS)
            and not self._hidden(i, known)
        ):
            return None
        last = words[-1]
        if (last in lexicon.ADJECTIVES and last not in lexicon.NOUNISH) or last in w.COUNTS or last.isdigit():
            return None
        moves = w.mover(last)
        if last.endswith("ing") and last not in lexicon.NOT_VERBS and len(words) == 1 and w.verb_lemma(last):
            return None  # "hanging lights"
        if last in lexicon.NOUNISH and not moves and token.endswith("ing") and self._open(i + 1):
            return None  # "a metal serving spoon"
        if known:
            return self._known_verb(i, words, determined, single, moves, known)
        if token.endswith("ing") and len(token) > 4 and (self._closed(i + 1) or moves):
            return w.guessed_lemma(token), "ing"
        if token.endswith(("s", "ed")) and len(token) > 3 and self._at(i + 1) in w.DETERMINERS:
            return w.guessed_lemma(token), "s"
        if w.plural(token) and self._at(i + 1) in ("is", "was", "has") and self._relative_open():
            return w.guessed_lemma(token), "s"  # agreement: what ends in -s before "is" is no plural
        if token.endswith("ed") and len(token) > 4 and self._at(i + 1) in ("by", "with", "to", "on", "in", "from"):
            return w.guessed_lemma(token), "past"
        if single and w.plural(token) and not w.adjective(last) and not self._finite_ahead(i + 1):
            if not self._lacks_verb() and not self.found or moves:
                return w.guessed_lemma(token), "s"
        return None

    def _verb_first(self, i: int, token: str, known: tuple[str, str] | None) -> tuple[str, str] | None:
        """A verb with no noun phrase right before it: at the start, behind "who", "and", a comma, an adverb."""
        before = self._kind()
        if before == "rel" and self.found[-1].text == "whose":
            return None
        ing = known is not None and known[1] == "ing"
        if before in ("verb", "prep"):
            if ing and (self._closed(i + 1) and self._at(i + 1) != "") and token not in lexicon.ADJECTIVES:
                return self._form(token, known)
            if ing and before == "prep" and w.plural(self._at(i + 1)) and known[0] not in lexicon.INTRANSITIVE:
                return known  # "for making donuts"
            bare = known and known[1] == "base" and self._at(i + 1) not in w.DETERMINERS
            if before == "verb" and known and not bare and self._closed(i + 1):
                return self._form(token, known)
            return None
        if token in lexicon.ADJECTIVES and not (
            known and before in ("np", "rel") and self._at(i + 1) in w.DETERMINERS
        ):
            return self._form(token, known) if before in ("", "stop", "np") and self._hidden(i, known) else None
        if before == "not" and known and self._kind(2) in ("np", "pronoun", "rel"):
            return self._form(token, known)  # "never wears a hat"
        if before in ("cop", "adj", "not", "there"):
            after_not = before == "not" and self._kind(2) in ("adj", "comma", "joint", "") and known
            if before == "there":
                return known
            return known if after_not and known[1] == "ing" else None
        if before in ("", "joint", "comma", "stop", "sub"):
            if not known:
                bare = before == "sub" and self._closed(i + 1) or self._at(i + 1) in w.DETERMINERS
                if token.endswith("ing") and len(token) > 4 and bare:
                    return w.guessed_lemma(token), "ing"
                third = token.endswith("s") and not token.endswith(("ss", "us")) or token.endswith("ed")
                if before in ("joint", "comma") and third and self._at(i + 1) in w.DETERMINERS - w.COUNTS:
                    return w.guessed_lemma(token), "s"
                return None
            if ing and not self._closed(i + 1) and known[0] not in lexicon.INTRANSITIVE:
                bare = self._at(i + 1) not in lexicon.COMPOUND_HEADS and (
                    w.mover(self._at(i + 1)) or w.plural(self._at(i + 1))
                )
                return known if bare or before in ("joint", "comma") else None
            if known[1] == "s" and known[0] in lexicon.NOUNY and not self._after_verb():
                return None  # "a sandwich and fries"
            if before == "joint" and known[1] == "s":
                return known
            shut = self._closed(i + 1)
            if known[1] == "past" and shut and before in ("", "stop", "comma", "joint", "sub"):
                return self._form(token, known)
            if not shut and before in ("joint", "comma") and known[1] in ("s", "base") and self._object_follows(i):
                return known
            if known[1] == "base" and before in ("joint", "comma") and not self._after_base():
                return None if not shut else known if before == "joint" else None
            return known if shut and (known[1] != "base" or before) else None
        if not known and before in ("rel", "np", "pronoun"):
            if token.endswith(("s", "ed")) and not token.endswith("ss") and before != "np":
                return w.guessed_lemma(token), "s"
            if token.endswith("ing") and len(token) > 4 and self._closed(i + 1):
                return w.guessed_lemma(token), "ing"
            if token.endswith(("s", "ed")) and len(token) > 3 and self._at(i + 1) in w.DETERMINERS:
                return w.guessed_lemma(token), "s"
        if known and before == "rel" and known[1] == "base" and not self._closed(i + 1):
            return None if w.verb_lemma(self._at(i + 1)) else known
        return self._form(token, known) if before in ("np", "pronoun", "rel", "camera") else None

    def _known_verb(
        self, i: int, words: tuple[str, ...], determined: bool, single: bool, moves: bool, known: tuple[str, str]
    ) -> tuple[str, str] | None:
        """A listed verb behind a noun: a verb, or the second half of a compound?"""
        token, (lemma, form), after, last = self.tokens[i], known, self._at(i + 1), words[-1]
        following = w.verb_lemma(after)
        if following and following[1] in ("s", "ing") and not moves and self._open(i + 1) and form in ("s", "base"):
            return None  # "a water drop hits": the noun comes first
        shut, many = self._closed(i + 1), w.plural(last)
        shut = shut or (lemma in lexicon.COPULAR and w.adjective(after) and self._closed(i + 2))
        if form == "ing":
            return None if after in lexicon.COMPOUND_HEADS and not moves else known
        if form == "past":
            colour = after in lexicon.ADJECTIVES and self._closed(i + 2)
            return self._form(token, known) if moves or shut or colour else None
        open_clause = self._relative_open()
        ahead = self._finite_ahead(i + 1) and not open_clause
        if form == "base":
            if after in w.AUXILIARIES and after not in w.HAVE:
                return None
            nouny = lemma in lexicon.NOUNY and after not in w.DETERMINERS
            starts = self._kind() in ("", "stop", "joint", "comma", "rel", "sub", "np", "verb")
            many = many or (self._lacks_verb() and self._many_before())
            if (moves and (many or not nouny or shut)) or (not determined and starts and not nouny):
                return None if ahead and not many and determined else known
            if after in w.DETERMINERS:
                return None if ahead and not many and determined else known
            if many and not ahead:
                return known
            return known if shut and self._lacks_verb() and self._many_before() and not ahead else None
        if lemma in lexicon.NOUNY and not determined and not moves and self._kind() == "prep":
            if self.found[-1].text != "of":
                return None  # "with clock faces"
        if after in w.AUXILIARIES and not open_clause and self._kind() != "np":
            return None
        if moves or (single and not w.adjective(last)):
            return known
        if shut and not ahead and not many:
            if after not in ("", ",", "."):
                return known
            return known if lemma in lexicon.INTRANSITIVE or self._lacks_verb() else None
        if self._fronted() and self._at(i + 1) in w.DETERMINERS and not ahead:
            return known  # "between the towers hangs a flag"
        if lemma in lexicon.NOUNY and not w.plural(last):
            return None
        alone = self._lacks_verb() and not self._many_before()
        return known if shut and not ahead and (alone or (self._kind() == "verb" and self._waits())) else None

    def _form(self, token: str, known: tuple[str, str] | None) -> tuple[str, str] | None:
        if known and known[1] == "past":
            return known[
                0
            ], "pret" if token in lexicon.PRETERITES else "part" if token in lexicon.PARTICIPLES else "past"
        return known
