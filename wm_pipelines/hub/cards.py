"""Model cards and evaluation files, rendered from `wm_config.json` alone, so they can't say more than the record."""

import json
import os
import re
from pathlib import Path
from typing import Any

import jinja2
import yaml

from wm_pipelines.config import EvaluationRecord, WMConfig, write_atomic

CARD_NAME = "README.md"
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")

# For each method: its title, its task on the Hub, and what it is in two sentences.
METHODS = {
    "diorama-sd": (
        "diorama-sd",
        "text-to-image",
        "A small text-to-image model of Stable Diffusion's shape, trained on rendered scenes of a miniature world: a "
        "few coloured solids on a floor. It is a base for adapters, tests and demonstrations, and it draws nothing "
        "else.",
    ),
    "diorama-judge": (
        "diorama-judge",
        "image-segmentation",
        "A per-pixel classifier of colour and shape for rendered scenes of the miniature world. It scores generated "
        "pictures; its own accuracy on rendered truth is in the table below.",
    ),
    "diorama-clip": (
        "diorama-clip",
        "zero-shot-image-classification",
        "A small CLIP, trained on rendered scenes of a miniature world and their captions. It compares pictures of a "
        "few coloured solids with sentences about them; it is a base for few-shot methods and tests, and it knows "
        "nothing else.",
    ),
    "flexecontrol": (
        "FlexEControl",
        "text-to-image",
        "One adapter that steers a frozen text-to-image model by any number of edge, line, sketch, pose, depth and "
        "segmentation maps, of different types or of the same type, each with its strength, region, window and "
        "phrase.",
    ),
    "diorama-video": (
        "diorama-video",
        "text-to-video",
        "A motion adapter over diorama-sd and a modulator of motion intensity: clips of 16 frames of a miniature "
        "world in which a few coloured solids move. Its objects can be sent along boxes and paths without training, "
        "and how much moves has a dial.",
    ),
    "mojito": (
        "Mojito",
        "text-to-video",
        "A modulator of motion intensity for a frozen text-to-video base: a dial from 0 to 10, measured by optical "
        "flow, trained on a folder of clips.",
    ),
    "kadaptation": (
        "KAdaptation",
        "image-classification",
        "A few-shot classifier: a Kronecker adapter on the query and value projections of a frozen CLIP image tower, "
        "and a head that started from the names of its classes. It was fitted to a handful of pictures a class.",
    ),
    "cpl": (
        "CPL",
        "zero-shot-image-classification",
        "A learned prompt for a frozen CLIP: a few context vectors and a small net that shifts them by what the "
        "picture shows. It was fitted to a handful of pictures a class with counterfactual negatives, and it takes "
        "new class names as it is.",
    ),
    "comclip": (
        "ComCLIP",
        "zero-shot-image-classification",
        "Training-free matching of pictures and sentences: the things and relations that a sentence names are found "
        "in the picture, and what each shows is weighed beside the whole. This checkpoint holds the settings; the "
        "weights are those of its base.",
    ),
}

# Methods whose checkpoints another library loads as they are.
LIBRARIES = {"diorama-sd": "diffusers", "diorama-clip": "transformers"}


