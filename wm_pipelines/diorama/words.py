"""The words of the closed language, which `language` writes with and `parser` reads by (our design)."""

from wm_pipelines.diorama.scene import COLOURS, MATERIALS, PATTERNS, SHAPES, SIZES
from wm_pipelines.text.phrasing import ORDINALS

_WORDS = {
    "noun phrases": f"a an another the {' '.join((*SIZES, *PATTERNS, *MATERIALS, *COLOURS, *SHAPES, *ORDINALS))} last",
    "relations": "left right of to on in front behind above below and",
    "motion": "moving turning orbiting bouncing stopping staying still then while towards away up down from camera "
    "panning clockwise counterclockwise slowly quickly forward back seen empty scene",
    "actions": "move turn make remove add swap replace with little far degrees",
    "questions": "what which where when why how many is are was were does do did will would if happen happens "
    "happened no not yes none it its there before after because zero one two three four object objects spheres cubes "
    "cylinders cones shape colour size direction same different hit hits touch fall falls push throw collide topple "
    "gravity friction inverted event start end video frame frames most as by than later removed both only next time",
}
# Every word that the grammar has or keeps for actions and questions: a trained tokenizer can't take new ones.
VOCABULARY: tuple[str, ...] = tuple(dict.fromkeys(" ".join(_WORDS.values()).split()))

# in the order in which they are said
ATTRIBUTES = {
    "size": tuple(SIZES),
    "pattern": PATTERNS,
    "material": MATERIALS,
    "colour": tuple(COLOURS),
    "shape": SHAPES,
}
FORMS = {"left of": ("left of", "to the left of"), "right of": ("right of", "to the right of")}
# a kind of motion of an object, and of the camera, and its word
PARTICIPLES = {
    "translate": "moving",
    "turn": "turning",
    "orbit": "orbiting",
    "bounce": "bouncing",
    "stop": "stopping",
    "still": "staying still",
}
CAMERA_PARTICIPLES = {"pan": "panning", "dolly": "moving"} | {k: PARTICIPLES[k] for k in ("orbit", "stop", "still")}


def words_of(said: dict[str, str]) -> tuple[str, ...]:
    """Attribute values in the order in which they are said: ("small", "red", "cube")."""
    return tuple(said[kind] for kind in ATTRIBUTES if kind in said)
