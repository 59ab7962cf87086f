"""`make demo`, the part that asks: clips with questions, what is answered of their twins, and where it fails."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_pipelines import hub
from wm_pipelines.hub.stock import load_model, load_part
from wm_pipelines.media.pages import Shown, write_page
from wm_pipelines.media.sheets import Tile
from wm_pipelines.media.video import save_gif
from wm_pipelines.runtime.reports import write_json
from wm_pipelines.video_quiz.metrics import by_family, probabilities, right
from wm_pipelines.video_quiz.scenes import QuizClips

NAME = "diorama-vlm"
LENGTH, CLIPS, FAILURES = 48, 3, 3
FPS, LARGER = 4, 3
TITLE, PLACE = "VLM4D, MMWorld: does it see the video?", 9
SAID = {None: "as it is", "mirror": "mirrored", "reverse": "backwards"}


def demo(
    out: str | os.PathLike = "outputs/demo/video_quiz", seed: int = 0, model: str | os.PathLike | None = None
) -> Shown:
    """Writes a GIF per clip, a self-contained `index.html` and `quiz.json`.

    Args:
        out: folder for them.
        seed: another seed asks other questions of the test split.
        model: folder of a `diorama-vlm`; the embedded one by default.
    """
    if model is None and NAME not in hub.embedded_names():
        return Shown(TITLE, f"There is no embedded {NAME} yet.", PLACE)
    started = time.perf_counter()
    parts = load_parts(hub.embedded(NAME) if model is None else Path(model))
    size = parts[1].image_processor.size["height"]
    quiz = QuizClips(LENGTH, ["synthetic"], split="test", name=f"demo {seed}", size=size)
    found = right(*parts, quiz)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    firsts = list({quiz.questions[n].family: n for n in reversed(range(quiz.length))}.values())[::-1][:CLIPS]
    failed = [n for n in range(quiz.length) if not found["full"][n] and n not in firsts][:FAILURES]
    report = {
        "seed": seed,
        "asked": quiz.length,
        "clips": [shown(parts, quiz, n, folder) for n in firsts],
        "failures": [shown(parts, quiz, n, folder) for n in failed],
        "families": [{"family": family, **row} for (_, family), row in sorted(by_family(quiz, found).items())],
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(folder / "quiz.json", report)
    write_page(__package__, "quiz.html", folder, report)
    share = np.mean(found["full"])
    clip = quiz.clip(firsts[0])
    return Shown(
        TITLE,
        f"{share:.0%} of {quiz.length} questions are answered rightly.",
        PLACE,
        row=[Tile(clip[t].float().div(255), f"frame {t}") for t in range(0, len(clip), 2)][:4],
        files=[(c["gif"], f"{c['question']} {c['answers'][0]['answer']}") for c in report["clips"]],
        page="index.html",
    )


def load_parts(folder: Path) -> tuple[Any, Any]:
    """Model and processor, by the classes that any checkpoint of this kind is loaded by."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    hub.check_weights(folder)
    return load_model(AutoModelForImageTextToText, folder).eval(), load_part(AutoProcessor, folder)


def shown(parts: tuple[Any, Any], quiz: QuizClips, index: int, folder: Path) -> dict[str, Any]:
    """A question with what is answered of its clip and of its twins; the clip as a GIF in `folder`."""
    question, clip = quiz.questions[index], quiz.clip(index)
    answers = []
    for transform, words in SAID.items():
        case = quiz.twin(index, transform)
        if case is not None:
            likely = probabilities(*parts, [case[0]], [case[1]])[0]
            chosen = case[0].options[int(likely.argmax())]
            answers.append({
                "clip": words, "answer": chosen, "truth": case[0].right, "right": chosen == case[0].right,
                "probability": round(float(likely.max()), 2),
            })  # fmt: skip
    gif = save_gif(_larger(clip), folder / f"clip-{index}.gif", FPS)
    told = {"family": question.family, "question": question.text, "options": list(question.options)}
    return told | {"gif": gif.name, "answers": answers}


def _larger(clip: torch.Tensor) -> Iterable[torch.Tensor]:
    """Each pixel as a square of pixels, float32 in [0, 1]."""
    return list(clip.float().div(255).repeat_interleave(LARGER, -1).repeat_interleave(LARGER, -2))
