"""How large what is read may be: each limit has a default, and a variable of the environment that raises it.

SECURITY.md lists them. A limit is read once, when the module that keeps it is imported.
"""

import os


def limit(name: str, default: int) -> int:
    """The value of `WM_MAX_<name>`, or `default` where that is not set.

    Raises:
        ValueError: it is set to something that is no positive integer.
    """
    variable = f"WM_MAX_{name}"
    given = os.environ.get(variable, "").strip()
    if not given:
        return default
    if not given.isascii() or not given.isdigit() or len(given) > 18 or int(given) < 1:
        raise ValueError(f"the environment's {variable} is {given[:40]!r}; it must be a positive integer")
    return int(given)
