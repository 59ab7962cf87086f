"""Errors of the Hub in the words of a node: the field that is to blame, and each reason once."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def blaming_fields() -> Iterator[None]:
    """Turn a `HubError` into a ValueError that begins with the field of WM Load Pipeline that it is about."""
    from wm_pipelines.hub.store import HubError

    try:
        yield
    except HubError as error:
        # What huggingface_hub says behind it are the same reasons for a caller in Python.
        said = str(error).split(": Cannot find", 1)[0].split(": An error happened", 1)[0]
        said = said.replace("log in with `hf auth login` or pass token=", "set HF_TOKEN where ComfyUI runs")
        said, based, _ = said.partition(": pass base=")
        if based:
            said += ": load it once as hub_id, or choose it as base from models/wm_pipelines"
        field = "base" if based else "revision" if "has no revision" in said else "hub_id"
        raise ValueError(f"{field}: {said}") from None
