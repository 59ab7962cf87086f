"""Training of the global adapter, apart from the local one as in Uni-ControlNet: `wm train flexecontrol-global`.

The recipe's options are those of the local task without the ones about local conditions and their losses; the carrier
is built all the same, so that `init_from` puts a trained local adapter and the new global one into one checkpoint.
While training, no local condition is shown: the UNet sees the text and the four tokens of the picture's own content
vector (zeros for a share of the pictures), and only the global adapter learns. The loss is L_ldm.

One option is added: on Diorama `image_encoder`, an embedded name, folder or Hub id of a CLIP whose projected,
un-normalised vectors are the content; a folder of one's own brings them as `conditions/content/ID.npy`.
"""

from typing import Any

import torch

from wm_pipelines.flexecontrol.training.augmentation import keep_conditions
from wm_pipelines.flexecontrol.training.losses import diffusion_loss
from wm_pipelines.flexecontrol.training.task import FlexEControlTask
from wm_pipelines.training import KeyedNoise

LOCAL_ONLY = ("lambda_ca", "lambda_mask", "keep_one", "alone", "split", "layout", "drawn")


def without_local(options: dict[str, Any]) -> dict[str, Any]:
    """Options without those about local conditions and their losses."""
    return {key: value for key, value in options.items() if key not in LOCAL_ONLY}


class GlobalTask(FlexEControlTask):
    """The global adapter; a source for it has `contents(indices)`, content vectors (N,D), projected, un-normalised."""

    part = "global"

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        for module in (self.unet, self.text_encoder):
            module.to(self.device)
        texts, _, _ = self.captions(indices, noise)
        noisy, t, target = self._noised(indices, noise)
        chances = {key: self.options[key] for key in ("keep_all", "drop_all", "drop")}
        kept = [bool(keep_conditions(("content",), noise.generator(i, "content"), **chances)) for i in indices]
        vectors = self.source.contents(indices) * torch.tensor(kept)[:, None]
        context = torch.cat([self._encoded(texts), self.control.global_tokens(vectors.to(self.device))], 1)
        return {"loss": diffusion_loss(self.unet(noisy, t, context).sample, target)}
