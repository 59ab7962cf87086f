"""Where checkpoints come from, how they are trusted, described and published.

`store` loads and verifies; cards, publishing, sealing and the doctor are modules beside it, which loading never needs.
"""

from importlib import import_module
from typing import Any

from wm_pipelines.hub.store import (
    ALLOW_PATTERNS,
    REPO_ID,
    VARIANTS,
    HubError,
    base_ref,
    check_safetensors,
    check_weights,
    download,
    embedded,
    embedded_names,
    explain,
    fingerprint,
    hash_files,
    loadable,
    recorded_files,
    resolve,
    resolve_ref,
    resolved_revision,
    seal,
    verify,
)

_ELSEWHERE = {
    "EMBEDDED_ROOT": "store",  # looked up at each use, so that there is one place to change it
    "publish": "publishing",
    "render_card": "cards",
    "validate": "publishing",
    "write_card": "cards",
}

__all__ = [
    "ALLOW_PATTERNS", "REPO_ID", "VARIANTS", "HubError", "base_ref", "check_safetensors", "check_weights", "download",
    "embedded", "embedded_names", "explain", "fingerprint", "hash_files", "loadable", "recorded_files", "resolve",
    "resolve_ref", "resolved_revision", "seal", "verify", *_ELSEWHERE,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE[name]}"), name)
