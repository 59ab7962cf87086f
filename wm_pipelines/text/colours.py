"""The colours that have a name here, so that a word means one colour whoever draws it."""

SRGB = {
    "red": (0.86, 0.10, 0.12),
    "green": (0.10, 0.58, 0.16),
    "blue": (0.12, 0.26, 0.88),
    "yellow": (0.96, 0.86, 0.10),
    "purple": (0.56, 0.14, 0.66),
    "cyan": (0.12, 0.80, 0.86),
    "orange": (0.97, 0.50, 0.06),
    "white": (0.95, 0.95, 0.95),
    "black": (0.05, 0.05, 0.05),
    "grey": (0.50, 0.50, 0.50),
    "pink": (0.98, 0.55, 0.70),
    "brown": (0.45, 0.27, 0.12),
}
"""Name -> sRGB in [0, 1]."""
