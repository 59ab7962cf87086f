"""Says actions in the closed language and reads them back (our design).

An object is named by attributes that no other object of the scene has together ("the red cube", "the large object"),
and among twins by a clear relation ("the red cube left of the blue sphere"). An addition says where in the frame or
beside what, which together with the scene fixes its place.
"""

import re
from itertools import combinations

from wm_pipelines.diorama.actions import ANGLES, BESIDE, MOVES, PLACES, Action, placed
from wm_pipelines.diorama.parser import unknown_word
from wm_pipelines.diorama.primitives import DIRECTIONS, TURNS
from wm_pipelines.diorama.scene import COLOURS, MATERIALS, SIZES, Scene, SceneObject, clear_relations
from wm_pipelines.diorama.words import ATTRIBUTES, FORMS, VOCABULARY, words_of
from wm_pipelines.runtime.random import keyed
from wm_pipelines.text.phrasing import with_article

AMOUNTS = {
    "move": dict(zip(("a little", "", "far"), MOVES, strict=True)),
    "turn": dict(zip(("a little", ""), ANGLES, strict=True)),
}
# every wording of a direction, the plainest first
WAYS = {
    "left": ("to the left", "left"),
    "right": ("to the right", "right"),
    "towards": ("towards the camera",),
    "away": ("away from the camera", "away"),
    "up": ("up",),
    "down": ("down",),
    "clockwise": ("clockwise", "clockwise seen from above"),
    "counterclockwise": ("counterclockwise", "counterclockwise seen from above"),
}
SIDES = {"left": "on the left", "right": "on the right", "front": "in front", "back": "in the back"}
_RELATIONS = ("left of", "right of", "in front of", "behind", "above", "below")
_UNMARKED = {"pattern": "plain", "material": "matte"}
_KIND_OF = {word: kind for kind, words in ATTRIBUTES.items() for word in words}


def phrase(action: Action, scene: Scene, seed: int = 0) -> str:
    """A sentence for `action` in `scene`, the state before it, in words of `VOCABULARY`; `parse` reads it back.

    Args:
        seed: chooses the wording; 0 is the plainest.

    Raises:
        ValueError: no words tell an object from its twin, an addition is where no words say, or its id is not the one
            after the largest, which an addition in words gets.
    """
    say = _Speaker(scene, int(seed))
    if action.kind == "add":
        return say.addition(action.new)
    thing = say.reference(action.object)
    if action.kind in ("move", "turn"):
        amounts = AMOUNTS[action.kind]
        amount, way = next(w for w in amounts if amounts[w] == action.amount), say.one_of(WAYS[action.direction])
        # "a little" may come last, but not after an aside
        orders = [f"{amount} {way}".strip(), f"{way} {amount}"]
        orders = orders if amount == "a little" and not way.endswith("above") else orders[:1]
        return f"{action.kind} {thing} {say.one_of(orders)}"
    if action.kind == "remove":
        return say.one_of([f"remove {thing}", f"{thing} is removed"])
    if action.kind == "swap":
        first, second = say.order([thing, say.reference(action.other)])
        return f"swap {first} {say.one_of(['and', 'with'])} {second}"
    value = action.colour or action.size
    forms = [f"make {thing} {value}", f"replace {thing} with {with_article(value)} one"]
    return say.one_of([*forms, f"turn {thing} {value}"] if action.colour else forms)


def _looks(o: SceneObject) -> dict[str, str]:
    return {kind: getattr(o, kind) for kind in ATTRIBUTES}


def _noun_phrase(said: dict[str, str]) -> str:
    return " ".join(words_of(said) + (() if "shape" in said else ("object",)))


def _fitting(scene: Scene, said: dict[str, str]) -> list[SceneObject]:
    return [o for o in scene.objects if said.items() <= _looks(o).items()]


