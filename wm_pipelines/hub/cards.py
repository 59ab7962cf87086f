"""Model cards and evaluation files, rendered from `wm_config.json` alone, so they can't say more than the record."""

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import yaml

from wm_pipelines.config import EvaluationRecord, WMConfig
from wm_pipelines.methods import Method, methods
from wm_pipelines.runtime.files import write_atomic

CARD_NAME = "README.md"
GALLERY_NAME = "gallery.md"  # a page of pictures beside the card, which links to it where it is there
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")


def render_card(folder: str | os.PathLike) -> str:
    """Markdown of the model card, with its YAML header, for a folder with a `wm_config.json`.

    Raises:
        ValueError: no record, or one that can't be read.
    """
    root = Path(folder)
    config = WMConfig.load(root)
    method = methods()[config.method]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "figure": _figure, "duration": _duration, "pretty": _pretty, "text": _text, "code": _code, "address": quote,
    }  # fmt: skip
    text = environment.get_template("model_card.md.jinja").render(
        config=config,
        header=yaml.safe_dump(_header(config, method), sort_keys=False, allow_unicode=True, width=1000),
        title=method.title,
        about=method.about,
        usage=method.usage,
        base_line=_base_line(config),
        gallery=GALLERY_NAME if (root / GALLERY_NAME).is_file() else None,
        pictures=[path.relative_to(root).as_posix() for path in _pictures(root)],
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def render_eval_results(folder: str | os.PathLike) -> dict[str, str]:
    """Text of each `.eval_results/*.yaml` file by its relative path: one for each data set of the record, or
    for several whose names differ in their marks only."""
    config = WMConfig.load(folder)
    groups: dict[str, list[EvaluationRecord]] = {}
    for item in config.evaluation:
        groups.setdefault(_slug(item.dataset)[:200], []).append(item)  # a file's name holds 255 bytes
    return {
        f".eval_results/{name}.yaml": yaml.safe_dump(
            [_eval_entry(item) for item in items], sort_keys=False, allow_unicode=True, width=1000
        )
        for name, items in groups.items()
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
        elif path.read_bytes() != text.encode():
            problems.append(f"{path} does not match wm_config.json; write it again with `wm card`")
    for path in sorted((root / ".eval_results").glob("*.yaml")):
        if path.relative_to(root).as_posix() not in texts:
            problems.append(f"{path} is not in the record; write the card again with `wm card`")
    return problems


def _header(config: WMConfig, method: Method) -> dict[str, Any]:
    paper = re.search(r"\d{4}\.\d{4,5}", config.paper or "")
    library = "diffusers" if method.library == "wm-pipelines" else method.library  # what a card's reader has
    header: dict[str, Any] = {
        "library_name": method.library,
        "pipeline_tag": method.hub_task,
        "license": config.licence,
        "tags": [library, "safetensors", "wm-pipelines", config.method] + ([f"arxiv:{paper[0]}"] if paper else []),
    }
    if config.base_model is not None and config.base_model.repo_id is not None:
        header["base_model"] = config.base_model.repo_id
        header["base_model_relation"] = "adapter"
    if config.evaluation:
        header["model-index"] = [{"name": method.title, "results": _model_index(config, method.hub_task)}]
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


def _base_line(config: WMConfig) -> str:
    base = config.base_model
    if base is None:
        return ""
    parts = [f"`{_code(base.name)}`" + (" (ships with the package)" if base.embedded else "")]
    parts += [f"revision `{_code(base.revision)}`"] if base.revision else []
    parts += [f"fingerprint `{base.fingerprint[:12]}`"] if base.fingerprint else []
    parts += [f"licence {_text(base.licence)}"] if base.licence else []
    return ", ".join(parts)


def _pictures(root: Path) -> list[Path]:
    found = [*root.glob("*"), *(root / "pictures").glob("*")]
    return sorted(path for path in found if path.suffix.lower() in PICTURE_SUFFIXES)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "default"


def _text(value: Any) -> str:
    """A record's words in a line or a cell of a table: no heading, cell, link, picture or HTML of theirs shows."""
    flat = " ".join(str(value).split())
    return re.sub(r"([\\`*\[\]<>|~])", r"\\\1", flat.replace("&", "&amp;"))


def _code(value: Any) -> str:
    """A record's words between backticks, also in a cell of a table."""
    return " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")


def _figure(value: float) -> str:
    return f"{value:.4g}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
