"""The clauses of a caption, as far as they are read, and the entities and relations that they state (our design).

A clause has its subjects, and one finite verb makes its predicate; a relative clause stands on a stack until its verb
is said, so that "is red" in "the car that the man drives is red" goes back to the car.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from wm_pipelines.text.english import lexicon
from wm_pipelines.text.english import words as w
from wm_pipelines.text.english.tagging import Chunk
from wm_pipelines.text.parsed import Entity, Relation


@dataclass
class Frame:
    """A verb or preposition that waits for its object.

    Args:
        who: its subjects; of a passive, what it is done to. turned: what comes is the actor.
    """

    who: list[str]
    what: str
    verb: bool = True
    negated: bool = False
    passive: bool = False
    turned: bool = False
    prep: str = ""


@dataclass
class Clause:
    """What is known of the clause that is being read.

    Args:
        gap: what a relative clause leaves its verb without an object for ("a bird that the boy feeds").
        front: a preposition said before the subject, with its objects.
        inverted: the verb came before its subject. loose: participles that wait for the subject, each with its object.
    """

    subjects: list[str] = field(default_factory=list)
    predicate: bool = False
    negated: bool = False
    passive: bool = False
    gap: str | None = None
    front: tuple[str, list[str]] | None = None
    inverted: bool = False
    loose: list[tuple[Frame, str | None]] = field(default_factory=list)
    mute: bool = False
    form: str = ""


class Statements:
    """What has been read of a caption, chunk by chunk."""

    def __init__(self, chunks: Sequence[Chunk]):
        self.chunks = list(chunks)
        self.entities: list[Entity] = []
        self.relations: list[Relation] = []
        self.many: dict[str, bool] = {}
        self.absent: set[str] = set()
        self.holder: dict[str, str] = {}  # a thing to what its preposition ties it to
        self.clause = Clause()
        self.outer: list[Clause] = []
        self.nearest: str | None = None
        self.frame: Frame | None = None
        self.last: Frame | None = None  # the last with an object
        self.doing: Frame | None = None  # the last verb
        self.owning: str | None = None  # "whose"
        self.shared: Frame | None = None  # a passive that has no actor yet, before "and" and another

    def _kind(self, n: int) -> str:
        return self.chunks[n].kind if 0 <= n < len(self.chunks) else ""

    def _joined(self, n: int) -> bool:
        return self._kind(n - 1) in ("joint", "comma") or (
            self._kind(n - 1) == "not" and self._kind(n - 2) in ("joint", "comma")
        )

    def _said_not(self, n: int) -> bool:
        return self._kind(n - 1) == "not"

    def _finite(self, n: int) -> bool:
        """Whether the chunk makes a clause's predicate."""
        chunk = self.chunks[n]
        return chunk.kind == "cop" or (chunk.kind == "verb" and bool(chunk.finite))

    def _finite_follows(self, n: int) -> bool:
        """Whether the phrase at `n` is the subject of a verb that comes after it."""
        inside = 0
        for k in range(n + 1, len(self.chunks)):
            kind = self.chunks[k].kind
            if kind in ("stop", "sub", "there") or (kind in ("joint", "comma") and not inside):
                return False
            if kind == "rel":
                inside += 1
            elif self._finite(k):
                if not inside:
                    return True
                inside -= 1
        return False

    def _entity(self, chunk: Chunk) -> str:
        owner = self._entity(chunk.owner) if chunk.owner is not None else None
        words = [word for word in chunk.words]
        if "of" in words[1:]:
            head = words.index("of") - 1
            name, attributes = " ".join(words[head:]), tuple(words[:head])
        else:
            name, attributes = words[-1], tuple(words[:-1])
        id = self._known(chunk, name, attributes, owner) if chunk.definite and owner is None else None
        if id is None:
            id = f"e{len(self.entities)}"
            self.entities.append(Entity(id, name, tuple(dict.fromkeys(attributes))))
        self.many[id] = chunk.plural
        if chunk.negated:
            self.absent.add(id)
        if owner is not None:
            self._relate(Frame([owner], "have"), id)
        return id

    def _whole(self, n: int, chunk: Chunk) -> Chunk:
        """ "a small and a large dog": adjectives alone share the name that comes."""
        if (
            set(chunk.words) <= lexicon.ADJECTIVES - lexicon.NOUNISH
            and self._kind(n + 1) == "joint"
            and self._kind(n + 2) == "np"
        ):
            other = self.chunks[n + 2].words
            if len(other) > 1 and other[0] in lexicon.ADJECTIVES:
                return replace(chunk, words=(*chunk.words, other[-1]))
        return chunk

    def _known(self, chunk: Chunk, name: str, attributes: tuple[str, ...], owner: str | None) -> str | None:
        """The entity that "the cube" names again; nothing acts on itself."""
        known = [e.id for e in self.entities if e.name == name and set(attributes) <= set(e.attributes)]
        taken = self.frame.who if self.frame else []
        known = [id for id in known if chunk.ordinal is not None or id not in taken]
        if not known:
            return None
        ordinal = chunk.ordinal or 0
        return known[ordinal] if abs(ordinal) < len(known) else known[-1]

    def _describe(self, ids: Sequence[str], attributes: Sequence[str]) -> None:
        for n, entity in enumerate(self.entities):
            if entity.id in ids:
                said = tuple(dict.fromkeys((*entity.attributes, *attributes)))
                self.entities[n] = Entity(entity.id, entity.name, said)

    def _name(self, id: str | None) -> str:
        name = next((entity.name for entity in self.entities if entity.id == id), "")
        return name.split(" of ")[-1]

    def _moves(self, ids: Sequence[str | None]) -> bool:
        return any(w.mover(self._name(id)) for id in ids)

    def _relate(self, frame: Frame, object: str | None) -> None:
        if frame.negated or self.clause.mute or (not frame.who and object is None):
            return
        for who in frame.who or [None]:
            ends = (object, who) if frame.turned else (who, object)
            if who == object or self.absent & set(ends):
                continue
            made = Relation("", ends[0], frame.what, ends[1])
            if all((r.subject, r.verb, r.object) != (made.subject, made.verb, made.object) for r in self.relations):
                self.relations.append(made)
            if not frame.verb and who and object:
                self.holder[object] = who

    def _close(self) -> None:
        """A verb that found no object stands alone; a preposition that found none is dropped."""
        frame, self.frame = self.frame, None
        clause = self.clause
        if frame is not None and not frame.verb and clause.gap is not None and clause.gap not in frame.who:
            self._relate(frame, clause.gap)  # "the table that the cup is on"
            clause.gap = None
        if frame is None or not frame.verb:
            return
        if not frame.who and not clause.predicate and not clause.subjects:
            clause.loose.append((frame, None))
        elif clause.inverted and not clause.subjects:
            self.frame = frame
        elif clause.gap is not None and clause.gap not in frame.who:
            if frame.passive:
                self._relate(frame, None) if frame.turned else self._relate(replace(frame, passive=False), clause.gap)
            else:
                self._relate(frame, clause.gap)
            clause.gap = None
        elif clause.front and not frame.passive and frame.who == clause.subjects and not frame.prep:
            for id in clause.front[1]:
                self._relate(frame, id)
            clause.front = None
        elif frame.passive:
            self._relate(replace(frame, turned=True), None)
        else:
            self._relate(frame, None)

    def _finish(self) -> None:
        """The end of a clause: what stood before the subject finds it."""
        self._close()
        clause = self.clause
        if self.frame is not None:  # inverted, and no subject came
            frame, self.frame = self.frame, None
            for id in clause.front[1] if clause.front else [None]:
                self._relate(frame, id)
            clause.front = None
        for frame, object in clause.loose:
            self._relate(replace(frame, who=frame.who or clause.subjects[:]), object)
        clause.loose = []
        if clause.front and clause.subjects and not clause.inverted:
            for id in clause.front[1]:
                self._relate(Frame(clause.subjects, clause.front[0], False), id)
        clause.front = None

    def _begin(self, subjects: list[str]) -> None:
        """A clause of its own."""
        self._finish()
        while self.outer:
            self.clause = self.outer.pop()
            self._finish()
        self.clause, self.last, self.doing = Clause(subjects), None, None

    def _enter(self, **said) -> None:
        """A relative clause, within the one that is being read."""
        self.outer.append(self.clause)
        self.clause = Clause(**said)

    def _leave(self) -> None:
        """Back to the innermost clause that has no verb yet, if there is one."""
        n = next((k for k in range(len(self.outer) - 1, -1, -1) if not self.outer[k].predicate), None)
        if n is None:
            return
        while len(self.outer) > n:
            self._finish()
            self.clause = self.outer.pop()
