"""Training of the global adapter, apart from the local one as in Uni-ControlNet: `wm train flexecontrol-global`.

The recipe's options are those of the local task without the ones about local conditions and their losses; the carrier
is built all the same, so that `init_from` puts a trained local adapter and the new global one into one checkpoint.
While training, no local condition is shown: the UNet sees the text and the four tokens of the picture's own content
vector (zeros for a share of the pictures), and only the global adapter learns. The loss is L_ldm.

One option is added: on Diorama `image_encoder`, an embedded name, folder or Hub id of a CLIP whose projected,
un-normalised vectors are the content; a folder of one's own brings them as `conditions/content/ID.npy`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wm_pipelines.clip.parts import image_processor
from wm_pipelines.flexecontrol.augment import keep_conditions
from wm_pipelines.flexecontrol.data import CONTENT, FolderTask, read_vector
from wm_pipelines.flexecontrol.global_image import image_vectors
from wm_pipelines.flexecontrol.losses import diffusion_loss
from wm_pipelines.flexecontrol.training import DEFAULTS, FlexEControlTask
from wm_pipelines.hub import check_weights, resolve
from wm_pipelines.hub.stock import load_model
from wm_pipelines.media.pictures import to_pil
from wm_pipelines.training import KeyedNoise

LOCAL_ONLY = ("lambda_ca", "lambda_mask", "keep_one", "split", "layout")


def _without_local(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in LOCAL_ONLY}


class _GlobalPart(FlexEControlTask):
    """What the two tasks share; they say which vector belongs to a sample."""

    part = "global"

    @abstractmethod
    def _vectors(self, indices: Sequence[int]) -> torch.Tensor:
        """Content vectors (N,D), projected and un-normalised."""

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        for module in (self.unet, self.text_encoder):
            module.to(self.device)
        texts, _, _ = self._words(indices, noise)
        noisy, t, target = self._noised(indices, noise)
        chances = {key: self.options[key] for key in ("keep_all", "drop_all", "drop")}
        kept = [bool(keep_conditions(("content",), noise.generator(i, "content"), **chances)) for i in indices]
        vectors = self._vectors(indices) * torch.tensor(kept)[:, None]
        context = torch.cat([self._encoded(texts), self.control.global_tokens(vectors.to(self.device))], 1)
        return {"loss": diffusion_loss(self.unet(noisy, t, context).sample, target)}


class GlobalTask(_GlobalPart):
    """On Diorama pictures; their vectors are computed once."""

    defaults = {**_without_local(DEFAULTS), "image_encoder": "diorama-clip"}

    def _carried(self) -> dict[str, Any]:
        from transformers import CLIPVisionModelWithProjection

        folder = resolve(self.options["image_encoder"])
        check_weights(folder)
        encoder = load_model(CLIPVisionModelWithProjection, folder)
        self.image_encoder = encoder.requires_grad_(False).eval()
        self.image_processor = image_processor(folder)
        return {"global_adapter": True, "global_embed_dim": self.image_encoder.config.projection_dim}

    @torch.no_grad()
    def _load_data(self) -> None:
        super()._load_data()
        encoder, parts = self.image_encoder, []
        for rows in torch.arange(self.length).split(64):
            pictures = [to_pil(picture) for picture in self._pictures(rows)]
            width = encoder.config.projection_dim
            parts.append(image_vectors(pictures, encoder, self.image_processor, width, len(rows), encoder.device))
        self.contents = torch.cat(parts)

    def _vectors(self, indices: Sequence[int]) -> torch.Tensor:
        return self.contents[list(indices)]


class GlobalFolderTask(_GlobalPart, FolderTask):
    """On a folder in Uni-ControlNet's layout, with `conditions/content/ID.npy` for every picture."""

    defaults = _without_local(FolderTask.defaults)

    def _carried(self) -> dict[str, Any]:
        root = self.options["data"]
        first = next(iter(sorted((Path(root) / CONTENT).glob("*.npy"))), None) if root else None
        if first is None:
            raise ValueError(f"options.data: {root!r} has no {CONTENT}/ID.npy, the content vectors")
        return {"global_adapter": True, "global_embed_dim": len(read_vector(first))}

    def _load_data(self) -> None:
        super()._load_data()
        for index, name in enumerate(self.folder.names):  # all are looked at now, none is kept
            found, wanted = self.folder.contents([index]).shape[1], self.control.config.global_embed_dim
            if found != wanted:
                raise ValueError(f"{CONTENT}/{name}.npy has {found} values, the first file has {wanted}")

    def _vectors(self, indices: Sequence[int]) -> torch.Tensor:
        return self.folder.contents(indices)
