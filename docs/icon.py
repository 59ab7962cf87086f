"""Draws `icon.svg`: a cube of the miniature world, the box that sends it, and its path.

python docs/icon.py    # writes docs/icon.svg
"""

from pathlib import Path

SIZE = 256
FACES = {
    "#ef6a5b": [(128, 84), (180, 110), (128, 136), (76, 110)],
    "#c8372d": [(76, 110), (128, 136), (128, 196), (76, 170)],
    "#97241d": [(128, 136), (180, 110), (180, 170), (128, 196)],
}
GROUND, FLOOR, BOX, PATH = "#1c2333", "#2b3550", "#ffd166", "#6ec6ff"


def points(corners: list[tuple[int, int]]) -> str:
    """Corners as SVG has them."""
    return " ".join(f"{x},{y}" for x, y in corners)


def icon() -> str:
    """The picture as SVG."""
    shapes = [
        f'<rect width="{SIZE}" height="{SIZE}" rx="48" fill="{GROUND}"/>',
        f'<polygon points="{points([(128, 128), (228, 178), (128, 228), (28, 178)])}" fill="{FLOOR}"/>',
        f'<path d="M 36 84 Q 92 28 196 60" fill="none" stroke="{PATH}" stroke-width="9" stroke-linecap="round" '
        'stroke-dasharray="1 19"/>',
        f'<circle cx="207" cy="64" r="11" fill="{PATH}"/>',
        *(f'<polygon points="{points(corners)}" fill="{colour}"/>' for colour, corners in FACES.items()),
        f'<rect x="62" y="72" width="132" height="136" rx="8" fill="none" stroke="{BOX}" stroke-width="8" '
        'stroke-dasharray="26 16"/>',
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" width="{SIZE}" height="{SIZE}">'
    return "\n".join([head, "<title>World-Model Pipelines</title>", *shapes, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("icon.svg").write_text(icon(), encoding="utf-8")
