"""How the base checkpoints of the miniature world are trained: the VAE, then text encoder and UNet together, and the
judge. `clip_training` has the contrastive one."""

import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from wm_pipelines.diorama.datasets import DioramaDataset, RenderedImages
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.scene import COLOURS, HELD_OUT_RELATIONS, MAX_OBJECTS, SHAPES, Scene
from wm_pipelines.diorama.tokenizer import build_tokenizer
from wm_pipelines.hub.stock import load_model
from wm_pipelines.hub.weights import save_half
from wm_pipelines.runtime.files import atomic
from wm_pipelines.training import KeyedNoise, Recipe, Task, check_keys

SIZE = 64
EMPTY_PROMPT = 0.1  # share of captions that become "", for classifier-free guidance
# how captions are worded while training: (share, detail, relations)
WORDINGS = ((0.3, "objects", False), (0.4, "objects", True), (0.3, "full", True))
OPPOSITES = {"left": "right", "behind": "in front of", "above": "below"}
OPPOSITES |= {v: k for k, v in OPPOSITES.items()}
RELATION = re.compile("|".join(rf"\b{words}\b" for words in OPPOSITES))
# From here on noise hides where things stand; below, their blobs show through it and the words for it go unread. It
# is where the first three of twenty sampling steps are.
EARLY = 850
PLAIN = {"early": 0.0, "plan": 0.0, "words_only": False, "turned": 0.0}  # SDTask's loss as diffusion models have it
SOFT = 0.02  # differences of errors beyond which `turned` asks for no more
GRID = 4  # cells of the plan along a side; the last GRID ** 2 of 77 tokens are theirs


def options_of(recipe: Recipe, defaults: dict) -> dict:
    check_keys(recipe.options, defaults, "options")
    return {**defaults, **recipe.options}


def pictures_of(options: dict, composition: str = "iid") -> RenderedImages:
    return RenderedImages(DioramaDataset(composition=composition, length=options["length"]), options["cache"])


