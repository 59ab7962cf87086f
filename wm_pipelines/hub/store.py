"""Where checkpoints come from and how they are trusted: embedded folders, hashes, the Hub.

Nothing here imports torch. Only safetensors, JSON and text are ever fetched or loaded.
"""

import difflib
import hashlib
import json
import os
import re
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path

from wm_pipelines.config import CONFIG_NAME, BaseModelRef, WMConfig
from wm_pipelines.runtime.files import sha256
from wm_pipelines.runtime.tensors import check_safetensors

EMBEDDED_ROOT = Path(str(files("wm_pipelines") / "embedded"))
# Weights in component folders, and in the root under the names that loaders look for: repositories of real bases keep
# single-file checkpoints of many gigabytes in their root, which no pipeline reads.
ALLOW_PATTERNS = (
    "*.json",
    "*.txt",
    "*.model",
    "*/*.safetensors",
    "model*.safetensors",
    "diffusion_pytorch_model*.safetensors",
    "adapter_model*.safetensors",
    "scene4d.safetensors",
)
VARIANTS = "*.*.safetensors"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CODE_SUFFIXES = (".py", ".pyc", ".so", ".dll", ".dylib", ".sh", ".exe", ".ipynb")
REPO_ID = re.compile(r"^[\w][\w.-]*/[\w][\w.-]*\Z", re.ASCII)


class HubError(OSError):
    """The Hub could not serve a request; `status` is its HTTP status, or None when it was not reached."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


def embedded_names() -> list[str]:
    """Names of the checkpoints that ship with the package and are complete."""
    return sorted(path.parent.name for path in EMBEDDED_ROOT.glob(f"*/{CONFIG_NAME}"))


def embedded(name: str, *, check: bool = True) -> Path:
    """Folder of a checkpoint shipped with the package.

    Args:
        name (`str`): for example `"diorama-sd"`.
        check (`bool`): compare every file with its recorded hash first.

    Raises:
        ValueError: no checkpoint of that name, or a file that differs from its record.

    Example:
        >>> embedded("diorama-sd").name
        'diorama-sd'
    """
    if name not in embedded_names():
        known = embedded_names()
        nearest = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"no embedded checkpoint {name!r}; there are {', '.join(known) or 'none'}{hint}")
    folder = EMBEDDED_ROOT / name
    if check:
        verify(folder)
    return folder


def hash_files(folder: str | os.PathLike) -> dict[str, str]:
    """sha256 of every file that loading may read, by POSIX path relative to the folder.

    The record itself, pictures, cards and dot folders are left out: the Hub download never brings them.
    """
    root = Path(folder)
    return {name: sha256(root / name) for name in sorted(loadable(root))}


def fingerprint(config: WMConfig) -> str:
    """sha256 over the recorded file hashes: one value that names the weights of a checkpoint."""
    return hashlib.sha256(json.dumps(sorted(config.files.items())).encode()).hexdigest()


def base_ref(source: str | os.PathLike) -> BaseModelRef:
    """Reference to a base for an adapter's record: its name, commit sha, fingerprint of its files and licence.

    Raises:
        ValueError: `source` is neither an embedded name nor a Hub id, so that no one else could find it.
    """
    text = os.fspath(source)
    folder = resolve(text)
    record = WMConfig.load(folder) if (folder / CONFIG_NAME).is_file() else None
    if text in embedded_names():
        name = {"embedded": text}
    elif REPO_ID.match(text) and resolved_revision(folder):
        name = {"repo_id": text, "revision": resolved_revision(folder)}
    else:
        raise ValueError(f"a base must be an embedded name or a Hub id, got {text!r}")
    if record is None:
        return BaseModelRef(**name)
    return BaseModelRef(**name, fingerprint=fingerprint(record), licence=record.licence)


def seal(folder: str | os.PathLike, config: WMConfig) -> WMConfig:
    """Hash the folder as it is, write `wm_config.json` with those hashes and return the completed record."""
    complete = config.model_copy(update={"files": hash_files(folder)})
    complete.save(folder)
    return complete


def recorded_files(folder: str | os.PathLike) -> tuple[str, ...]:
    """A folder's record and the files that it lists: what goes when something without them is saved over it."""
    try:
        return (CONFIG_NAME, *WMConfig.load(folder).files)
    except ValueError:
        return (CONFIG_NAME,)


def verify(folder: str | os.PathLike) -> WMConfig:
    """Check every loadable file against the record, before any tensor is read.

    Raises:
        ValueError: names the first file that is truncated, altered, missing or not in the record, or that is code or
            a pickle.
    """
    root = Path(folder)
    config = WMConfig.load(root)
    present = loadable(root)
    for name in sorted(config.files):
        if name not in present:
            raise ValueError(f"{root / name} is missing, but {CONFIG_NAME} lists it; download the checkpoint again")
    for name in sorted(present):
        if name not in config.files:
            raise ValueError(f"{root / name} is not listed in {CONFIG_NAME}; remove it, or seal the folder again")
        if name.endswith(".safetensors"):
            check_safetensors(root / name)
        found = sha256(root / name)
        if found != config.files[name]:
            raise ValueError(
                f"{root / name} differs from its record: sha256 {found[:12]}…, expected {config.files[name][:12]}…; "
                "download the checkpoint again (verify=False loads it as it is)"
            )
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        foreign = foreign_kind(path)
        if foreign is not None:
            raise ValueError(f"{path} is {foreign}; remove it")
    return config


