"""What the library advises a caller in Python, in the words of a node: messages name what its user can reach."""

import re

INSTEAD: tuple[tuple[str, str], ...] = (
    (r"; pass box_format='cxcywh_norm'", "; here boxes are in pixels of the picture"),
    (r"; use fit='pad' or fit='stretch'", "; crop the picture to a square around it first"),
    (r"; pass truncate=True to cut (it|them)", "; shorten it"),
    (r"; shorten it, or pass truncate=True", "; shorten it"),
    (r"pass outside='clip'", "set outside to 'clip'"),
    (r"(the motion adapter has positions for \d+ frames)", r"\1; set window to as many or less"),
    (r"image given, but (\w+) takes none", r"image is connected, but \1 takes none"),
    (r" \(pass strict=True to raise\)", ""),
    (r"objects is empty; give at least one MotionObject", "trajectory holds no object; draw one, or write its text"),
    (r"^`pictures` is", "images is"),
    (r" \(and (\d+) more of this kind; see `failures`\)", r" (and \1 more of this kind)"),
    (r": pass keyframes or (\d+) (boxes|points)", r": set num_frames to their number, or give keyframes"),
)
"""Pattern of a piece of advice that no node can follow -> what takes its place."""


def reworded(message: str) -> str:
    """A message of the library for the user of a node."""
    for pattern, words in INSTEAD:
        message = re.sub(pattern, words, message)
    return message