def worded(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of `scene`, worded as one of `WORDINGS`, in the shares given there."""
    chance = rng.random()
    for share, detail, relations in WORDINGS:
        if chance < share or (share, detail, relations) == WORDINGS[-1]:
            break
        chance -= share
    return caption(scene, detail, seed=int(rng.integers(1 << 30)), relations=relations).text


def turned(text: str) -> str | None:
    """The caption with every relation turned round: false of a picture that `text` is true of.

    Returns:
        None where that is no such caption: `text` says no relation, two of its objects have one name, or it would name
        a held-out relation and teach that this never holds.
    """
    false = RELATION.sub(lambda found: OPPOSITES[found.group()], text)
    if false == text:
        return None
    said = parse_caption(false)
    shapes = [thing["shape"] for thing in said.objects]
    alike = any(said.objects.count(thing) > 1 for thing in said.objects)
    held_out = any((p, shapes[a], shapes[b]) in HELD_OUT_RELATIONS for a, p, b in said.relations)
    return None if alike or held_out else false


class VAETask(Task):
    """AutoencoderKL on 64 x 64 pictures: absolute and squared error, error of differences, small KL term."""

    def __init__(self, recipe: Recipe):
        from diffusers import AutoencoderKL

        self.options = options_of(recipe, {"length": 6000, "cache": None, "kl": 1e-4, "channels": [24, 48, 64]})
        self.images = pictures_of(self.options)
        self.length = len(self.images)
        self.data = f"Diorama images, train split, {self.length} scenes"
        self.vae = AutoencoderKL(
            block_out_channels=tuple(self.options["channels"]),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=8,
            mid_block_add_attention=False,
            sample_size=SIZE,
        )
        with torch.no_grad():  # the posterior starts narrow; at its usual unit width the decoder learns to ignore it
            self.vae.quant_conv.weight[4:] *= 0.1
            self.vae.quant_conv.bias[4:] = -6.0

    def modules(self) -> dict[str, nn.Module]:
        return {"vae": self.vae}

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        pictures = (self.images.pictures(indices) * 2 - 1).to(self.device)
        posterior = self.vae.encode(pictures).latent_dist
        drawn = noise.randn(indices, posterior.mean.shape[1:], "posterior").to(self.device)
        out = self.vae.decode(posterior.mean + posterior.std * drawn).sample
        error, square = (out - pictures).abs().mean(), (out - pictures).square().mean()
        edges = sum((out.diff(dim=d) - pictures.diff(dim=d)).abs().mean() for d in (-1, -2))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = error + 5 * square + 0.5 * edges + self.options["kl"] * kl
        return {"loss": loss, "l1": error, "mse": square, "edges": edges, "kl": kl}

    def export(self, folder: Path) -> None:
        """Writes the VAE in fp16, with scaling_factor = 1 / std of its latents."""
        with torch.no_grad():
            means = [
                self.vae.encode(self.images.pictures(range(i, min(i + 64, self.length))) * 2 - 1).latent_dist.mean
                for i in range(0, min(1024, self.length), 64)
            ]
        self.vae.register_to_config(scaling_factor=round(1 / torch.cat(means).std().item(), 6))
        save_half(self.vae, folder)


class SDTask(Task):
    """UNet2DConditionModel and CLIPTextModel trained together on VAE latents, velocity prediction.

    Options, all off by default, that make the loss ask for relations:
        early: of the captions that say a relation, the share whose timestep is drawn from `EARLY` on, where the words
            alone say where things stand.
        plan: weight of the loss of a head, not exported, that reads from each of the text encoder's last 16 tokens
            which colours and shapes are in one of 4 x 4 cells of the picture. A causal encoder never tells the first
            object's tokens what is said of it later, but the padding knows the whole caption.
        words_only: the plan is the whole loss and the UNet rests. A step costs a fifth, and the text encoder needs a
            thousand of them before "left" means a place; a run from that export can use it from its first step.
        turned: weight of a loss by which, from `EARLY` on, the error must be smaller with the caption than with its
            relations turned round, same latents and noise; on a quarter of the batch at most.
    """

    def __init__(self, recipe: Recipe):
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        defaults = {"length": 28000, "cache": None, "vae": None}
        self.options = options_of(recipe, {**defaults, **PLAIN})
        if self.options["words_only"] and not self.options["plan"]:
            raise ValueError("options.words_only needs options.plan above 0: the plan is all that it trains")
        if self.options["vae"] is None:
            raise ValueError(
                "options.vae is missing: the folder of the trained VAE (`wm train diorama-vae` exports it)"
            )
        self.seed = recipe.seed
        self.vae = load_model(AutoencoderKL, self.options["vae"]).requires_grad_(False).eval()
        images = pictures_of(self.options)
        self.scenes, self.length = images.scenes, len(images)
        self.data = f"Diorama images, train split, {self.length} scenes"
        self.mean, self.std = self._encode(images)
        self.tokenizer = _tokenizer()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=128,
                intermediate_size=512,
                projection_dim=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=77,
                bos_token_id=self.tokenizer.bos_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=SIZE // 4,
            block_out_channels=(64, 96, 128),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=128,
            attention_head_dim=(2, 3, 4),
            down_block_types=("CrossAttnDownBlock2D",) * 3,
            up_block_types=("CrossAttnUpBlock2D",) * 3,
        ).to(memory_format=torch.channels_last)
        self.schedule = DDPMScheduler(**SCHEDULE)
        if self.options["plan"]:
            self.ids = images.ids
            self.planner = nn.Linear(128, 1 + len(COLOURS) + len(SHAPES))
            nn.init.zeros_(self.planner.weight)  # it learns to read before it moves the text encoder

    @torch.no_grad()
    def _encode(self, images: RenderedImages) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled mean and width of every picture's latents; kept beside the pictures where these are kept."""
        from safetensors.torch import load_file
        from tqdm import tqdm

        weights = (Path(self.options["vae"]) / "diffusion_pytorch_model.safetensors").read_bytes()
        cache = self.options["cache"] and Path(f"{self.options['cache']}.{sha256(weights).hexdigest()[:12]}")
        if cache and cache.exists():
            latents = load_file(cache)
            return latents["mean"], latents["std"]
        dists = [
            self.vae.encode(images.pictures(range(i, min(i + 64, len(images)))) * 2 - 1).latent_dist
            for i in tqdm(range(0, len(images), 64), desc="encode")
        ]
        scale = self.vae.config.scaling_factor
        latents = {name: torch.cat([getattr(d, name) for d in dists]) * scale for name in ("mean", "std")}
        if cache:
            with atomic(cache) as partial:
                save_file(latents, partial)
        return latents["mean"], latents["std"]

    def modules(self) -> dict[str, nn.Module]:
        planner = {"planner": self.planner} if self.options["plan"] else {}
        return {"unet": self.unet, "text_encoder": self.text_encoder, **planner}

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        resting = "unet." if self.options["words_only"] else ()
        return [(name, parameter) for name, parameter in super().trainable() if not name.startswith(resting)]

    def load_weights(self, source: str) -> dict[str, int]:
        """Starts from a pipeline folder, embedded name or Hub id of the same architecture and VAE."""
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel

        from wm_pipelines.hub import resolve

        folder = resolve(source)
        saved = {
            "unet": load_model(UNet2DConditionModel, folder, subfolder="unet"),
            "text_encoder": load_model(CLIPTextModel, folder, subfolder="text_encoder"),
        }
        for name, module in saved.items():
            getattr(self, name).load_state_dict(module.state_dict())
        return {"parameters": sum(p.numel() for module in saved.values() for p in module.parameters())}

    def words(self, index: int, noise: KeyedNoise) -> str:
        """The caption of scene `index` as this step words it; "" in a tenth of the cases."""
        rng = noise.generator(index, "caption")
        chance = rng.random()
        if chance < EMPTY_PROMPT:
            return ""
        return worded(self.scenes[index], rng)

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        words = [self.words(i, noise) for i in indices]
        if self.options["words_only"]:
            return {"loss": self.plan_loss(indices, self._context(words)[:, -(GRID**2) :])}
        shape = self.mean.shape[1:]
        draws = noise.randn(indices, (2, *shape), "noise")
        latents = (self.mean[indices] + self.std[indices] * draws[:, 0]).to(self.device)
        eps = draws[:, 1].to(self.device)
        t = self.timesteps(indices, words, noise).to(self.device)
        false = {}
        if self.options["turned"]:
            rows = [n for n in range(len(indices)) if t[n] >= EARLY]
            false = dict([(n, text) for n in rows if (text := turned(words[n]))][: len(indices) // 4])
        context = self._context([*words, *false.values()])
        noisy = self.schedule.add_noise(latents, eps, t)
        target = self.schedule.get_velocity(latents, eps, t)
        rows, lied = [*range(len(indices)), *false], list(false)
        out = self.unet(noisy[rows].to(memory_format=torch.channels_last), t[rows], context).sample
        error = functional.mse_loss(out[: len(indices)], target)
        losses = {"loss": error}
        if self.options["plan"]:
            losses["plan"] = self.plan_loss(indices, context[: len(indices), -(GRID**2) :])
            losses["loss"] = losses["loss"] + self.options["plan"] * losses["plan"]
        if self.options["turned"]:
            right = (out[lied] - target[lied]).square().mean((1, 2, 3))
            wrong = (out[len(indices) :] - target[lied]).square().mean((1, 2, 3))
            losses["turned"] = functional.softplus((right - wrong) / SOFT).sum() * SOFT / len(indices)
            losses["told"] = (right < wrong).float().mean() if lied else error.detach().new_tensor(0.5)
            losses["loss"] = losses["loss"] + self.options["turned"] * losses["turned"]
        return losses if len(losses) == 1 else {"loss": losses.pop("loss"), "error": error, **losses}

    def _context(self, words: list[str]) -> torch.Tensor:
        """(N, 77, 128)."""
        tokens = self.tokenizer(words, padding="max_length", max_length=77, return_tensors="pt").input_ids
        return self.text_encoder(tokens.to(self.device)).last_hidden_state

    def timesteps(self, indices: list[int], words: list[str], noise: KeyedNoise) -> torch.Tensor:
        """(N,) int64: uniform, but for the share `early` of the captions that say a relation."""
        last = self.schedule.config.num_train_timesteps
        t = noise.integers(indices, (), "timestep", 0, last)
        if self.options["early"]:
            chosen = noise.uniform(indices, (), "early") < self.options["early"]
            chosen &= torch.tensor([bool(RELATION.search(text)) for text in words])
            t = torch.where(chosen, noise.integers(indices, (), "early timestep", EARLY, last), t)
        return t

    def plan_loss(self, indices: list[int], tokens: torch.Tensor) -> torch.Tensor:
        """Cross-entropies of colour, in which solids count as much as floor, and of the shape of solids, over the
        shares that each has of each cell. `tokens`: (N, GRID ** 2, 128), a cell each, row by row."""
        colour, shape = torch.zeros(2, len(indices), 1 + MAX_OBJECTS, dtype=torch.long)
        for n, index in enumerate(indices):
            for o in self.scenes[index].objects:
                colour[n, o.id] = 1 + list(COLOURS).index(o.colour)
                shape[n, o.id] = 1 + SHAPES.index(o.shape)
        ids = self.ids[indices].long().flatten(1)

        def shares(kinds: torch.Tensor, count: int) -> torch.Tensor:  # (N, GRID ** 2, count)
            seen = functional.one_hot(kinds.gather(1, ids), count).float().movedim(-1, 1)
            return functional.adaptive_avg_pool2d(seen.unflatten(2, self.ids.shape[1:]), GRID).flatten(2).mT

        colours, shapes = shares(colour, 1 + len(COLOURS)), shares(shape, 1 + len(SHAPES))[..., 1:]
        floor = colours[..., 0].mean().clamp(1e-3, 1 - 1e-3)
        solid = 1 - floor
        weight = torch.stack([1 / floor, *[1 / solid] * len(COLOURS)]) / 2
        read = self.planner(tokens).split([1 + len(COLOURS), len(SHAPES)], dim=-1)
        colour_loss = -((colours * weight).to(tokens) * read[0].log_softmax(-1)).sum(-1).mean()
        shape_loss = -((shapes / solid).to(tokens) * read[1].log_softmax(-1)).sum(-1).mean()
        return colour_loss + shape_loss

    def export(self, folder: Path) -> None:
        """Writes a whole Stable-Diffusion-shaped pipeline folder in fp16."""
        import json

        from diffusers import DDIMScheduler, StableDiffusionPipeline

        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(folder)
        # transformers 5 leaves vocab.json and merges.txt out, which older ones need
        build_tokenizer(folder / "tokenizer")
        for name in ("vae", "text_encoder", "unet"):
            for file in (folder / name).glob("*.safetensors"):
                file.unlink()
            save_half(getattr(self, name), folder / name)
        index = folder / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text()), indent=2) + "\n")


SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "steps_offset": 1,
}


def _tokenizer():
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return build_tokenizer(folder)


class JudgeTask(Task):
    """`DioramaJudge` on every colour x shape pair of the train keys; pixels are weighted so that solids count as much
    as floor."""

    def __init__(self, recipe: Recipe):
        from wm_pipelines.diorama.judge import DioramaJudge

        self.options = options_of(recipe, {"length": 8000, "cache": None})
        self.images = pictures_of(self.options, composition="all")
        self.length = len(self.images)
        self.data = f"Diorama images, train split, all pairs, {self.length} scenes"
        self.judge = DioramaJudge()
        self.colour = torch.zeros(self.length, 1 + MAX_OBJECTS, dtype=torch.long)
        self.shape = torch.full((self.length, 1 + MAX_OBJECTS), -1)
        for i, scene in enumerate(self.images.scenes):
            for o in scene.objects:
                self.colour[i, o.id] = 1 + list(COLOURS).index(o.colour)
                self.shape[i, o.id] = SHAPES.index(o.shape)

    def modules(self) -> dict[str, nn.Module]:
        return {"judge": self.judge}

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        ids = self.images.ids[indices].long()
        colour = self.colour[indices].gather(1, ids.flatten(1)).view_as(ids).to(self.device)
        shape = self.shape[indices].gather(1, ids.flatten(1)).view_as(ids).to(self.device)
        pictures = self.images.pictures(indices)
        # generated pictures are a little soft and noisy; so are these
        soft = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        mix = noise.uniform(indices, (1, 1, 1), "soft")
        grain = noise.randn(indices, pictures.shape[1:], "grain") * noise.uniform(indices, (1, 1, 1), "amount") * 0.06
        out = self.judge((pictures + (soft - pictures) * mix + grain).clamp(0, 1).to(self.device))
        weight = torch.where(colour > 0, 1.0, (colour > 0).float().mean())
        colour_loss = (functional.cross_entropy(out.colour, colour, reduction="none") * weight).sum() / weight.sum()
        shape_loss = functional.cross_entropy(out.shape, shape, ignore_index=-1)
        return {"loss": colour_loss + shape_loss, "colour": colour_loss, "shape": shape_loss}

    def export(self, folder: Path) -> None:
        save_half(self.judge, folder)
