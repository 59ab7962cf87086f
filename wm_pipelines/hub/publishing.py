"""What leaves the machine: checks of a checkpoint folder, and its upload to the Hub."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wm_pipelines.config import CONFIG_NAME, WMConfig
from wm_pipelines.hub import cards, store
from wm_pipelines.hub.checking import read_config

EXTRA_SUFFIXES = (".yaml", *cards.PICTURE_SUFFIXES)
REPLACED_SUFFIXES = (".json", ".txt", ".model", ".safetensors")  # of what an upload removes if the folder lacks it


def validate(folder: str | os.PathLike) -> list[str]:
    """Everything that keeps a folder from being published; an empty list means that it is ready.

    Checks the record against the schema, every hash, that nothing is pickled or executable, that the weights load
    plainly (class names agree, transformers parts state float32), and that the card says what the record says.
    """
    root = Path(folder)
    try:
        config = WMConfig.load(root)
    except ValueError as error:
        return [str(error)]
    problems = [f"{path} is a link that leads out of the folder or nowhere" for path in _links_out(root)]
    if problems:
        return problems  # nothing behind them is read
    try:
        store.verify(root)
    except ValueError as error:
        problems.append(str(error))
    loadable = store.loadable(root)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        if store.foreign_kind(path) is not None:
            problems.append(f"{path} is {store.foreign_kind(path)}")
        elif path.suffix == ".safetensors" and path.relative_to(root).as_posix() not in loadable:
            problems.append(f"{path} has a name that plain loading doesn't read; use default names without a variant")
    return problems + _index_problems(root, config) + cards.stale_card(root)


def _links_out(root: Path) -> list[Path]:
    """Links that lead out of a folder; in the Hub's cache all files are links to the store beside it."""
    allowed = [Path(os.path.realpath(root))]
    if store.resolved_revision(root):
        allowed.append(allowed[0].parents[1] / "blobs")
    links = (path for path in sorted(root.rglob("*")) if path.is_symlink())
    targets = ((path, Path(os.path.realpath(path))) for path in links)  # of a link in a circle, the link itself
    return [path for path, to in targets if to.is_symlink() or not any(to.is_relative_to(place) for place in allowed)]


class Publication(NamedTuple):
    """What `publish` sent, or would send: sizes in bytes by relative path, and the commit once there is one."""

    repo_id: str
    files: dict[str, int]
    commit: str | None = None


def publish(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    dry_run: bool = True,
    private: bool = False,
    token: str | bool | None = None,
) -> Publication:
    """Upload a validated checkpoint to the Hub; by default only say what would go.

    JSON, text and weights that the repository has and the folder has not are removed by the same upload, so that what
    is there is what the record lists.

    Raises:
        ValueError: the folder has problems (all are named) or `repo_id` is not owner/name.
        HubError: the Hub refused or was not reached.
    """
    if not store.REPO_ID.match(repo_id):
        raise ValueError(f"repo_id must have the form owner/name, got {repo_id!r}")
    problems = validate(folder)
    if problems:
        raise ValueError(f"{folder} can't be published:\n" + "\n".join(f"- {problem}" for problem in problems))
    root = Path(folder)
    files = {path.relative_to(root).as_posix(): path.stat().st_size for path in sorted(_published(root))}
    if dry_run:
        return Publication(repo_id, files)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HTTPError

    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        # by operations, one for each file: as patterns, names with brackets would be planned and not sent
        there = set(api.list_repo_files(repo_id))
        stale = sorted(name for name in there - set(files) if Path(name).suffix in REPLACED_SUFFIXES)
        commit = api.create_commit(
            repo_id=repo_id,
            operations=[
                *(CommitOperationAdd(name, str(root / name)) for name in files),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=f"Publish {WMConfig.load(root).method} with wm-pipelines",
        )
    except (HTTPError, OSError) as error:
        raise store.explain(error, repo_id) from error
    return Publication(repo_id, files, commit.oid)


def _published(root: Path) -> Iterator[Path]:
    """Files that an upload takes: what loading reads, the record, the card with its figures and
    its gallery, recipes and pictures."""
    loadable = store.loadable(root)
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        hidden = any(part.startswith(".") for part in name.removeprefix(".eval_results/").split("/"))
        wanted = name in loadable or name in (CONFIG_NAME, cards.CARD_NAME, cards.GALLERY_NAME)
        if path.is_file() and not hidden and (wanted or path.suffix.lower() in EXTRA_SUFFIXES):
            yield path


def _index_problems(root: Path, config: WMConfig) -> list[str]:
    """What makes a plain `from_pretrained` fail: another class in the index, or parts that would load as fp16."""
    problems = []
    index = root / "model_index.json"
    if index.is_file():
        name = _read_json(index, problems).get("_class_name")
        if name != config.pipeline:
            problems.append(f"{index} names {name!r}, but {CONFIG_NAME} names {config.pipeline!r}")
    elif config.pipeline is not None and config.base_model is None:
        problems.append(f"{index} is missing, and the record names no base_model that would make this an adapter")
    for path in [*root.glob("config.json"), *sorted(root.glob("*/config.json"))]:
        data = _read_json(path, problems)
        dtype = data.get("dtype", data.get("torch_dtype"))
        if "transformers_version" in data and dtype != "float32":
            problems.append(f"{path} has dtype {dtype!r}, needs 'float32', or it loads as fp16 beside fp32 parts")
    return problems


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return read_config(path)
    except ValueError as error:
        problems.append(f"{path} is not valid JSON: {error}")
        return {}