def render_card(folder: str | os.PathLike) -> str:
    """Markdown of the model card, with its YAML header, for a folder with a `wm_config.json`.

    Raises:
        ValueError: no record, or one that can't be read.
    """
    root = Path(folder)
    config = WMConfig.load(root)
    title, task, about = METHODS[config.method]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"figure": _figure, "duration": _duration, "pretty": _pretty}
    text = environment.get_template("model_card.md.jinja").render(
        config=config,
        header=yaml.safe_dump(_header(config, task), sort_keys=False, allow_unicode=True, width=1000),
        title=title,
        about=about,
        usage=_usage(config),
        base_line=_base_line(config),
        pictures=[path.relative_to(root).as_posix() for path in _pictures(root)],
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def render_eval_results(folder: str | os.PathLike) -> dict[str, str]:
    """Text of each `.eval_results/*.yaml` file by its relative path: one for each data set of the record."""
    config = WMConfig.load(folder)
    groups: dict[str, list[EvaluationRecord]] = {}
    for item in config.evaluation:
        groups.setdefault(item.dataset, []).append(item)
    return {
        f".eval_results/{_slug(dataset)}.yaml": yaml.safe_dump(
            [_eval_entry(item) for item in items], sort_keys=False, allow_unicode=True, width=1000
        )
        for dataset, items in groups.items()
    }


def write_card(folder: str | os.PathLike) -> list[Path]:
    """Write README.md and the `.eval_results` files into the folder, drop stale ones, return the paths written."""
    root = Path(folder)
    texts = {CARD_NAME: render_card(root), **render_eval_results(root)}
    for path in (root / ".eval_results").glob("*.yaml"):
        if path.relative_to(root).as_posix() not in texts:
            path.unlink()
    return [write_atomic(root / name, text) for name, text in texts.items()]


def stale_card(folder: str | os.PathLike) -> list[str]:
    """What of the card differs from the record: one line for each missing, outdated or left-over file."""
    root = Path(folder)
    texts = {CARD_NAME: render_card(root), **render_eval_results(root)}
    problems = []
    for name, text in texts.items():
        path = root / name
        if not path.is_file():
            problems.append(f"{path} is missing; write it with `wm card`")
        elif path.read_text(encoding="utf-8") != text:
            problems.append(f"{path} does not match wm_config.json; write it again with `wm card`")
    for path in sorted((root / ".eval_results").glob("*.yaml")):
        if path.relative_to(root).as_posix() not in texts:
            problems.append(f"{path} is not in the record; write the card again with `wm card`")
    return problems


def _header(config: WMConfig, task: str) -> dict[str, Any]:
    paper = re.search(r"\d{4}\.\d{4,5}", config.paper or "")
    header: dict[str, Any] = {
        "library_name": LIBRARIES.get(config.method, "wm-pipelines"),
        "pipeline_tag": task,
        "license": config.licence,
        "tags": [LIBRARIES.get(config.method, "diffusers"), "safetensors", "wm-pipelines", config.method]
        + ([f"arxiv:{paper[0]}"] if paper else []),
    }
    if config.base_model is not None and config.base_model.repo_id is not None:
        header["base_model"] = config.base_model.repo_id
        header["base_model_relation"] = "adapter"
    if config.evaluation:
        header["model-index"] = [{"name": METHODS[config.method][0], "results": _model_index(config, task)}]
    return header


def _model_index(config: WMConfig, task: str) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for item in config.evaluation:
        metric = {"type": _slug(item.metric), "name": item.metric, "value": item.value}
        groups.setdefault((item.task, item.dataset), []).append(metric)
    return [
        {
            "task": {"type": task, "name": name},
            "dataset": {"type": _slug(dataset), "name": dataset},
            "metrics": metrics,
        }
        for (name, dataset), metrics in groups.items()
    ]


def _eval_entry(item: EvaluationRecord) -> dict[str, Any]:
    notes = [item.task, item.metric]
    if item.ci95 is not None:
        notes.append(f"95 % interval {item.ci95[0]} to {item.ci95[1]}")
    if item.n is not None:
        notes.append(f"n = {item.n}")
    if item.command:
        notes.append(item.command)
    if "diorama" in item.dataset.lower():
        notes.append("synthetic data, rendered by the package")
    return {
        "dataset": {"id": item.dataset, "task_id": _slug(f"{item.task} {item.metric}")},
        "value": item.value,
        "notes": "; ".join(notes),
    }


def _usage(config: WMConfig) -> str:
    if config.pipeline == "StableDiffusionPipeline":
        return (
            "from diffusers import StableDiffusionPipeline\n\n"
            'pipe = StableDiffusionPipeline.from_pretrained("<this repository or its folder>")\n'
            'picture = pipe("a red cube left of a blue sphere").images[0]'
        )
    if config.method == "diorama-clip":
        return (
            "from transformers import CLIPModel, CLIPProcessor\n\n"
            'model = CLIPModel.from_pretrained("<this repository or its folder>")\n'
            'processor = CLIPProcessor.from_pretrained("<this repository or its folder>")'
        )
    if config.pipeline is None:
        return (
            "from wm_pipelines import hub\n\n"
            'folder = hub.resolve("<this repository or its folder>")\n'
            "record = hub.verify(folder)"
        )
    return (
        "from wm_pipelines import AutoWMPipeline\n\n"
        'pipe = AutoWMPipeline.from_pretrained("<this repository or its folder>")'
    )


def _base_line(config: WMConfig) -> str:
    base = config.base_model
    if base is None:
        return ""
    parts = [f"`{base.name}`" + (" (ships with the package)" if base.embedded else "")]
    parts += [f"revision `{base.revision}`"] if base.revision else []
    parts += [f"fingerprint `{base.fingerprint[:12]}`"] if base.fingerprint else []
    parts += [f"licence {base.licence}"] if base.licence else []
    return ", ".join(parts)


def _pictures(root: Path) -> list[Path]:
    found = [*root.glob("*"), *(root / "pictures").glob("*")]
    return sorted(path for path in found if path.suffix.lower() in PICTURE_SUFFIXES)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "default"


def _figure(value: float) -> str:
    return f"{value:.4g}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