class _Speaker:
    """Finds words for the things of a scene; the first of each list of forms where the seed is 0."""

    def __init__(self, scene: Scene, seed: int):
        self.scene = scene
        self.rng = keyed("phrase", seed) if seed else None

    def one_of(self, forms):
        return forms[0 if self.rng is None else int(self.rng.integers(len(forms)))]

    def order(self, things: list[str]) -> list[str]:
        return things if self.rng is None or self.rng.random() < 0.5 else things[::-1]

    def reference(self, id: int) -> str:
        """The words for an object that is there."""
        o = self.scene.object(id)
        if ways := self.attributes(o):
            plainest = self.rng is None or self.rng.random() < 0.5
            return f"the {_noun_phrase(ways[0] if plainest else self.one_of(ways))}"
        looks = _looks(o)
        twins, clear = {t.id for t in _fitting(self.scene, looks)}, clear_relations(self.scene)
        forms = []
        for predicate, _, b in sorted(r for r in clear if r[1] == id):
            known = self.attributes(self.scene.object(b))
            if known and not any((predicate, twin, b) in clear for twin in twins - {id}):
                other = _noun_phrase(known[0])
                forms += [f"{form} the {other}" for form in FORMS.get(predicate, (predicate,))]
        if not forms:
            raise ValueError(f"no words tell object {id} from another {_noun_phrase(looks)}")
        return f"the {_noun_phrase(looks)} {self.one_of(forms)}"

    def attributes(self, o: SceneObject) -> list[dict[str, str]]:
        """Attributes that only `o` has together, those with colour and shape first.

        The material, which a picture may not show, is among them only if nothing else will do, and so is "plain".
        """
        looks = _looks(o)
        found = [
            {kind: looks[kind] for kind in kinds}
            for count in range(1, 6)
            for kinds in combinations(ATTRIBUTES, count)
            if len(_fitting(self.scene, {kind: looks[kind] for kind in kinds})) == 1
        ]
        for avoided in ({"plain", *MATERIALS}, {*MATERIALS}, set()):
            if seen := [said for said in found if not avoided & set(said.values())]:
                return sorted(seen, key=lambda said: not said.keys() >= {"colour", "shape"})
        return []

    def addition(self, new: SceneObject) -> str:
        scene = self.scene
        if new.id != _next_id(scene):
            raise ValueError(f"an addition in words gets the id {_next_id(scene)}, this one has {new.id}")
        bare = SceneObject(new.id, **_looks(new))
        forms = [(where, None) for where in PLACES] + [
            (where, o.id) for o in scene.objects if self.attributes(o) for where in BESIDE
        ]
        forms = [form for form in forms if placed(scene, bare, *form) == new]
        if not forms:
            raise ValueError(f"no words say that a {new.shape} is added at {new.position}, turned by {new.yaw}")
        where, other = self.one_of(forms)
        if other is None:
            where = " ".join(self.order([SIDES[word] for word in where.split()]))
        else:
            where = f"{self.one_of(FORMS.get(where, (where,)))} {self.reference(other)}"
        said = {
            kind: value
            for kind, value in _looks(new).items()
            if value != _UNMARKED.get(kind) or (self.rng is not None and self.rng.random() < 0.15)
        }
        words = _noun_phrase(said)
        return f"add {f'another {words}' if _fitting(scene, said) else with_article(words)} {where}"


def _next_id(scene: Scene) -> int:
    return max((o.id for o in scene.objects), default=0) + 1


def parse(text: str, scene: Scene) -> Action:
    """The action that `text` asks for in `scene`; the inverse of `phrase`. Case and the last full stop don't matter.

    A move without an amount is one of 1 m ("a little": 0.5 m, "far": 1.5 m), a turn one of 30 degrees ("a little": 15
    degrees). Whether the action can be done, `apply` says.

    Raises:
        ValueError: a word outside the vocabulary (the nearest one is named), a sentence outside the grammar, or a
            reference that fits no object or several; names what is there.
    """
    reader = _Reader(text, scene)
    action = reader.sentence()
    reader.accept(".")
    if reader.word():
        raise reader.fail("the end")
    return action


