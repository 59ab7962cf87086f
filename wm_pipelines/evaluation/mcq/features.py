"""Visual tokens from elsewhere in place of a vision tower's: the interface for feature fields.

VLM4D's second remedy (arXiv 2508.02095) gives a language model features that were rendered from a 4D reconstruction
(Feature4X, arXiv 2503.20776) instead of those of single frames. Whatever makes such features is a provider here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration
    from transformers.modeling_outputs import BaseModelOutput

FeatureProvider = Callable[[torch.Tensor], torch.Tensor]
"""The frames of one clip as the model's processor gives them, (T, 3, H, W), to visual tokens (T, N, D).

D is the width of the model's own tower, and N how many tokens its processor puts in place of a picture.
"""


class ProvidedTower(nn.Module):
    """Stands where the vision tower of a LLaVA stood.

    Args:
        provider: makes the features. frames: of each clip; a batch of pictures is cut into clips of so many. None: the
            pictures of a call are one clip.
        width: D. tokens: N.
    """

    def __init__(self, provider: FeatureProvider, frames: int | None, width: int, tokens: int):
        super().__init__()
        self.provider, self.frames, self.shape = provider, frames, (tokens, width)

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> "BaseModelOutput":
        """(B T, 3, H, W) -> the features as the only hidden states, (B T, N, D).

        Raises:
            ValueError: the pictures are no whole clips, or the provider's features have another shape.
        """
        from transformers.modeling_outputs import BaseModelOutput

        frames = len(pixel_values) if self.frames is None else self.frames
        if len(pixel_values) % frames:
            raise ValueError(f"{len(pixel_values)} pictures are no whole clips of {frames} frames")
        found = []
        for clip in pixel_values.split(frames):
            features = self.provider(clip)
            if features.shape != (len(clip), *self.shape):
                wanted = (len(clip), *self.shape)
                raise ValueError(f"`feature_provider` gave features {tuple(features.shape)}; wanted {wanted}")
            found.append(features)
        features = torch.cat(found)
        return BaseModelOutput(last_hidden_state=features, hidden_states=(features,))


@contextmanager
def provided(
    model: "LlavaForConditionalGeneration", feature_provider: FeatureProvider, frames: int | None = None
) -> Iterator["LlavaForConditionalGeneration"]:
    """`model` with the provider's features in place of its tower's, until the block ends.

    Everything else stays: the projector reads the features, and `generate`, an evaluation or training goes on as with
    the model's own. A model that was not trained with them can't be expected to understand them.

    Args:
        frames: of each clip of a batch; None where one clip at a time is shown, as an evaluation does.

    Raises:
        ValueError: the model is no LLaVA or takes hidden states of several layers, or `frames` is below 1.
    """
    if frames is not None and frames < 1:
        raise ValueError(f"`frames` is {frames!r}; it must be 1 or more, or None")
    inner = getattr(model, "base_model", model)
    if getattr(inner, "vision_tower", None) is None or not hasattr(model.config, "vision_feature_layer"):
        raise ValueError(f"`model` is {type(model).__name__}; features are given to a LLaVA")
    config, vision, own = model.config, model.config.vision_config, inner.vision_tower
    layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
    if not isinstance(layer, int):
        raise ValueError(f"`model` reads layers {layer} of its tower; a provider gives one")
    tokens = (vision.image_size // vision.patch_size) ** 2
    inner.vision_tower = ProvidedTower(feature_provider, frames, vision.hidden_size, tokens)
    config.vision_feature_layer, config.vision_feature_select_strategy = -1, "full"
    try:
        yield model
    finally:
        inner.vision_tower = own
        config.vision_feature_layer, config.vision_feature_select_strategy = layer, strategy
