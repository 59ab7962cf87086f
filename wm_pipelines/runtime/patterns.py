"""Regular expressions from a file, which are refused where matching a name of a module could take very long.

Python's matcher tries alternatives one after another. What a pattern can make it try is counted here before it is ever
matched, as if no way but the last were right (our design).
"""

import re
import warnings
from re import _constants as codes  # noqa: I001
from re import _parser as parser
from typing import Any

MAX_LENGTH = 2**19
"""Characters of a pattern; imported adapters name each of thousands of layers in one."""

MAX_WAYS = 200_000
"""Ways to read a name: the product of 8 for each open repeat, of the alternatives of each group, of the counts of each
bounded repeat."""

_OPEN = 8  # places in a module's name where the character that ends an open repeat can stand


def check_patterns(config: Any) -> None:
    """Check every regular expression of a PEFT configuration, as `check_pattern`; names in lists are none."""
    for name in ("target_modules", "exclude_modules", "layers_pattern"):
        if isinstance(getattr(config, name, None), str):
            check_pattern(getattr(config, name), name)
    for name in ("shared_sets", "rank_pattern", "alpha_pattern"):
        given = getattr(config, name, None)
        for pattern in given if isinstance(given, dict) else ():
            check_pattern(pattern, name)


def check_pattern(pattern: Any, name: str) -> str:
    """`pattern`, if it is a regular expression that is read in bounded time.

    Raises:
        ValueError: it is none; a reference to a group; a repeat within a repeat; two repeats next to one another; or
            more than `MAX_LENGTH` characters or `MAX_WAYS` ways. Names the argument `name`.
    """
    if not isinstance(pattern, str):
        raise ValueError(f"`{name}`: a regular expression is a string, got {pattern!r:.80}")
    if len(pattern) > MAX_LENGTH:
        raise ValueError(f"`{name}` has a pattern of {len(pattern)} characters; it may have {MAX_LENGTH}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = parser.parse(pattern)
        re.compile(pattern)
        ways, _ = _ways(tree)
    except (re.error, RecursionError, OverflowError, Warning, ValueError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"`{name}`: {pattern[:80]!r} is not a regular expression that is read: {said}") from None
    if ways > MAX_WAYS:
        raise ValueError(f"`{name}`: {pattern[:80]!r} can be read in over {MAX_WAYS} ways; list the names instead")
    return pattern


def _ways(tree: Any, repeated: bool = False, open_before: bool = False) -> tuple[float, bool]:
    """How many ways there are through a parsed pattern, and whether it ends in an open repeat.

    Args:
        repeated: it stands in a repeat. open_before: an open repeat came, and no character or small set since.
    """
    ways, opened = 1.0, open_before
    for code, argument in tree:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            low, high, inner = argument
            is_open = high - low > _OPEN
            if high > 1 and repeated:
                raise ValueError("it repeats a repeat")
            if is_open and opened:
                raise ValueError("it has two repeats with no character of their own between")
            within, ends = _ways(inner, repeated or high > 1, opened)
            if high > 1 and within > 1:
                raise ValueError("it repeats alternatives")
            ways *= _OPEN if is_open else within * (high - low + 1)
            opened = opened or is_open or ends
        elif code is codes.BRANCH:
            branches = [_ways(branch, repeated, opened) for branch in argument[1]]
            ways *= sum(number for number, _ in branches)
            opened = any(ends for _, ends in branches)
        elif code in (codes.SUBPATTERN, codes.ATOMIC_GROUP):
            within, opened = _ways(argument[3] if code is codes.SUBPATTERN else argument, repeated, opened)
            ways *= within
        elif code in (codes.ASSERT, codes.ASSERT_NOT):
            ways *= _ways(argument[1], repeated, opened)[0]
        elif code is codes.LITERAL or code is codes.IN and _is_small(argument):
            opened = False
        elif code in (codes.GROUPREF, codes.GROUPREF_EXISTS):
            raise ValueError("it refers to a group")
    return ways, opened


def _is_small(members: Any) -> bool:
    """Whether a set names few characters, so that few places of a name have one: "[12]", not "[a-z]"."""
    return len(members) <= _OPEN and all(code is codes.LITERAL for code, _ in members)
