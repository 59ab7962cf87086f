"""A judge for edits whose truth is not known, and what its scores mean where the truth is (section 4 of
arXiv 2506.06006v3: two scores from 0 to 10, of which the smaller counts)."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wm_pipelines.aurora_bench.items import EditItem
from wm_pipelines.aurora_bench.measures import edit_score
from wm_pipelines.evaluation.mcq.models import Request
from wm_pipelines.evaluation.statistics import clustered_mean
from wm_pipelines.media.pictures import to_pil

RUNS = 3
NEW_TOKENS = 256
PROMPT = (
    "You see two pictures: the first is a source, the second is what an editor made of it. The instruction was:\n"
    "{instruction}\n\n"
    "Give two scores from 0 to 10.\n"
    "success: does the second picture show the result of the instruction? 0: not at all, or nothing was changed; "
    "10: exactly.\n"
    "minimal: is everything else as in the source? 0: another picture; 10: nothing else was touched.\n"
    'Answer with JSON alone, such as {{"success": 4, "minimal": 9}}.'
)
PICTURE_KINDS = ("truth", "copy", "spoiled", "other")
"""What calibration shows the judge: the right picture; the source; the right picture with a grey band over it; and the
picture that another item leads to."""


@dataclass(frozen=True)
class Verdict:
    """What a judge said of one edit in several runs. scores: (success, minimal) of those that answered. failures: why
    the others did not."""

    scores: tuple[tuple[float, float], ...]
    failures: tuple[str, ...]

    @property
    def score(self) -> float | None:
        """Mean over runs of the smaller score; None where none answered, which is no 0."""
        return float(np.mean([min(pair) for pair in self.scores])) if self.scores else None


class EditJudge:
    """Asks a model that sees pictures for two scores.

    Args:
        model: what has `answer`, such as `evaluation.mcq.endpoint.EndpointModel` for any OpenAI-compatible address.
        runs: how often each edit is judged; run n is asked with seed n.
        prompt: with `{instruction}`.
    """

    def __init__(self, model: Any, runs: int = RUNS, prompt: str = PROMPT):
        if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1:
            raise ValueError(f"`runs` is {runs!r}; it must be an integer, 1 or more")
        if "{instruction}" not in prompt:
            raise ValueError("`prompt` has no {instruction}")
        self.model, self.runs, self.prompt = model, runs, prompt

    def __call__(self, source: torch.Tensor, edited: torch.Tensor, instruction: str) -> Verdict:
        """Judge one edit; a run that fails or answers nonsense is counted, never scored."""
        frames = np.stack([np.asarray(to_pil(picture)) for picture in (source, edited)])
        scores, failures = [], []
        for run in range(self.runs):
            request = Request(
                prompt=self.prompt.format(instruction=instruction),
                question=instruction,
                options={},
                frames=frames,
                fps=None,
                protocol="direct",
                new_tokens=NEW_TOKENS,
                seed=run,
            )
            try:
                reply = self.model.answer(request)
                if reply.error or reply.text is None:
                    raise ValueError(reply.error or "no text")
                scores.append(read_scores(reply.text))
            except (ValueError, OSError) as error:
                failures.append(" ".join(str(error).split())[:300])
        return Verdict(tuple(scores), tuple(failures))


def read_scores(text: str) -> tuple[float, float]:
    """(success, minimal) of a judge's answer, the last JSON object in it.

    Raises:
        ValueError: there is none, a score is missing, or is no number from 0 to 10.
    """
    found = re.findall(r"\{[^{}]*\}", text)
    try:
        value = json.loads(found[-1])
        pair = value["success"], value["minimal"]
    except (IndexError, KeyError, TypeError, ValueError):
        raise ValueError(f"the judge gave no two scores: {text[:200]!r}") from None
    for score in pair:
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 10:
            raise ValueError(f"the judge gave a score of {score!r}; they are 0 to 10")
    return float(pair[0]), float(pair[1])


def calibrate(judge: EditJudge, items: Sequence[EditItem]) -> dict[str, Any]:
    """What a judge's score means, on edits of which the truth is known.

    Returns:
        `kinds`: for each of `PICTURE_KINDS` the mean score with its interval and n; `right_above_wrong`: the chance
        that the truth of some item scores higher than one of the other kinds, ties half, 0.5 being chance;
        `rank_correlation`: Spearman's, with change times preserve; `failed`: verdicts in which no run answered;
        `asked`.

    Raises:
        ValueError: fewer than two items with a truth, or a judge that answers nothing.
    """
    known = [(item, states) for item in items if len(states := item.states()) > 1]
    if len(known) < 2:
        raise ValueError(f"`items` has {len(known)} with a truth; calibration needs two or more")
    rows: list[tuple[str, str, float | None, float]] = []
    for n, (item, states) in enumerate(known):
        source, truth = states[-2], states[-1]
        other = known[(n + 1) % len(known)][1][-1]
        shown = {"truth": truth, "copy": source, "spoiled": _spoiled(truth), "other": other}
        for kind in PICTURE_KINDS:
            if shown[kind].shape != source.shape:
                continue
            exact = edit_score(source, shown[kind], truth)
            verdict = judge(source, shown[kind], item.instructions[-1])
            rows.append((item.name, kind, verdict.score, (exact.change or 0.0) * exact.preserve))
    answered = [row for row in rows if row[2] is not None]
    if not answered:
        raise ValueError(f"the judge answered none of {len(rows)} questions")
    right = [row[2] for row in answered if row[1] == "truth"]
    wrong = [row[2] for row in answered if row[1] != "truth"]
    return {
        "kinds": {kind: _mean([(row[0], row[2]) for row in answered if row[1] == kind]) for kind in PICTURE_KINDS},
        "right_above_wrong": _above(right, wrong),
        "rank_correlation": _spearman([row[2] for row in answered], [row[3] for row in answered]),
        "failed": len(rows) - len(answered),
        "asked": len(rows),
    }


def _spoiled(picture: torch.Tensor) -> torch.Tensor:
    made = picture.clone()
    made[:, : picture.shape[1] // 4] = 0.5
    return made


def _mean(values: list[tuple[str, float]]) -> dict[str, Any]:
    if len({name for name, _ in values}) < 2:
        return {"value": values[0][1] if values else None, "low": None, "high": None, "n": len(values)}
    found = clustered_mean([value for _, value in values], [name for name, _ in values])
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def _above(right: list[float], wrong: list[float]) -> float | None:
    if not right or not wrong:
        return None
    gap = np.subtract.outer(np.array(right), np.array(wrong))
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def _spearman(first: list[float], second: list[float]) -> float | None:
    from scipy.stats import rankdata

    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (first, second))
    size = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size else None
