"""A caption as chunks: noun phrases, verbs with their auxiliaries, predicate adjectives and what stands between them.

Chunks are found from left to right, each with those before it in sight (our design).
"""

from dataclasses import replace

from wm_pipelines.text.english import lexicon
from wm_pipelines.text.english import words as w
from wm_pipelines.text.english.tagging import Chunk, Tagger
from wm_pipelines.text.english.tokens import STOPS


class Chunker(Tagger):
    """Splits a caption into chunks."""

    def __init__(self, text: str):
        super().__init__(text)
        self.decided: tuple[int, tuple[str, str]] | None = None  # a verb that ended the phrase before it

    def chunks(self) -> list[Chunk]:
        i = 0
        while i < len(self.tokens):
            chunk, i = self._next(i)
            if chunk is not None:
                self.found.append(chunk)
        return self.found

    def _next(self, i: int) -> tuple[Chunk | None, int]:
        token, kind = self.tokens[i], self._kind()
        if self.decided is not None and self.decided[0] == i:
            return self._verb_chunk(i, *self.decided[1], None)
        if token in STOPS:
            return Chunk("stop", token), i + 1
        if token == ",":
            return Chunk("comma"), i + 1
        if token == "'s":
            return None, i + 1
        if token in w.DIRECTIONS and kind == "verb" and not self._preposition(i):
            return None, i + 1  # "moves left"
        if token == "to" and self._infinitive(i + 1):
            return self._verb_chunk(i + 1, self._at(i + 1), "base", None)  # "a man to follow"
        than = self._comparison(i)
        if than:
            return than
        if token in ("on", "at") and self._at(i + 1) == "top" and self._at(i + 2) != "of":
            return None, i + 2  # "a cake with a cherry on top"
        preposition = self._preposition(i)
        if preposition and preposition[0] == "outside" and not self._opens(i + preposition[1]):
            return None, i + 1  # "a dog waits outside"
        if preposition:
            return Chunk("prep", preposition[0], negated=preposition[0] in w.LACKING), i + preposition[1]
        if token == "like" and kind == "verb":
            return Chunk("prep", "like"), i + 1
        if token in ("there", "here") and (self._at(i + 1) in w.AUXILIARIES or w.verb_lemma(self._at(i + 1))):
            return Chunk("there"), i + 1  # "there is a dog"
        if token in w.NOBODY or (token == "no" and self._at(i + 1) == "one"):
            return Chunk("pronoun", "nobody"), i + 1 + (token == "no")
        if token in w.NEGATIONS:
            return Chunk("not"), i + 1
        if token == "then":
            return Chunk("joint", token), i + 1
        if token in w.SUBORDINATES:  # behind a thing "where" is about it: "the room where he sleeps"
            return Chunk("rel" if token == "where" and kind == "np" else "sub", token), i + 1
        if token in w.JOINTS:
            return Chunk("joint", token), i + 1
        # "a dog that barks", but "that dog"
        if token in w.RELATIVES and not (token == "that" and kind not in ("np", "prep", "comma", "joint")):
            return Chunk("rel", token), i + 1
        if self._pronoun(i):
            return Chunk("pronoun", token), i + 1
        if token in w.AUXILIARIES:
            return self._auxiliaries(i)
        if self._adverb(i):
            return None, i + 1
        gotten = self._gotten(i)
        if gotten:
            return gotten
        verb = self._verb_here(i, (), False)
        if verb and verb[1] in ("past", "part") and verb[0] not in lexicon.INTRANSITIVE and self._joins_predicate(i):
            return Chunk("adj", words=(token,)), i + 1
        if verb:
            return self._verb_chunk(i, *verb, None)
        if token == "no" and not self._open(i + 1):
            return None, i + 1
        return self._nominal(i)

    def _comparison(self, i: int) -> tuple[Chunk, int] | None:
        """ "bigger than", "more beautiful than", "as tall as": a relation, as a preposition is."""
        if self._kind() not in ("cop", "np", "verb", "not"):
            return None
        token = self.tokens[i]
        if self._at(i + 1) == "than" and (token.endswith("er") or token in ("less", "more")):
            return Chunk("prep", f"{token} than"), i + 2
        if token in ("more", "less") and self._at(i + 2) == "than":
            return Chunk("prep", f"{token} {self._at(i + 1)} than"), i + 3
        if token in lexicon.ADJECTIVES and self._at(i + 1) == "of" and token not in lexicon.NOUNISH:
            return Chunk("prep", f"{token} of"), i + 2  # "afraid of"
        if token == "as" and self._at(i + 2) == "as":
            return Chunk("prep", f"as {self._at(i + 1)} as"), i + 3
        return None

    def _verb_chunk(self, i: int, lemma: str, form: str, finite: bool | None, **said: bool) -> tuple[Chunk, int]:
        """The verb at `i`; one that lends its subject ("starts to run") gives way to the verb behind it."""
        i += 1
        while lemma in lexicon.CATENATIVE:
            n = i
            while self._at(n) and self._adverb(n) and n < len(self.tokens):
                n += 1
            known = w.verb_lemma(self._at(n))
            if self._at(n) == "to" and self._infinitive(n + 1):
                lemma, i = self._at(n + 1), n + 2
            elif known and known[1] == "ing" and self._closed(n + 1):
                lemma, i = known[0], n + 1
            else:
                break
        if form == "base" and finite is None and self.tokens[i - 2 : i - 1] != ["to"]:
            finite = True
        if form in ("s", "pret"):
            finite = True
        if lemma in ("be", *lexicon.COPULAR) and self._predicate(i, lemma):
            return Chunk("cop", lemma, finite=finite is not False, form=form, **said), i
        return Chunk("verb", lemma, form=form, finite=finite, **said), i

    def _predicate(self, i: int, lemma: str) -> bool:
        """Whether an adjective follows that says how the subject is ("looks dark", not "looks at")."""
        while self._at(i) and self._adverb(i):
            i += 1
        if lemma == "be":
            return True
        token = self._at(i)
        if token in w.DIRECTIONS or token in w.DETERMINERS or not self._open(i) or not self._closed(i + 1):
            return False
        return w.adjective(token) and not (w.verb_lemma(token) or ("", ""))[1] == "ing"

    def _auxiliaries(self, i: int) -> tuple[Chunk | None, int]:
        """A run of auxiliaries, adverbs and "not", with the verb behind it."""
        first, last, negated, run, n = self.tokens[i], "", False, [], i
        while n < len(self.tokens):
            token = self.tokens[n]
            if token in w.AUXILIARIES:
                last = token
                run.append(token)
            elif token in ("not", "never"):
                negated = True
            elif not self._adverb(n) or (token in lexicon.ADJECTIVES and last in w.BE):
                break
            n += 1
        if last in w.BE and tuple(self.tokens[n : n + 2]) == ("going", "to") and self._open(n + 2):
            return self._verb_chunk(n + 2, w.guessed_lemma(self._at(n + 2)), "base", True, negated=negated)
        if last in w.BE and tuple(self.tokens[n : n + 2]) == ("about", "to") and self._open(n + 2):
            return self._verb_chunk(n + 2, self._at(n + 2), "base", True, negated=negated)
        token = self._at(n)
        finite = first not in ("be", "been", "being", "having")
        known = w.verb_lemma(token) if self._open(n) else None
        plural = first in ("are", "were", "have", "do")
        said = {"negated": negated, "plural": plural}
        if last in w.BE:
            doing = self._doing(n, known)
            if doing == "ing":
                lemma = known[0] if known else w.guessed_lemma(token)
                return self._verb_chunk(n, lemma, "", finite, **said)
            if doing == "past" and not self._stative(n, run):
                lemma = known[0] if known else w.guessed_lemma(token)
                return self._verb_chunk(n, lemma, "", finite, passive=True, **said)
            return Chunk("cop", "be", finite=finite, form="s", **said), n
        if last in w.HAVE:  # "has eaten", "has to eat", "has a hat"
            if self._open(n) and token not in lexicon.ADJECTIVES:
                if (known and known[1] == "past") or (not known and token.endswith("ed") and self._closed(n + 1)):
                    return self._verb_chunk(n, known[0] if known else w.guessed_lemma(token), "", finite, **said)
            if self._at(n) == "to" and self._infinitive(n + 1):
                return self._verb_chunk(n + 1, self._at(n + 1), "base", True, **said)
            return Chunk("verb", "have", form="s" if finite else "ing", finite=finite or None, **said), n
        # "can run"; in "does the dog run" the thing comes first
        if self._open(n) and (known or not self._question()):
            return self._verb_chunk(n, known[0] if known else token, "", finite, **said)
        return (Chunk("aux", first, **said) if self._question() else Chunk("verb", "do", finite=True, **said)), n

    def _question(self) -> bool:
        return self._kind() in ("", "stop", "joint", "comma") or self._kind() == "rel"

    def _doing(self, n: int, known: tuple[str, str] | None) -> str:
        """ "ing" or "past" where a form of "be" and the word at `n` make one verb; else ""."""
        token = self._at(n)
        if not self._open(n) or token in lexicon.NOT_VERBS:
            return ""
        if known and known[1] == "ing" or not known and token.endswith("ing") and len(token) > 4:
            compound = token in lexicon.ADJECTIVES or self._at(n + 1) in lexicon.COMPOUND_HEADS
            return "" if compound else "ing"
        if known and (known[1] == "past" and token not in lexicon.PRETERITES or token in lexicon.INVARIANT):
            return "past"
        return "past" if not known and token.endswith("ed") and token not in lexicon.ADJECTIVES else ""

    def _stative(self, n: int, run: list[str]) -> bool:
        """ "is broken", but "has been broken" and "is broken by": what a participle says of a thing as it is."""
        if self.tokens[n] not in lexicon.ADJECTIVES or "been" in run or "being" in run:
            return False
        covered = w.verb_lemma(self.tokens[n])
        by = ("by", "with", "in") if covered and covered[0] in lexicon.COVERING else ("by",)
        return self._at(n + 1) not in by

    def _gotten(self, i: int) -> tuple[Chunk, int] | None:
        """ "gets hit by": a passive."""
        if w.verb_lemma(self.tokens[i]) is None or w.verb_lemma(self.tokens[i])[0] != "get":
            return None
        known = w.verb_lemma(self._at(i + 1))
        if not known or self._at(i + 1) in lexicon.ADJECTIVES or not self._closed(i + 2):
            return None
        if known[1] == "past" or self._at(i + 2) == "by":
            form = w.verb_lemma(self.tokens[i])[1]
            return self._verb_chunk(i + 1, known[0], "", form != "ing", passive=True)
        return None

    def _nominal(self, i: int) -> tuple[Chunk | None, int]:
        """A noun phrase; or adjectives alone, behind "is" or behind the thing they describe."""
        start, words = i, list[str]()
        determined = definite = single = negated = owned = False
        ordinal, determiner = None, ""
        while i < len(self.tokens):
            token = self.tokens[i]
            if not words and token in w.DETERMINERS and not (determined and token in w.SINGULAR):
                determined, definite = True, definite or token == "the"
                determiner, negated, owned = token, negated or token == "no", token in w.POSSESSIVES
                single = token in w.SINGULAR
                if token in w.COUNTS:
                    words.append(token)
            elif (
                words
                and len(words) == 1
                and words[0] in w.COUNTS
                and token == "of"
                and self._at(i + 1) in w.DETERMINERS
            ):
                i += 1  # "two of the dogs"
            elif not words and determined and token == "of" and self._at(i + 1) in w.DETERMINERS:
                i += 1  # "one of the dogs"
            elif determined and not words and token in w.ORDINALS:
                ordinal = w.ORDINALS[token]  # "the second dog"
            elif determined and not words and token in ("can", "other", "others") and self._at(i + 1) not in w.BE:
                if token == "can":  # the thing, not "could"
                    words.append(token)
            elif token == "of" and words and self._at(i + 1) and w.noun_lemma(words[-1]) in lexicon.MEASURES:
                words.append(token)  # "a cup of tea" is one thing
            elif words and words[-1] == "of" and token in w.DETERMINERS:
                if token in w.COUNTS:
                    words.append(token)
            elif self._joins_adjectives(i, words, determined):
                i = self._joins_adjectives(i, words, determined) - 1
            elif self._adverb(i) and (self._open(i + 1) or self._adverb(i + 1)) and self._degree(i, words):
                pass
            elif self._ends(i):
                break
            elif token == "left" and words and self._preposition(i + 1):
                self.decided = i, ("leave", "past")  # "the man left with a bag"
                break
            elif words and self._verb_here(i, tuple(words), determined, single):
                self.decided = i, self._verb_here(i, tuple(words), determined, single)
                break
            elif words and not determined and self._kind() == "cop" and self._ends_predicate(i, words):
                self.decided = i, w.verb_lemma(token)
                break
            elif words and token in lexicon.ADJECTIVES and self._postposed(i, words):
                break
            else:
                words.append(token)
            i += 1
        while words and words[-1] == "of":
            words.pop()
        if definite and words == ["camera"]:
            return Chunk("camera"), i
        if not words and determiner in ("one", "another") and self._kind() != "cop":
            words = [determiner]
        if not words:
            return None, max(i, start + 1)
        if not determined and self._predicative(i, words):
            return Chunk("adj", words=tuple(words)), i
        open_noun = words[:1] if len(words) == 1 else words
        many = w.plural(open_noun[-1]) or any(word in w.COUNTS or word.isdigit() for word in words)
        if "of" in words[1:]:
            many = w.plural(words[words.index("of") - 1])
        chunk = Chunk(
            "np", words=tuple(words), definite=definite, ordinal=ordinal, negated=negated, owned=owned,
            plural=many and not single,
        )  # fmt: skip
        if self._at(i) == "'s":
            inner, n = self._possessed(i + 1)
            if inner is not None:
                first = inner
                while first.owner is not None:
                    first = first.owner
                return self._own(inner, chunk), n
        return chunk, i

    def _possessed(self, i: int) -> tuple[Chunk | None, int]:
        if not self._open(i) and self._at(i) not in w.COUNTS:
            return None, i
        self.found.append(Chunk("prep", "of"))  # a noun comes, no verb
        try:
            chunk, n = self._nominal(i)
        finally:
            self.found.pop()
        return (chunk, n) if chunk is not None and chunk.kind == "np" else (None, i)

    def _own(self, chunk: Chunk, owner: Chunk) -> Chunk:
        if chunk.owner is None:
            return replace(chunk, owner=owner)
        return replace(chunk, owner=self._own(chunk.owner, owner))

    def _degree(self, i: int, words: list[str]) -> bool:
        """An adverb within a phrase: "a very big dog", not "a dog slowly crossing"."""
        if any(not w.adjective(word) and word not in w.COUNTS and not word.endswith(("ed", "ing")) for word in words):
            return False
        n = i + 1
        while self._adverb(n):
            n += 1
        known = w.verb_lemma(self._at(n))
        return not (known and known[1] in ("s", "base") and words)

    def _joins_adjectives(self, i: int, words: list[str], determined: bool) -> int:
        """Where the phrase goes on behind "and", "but" or a comma between adjectives; 0 if it ends here."""
        token = self.tokens[i]
        if token not in ("and", "or", "but", ",") or not words:
            return 0
        said = words[words.index("of") + 1 :] if "of" in words else words
        said = [word for word in said if word not in w.COUNTS and not word.isdigit()]
        if not said or not all(w.adjective(word) or word.endswith(("ed", "ing")) for word in said):
            return 0
        n = i + 1
        while self._at(n) in (",", "and", "or", "but"):
            n += 1
        while self._adverb(n) and n < len(self.tokens):
            n += 1
        following = self._at(n)
        if not self._open(n):
            return 0
        adjective = w.adjective(following) or following.endswith(("ed", "ing"))
        known = w.verb_lemma(following)
        if said[-1] in lexicon.NOUNISH and not (adjective and self._reaches_noun(n)):
            return 0
        if known and known[1] in ("s", "ing", "past") and not (determined and not self._closed(n + 1)):
            return 0
        if adjective:
            return n if self._reaches_noun(n) else 0
        if determined and not self._closed(n + 1):
            return n if token != "," or w.adjective(self._at(n + 1)) else 0
        return n if determined and token != "," else 0

    def _reaches_noun(self, n: int) -> bool:
        """Whether the adjectives from `n` on end in a noun."""
        while n < len(self.tokens):
            token = self.tokens[n]
            if token in (",", "and", "or", "but") or self._adverb(n):
                n += 1
            elif not self._open(n):
                return False
            elif w.adjective(token) or (token.endswith(("ed", "ing")) and token not in lexicon.NOT_VERBS):
                if self._closed(n + 1) and self._at(n + 1) not in (",", "and", "or", "but"):
                    return token in lexicon.NOUNISH or token not in lexicon.ADJECTIVES
                n += 1
            else:
                return True
        return False

    def _joins_predicate(self, i: int) -> bool:
        """ "is white and freshly painted": a participle that "and" joins to adjectives, with nothing behind it."""
        joined = self._kind() in ("joint", "comma") and self._kind(2) in ("adj", "joint")
        return joined and self._at(i + 1) in ("", ",", ".", "and", "?", ";") and not self._finite_ahead(i + 1)

    def _ends_predicate(self, i: int, words: list[str]) -> bool:
        """ "whose hair is red reads a book": adjectives behind "is", and a verb behind them."""
        known = w.verb_lemma(self.tokens[i])
        return bool(known) and known[1] == "s" and all(map(w.adjective, words)) and self._closed(i + 1)

    def _postposed(self, i: int, words: list[str]) -> bool:
        """An adjective behind a noun and before nothing: "is the car red", "paints the wall red"."""
        if (w.adjective(words[-1]) and words[-1] not in lexicon.NOUNISH) or words[-1] in w.COUNTS:
            return False
        return self._closed(i + 1) and self.tokens[i] not in lexicon.NOUNISH

    def _predicative(self, i: int, words: list[str]) -> bool:
        """Whether a phrase without a determiner, which ends before `i`, is no thing but says how one is."""
        kind, n = self._kind(), 1
        while kind in ("joint", "comma", "not"):
            n += 1
            kind = self._kind(n)
        adjectives = all(w.adjective(word) or word.endswith("ed") for word in words)
        if kind in ("cop", "adj"):
            if adjectives:
                return words[-1] not in lexicon.NOUNISH or words[-1] in lexicon.COLOURS or kind == "cop"
            known = w.verb_lemma(words[-1])
            single = len(words) == 1 and not w.plural(words[0]) and not (known and known[1] == "base")
            return single and (self._kind() == "cop" or self._kind(2) == "cop" and self._kind() == "not")
        if not adjectives or words[-1] in lexicon.NOUNISH - lexicon.COLOURS:
            return False
        if kind == "np":
            return n == 1 or self._kind() == "comma" or all(word in lexicon.ADJECTIVES for word in words) and n > 1
        return kind == "verb" and all(word in lexicon.ADJECTIVES for word in words)
