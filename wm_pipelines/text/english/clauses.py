"""Chunks into entities and relations, from left to right: what each kind of chunk says (our design)."""

from dataclasses import replace

from wm_pipelines.text.english import lexicon
from wm_pipelines.text.english import words as w
from wm_pipelines.text.english.attachment import GOES_ON, Attachment
from wm_pipelines.text.english.statements import Clause, Frame
from wm_pipelines.text.english.tagging import Chunk
from wm_pipelines.text.parsed import ParsedText


class Assembly(Attachment):
    """Reads the chunks of a caption."""

    def read(self) -> ParsedText:
        for n, chunk in enumerate(self.chunks):
            getattr(self, f"_{chunk.kind}")(n, chunk)
        self._finish()
        relations = (replace(relation, id=f"r{n}") for n, relation in enumerate(self.relations))
        return ParsedText(tuple(self.entities), tuple(relations))

    def _np(self, n: int, chunk: Chunk) -> None:
        clause, joined = self.clause, self._joined(n)
        before = self.nearest
        id = self._entity(self._whole(n, chunk))
        if self.owning is not None:
            self._relate(Frame([self.owning], "have"), id)
            self.owning = None
        if self._said_not(n) or (self._kind(n - 1) == "cop" and clause.negated and self._kind(n - 2) == "there"):
            self.absent.add(id)
        frame = self.frame
        inverted = clause.inverted and not clause.subjects
        if inverted and not (frame is not None and not frame.verb):
            self._subject_at_last(id)
        elif frame is not None and frame.what == "" and not frame.verb:
            pass
        elif frame is not None:
            self.frame = None
            self._object(frame, id, chunk)
        elif joined and clause.front and not clause.subjects and self._kind(n - 1) == "joint":
            clause.front[1].append(id)
        elif not clause.subjects and not (clause.predicate and self.last):
            clause.subjects = [id]
            self._tie_loose()
        elif joined:
            self._coordinate(n, id)
        elif (
            before is not None
            and self._kind(n - 1) == "np"
            and self._kind(n + 1) in ("verb", "cop")
            and not (clause.predicate and self.last)
        ):
            self._enter(subjects=[id], gap=before)  # "the cat the dog chases"
        elif self.last is not None and self.last.verb and self._kind(n - 1) == "np":
            self._relate(self.last, id)  # "gives a dog a bone"
        elif self._kind(n - 1) in ("sub", "rel"):
            clause.subjects = [id]
        elif self._kind(n - 1) == "cop":
            pass  # "the man is a doctor"
        elif not clause.predicate:
            clause.subjects.append(id)
        self.nearest = id

    def _object(self, frame: Frame, id: str, chunk: Chunk) -> None:
        clause = self.clause
        if frame.verb and not frame.who and not clause.subjects and not clause.predicate:
            clause.loose.append((frame, id))
        elif frame.prep == "front":
            clause.front = (frame.what, [id])
            return
        elif frame.passive and not frame.turned and not frame.prep:
            self._relate(replace(frame, passive=False), id)
        else:
            if frame.turned and self.shared is not None:  # "fed and milked by a girl"
                shared, self.shared = self.shared, None
                self.relations = [
                    r for r in self.relations
                    if not (r.subject is None and r.verb == shared.what and r.object in shared.who)
                ]  # fmt: skip
                self._relate(replace(shared, turned=True), id)
            if not frame.verb and frame.what in ("with", "without") and self._from_object(frame, id, chunk):
                frame = replace(frame, who=self._agents())
            self._relate(frame, id)
        self.last = frame

    def _subject_at_last(self, id: str) -> None:
        """The subject behind its verb: "behind the cat is a dog", "is the dog ...", "there is a dog"."""
        clause = self.clause
        clause.subjects = [id]
        frame, self.frame = self.frame, None
        self._tie_loose()
        if frame is not None:
            frame = replace(frame, who=[id])
            self.doing = frame
            if clause.front:
                for place in clause.front[1]:
                    self._relate(frame, place)
            elif self.owning is None:
                self.frame = frame
        elif clause.front:
            for place in clause.front[1]:
                self._relate(Frame([id], clause.front[0], False, clause.negated), place)

    def _tie_loose(self) -> None:
        clause = self.clause
        for frame, object in clause.loose:
            frame = replace(frame, who=clause.subjects[:])
            if frame.passive and object is None:
                frame = replace(frame, turned=True)
            self._relate(frame, object)
        clause.loose = []

    def _coordinate(self, n: int, id: str) -> None:
        """A thing behind "and" or a comma: another subject, another object, or the subject of a new clause."""
        clause, last, following = self.clause, self.last, self._kind(n + 1)
        follows = self._finite_follows(n)
        waits = any(not outer.predicate for outer in self.outer)
        if following == "rel" and waits and clause.predicate:
            self._leave()
            self.clause.subjects.append(id)
            self.last = None
        elif clause.predicate and clause.inverted and not follows and (last is None or not last.verb or clause.front):
            clause.subjects.append(id)
            if clause.front:
                frame = self.doing if self.doing is not None else Frame([], clause.front[0], False, clause.negated)
                for place in clause.front[1]:
                    self._relate(replace(frame, who=[id]), place)
            self.last = None
        elif clause.predicate and (
            (follows and not waits) or following == "adj" or (following == "verb" and self._kind(n - 1) == "joint")
        ):
            self._begin([id])
        elif clause.predicate and last is not None and last.verb and last.prep and self._placed(n + 1):
            self._begin([id])  # "cows grazing in a field and a barn behind a fence"
        elif clause.predicate:
            if last is not None and not (following == "prep" and not last.verb and last.what not in GOES_ON):
                self._relate(last, id)
        elif last is not None and last.verb and not follows and following != "verb":
            self._relate(last, id)
        elif (
            last is not None
            and not last.verb
            and not follows
            and (
                (following not in ("verb", "prep", "cop", "rel") and not self._after_pause(n))
                or (following != "verb" and self._worn(last, id))
            )
        ):
            self._relate(last, id)
        elif last is not None and last.what == "between" and self._kind(n - 1) == "joint" and not self._between(last):
            self._relate(last, id)
        elif waits and not clause.subjects:
            clause.subjects.append(id)
        else:
            clause.subjects.append(id)
            self.last = None

    def _verb(self, n: int, chunk: Chunk) -> None:
        joined, clause = self._joined(n), self.clause
        before = self.doing
        self._close()
        alone = before is not None and before.passive and not before.turned and not before.prep
        finite, passive = self._reading(n, chunk, joined)
        negated = chunk.negated or self._said_not(n)
        if finite:
            if clause.predicate and not joined:
                self._leave()
            clause = self.clause
            asked = clause.inverted and clause.subjects
            who = clause.subjects[:]
            if (
                not who
                and not clause.predicate
                and self._kind(n + 1) in ("np",)
                and (clause.front or self._kind(n - 1) == "there")
            ):
                clause.inverted = True
            clause.predicate = True
            if chunk.form != "" or not asked:
                clause.form = chunk.form
            clause.negated = negated
        else:
            who = self._actor(n, chunk, joined, before)
        clause.passive = passive
        self.frame = self.doing = Frame(who, chunk.text, True, negated, passive)
        self.shared = before if alone and passive and joined else None
        self.last = None

    def _cop(self, n: int, chunk: Chunk) -> None:
        joined = self._joined(n)
        self._close()
        if not chunk.finite:
            return
        if self.clause.predicate and not joined:
            self._leave()
        clause = self.clause
        if not clause.subjects:
            clause.inverted = True
        clause.predicate, clause.negated, clause.form = True, chunk.negated, "s"
        self.last = None

    def _aux(self, n: int, chunk: Chunk) -> None:
        self._close()
        if self._kind(n - 1) == "rel":
            return
        if self.clause.predicate:
            self._begin([])
        self.clause.negated = chunk.negated

    def _adj(self, n: int, chunk: Chunk) -> None:
        frame = self.frame
        if frame is not None and frame.verb:  # "painted white", "arrives tired"
            self._close()
            if not frame.negated:
                self._describe(frame.who, chunk.words)
            return
        negated = self._said_not(n) or self.clause.negated
        if self._kind(n - 1) == "joint" and self.chunks[n - 1].text == "but":
            negated, self.clause.negated = self._said_not(n), False
        if negated:
            return
        k = n - 1
        while self._kind(k) in ("joint", "comma", "adj"):
            k -= 1
        if self._kind(k) == "np" and self.nearest and not (self.clause.inverted and self.clause.predicate):
            self._describe([self.nearest], chunk.words)
        elif self.clause.subjects:
            self._describe(self.clause.subjects, chunk.words)
        elif self.nearest:
            self._describe([self.nearest], chunk.words)

    def _prep(self, n: int, chunk: Chunk) -> None:
        text, clause = chunk.text, self.clause
        frame, doing = self.frame, self.doing
        if self._kind(n + 1) == "rel":
            return
        if frame is not None and frame.verb:
            if frame.passive and not frame.prep:
                by = text == "by" and self._acted(n + 1, frame.what)
                frame.turned = by or (text in ("with", "in", "by") and frame.what in lexicon.COVERING)
            if frame.passive and frame.prep and text == "by":
                frame.turned = True
            frame.prep = text
            frame.negated = frame.negated or chunk.negated
            return
        if self._joined(n) and self._inverts(n):  # "and behind the cat is a dog"
            self._begin([])
            clause = self.clause
        # "on the table is a cup": what it ties comes later
        starts = not clause.subjects and (
            self.nearest is None or n == 0 or self._kind(n - 1) in ("stop", "sub", "comma", "joint")
        )
        if starts and not clause.gap and not (clause.predicate and clause.inverted):
            self.frame = Frame([], text, False, prep="front")
            return
        if (
            text == "by"
            and doing is not None
            and doing.passive
            and not doing.turned
            and self._acted(n + 1, doing.what)
        ):
            self._undo(doing)
            self.frame = replace(doing, turned=True)
            return
        who = self._site(n, text)
        negated = chunk.negated or self._said_not(n) or (self._kind(n - 1) in ("cop", "adj") and clause.negated)
        if who:
            self.frame = Frame(who, text, False, negated)

    def _undo(self, frame: Frame) -> None:
        """ "chased down the street by a dog": where it is done is not what does it."""
        for n, r in enumerate(self.relations):
            if r.subject in frame.who and r.verb == frame.what and r.object is not None:
                self.relations[n] = replace(r, verb=frame.prep)
        self.relations = [r for r in self.relations if r.verb]

    def _rel(self, n: int, chunk: Chunk) -> None:
        after = self._prepares(n)
        behind = self._kind(n - 1) == "prep"
        self._close()
        antecedent = self._antecedent(n, chunk, after)
        if antecedent is None:
            if not self.clause.subjects and self._kind(n + 1) in ("np", "cop", "aux"):
                return
            self._enter()
        elif chunk.text == "whose":
            self.owning = antecedent
            self._enter()
        elif behind or after in ("np", "pronoun") or chunk.text == "where":
            self._enter(gap=antecedent)
        else:
            subjects = self.clause.subjects
            many = subjects if len(subjects) > 1 and antecedent in subjects and self._agrees_many(n) else [antecedent]
            self._enter(subjects=many[:])
        self.last = None

    def _pronoun(self, n: int, chunk: Chunk) -> None:
        person = chunk.text in ("he", "she", "him", "her", "who")
        many = chunk.text in ("they", "them")
        frame = self.frame
        if chunk.text == "nobody":
            if frame is not None and frame.who:
                self.frame = None
            else:
                self._begin([])
                self.clause.mute = True
            return
        if frame is not None and not (self.clause.inverted and not self.clause.subjects):
            others = [e.id for e in self.entities if e.id not in frame.who]
            fits = [id for id in others if self.many.get(id, False) == many or many]
            if person:
                fits = [id for id in fits if self._moves([id])]
            id = (fits or others or [None])[-1]
            if id is not None and frame.prep != "front":
                self.frame = None
                self._relate(frame, id)
                self.last, self.nearest = frame, id
            return
        follows = self._kind(n + 1) in ("verb", "cop")
        bare = self._kind(n - 1) == "np" and self._kind(n + 1) == "verb" and self.nearest is not None
        if bare and frame is None and chunk.text in w.SUBJECT_PRONOUNS:  # "the woman he follows"
            known = [
                e.id for e in self.entities if e.id != self.nearest and self._moves([e.id]) == (chunk.text != "it")
            ]
            self._enter(subjects=known[:1], gap=self.nearest)
            return
        if self._kind(n - 1) == "rel" or (follows and self._kind(n - 1) in ("joint", "comma", "stop", "sub")):
            known = [e.id for e in self.entities]
            fits = [id for id in known if self._moves([id])] if person else known
            if not many and not person:
                fits = [id for id in known if not self._moves([id])] or known
            if many:
                fits = [id for id in known if self.many.get(id)]
            subjects = fits[:1] if person else fits[-1:]
            if self._kind(n - 1) == "rel":
                self.clause.subjects = [id for id in subjects if id != self.clause.gap]
            else:
                self._begin(subjects or known[:1])
        if self.clause.subjects:
            self.nearest = self.clause.subjects[0]

    def _there(self, n: int, chunk: Chunk) -> None:
        self._close()
        if self.clause.predicate or self.clause.subjects:
            self._begin([])

    def _joint(self, n: int, chunk: Chunk) -> None:
        self._close()

    def _comma(self, n: int, chunk: Chunk) -> None:
        self._close()

    def _not(self, n: int, chunk: Chunk) -> None:
        if self._kind(n - 1) == "cop":
            self.clause.negated = True

    def _stop(self, n: int, chunk: Chunk) -> None:
        self._begin([])
        self.nearest = None

    def _sub(self, n: int, chunk: Chunk) -> None:
        self._close()
        if self._kind(n + 1) == "verb" and not self._finite(n + 1):
            return  # "while riding a horse": the same subject
        if self._kind(n + 1) in ("np", "pronoun", "there"):
            self._begin([])

    def _camera(self, n: int, chunk: Chunk) -> None:
        """What the camera does is no relation between things."""
        self._close()
        if self._kind(n - 1) in ("verb", "prep"):
            return
        if self._kind(n + 1) in ("verb", "cop"):
            mute = Clause(mute=True)
            self._begin([])
            self.clause = mute
        self.nearest = None
