"""Commands in everyday words, in the words of a miniature world (our design)."""

import re

from wm_pipelines.text.vocabulary import LOOKS, SHAPES

WORDS = {
    **LOOKS, "forwards": "towards", "forward": "towards", "closer": "towards", "backwards": "away", "back": "away",
    "upwards": "up", "downwards": "down", "rightwards": "right", "leftwards": "left",
    "anticlockwise": "counterclockwise", "afterwards": "then",
}  # fmt: skip
MOTIONS = {
    "moving": "move slide glide travel drift go drive roll push shift walk run slip",
    "turning": "turn rotate spin twirl revolve pivot",
    "bouncing": "bounce hop jump leap",
    "orbiting": "orbit circle",
    "stopping": "stop halt brake",
    "staying still": "stay rest stand sit wait",
}
_VERBS = {verb: said for said, verbs in MOTIONS.items() for verb in verbs.split()}


def world_words(prompt: str) -> str:
    """`prompt` with the world's word for each shape, colour, size, direction and motion that it names otherwise.

    "a red box slides to the right and a ball is hopping" becomes "a red cube moving right and a sphere bouncing".

    Raises:
        ValueError: there are no words.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"`prompt` is {prompt!r}; a sentence of some words")
    plain = re.sub(r"\s+", " ", prompt.lower().strip().rstrip(".!"))
    plain = re.sub(r"\b(?:counter|anti)-clockwise\b", "counterclockwise", plain)
    plain = re.sub(r"\b(?:to|towards?) the (left|right)\b(?! of)", r"\1", plain)
    plain = re.sub(r"\b(?:around|round)(?= (?:the|a|an)\b)|\baround itself\b|\bin place\b|\bstill\b", "", plain)
    words = []
    for token in re.findall(r"[^\s,.]+|[,.]", plain):
        words.append(SHAPES.get(token) or WORDS.get(token) or _motion(token) or token)
    text = " ".join(word for word in words if word not in ("is", "are", "slowly", "quickly", "fast", "gently"))
    return re.sub(r"\s+([,.])", r"\1", re.sub(r"\s+", " ", text)).strip()


def _motion(token: str) -> str | None:
    """The world's participle of a verb in any form."""
    stems = [token, token.removesuffix("s"), token.removesuffix("es")]
    if token.endswith("ing"):
        stem = token[:-3]
        stems += [stem, stem + "e", stem[:-1]]
    return next((_VERBS[stem] for stem in stems if stem in _VERBS), None)
