"""Which parameters belong to which part of a model."""

import difflib
from collections.abc import Mapping, Sequence

from torch import nn

ATTENTION = {"self_attn", "attn", "attention", "self_attention", "attn1"}
MLP = {"mlp", "ff", "ffn", "feed_forward"}


def block_groups(model: nn.Module) -> dict[str, list[str]]:
    """{"<block>.attention": [module], "<block>.mlp": [module]} for every numbered block of a transformer.

    Raises:
        ValueError: no block has a part of a usual name.
    """
    groups = {}
    for name, _ in model.named_modules():
        block, _, leaf = name.rpartition(".")
        if block.rpartition(".")[2].isdigit() and leaf in ATTENTION | MLP:
            groups[f"{block}.{'attention' if leaf in ATTENTION else 'mlp'}"] = [name]
    if not groups:
        raise ValueError(
            f"no numbered block of this {type(model).__name__} has a part named {', '.join(sorted(ATTENTION | MLP))}; "
            "give the groups as {name: [module names]}"
        )
    return groups


def parameters_of(model: nn.Module, prefixes: Sequence[str], group: str) -> list[str]:
    """Names of the floating-point parameters that are, or lie under, one of `prefixes`.

    Args:
        group: what the prefixes belong to, for the message.

    Raises:
        ValueError: a prefix that has none; the nearest names are given.
    """
    if isinstance(prefixes, str) or not prefixes:
        raise ValueError(f"{group}: give a list of module or parameter names, got {prefixes!r}")
    names = [name for name, p in model.named_parameters() if p.is_floating_point()]
    found: list[str] = []
    for prefix in prefixes:
        own = [name for name in names if name == prefix or name.startswith(f"{prefix}.")]
        if not own:
            near = difflib.get_close_matches(prefix, [*names, *(n for n, _ in model.named_modules() if n)], n=3)
            raise ValueError(
                f"{group}: {prefix!r} has no parameters in this {type(model).__name__}; nearest names: "
                f"{', '.join(near) or 'none'}"
            )
        found += own
    return list(dict.fromkeys(found))


def check_groups(model: nn.Module, groups: Mapping[str, Sequence[str]], head: Sequence[str]) -> dict[str, list[str]]:
    """{group: names of its parameters}; no parameter may be in two groups, or in a group and in the head.

    Raises:
        ValueError: no groups, an unknown name, or a parameter that is in two.
    """
    if not groups or not all(groups):
        raise ValueError(f"groups must be {{name: [module names]}} with names that are not empty, got {groups!r}")
    owners = dict.fromkeys(parameters_of(model, head, "head"), "head")
    found = {}
    for group, prefixes in groups.items():
        found[group] = parameters_of(model, prefixes, f"groups[{group!r}]")
        for name in found[group]:
            if name in owners:
                raise ValueError(f"{name!r} is in both {owners[name]!r} and {group!r}; a parameter has one group")
            owners[name] = group
    return found
