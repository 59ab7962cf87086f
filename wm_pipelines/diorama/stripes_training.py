"""How `diorama-stripes` is trained: a Kronecker adapter on the UNet of `diorama-sd`, for solids with
stripes."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from wm_pipelines.diorama.datasets import DioramaDataset, RenderedImages
from wm_pipelines.diorama.training import EMPTY_PROMPT, options_of, worded
from wm_pipelines.hub import resolve
from wm_pipelines.hub.stock import load_model, load_part
from wm_pipelines.training import KeyedNoise, Recipe, Task

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
DEFAULTS = {"base": "diorama-sd", "length": 600, "n": 4, "r": 4}


class StripesTask(Task):
    """The adapter alone, on pictures of striped solids and their captions, which don't speak of the stripes.

    Options: `base`, an embedded name, folder or Hub id of a Stable-Diffusion-shaped pipeline of the miniature world;
    `length`, scenes; `n` and `r` of the adapter.
    """

    def __init__(self, recipe: Recipe):
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from transformers import AutoTokenizer, CLIPTextModel

        from wm_pipelines.adapters.injected import inject
        from wm_pipelines.adapters.kronecker import KroneckerConfig

        options = self.options = options_of(recipe, DEFAULTS)
        folder = resolve(options["base"])
        self.unet = load_model(UNet2DConditionModel, folder, subfolder="unet").requires_grad_(False)
        config = KroneckerConfig(n=options["n"], r=options["r"], target_modules=list(TARGETS))
        inject(self.unet, config, "default", recipe.seed)
        self.text_encoder = load_model(CLIPTextModel, folder, subfolder="text_encoder").requires_grad_(False).eval()
        self.tokenizer = load_part(AutoTokenizer, folder, subfolder="tokenizer")
        self.schedule = load_part(DDPMScheduler, folder, subfolder="scheduler")
        vae = load_model(AutoencoderKL, folder, subfolder="vae").eval()
        images = RenderedImages(DioramaDataset(length=options["length"], patterns=("striped",)), None)
        self.scenes, self.length = images.scenes, len(images)
        self.data = f"Diorama images, train split, {self.length} scenes of striped solids"
        with torch.no_grad():
            each = [range(i, min(i + 64, self.length)) for i in range(0, self.length, 64)]
            latents = [vae.encode(images.pictures(some) * 2 - 1).latent_dist.mean for some in each]
        self.latents = torch.cat(latents) * vae.config.scaling_factor

    def modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet}

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        words = []
        for index in indices:
            rng = noise.generator(index, "caption")
            text = "" if rng.random() < EMPTY_PROMPT else worded(self.scenes[index], rng)
            words.append(text.replace("striped ", ""))
        tokens = self.tokenizer(words, padding="max_length", max_length=77, return_tensors="pt").input_ids
        with torch.no_grad():
            context = self.text_encoder.to(self.device)(tokens.to(self.device)).last_hidden_state
        latents = self.latents[indices].to(self.device)
        eps = noise.randn(indices, latents.shape[1:], "noise").to(self.device)
        t = noise.integers(indices, (), "timestep", 0, self.schedule.config.num_train_timesteps).to(self.device)
        out = self.unet(self.schedule.add_noise(latents, eps, t), t, context).sample
        return {"loss": functional.mse_loss(out, self.schedule.get_velocity(latents, eps, t))}

    def export(self, folder: Path) -> None:
        """Writes the adapter in fp16, in PEFT's form."""
        from wm_pipelines.adapters.kronecker import save_adapter

        save_adapter(self.unet, folder, dtype=torch.float16, card=False)
