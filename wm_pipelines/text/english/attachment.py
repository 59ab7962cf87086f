"""Who does what a verb says, and what a preposition or a relative clause belongs to, where more than one may be meant.

By nearness, agreement, and whether a thing moves by itself, is worn, is held or shows something (our design).
"""

from wm_pipelines.text.english import lexicon
from wm_pipelines.text.english import words as w
from wm_pipelines.text.english.statements import Frame, Statements
from wm_pipelines.text.english.tagging import Chunk

# What "and" goes on with behind its object: "with a hat and a bag", "between a cat and a dog".
GOES_ON = frozenset("with between among of in from without".split())


class Attachment(Statements):
    """Decides what belongs to what."""

    def _from_object(self, frame: Frame, id: str, chunk: Chunk) -> bool:
        """ "eats pizza with a fork", "walks on the beach with a friend": the subject's, not the thing's before."""
        agents = self._agents()
        if not agents or frame.who == agents or self._moves(frame.who):
            return False
        return self._moves(agents) and (
            chunk.owned or self._moves([id]) or w.noun_lemma(self._name(id)) in lexicon.TOOLS
        )

    def _agents(self) -> list[str]:
        """Who does what the clause, or else the last participle, says."""
        if self.clause.predicate:
            return self.clause.subjects[:]
        return self.doing.who[:] if self.doing is not None and not self.doing.passive else []

    def _between(self, frame: Frame) -> bool:
        """Whether "between" has two things, or one that is many."""
        ends = [r.object for r in self.relations if r.verb == "between" and r.subject in frame.who]
        return len(ends) > 1 or any(self.many.get(end, False) for end in ends)

    def _after_pause(self, n: int) -> bool:
        """A comma and "and" behind one thing, not behind a list: what comes is a thing of its own."""
        listed = self._kind(n - 3) == "np" and self._kind(n - 4) == "comma"
        return self._kind(n - 2) == "comma" and not listed

    def _worn(self, frame: Frame, id: str) -> bool:
        return frame.what == "in" and w.noun_lemma(self._name(id)) in lexicon.CLOTHES

    def _placed(self, n: int) -> bool:
        return (
            self._kind(n) == "prep"
            and self.chunks[n].text not in GOES_ON | {"to"}
            or (self._kind(n) == "prep" and self.chunks[n].text == "in")
        )

    def _acted(self, n: int, lemma: str) -> bool:
        """Whether "by" at `n` names who does it: "kicked by a boy", not "parked by the house"."""
        if lemma not in lexicon.POSITIONAL:
            return True
        return self._kind(n + 1) == "np" and w.mover(self.chunks[n + 1].words[-1])

    def _actor(self, n: int, chunk: Chunk, joined: bool, before: Frame | None) -> list[str]:
        """Who does what a participle or an infinitive says."""
        subjects = self.clause.subjects
        if chunk.form == "base" and subjects:
            return subjects[:]
        if self._kind(n - 1) == "prep" or self._kind(n - 1) == "sub":
            return subjects[:]
        if joined:
            if before is not None and before.who and not before.passive and self._moves(before.who):
                if self._kind(n - 1) != "comma" or not self.clause.predicate:
                    return before.who[:]
            return subjects[:]
        if self.nearest is None:
            return subjects[:]
        who = [self.nearest]
        if len(subjects) > 1 and self.nearest == subjects[-1]:
            own = any(r.subject in subjects[:-1] and r.subject not in (None, who[0]) for r in self.relations)
            return who if own else subjects[:]  # "a man with a hat and a woman holding a bag"
        if self.nearest in subjects or (
            not chunk.passive and chunk.form == "ing" and self._moves(subjects) > self._moves(who)
        ):
            return subjects[:]  # "a man wearing a red shirt playing tennis": shirts don't play
        return who

    def _inverts(self, n: int) -> bool:
        """Whether a clause begins at the preposition: "and behind the cat is a dog"."""
        if self._kind(n + 1) != "np" or not (self.clause.predicate or self._kind(n - 1) == "comma"):
            return False
        if self._kind(n + 2) == "there":
            return True
        return self._kind(n + 2) in ("cop", "verb") and self._finite(n + 2) and self._kind(n + 3) == "np"

    def _site(self, n: int, text: str) -> list[str]:
        """What a preposition ties its object to."""
        clause, nearest = self.clause, self.nearest
        before = self._kind(n - 1)
        if self._said_not(n):
            before = self._kind(n - 2)
        if before in ("cop", "adj", "joint", "comma") and clause.subjects:
            if before == "joint" or (before == "comma" and not clause.predicate):
                return clause.subjects[:1] if not clause.predicate else clause.subjects[:]
            return clause.subjects[:]
        if nearest is None:
            return []
        holder = self.holder.get(nearest)
        if holder is None or text == "of" or self.last is None or self.last.verb:
            return [nearest]
        following = self.chunks[n + 1] if n + 1 < len(self.chunks) else Chunk("stop")
        worn = self.last.what in ("with", "without") or (
            self.last.what == "in" and w.noun_lemma(self._name(nearest).split()[-1]) in lexicon.CLOTHES
        )
        # "a man in a hat on a horse": the man is on it, not the hat
        if worn and self._moves([holder]) and not self._moves([nearest]) and not following.owned:
            return [holder]
        # "a painting of a dog on a wall": the painting is
        if self.last.what == "of" and w.noun_lemma(self._name(holder).split()[-1]) in lexicon.DEPICTIONS:
            return [holder]
        return [nearest]

    def _prepares(self, n: int) -> str:
        """The kind of what stands behind a relative, past "not"."""
        return self._kind(n + 2) if self._kind(n + 1) == "not" else self._kind(n + 1)

    def _agrees_many(self, n: int) -> bool:
        following = self.chunks[n + 1] if n + 1 < len(self.chunks) else Chunk("stop")
        return following.plural or following.form == "base"

    def _antecedent(self, n: int, chunk: Chunk, after: str) -> str | None:
        """What a relative clause is about: the nearest thing that agrees with its verb and can be "who"."""
        nearest, following = self.nearest, self.chunks[n + 1] if n + 1 < len(self.chunks) else Chunk("stop")
        if nearest is None:
            return None
        held, id = [nearest], nearest
        while id in self.holder and self.holder[id] not in held:
            id = self.holder[id]
            held.append(id)
        held += [id for id in self.clause.subjects if id not in held]
        if following.kind in ("cop", "verb") and following.finite:
            one = following.form == "s" and not following.plural or following.form == "" and not following.plural
            if following.kind == "verb" and following.form in ("past", "pret"):
                fits = held
            elif following.form == "base" or following.plural:
                fits = [id for id in held if self.many.get(id)]
            else:
                fits = [id for id in held if one and not self.many.get(id)]
            held = fits or held
        if chunk.text in ("who", "whom"):
            people = [id for id in held if w.noun_lemma(self._name(id)) in lexicon.HYPONYMS["person"] | {"person"}]
            held = people or [id for id in held if self._moves([id])] or held
        return held[0]

    def _reading(self, n: int, chunk: Chunk, joined: bool) -> tuple[bool, bool]:
        """Whether a verb makes a clause, and whether it is passive."""
        clause = self.clause
        bare = chunk.form == "base" and chunk.finite and chunk.text in lexicon.INVARIANT
        if bare and self._kind(n + 1) == "prep" and self.chunks[n + 1].text == "by":
            return False, True
        if chunk.finite is not None:
            return chunk.finite, chunk.passive
        if chunk.form == "ing":
            return False, chunk.passive
        if chunk.form not in ("past", "part"):
            return False, False
        after = self.chunks[n + 1] if n + 1 < len(self.chunks) else Chunk("stop")
        if joined and self.doing is not None and self.doing.passive:
            return clause.predicate, True
        if after.kind == "prep" and after.text == "by" and self._acted(n + 1, chunk.text):
            return False, True
        if after.kind == "prep" and after.text in ("with", "in", "by") and chunk.text in lexicon.COVERING:
            return False, True
        if (
            self.outer
            and not clause.predicate
            and (
                self._kind(n - 1) == "rel"
                or (self._kind(n - 1) in ("np", "pronoun") and self.nearest in clause.subjects)
            )
        ):
            return True, False  # "the cake that the girl baked"
        if after.kind == "adj":
            return False, True
        if chunk.form == "part":
            return False, after.kind != "np"
        if after.kind == "prep" and self._kind(n + 2) == "np" and self._kind(n + 3) == "prep":
            if (
                self.chunks[n + 3].text == "by"
                and self._kind(n + 4) == "np"
                and chunk.text not in lexicon.INTRANSITIVE
            ):
                return False, True  # "pulled on the water by a kite"
        if after.kind == "np" or chunk.text in lexicon.INTRANSITIVE:
            return True, False
        if joined and clause.predicate:
            return True, False
        ends = after.kind in ("stop", "joint", "comma", "sub") and not self._finite_follows(n)
        waits = not clause.predicate or any(not outer.predicate for outer in self.outer)
        if ends and waits and self.doing is not None and self.nearest not in clause.subjects:
            return True, False  # "the mouse chased by the cat escaped"
        if self._finite_follows(n) or clause.predicate or (not clause.subjects and self.nearest is None):
            return False, True
        return self.nearest in clause.subjects, False
