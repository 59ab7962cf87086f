"""Prompts with a learned context: `[SOS] context name "." [EOS]`, for each picture its own (CoCoOp's layout)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from wm_pipelines.clip.towers import MAX_TOKENS, encode_rows, eos_positions, tokenize
from wm_pipelines.runtime.offloading import execution_device

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

    from wm_pipelines.cpl.modeling import CPLPromptLearner


class Prompts(NamedTuple):
    """Frozen embeddings `(C, L, width)` of all prompts without their context, and end-of-text `(C,)` with it."""

    embeds: torch.Tensor
    eos: torch.Tensor


def make_prompts(
    clip: "CLIPModel", tokenizer: "CLIPTokenizer", names: Sequence[str], n_ctx: int, what: str = "prompt for class"
) -> Prompts:
    """The prompts of class names, captions or filled templates; underscores are read as blanks, as in CoOp.

    Raises:
        ValueError: no name, a blank one, or a prompt of more tokens than the text tower holds.
    """
    limit = clip.config.text_config.max_position_embeddings
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{what} must be a non-empty string, got {name!r}")
    # CLIP splits at blanks before it joins pieces, so a name has the same tokens with and without words before it.
    ids = tokenize(tokenizer, [sentence(name) for name in names], limit, what, reserved=n_ctx)
    table = clip.text_model.embeddings.token_embedding
    ids = ids.to(execution_device(clip))
    return Prompts(table(ids).detach(), eos_positions(ids, clip.config.text_config) + n_ctx)


def words(name: str) -> str:
    """A name as it is read: underscores are blanks, as in CoOp."""
    return name.replace("_", " ").strip()


def sentence(name: str) -> str:
    """What stands after the context: the name and a full stop."""
    text = words(name)
    return text if text.endswith(".") else f"{text}."


def conditional_features(
    clip: "CLIPModel",
    learner: "CPLPromptLearner",
    prompts: Prompts,
    image_features: torch.Tensor,
    candidates: torch.Tensor | None = None,
    max_tokens: int = MAX_TOKENS,
) -> torch.Tensor:
    """Unit text features `(B, K, joint_dim)` of the prompts that each picture is compared with.

    Args:
        image_features: unit `(B, joint_dim)`.
        candidates: which prompts for each picture, int64 `(B, K)`; all C when None.
        max_tokens: memory bound of a text pass; there are B * K rows.
    """
    contexts = learner(image_features.to(learner.dtype)).to(prompts.embeds.dtype)
    batch, n_ctx = contexts.shape[:2]
    if candidates is None:
        candidates = torch.arange(len(prompts.eos), device=contexts.device).expand(batch, -1)
    which = candidates.reshape(-1)
    width = candidates.shape[1]

    def rows(start: int, stop: int, length: int) -> torch.Tensor:
        own = prompts.embeds[which[start:stop], : length - n_ctx]
        pictures = torch.arange(start, stop, device=contexts.device) // width
        return torch.cat([own[:, :1], contexts[pictures], own[:, 1:]], dim=1)

    features = encode_rows(clip, rows, prompts.eos[which], max_tokens).to(learner.dtype)
    return functional.normalize(features, dim=-1).view(batch, width, -1)
