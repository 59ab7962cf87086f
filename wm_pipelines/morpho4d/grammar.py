"""English commands as operations, by rules: verbs x objects x colours x directions x amounts x times (our design)."""

import re

from wm_pipelines.morpho4d.operations import as_json, read_operations
from wm_pipelines.record import Record
from wm_pipelines.runtime.readers import concise
from wm_pipelines.text.colours import SRGB

ALIASES = {"gray": "grey", "violet": "purple", "turquoise": "cyan", "teal": "cyan", "magenta": "pink"}
DEFAULT_METRES, DEFAULT_DEGREES = 0.5, 90.0
NUMBERS = {
    **{"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8},
    **{"nine": 9, "ten": 10, "half": 0.5, "quarter": 0.25, "third": 1 / 3, "once": 1, "twice": 2, "thrice": 3},
    **{"double": 2, "triple": 3, "zero": 0, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30},
}
_COLOUR = "|".join([*SRGB, *ALIASES])
_NUMBER = r"(?:-?\d+(?:\.\d+)?|" + "|".join(NUMBERS) + ")"
_VERBS = (
    "remove|delete|erase|hide|drop|take|get|extract|isolate|keep|show|leave|paint|colour|color|recolour|recolor|dye|"
    "tint|make|turn|change|move|shift|push|pull|slide|translate|drag|lift|raise|lower|bring|rotate|spin|slow|speed|"
    "play|delay|reverse|freeze|stop|hold|pause|duplicate|copy|clone|add|put|scale|enlarge|shrink|double|halve|triple|"
    "start|run|rewind|grow|eliminate|send|nudge"
)
_COPY = r"\b(?:duplicate|copy|clone|add another)"
_WAYS = {
    "up": r"up(?:wards?)?|higher",
    "down": r"down(?:wards?)?|lower",
    "left": r"(?:to (?:the|its) )?left(?:wards?)?",
    "right": r"(?:to (?:the|its) )?right(?:wards?)?",
    "towards": r"towards?(?: (?:the camera|me|us))?|closer|nearer|forwards?|to(?: the)? front",
    "away": r"away(?: from (?:the camera|me|us))?|back(?:wards?)?|further(?: away)?|farther(?: away)?",
}


LONGEST = 10_000
"""Characters of a command."""


@concise()
def parse_instruction(text: str, fps: float = 8.0) -> list[Record]:
    """The operations that an English command asks for.

    Args:
        text: such as "remove the red cube, then move the ball left by half a metre from frame 2 to frame 8".
        fps: frames a second, for times in seconds.

    Raises:
        ValueError: a part that no rule reads, which is quoted; or more than 10,000 characters or 100 operations.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"`text` is {text!r}; a command of some words")
    if len(text) > LONGEST:
        raise ValueError(f"`text` has {len(text):,} characters; a command has at most {LONGEST:,}")
    found = []
    for part in _parts(text):
        op = _operation(part, fps)
        if op is not None and op.get("target") in ({"query": "it"}, {"query": "them"}) and found:
            op["target"] = found[-1]["target"]
        if op is None:
            raise ValueError(
                f"no rule reads {part!r}; say what to do with which object: remove, keep only, paint, move, rotate, "
                "scale, duplicate, delay, slow down, speed up, reverse or freeze, and how far with its unit: "
                "'move the red cube left by 0.5 metres', 'rotate it by 90 degrees'"
            )
        found.append(op)
    return read_operations(found)


def instruction_json(text: str, fps: float = 8.0) -> list[dict]:
    """As `parse_instruction`, as JSON's values."""
    return [as_json(op) for op in parse_instruction(text, fps)]


def _parts(text: str) -> list[str]:
    plain = re.sub(r"\s+", " ", text.lower().strip().rstrip(".!? "))
    plain = re.sub(r"\b(?:please|could you|can you|would you|i want you to|now|kindly)\b,? ?", "", plain)
    plain = re.sub(rf"({_COPY})\b([^,;.]*?),? and (?:put|place|move) (?:it|the copy)\b", r"\1\2 put it", plain)
    pieces = re.split(rf"\s*(?:[;.]\s|,? (?:and then|then|and|afterwards)\s|,\s)\s*(?=(?:{_VERBS})\b)", plain)
    return [re.sub(r"^(?:then|and|first|next|finally),? ", "", p).strip(" ,;") for p in pieces if p and p.strip(" ,;")]


def _number(word: str) -> float:
    return float(NUMBERS[word]) if word in NUMBERS else float(word)


class _Words:
    """A command that loses what has been read."""

    def __init__(self, text: str) -> None:
        self.left = text

    def take(self, pattern: str) -> re.Match | None:
        match = re.search(rf"(?<![\w.]){pattern}(?!\w)", self.left)
        if match:
            self.left = re.sub(r"\s+", " ", self.left[: match.start()] + " " + self.left[match.end() :]).strip()
        return match

    def target(self) -> dict | None:
        """What is left, if it can name a thing."""
        name = re.sub(r"\b(?:the|a|an|this|that|another|only|by|to|at|its|of|in|out)\b", " ", self.left)
        name = re.sub(r"\s+", " ", name).strip(" ,")
        return {"query": name} if re.fullmatch(r"[a-z][a-z -]*", name) else None


def _times(words: _Words, fps: float) -> dict:
    """start and end in frames."""
    found = {}
    unit = rf"(?:frame (?P<{{0}}f>{_NUMBER})|(?P<{{0}}s>{_NUMBER}) ?(?:s|seconds?))"

    def frames(match: re.Match, name: str) -> float:
        value = match[f"{name}f"]
        return _number(value) if value is not None else _number(match[f"{name}s"]) * fps

    both = words.take(rf"(?:from|between) {unit.format('a')} (?:to|until|till|and) {unit.format('b')}")
    if both:
        return {"start": frames(both, "a"), "end": frames(both, "b")}
    if start := words.take(rf"(?:from|after|starting at|starting from|at|on) {unit.format('a')}(?: on(?:wards?)?)?"):
        found["start"] = frames(start, "a")
    if end := words.take(rf"(?:until|till|by) {unit.format('b')}"):
        found["end"] = frames(end, "b")
    return found


def _amount(words: _Words) -> float | None:
    """Metres."""
    unit = r"(m|metres?|meters?|cm|centimetres?|centimeters?|units?)"
    number = rf"(?P<n>{_NUMBER})(?P<half> and a half)? ?(?:of )?(?:an? )?"
    match = words.take(rf"(?:by )?(?:about )?(?:a )?{number}{unit}(?P<after> and a half)?")
    if match is None:
        return None
    value = _number(match["n"]) + (0.5 if match["half"] or match["after"] else 0)
    return round(value / 100 if match[3].startswith("c") else value, 6)


def _way(words: _Words) -> str | None:
    for name, pattern in _WAYS.items():
        if words.take(rf"(?:{pattern})"):
            return name
    return None


def _operation(text: str, fps: float) -> dict | None:
    for rule in (_extract, _remove, _set_time, _retime, _scale, _rotate, _recolor, _duplicate, _move):
        words = _Words(text)
        op = rule(words, fps)
        if op is not None:
            return op
    return None


def _with(op: str, words: _Words, **values) -> dict | None:
    target = words.target()
    return None if target is None else {"op": op, "target": target, **values}


def _remove(words: _Words, fps: float) -> dict | None:
    vanish = r"make(?= .*\b(?:vanish|disappear|invisible|go away))"
    if not words.take(rf"(?:remove|delete|erase|hide|drop|eliminate|get rid of|take away|take out|take|{vanish})"):
        return None
    words.take(r"(?:vanish|disappear|invisible|go away)")
    words.take(r"(?:from (?:the )?(?:scene|video|picture)|away|out|completely|entirely)")
    return _with("remove", words)


def _extract(words: _Words, fps: float) -> dict | None:
    asked = words.take(r"(?:extract|isolate|(?:keep|show|leave)(?= only| just| nothing but))")
    if not asked and re.match(r"keep\b|only keep\b|only show\b", words.left):
        asked = words.take(r"(?:only )?(?:keep|show)")
    if not asked:
        return None
    words.take(r"(?:only|just|nothing but)")
    with_floor = words.take(r"(?:with|and|on) (?:the |its )?(?:background|floor|ground)")
    return _with("extract", words, **({"background": True} if with_floor else {}))


def _recolor(words: _Words, fps: float) -> dict | None:
    verb = words.take(r"(?:paint|colou?r|recolou?r|dye|tint|make|turn|change)")
    colour = None
    for pattern in (rf"(?:to be |to |into |in |with )?(?:the colou?r )?({_COLOUR})$", rf"(?:to|into) ({_COLOUR})"):
        colour = colour or words.take(pattern)
    if not verb or not colour:
        return None
    words.take(r"(?:the )?colou?r of")
    words.take(r"'s colou?r")
    name = ALIASES.get(colour[1], colour[1])
    mode = {"mode": "hue"} if verb[0] == "tint" else {}
    return _with("recolor", words, rgb=SRGB[name], **mode)


def _move(words: _Words, fps: float) -> dict | None:
    verb = words.take(r"(?:move|shift|push|pull|slide|translate|drag|lift|raise|lower|bring|put|send|nudge)")
    if not verb:
        return None
    times, amount = _times(words, fps), _amount(words)
    implied = {"lift": "up", "raise": "up", "lower": "down", "bring": "towards", "pull": "towards", "push": "away"}
    way = _way(words) or implied.get(verb[0])
    if way is None:
        return None
    amount = DEFAULT_METRES if amount is None else amount
    return _with("move", words, direction=way, amount=amount, **times)


def _rotate(words: _Words, fps: float) -> dict | None:
    verb = words.take(r"(?:rotate|spin|turn)")
    if not verb:
        return None
    times = _times(words, fps)
    degrees = words.take(rf"(?:by )?({_NUMBER}) ?(?:°|degrees?|deg)")
    around = words.take(r"(?:around|about|upside|halfway)")
    sense = words.take(r"(clockwise|counter-?clockwise|anti-?clockwise)")
    if not degrees and not sense and not around and verb[0] == "turn":
        return None
    angle = _number(degrees[1]) if degrees else 180.0 if around else DEFAULT_DEGREES
    angle = -angle if sense and sense[1] == "clockwise" else angle
    return _with("move", words, turn=angle, **times)


def _duplicate(words: _Words, fps: float) -> dict | None:
    added = r"add (?:another|a (?:copy|second|clone) of|a second|one more)"
    if not words.take(rf"(?:duplicate|copy|clone|{added}|make a copy of)"):
        return None
    words.take(r"put it")
    amount, way = _amount(words), _way(words)
    amount = DEFAULT_METRES * 2 if amount is None else amount
    return _with("duplicate", words, direction=way or "right", amount=amount)


def _scale(words: _Words, fps: float) -> dict | None:
    if whole := words.take(r"(double|halve|triple)(?: the size of)?"):
        return _with("scale", words, factor={"double": 2.0, "halve": 0.5, "triple": 3.0}[whole[1]])
    verb = words.take(r"(?:scale|resize|enlarge|shrink|grow|make)")
    if not verb:
        return None
    times = words.take(rf"({_NUMBER})(?: times)? (?:as (?:big|large|small)|the size|bigger|larger|smaller)")
    if times:
        factor = _number(times[1])
        return _with("scale", words, factor=1 / factor if "small" in times[0] else factor)
    percent = words.take(r"(?:by |to )?(\d+(?:\.\d+)?) ?(?:%|percent)(?: (?:bigger|larger|smaller))?")
    if percent:
        share, smaller = float(percent[1]) / 100, verb[0] == "shrink" or "smaller" in percent[0]
        factor = share if percent[0].startswith("to") else 1 - share if smaller else 1 + share
        return _with("scale", words, factor=round(factor, 6))
    by = words.take(rf"(?:up |down )?(?:by |to )(?:a factor of )?({_NUMBER})(?: times)?")
    if by and verb[0] != "make":
        factor = _number(by[1])
        return _with("scale", words, factor=1 / factor if verb[0] == "shrink" or "down" in by[0] else factor)
    plain = words.take(r"(bigger|larger|smaller)")
    if plain or verb[0] in ("enlarge", "shrink", "grow"):
        small = verb[0] == "shrink" or (plain and plain[1] == "smaller")
        return _with("scale", words, factor=1 / 1.5 if small else 1.5)
    return None


def _retime(words: _Words, fps: float) -> dict | None:
    if words.take(r"(?:reverse|rewind)") or words.take(r"(?:play|run|make|move)(?= .*\b(?:backwards|in reverse))"):
        words.take(r"(?:go |move |run )?(?:backwards?|in reverse|the motion of|the movement of|in time)")
        return _with("retime", words, reverse=True)
    span = rf"({_NUMBER}) ?(?:an? )?(frames?|s|seconds?)(?!\w)"
    if words.take(rf"(?:delay|start|play|begin)(?= .*{span})"):
        amount = words.take(rf"(?:by )?{span}(?: (later|earlier|sooner|late|early))?")
        frames = _number(amount[1]) * (1 if amount[2].startswith("frame") else fps)
        early = amount[3] in ("earlier", "sooner", "early")
        return _with("retime", words, offset=frames if early else -frames)
    slower = words.take(r"(?:slow down|slow|play|run|move|make)(?=.*)") if re.search(r"\bslow", words.left) else None
    if slower:
        words.take(r"down")
        rate = words.take(rf"(?:by )?(?:a factor of )?({_NUMBER})(?: times| as)?(?: slow(?:er|ly)?)?")
        words.take(r"(?:to |at )?(?:speed|slower|slowly|in slow motion|slow)")
        value = _number(rate[1]) if rate else 2.0
        return _with("retime", words, rate=1 / value if value > 1 else value)
    if words.take(r"(?:speed up|speed|(?:play|run|move|make)(?=.*(?:fast|speed|rate\b|quick)))"):
        words.take(r"(?:up|move|go|run|play)")
        speed = r"(?: (?:faster|fast|the speed|speed|quickly|as quick))?"
        rate = words.take(rf"(?:by |at |to )?(?:a factor of )?({_NUMBER})(?: times| as)*{speed}")
        plain = words.take(r"(?:faster|fast|at speed|the speed|speed|quicker|quickly)")
        if rate or plain:
            return _with("retime", words, rate=_number(rate[1]) if rate else 2.0)
        return _with("retime", words, rate=2.0) if not re.search(rf"{_NUMBER}|up|down", words.left) else None
    return None


def _set_time(words: _Words, fps: float) -> dict | None:
    if not words.take(r"(?:freeze|stop|hold|pause)"):
        return None
    when = _times(words, fps)
    if "start" not in when:
        return None
    if re.fullmatch(r"(?:everything|the (?:whole )?scene|all|it all|time)?", words.left):
        return {"op": "set_time", "time": when["start"]}
    return _with("set_time", words, time=when["start"])
