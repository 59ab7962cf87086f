"""The command line's way to write a condition: `seg=layout.png,phrase="red cube, shiny",strength=0.7`."""

import difflib
import re

from wm_pipelines.media.conditions import canonical_type

KEYS: tuple[str, ...] = ("from", "fit", "phrase", "strength", "region", "start", "end", "span")

_ITEM = re.compile(r"""\s*([^=,"']*?)\s*=\s*("[^"]*"|'[^']*'|[^,"']*)\s*(,|$)""")


def parse_fields(text: str) -> dict[str, object]:
    """The arguments of `Condition` that `text` states.

    It is `TYPE=FILE` and then `,KEY=VALUE` with the keys of `KEYS`, each at most once. A value that holds a comma or
    a quote stands in single or double quotes. `from` is `map` (default) or `photo`; `region` a mask file or
    `"x0,y0,x1,y1"` in fractions of the output; `span` is `START:END`, characters of the prompt.

    Raises:
        ValueError: naming the part that is wrong; for an unknown key, the nearest known one.
    """
    pairs = _pairs(text)
    (type, image), rest = pairs[0], pairs[1:]
    if not image:
        raise ValueError(f"condition {text!r}: {type!r} has no file")
    fields: dict[str, object] = {"type": canonical_type(type), "image": image}
    for key, value in rest:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)[0]
            known = ", ".join(KEYS)
            raise ValueError(f"condition {text!r}: unknown key {key!r}; did you mean {near!r}? known: {known}")
        name = "source" if key == "from" else key
        if name in fields:
            raise ValueError(f"condition {text!r}: {key!r} is given twice")
        if not value:
            raise ValueError(f"condition {text!r}: {key!r} has no value")
        if key == "from" and value not in ("map", "photo"):
            raise ValueError(f"condition {text!r}: from={value!r}; choose from map, photo")
        fields[name] = _value(text, key, value)
    return fields


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs, position = [], 0
    while True:
        item = _ITEM.match(text, position)
        if not item or not item[1]:
            raise ValueError(
                f"condition {text!r}: can't read {text[position:]!r}; write TYPE=FILE,KEY=VALUE,... "
                "and quote values that hold a comma"
            )
        value = item[2]
        pairs.append((item[1], value[1:-1] if value[:1] in ("'", '"') else value.strip()))
        position = item.end()
        if not item[3]:
            return pairs


def _value(text: str, key: str, value: str) -> object:
    try:
        if key in ("strength", "start", "end"):
            return float(value)
        if key == "span":
            start, end = value.split(":")
            return int(start), int(end)
    except ValueError:
        shape = "START:END, two whole numbers" if key == "span" else "a number"
        raise ValueError(f"condition {text!r}: {key}={value!r} must be {shape}") from None
    if key == "region":
        # Four numbers are a box; a file may be called anything else.
        try:
            box = tuple(float(number) for number in value.split(","))
        except ValueError:
            return value
        return box if len(box) == 4 else value
    return value