def check_weights(folder: str | os.PathLike) -> None:
    """`check_safetensors` for every weight file of a folder that loading may read; needs no record."""
    for name in sorted(loadable(Path(folder))):
        if name.endswith(".safetensors"):
            check_safetensors(Path(folder) / name)


def resolve(
    source: str | os.PathLike,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
) -> Path:
    """Local folder for an embedded name, a folder or a Hub id, tried in that order.

    Args:
        source: embedded name, path of a folder, or `owner/name` on the Hub.
        revision: branch, tag or commit; only for a Hub id.

    Raises:
        ValueError: `source` is none of the three, or `revision` comes with something that has none.
        HubError: the Hub refused or could not be reached and the cache does not have it.
    """
    text = os.fspath(source)
    is_name = text in embedded_names()
    if is_name or Path(text).is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} needs a Hub id, but {text!r} is a local checkpoint")
        return EMBEDDED_ROOT / text if is_name else Path(text)
    if not REPO_ID.match(text):
        raise ValueError(
            f"{text!r} is not an embedded checkpoint ({', '.join(embedded_names()) or 'none'}), not a folder, "
            "and not a Hub id of the form owner/name"
        )
    return download(text, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)


def resolve_ref(
    ref: BaseModelRef,
    *,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
) -> Path:
    """Local folder of the base that a record names: an embedded checkpoint or a Hub repository, never another folder.

    Raises:
        ValueError: no embedded checkpoint of that name, or a repository that would have to be downloaded although
            `local_files_only`.
        HubError: the Hub refused or was not reached.
    """
    if ref.embedded is not None:
        return embedded(ref.embedded, check=False)
    cache = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    try:
        return download(ref.repo_id, revision=ref.revision, **cache)
    except HubError as error:
        if not local_files_only:
            raise
        raise HubError(
            f"the record names the base {ref.repo_id!r} on the Hub, which is not in the cache; nothing is downloaded "
            f"unless it is asked for by name: pass base={ref.repo_id!r}"
        ) from error


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    variant: str | None = None,
) -> Path:
    """Fetch the loadable files of a repository into the Hub cache: never code, never pickle.

    Args:
        variant: given, files of variants such as `model.fp16.safetensors` come too; a component may have none.

    Raises:
        HubError: with one message each for 401, 403, 404, an unknown revision and no connection.
        ValueError: the repository holds no safetensors file, and no record that says that none belong to it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        folder = Path(
            snapshot_download(
                repo_id,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                force_download=force_download,
                allow_patterns=list(ALLOW_PATTERNS),
                ignore_patterns=None if variant else [VARIANTS],
            )
        )
    except (HTTPError, OSError) as error:
        raise explain(error, repo_id, revision) from error
    if not any(folder.rglob("*.safetensors")) and not _needs_no_weights(folder):
        raise ValueError(
            f"{repo_id} holds no safetensors weights under the names that are loaded; pickled weights are never "
            "loaded, convert them offline first"
        )
    return folder


def _needs_no_weights(folder: Path) -> bool:
    """Whether a folder is a whole checkpoint of a method without weights: its record names a base, and no weight file.

    What such a record says has no part in what is fetched: the patterns have been applied.

    Raises:
        ValueError: there is a record, but it can't be read.
    """
    if not (folder / CONFIG_NAME).is_file():
        return False
    config = WMConfig.load(folder)
    return config.base_model is not None and not any(name.endswith(".safetensors") for name in config.files)


def resolved_revision(folder: str | os.PathLike) -> str | None:
    """Commit sha of a folder in the Hub cache, None for any other folder."""
    path = Path(os.path.abspath(folder))
    return path.name if path.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", path.name) else None


def explain(error: BaseException, repo_id: str, revision: str | None = None) -> HubError:
    """Turn an error of huggingface_hub into one that says which of the usual reasons it is."""
    from huggingface_hub.errors import RevisionNotFoundError

    chain, link = [], error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    responses = [item.response for item in chain if getattr(item, "response", None) is not None]
    status = responses[0].status_code if responses else None
    if any(isinstance(item, RevisionNotFoundError) for item in chain):
        return HubError(f"{repo_id} has no revision {revision!r} on the Hub ({status})", status)
    if status == 401:
        return HubError(
            f"the Hub refused {repo_id} (401): the token is missing or invalid, or there is no such repository; "
            "log in with `hf auth login` or pass token=",
            status,
        )
    if status == 403:
        return HubError(
            f"access to {repo_id} is forbidden (403): the repository is gated or the token lacks the permission; "
            "accept its conditions on its page, or use another token",
            status,
        )
    if status == 404:
        return HubError(f"there is no repository {repo_id} on the Hub (404), or this token can't see it", status)
    if status is not None:
        return HubError(f"the Hub answered {status} for {repo_id}: {error}", status)
    return HubError(f"the Hub was not reached for {repo_id}, and the local cache does not have it all: {error}")


def loadable(root: Path) -> set[str]:
    """Relative POSIX paths of the files that loading may read."""
    names = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {
        name.as_posix()
        for name in names
        if name.as_posix() != CONFIG_NAME
        and not any(part.startswith(".") for part in name.parts)
        and any(fnmatch(name.as_posix(), pattern) for pattern in ALLOW_PATTERNS)
        and not fnmatch(name.as_posix(), VARIANTS)
    }


def foreign_kind(path: Path) -> str | None:
    """What keeps a file out of a checkpoint, in words; None for a file that may be there."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return "a pickle format; only safetensors are published"
    if path.suffix.lower() in CODE_SUFFIXES:
        return "code; a checkpoint holds none"
    return None
