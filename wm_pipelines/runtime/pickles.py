"""Pickles read as text is read: each instruction is looked at, and nothing that a pickle names is looked up or called.

Plain values come out as they are. Where a pickle would call something, a `Made` says what, with which arguments and
state; whoever knows the format makes sense of it. numpy arrays are rebuilt from their parts (`to_array`) for numeric
dtypes only: an array of objects from raw bytes would be an array of pointers that the file chose.
"""

import math
import pickletools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

LARGEST = 256 * 2**20
"""Bytes of the largest pickle that is read."""

# How numpy's parts are called in pickles of its versions 1 and 2.
_CORE = ("numpy.core.", "numpy._core.")
_PARTS = ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
ARRAY_NAMES = frozenset(
    {"numpy.ndarray", "numpy.dtype", "_codecs.encode"} | {core + name for core in _CORE for name in _PARTS}
)
_MARK = object()


@dataclass(frozen=True)
class Named:
    """A name that a pickle refers to, such as "numpy.dtype"."""

    name: str


@dataclass
class Made:
    """What a pickle would have made.

    Args:
        name: of what would have been called. args: with which arguments. state: what it would have been given then.
    """

    name: str
    args: tuple
    state: Any = None


def read_pickle(data: bytes, names: Collection[str]) -> Any:
    """The value of a pickle of protocol 0 to 5.

    Args:
        data: the whole file.
        names: what the pickle may refer to.

    Raises:
        ValueError: no whole pickle, one of more than `LARGEST` bytes, a name that is not among `names`, or an
            instruction that values and calls do not need.
    """
    if len(data) > LARGEST:
        raise ValueError(f"a pickle of {len(data)} bytes; at most {LARGEST} are read")
    reader = _Reader(names)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return reader.pop()
            reader.step(opcode.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no whole pickle: {type(error).__name__}: {error}") from None
    raise ValueError("no whole pickle: it has no end")


class _Reader:
    """The stack and the memo of a pickle."""

    def __init__(self, names: Collection[str]):
        self.names = names
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("no whole pickle: its stack is empty")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                found = self.stack[at + 1 :]
                del self.stack[at:]
                return found
        raise ValueError("no whole pickle: a mark is missing")

    def named(self, module: str, name: str) -> Named:
        dotted = f"{module}.{name}"
        if dotted not in self.names:
            raise ValueError(f"it asks for {dotted}")
        return Named(dotted)

    def call(self, of: Any, args: Any) -> Made:
        if not isinstance(of, Named) or not isinstance(args, tuple):
            raise ValueError("no whole pickle: it calls what is no name")
        return Made(of.name, args)

    def step(self, name: str, argument: Any) -> None:
        push = self.stack.append
        if name in ("PROTO", "FRAME"):
            return
        if name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _LITERALS:
            push(argument)
        elif name == "MARK":
            push(_MARK)
        elif name == "POP":
            self.stack.pop()
        elif name == "POP_MARK":
            self.since_mark()
        elif name == "DUP":
            value = self.pop()
            self.stack += [value, value]
        elif name in _EMPTY:
            push(_EMPTY[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [self.pop() for _ in range(int(name[-1]))]
            push(tuple(reversed(items)))
        elif name == "TUPLE":
            push(tuple(self.since_mark()))
        elif name == "LIST":
            push(self.since_mark())
        elif name == "DICT":
            push(_pairs(self.since_mark()))
        elif name == "FROZENSET":
            push(frozenset(map(_key, self.since_mark())))
        elif name in ("APPEND", "APPENDS"):
            items = [self.pop()] if name == "APPEND" else self.since_mark()
            _of(list, self.stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self.pop(), self.pop()][::-1] if name == "SETITEM" else self.since_mark()
            _of(dict, self.stack[-1]).update(_pairs(items))
        elif name == "ADDITEMS":
            items = self.since_mark()
            _of(set, self.stack[-1]).update(map(_key, items))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif name == "GLOBAL":
            module, _, rest = argument.partition(" ")
            push(self.named(module, rest))
        elif name == "STACK_GLOBAL":
            rest, module = self.pop(), self.pop()
            push(self.named(_of(str, module), _of(str, rest)))
        elif name in ("REDUCE", "NEWOBJ"):
            args = self.pop()
            push(self.call(self.pop(), args))
        elif name == "BUILD":
            state = self.pop()
            _of(Made, self.stack[-1]).state = state
        else:
            raise ValueError(f"it has an instruction {name}, which no table of plain values needs")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"no whole pickle: a {type(value).__name__} stands where a {kind.__name__} belongs")
    return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("no whole pickle: a key has no value")
    return dict(zip(map(_key, items[::2]), items[1::2], strict=True))


def _key(value: Any) -> Any:
    """A value that may be looked up. Not a tuple: hashing one visits all that it holds, and as deep."""
    if value is None or isinstance(value, str | bytes | int | float | Named):
        return value
    raise ValueError(f"a {type(value).__name__} stands where a name, a text or a number belongs")


def to_array(made: Any) -> np.ndarray | list[Any]:
    """The array that a `Made` stands for: numbers as an array, an array of objects as the list of its values.

    Raises:
        ValueError: no array, another dtype, objects in raw bytes, or a size that does not fit its data.
    """
    name = made.name.removeprefix(_CORE[0]).removeprefix(_CORE[1]) if isinstance(made, Made) else None
    if name == "multiarray._reconstruct" and isinstance(made.state, tuple) and len(made.state) == 5:
        _, shape, dtype, fortran, data = made.state
        order = "F" if fortran else "C"
    elif name == "numeric._frombuffer" and len(made.args) >= 4 and made.args[4:] in ((), (None,)):
        data, dtype, shape, order = made.args[:4]
    else:
        raise ValueError(f"no numpy array, but {made.name if isinstance(made, Made) else type(made).__name__}")
    shape = _shape(shape)
    if isinstance(data, list):
        if _code(dtype)[:1] != "O" or math.prod(shape) != len(data):
            raise ValueError(f"an array of {_code(dtype)!r} of shape {shape} can't be a list of {len(data)} values")
        return data  # row by row, whatever the order was
    return _numbers(data, dtype, shape, "F" if order == "F" else "C")


def to_number(made: Made) -> Any:
    """The Python number that a pickled numpy scalar stands for.

    Raises:
        ValueError: no scalar of a numeric dtype.
    """
    if not made.name.endswith("multiarray.scalar") or len(made.args) != 2:
        raise ValueError(f"no numpy number, but {made.name}")
    return _numbers(made.args[1], made.args[0], (), "C").item()


def _numbers(data: Any, dtype: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    code = _code(dtype)
    if code[:1] not in ("b", "i", "u", "f") or not code[1:].isdigit():
        raise ValueError(f"an array of dtype {code!r}; only numbers are read from bytes")
    if isinstance(data, Made) and data.name == "_codecs.encode" and data.args[1:] == ("latin1",):
        data = data.args[0]  # how protocols below 3 keep bytes
    if isinstance(data, str):
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError(f"an array whose data is a {type(data).__name__}")
    try:
        kind = np.dtype(code).newbyteorder(_byte_order(dtype))
    except TypeError as error:
        raise ValueError(f"an array of dtype {code!r}: {error}") from None
    if math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"an array of {code!r} of shape {shape} with {len(data)} bytes")
    return np.frombuffer(bytes(data), kind).reshape(shape, order=order)


def _code(dtype: Any) -> str:
    """ "f8" of `Made("numpy.dtype", ("f8", ..))`."""
    if not isinstance(dtype, Made) or dtype.name != "numpy.dtype" or not dtype.args:
        raise ValueError("an array without a dtype")
    return _of(str, dtype.args[0])


def _byte_order(dtype: Made) -> str:
    state = dtype.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
    return order if order in ("<", ">", "|", "=") else "|"


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
        raise ValueError(f"an array of shape {shape!r}")
    return shape