class _Reader:
    """Reads a sentence word by word."""

    def __init__(self, text: str, scene: Scene):
        self.scene = scene
        self.tokens = re.findall(r"[^\s,.]+|[,.]", text.lower())
        self.at = 0
        for word in self.tokens:
            if word not in ",." and word not in VOCABULARY:
                raise unknown_word(word)

    def word(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def accept(self, words: str) -> bool:
        wanted = words.split()
        if self.tokens[self.at : self.at + len(wanted)] == wanted:
            self.at += len(wanted)
            return True
        return False

    def fail(self, wanted: str) -> ValueError:
        where = f"before {self.word()!r}" if self.word() else "at the end"
        return ValueError(f"expected {wanted} {where}, after {' '.join(self.tokens[: self.at])!r}")

    def first(self, forms: dict[str, str], wanted: str | None = None) -> str | None:
        """The value of the form that comes next, of those that fit the longest."""
        for form in sorted(forms, key=lambda form: -len(form.split())):
            if form and self.accept(form):
                return forms[form]
        if wanted is not None:
            raise self.fail(wanted)
        return None

    def sentence(self) -> Action:
        if self.accept("add"):
            return self.addition()
        if self.accept("remove"):
            return Action("remove", self.reference())
        if self.accept("swap"):
            first = self.reference()
            self.first({"and": "", "with": ""}, "'and' or 'with'")
            return Action("swap", first, other=self.reference())
        if self.accept("replace"):
            return self.replacement(self.reference())
        if self.accept("make"):
            return self.change(self.reference(), {"colour": COLOURS, "size": SIZES})
        if self.accept("move"):
            return self.motion("move", self.reference(), DIRECTIONS)
        if self.accept("turn"):
            id = self.reference()
            return self.change(id, {"colour": COLOURS}) if self.word() in COLOURS else self.motion("turn", id, TURNS)
        if self.word() not in ("the", "object", *_KIND_OF):
            raise self.fail("move, turn, make, replace, remove, add, swap or an object that is removed")
        id = self.reference()
        self.first({"is removed": ""}, "'is removed'")
        return Action("remove", id)

    def change(self, id: int, kinds: dict) -> Action:
        """Recolour or resize, from the word that names the new value."""
        kind = next((kind for kind, values in kinds.items() if self.word() in values), None)
        if kind is None:
            raise self.fail(f"a {' or a '.join(kinds)}")
        self.at += 1
        return Action("recolour" if kind == "colour" else "resize", id, **{kind: self.tokens[self.at - 1]})

    def replacement(self, id: int) -> Action:
        self.first({"with a": "", "with an": ""}, "'with a'")
        action = self.change(id, {"colour": COLOURS, "size": SIZES})
        self.first({"one": ""}, "'one'")
        return action

    def motion(self, kind: str, id: int, directions: tuple[str, ...]) -> Action:
        amounts = AMOUNTS[kind]
        said = {form: form for form in amounts}
        before = self.first(said)
        ways = {form: direction for direction in directions for form in WAYS[direction]}
        direction = self.first(ways, f"one of {', '.join(ways)}")
        amount = before or self.first(said) or ""
        return Action(kind, id, direction, amounts[amount])

    def addition(self) -> Action:
        self.first({"a": "", "an": "", "another": ""}, "'a', 'an' or 'another'")
        said = self.noun_phrase()
        for kind in ("size", "colour", "shape"):
            if kind not in said:
                raise ValueError(f"a new object needs size, colour and shape; {_noun_phrase(said)!r} has no {kind}")
        new = SceneObject(id=_next_id(self.scene), **said)
        if relation := self.relation(BESIDE):
            new = placed(self.scene, new, relation, self.reference())
        else:
            ways = {form: side for side, form in SIDES.items()}
            sides = [self.first(ways, f"where: {', '.join((*ways, *BESIDE))}"), self.first(ways)]
            place = " ".join(side for side in ("front", "back", "left", "right") if side in sides)
            if place not in PLACES or sides[0] == sides[1]:
                raise ValueError(f"no place of the frame is both {' and '.join(SIDES[side] for side in sides)}")
            new = placed(self.scene, new, place)
        return Action("add", new.id, new=new)

    def relation(self, predicates) -> str | None:
        return self.first({form: p for p in predicates for form in FORMS.get(p, (p,))})

    def noun_phrase(self) -> dict[str, str]:
        """Attributes in any order, then a shape or "object"."""
        said: dict[str, str] = {}
        while "shape" not in said and not (said and self.accept("object")):
            kind = _KIND_OF.get(self.word())
            if kind is None or kind in said:
                raise self.fail("a noun phrase such as 'small red cube'")
            said[kind] = self.word()
            self.at += 1
        return said

    def reference(self) -> int:
        """The id of the one object that a noun phrase fits, and a relation if one is said."""
        begin = self.at
        self.accept("the")
        said = self.noun_phrase()
        found = [o.id for o in _fitting(self.scene, said)]
        if predicate := self.relation(_RELATIONS):
            other, clear = self.reference(), clear_relations(self.scene)
            found = [id for id in found if (predicate, id, other) in clear]
        if len(found) != 1:
            there = ", ".join(f"a {_noun_phrase(_looks(o))}" for o in self.scene.objects) or "nothing"
            fits = f"fits {len(found)} objects" if found else "is not there"
            raise ValueError(f"{' '.join(self.tokens[begin : self.at])!r} {fits}; there is {there}")
        return found[0]
