"""What the frames add to MMWorld's score, by what the annotators said of the questions (our design)."""

from collections.abc import Sequence
from typing import Any

from wm_pipelines.evaluation.mcq.figures import difference, figure
from wm_pipelines.evaluation.mcq.rows import Row

SIDES = {True: "yes", False: "no", None: "not said"}


def vision_by_flags(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each pair of the flags `requires_domain_knowledge` and `question_only` that occurs: the figure of `full`, of
    `blind`, and their difference (`vision`), None where blind was not asked.
    """
    found, flags = [], ("requires_domain_knowledge", "question_only")
    for domain, domain_said in SIDES.items():
        for alone, alone_said in SIDES.items():
            some = [r for r in rows if tuple(map(r.annotations.get, flags)) == (domain, alone)]
            full, blind = ({r.uid: r for r in some if r.control == name} for name in ("full", "blind"))
            if full:
                found.append(
                    {
                        flags[0]: domain_said,
                        flags[1]: alone_said,
                        "full": figure(full.values()),
                        "blind": figure(blind.values()) if blind else None,
                        "vision": difference(full, blind),
                    }
                )
    return found
