"""The micro-experiment's world: its scenes, its small base, its arms, and how an arm is sampled.

See flexecontrol_micro.py, which runs it. Conditions are canny, depth and seg; scenes have two objects of different
colours, even ones of one shape (edges alone cannot say which is which), odd ones of two shapes.
"""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from wm_pipelines.diorama.datasets import DioramaDataset, RenderedImages
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.scene import Scene, sample_scene
from wm_pipelines.diorama.tokenizer import build_tokenizer
from wm_pipelines.diorama.training import PLAIN, SCHEDULE, SDTask
from wm_pipelines.flexecontrol.network.decomposition import target_names
from wm_pipelines.flexecontrol.network.slots import SlotInput
from wm_pipelines.flexecontrol.steering.attention import PhraseAttention, phrase_attention
from wm_pipelines.flexecontrol.training.augmentation import widen
from wm_pipelines.flexecontrol.training.scenes import DioramaScenes, SceneTask
from wm_pipelines.media.conditions import BACKGROUND, depth_to_map, extract, seg_from_ids
from wm_pipelines.runtime.noise import randn
from wm_pipelines.runtime.random import keyed
from wm_pipelines.text.prompts import token_span
from wm_pipelines.training import KeyedNoise, Recipe, check_keys

TYPES = ("canny", "depth", "seg")
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "A": ("full copy, as Uni-ControlNet", {"preset": "uni", "lambda_ca": 0.0, "lambda_mask": 0.0}),
    "B": ("FlexEControl: paper preset, both losses", {}),
    "C": ("LoRA of B's budget", {"preset": "carrier", "lora_rank": 1, "lambda_ca": 0.0, "lambda_mask": 0.0}),
    "D": ("B without L_ca", {"lambda_ca": 0.0}),
    "E": ("B without L_mask", {"lambda_mask": 0.0}),
    "F": ("B without both losses", {"lambda_ca": 0.0, "lambda_mask": 0.0}),
    "G": ("one ControlNet per type, summed", {"lambda_ca": 0.0, "lambda_mask": 0.0}),
    "T": ("B on all transformer linears", {"preset": "transformer"}),
}


class PairScenes(DioramaDataset):
    """Plain scenes of two objects whose colours differ; of one shape where the index is even, of two where odd."""

    def __init__(self, split: str, length: int, name: str):
        super().__init__(split=split, length=length, num_objects=2, patterns=("plain",), name=name)

    def scene(self, index: int) -> Scene:
        same, attempt = index % 2 == 0, 0
        while True:
            key = (self.name, self.split, index, attempt)
            scene = sample_scene(*key, num_objects=2, min_pixels=12.0, same_shape=same, patterns=self.patterns)
            a, b = scene.objects
            if a.colour != b.colour and (a.shape == b.shape) == same:
                return scene
            attempt += 1


class Bank:
    """Rendered scenes with their latents and whole condition maps, made once.

    Attributes: `scenes`, `rgb` (N,3,H,W) uint8, `ids` (N,H,W), `depth` (N,H,W), `mean` and `std` (N,4,h,w) of the
    scaled latents, `maps` {type: (N,3,H,W)}; empty with `maps=False`.
    """

    def __init__(
        self, vae: AutoencoderKL, split: str, length: int, name: str, cache: Path | None = None, maps: bool = True
    ):
        images = RenderedImages(PairScenes(split, length, name), cache)
        self.scenes, self.rgb, self.ids, self.depth = images.scenes, images.rgb, images.ids, images.depth
        with torch.no_grad():
            parts = [
                vae.encode(self.pictures(i).to(vae.device) * 2 - 1).latent_dist for i in torch.arange(length).split(64)
            ]
        scale = vae.config.scaling_factor
        self.mean = torch.cat([p.mean for p in parts]).cpu() * scale
        self.std = torch.cat([p.std for p in parts]).cpu() * scale
        self.maps: dict[str, torch.Tensor] = {}
        if maps:
            self.maps = {
                "canny": extract("canny", self.pictures(torch.arange(length))),
                "depth": depth_to_map(self.depth.float()),
                "seg": seg_from_ids(self.ids, [f"{name}-{split}-{i}" for i in range(length)]),
            }

    def pictures(self, indices: torch.Tensor | list[int]) -> torch.Tensor:
        """(N,3,H,W) float32 in [0, 1]."""
        return self.rgb[indices].float() / 255


class MicroBaseTask(SDTask):
    """The small base: UNet (32,64,64) with one layer per block and a text encoder of width 64, on given latents.

    The finest level (16x16) has no attention, which saves 30 % of every step; text acts at 8x8 and 4x4.
    """

    def __init__(self, recipe: Recipe, vae: AutoencoderKL, bank: Bank, folder: Path):
        check_keys(recipe.options, ("scenes",), "options")
        self.options = PLAIN
        self.vae, self.bank, self.scenes, self.length = vae, bank, bank.scenes, len(bank.scenes)
        self.mean, self.std = bank.mean, bank.std
        self.data = f"Diorama scenes of two objects, train split, {self.length}"
        self.tokenizer = build_tokenizer(folder)
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(self.tokenizer), hidden_size=64, intermediate_size=256, projection_dim=64,
                num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=self.tokenizer.model_max_length,
                bos_token_id=self.tokenizer.bos_token_id, eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        )  # fmt: skip
        self.unet = UNet2DConditionModel(
            sample_size=bank.mean.shape[-1], block_out_channels=(32, 64, 64), layers_per_block=1, norm_num_groups=8,
            cross_attention_dim=64, attention_head_dim=(2, 4, 4),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        self.schedule = DDPMScheduler(**SCHEDULE)

    def words(self, index: int, noise: KeyedNoise) -> str:
        """Colours and shapes only, in random order, so that text says nothing of the layout; a tenth is empty."""
        rng = noise.generator(index, "caption")
        if rng.random() < 0.1:
            return ""
        return caption(self.scenes[index], "objects", seed=int(rng.integers(1 << 30)), relations=False).text


class Base:
    """The frozen base of all arms, loaded once: `vae`, `unet`, `text_encoder`, `tokenizer`, `schedule`."""

    def __init__(self, folder: Path):
        SceneTask.load_base(self, folder)
        self.sampler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
        self.folder = folder
        weights = (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
        self.sha256 = hashlib.sha256(weights).hexdigest()

    def to(self, device: torch.device) -> "Base":
        for module in (self.vae, self.unet, self.text_encoder):
            module.to(device)
        return self

    def encode(self, texts: list[str]) -> torch.Tensor:
        """(B,77,64) text tokens."""
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt").input_ids
        return self.text_encoder(ids.to(self.unet.device)).last_hidden_state


class BankScenes(DioramaScenes):
    """The first scenes of a bank."""

    def __init__(self, options: dict[str, Any], bank: Bank):
        self.options, self.bank, self.length = options, bank, options["length"]
        if self.length > len(bank.scenes):
            raise ValueError(f"options.length is {self.length}, the bank has {len(bank.scenes)} scenes")
        self.data = f"Diorama scenes of two objects, train split, {self.length}, every other one with one shape"
        for name in ("scenes", "rgb", "ids", "depth", "mean", "std"):
            setattr(self, name, getattr(bank, name)[: self.length])

    def maps(self, kind: str, indices: list[int], boxed: set[int]) -> torch.Tensor:
        return self.bank.maps[kind][indices]


class ArmTask(SceneTask):
    """One adapter on the shared base and the first `length` scenes of the shared bank."""

    def __init__(self, recipe: Recipe, base: Base, bank: Bank):
        self.shared, self.bank = base, bank
        super().__init__(recipe)

    def load_base(self, folder: Path) -> None:
        for name in ("vae", "unet", "text_encoder", "tokenizer", "schedule"):
            setattr(self, name, getattr(self.shared, name))

    def make_source(self) -> BankScenes:
        return BankScenes(self.options, self.bank)

    def export(self, folder: Path) -> None:
        """Nothing: an arm is measured where it is, not published."""

    def _add_lora(self, rank: int) -> None:
        """LoRA on the linears that B decomposes, of the nearest count not above B's.

        Ranks start at 1 everywhere; the deepest layers get one more while the budget lasts.
        """
        from peft import LoraConfig

        linears = {name: self.control.get_submodule(name) for name in target_names(self.control, "paper")}
        widths = {name: m.in_features + m.out_features for name, m in linears.items()}
        n, r = self.options["n"], self.options["r"]
        left = r * sum(widths.values()) + n**3 * len(widths) - rank * sum(widths.values())
        pattern = {}
        for name in reversed(widths):  # the middle block comes last
            if widths[name] <= left:
                pattern[name], left = rank + 1, left - widths[name]
        self.control.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=list(widths), rank_pattern=pattern,
                       alpha_pattern=dict(pattern))
        )  # fmt: skip


class ControlNets(nn.Module):
    """Arm G: a stock ControlNet for each type; every condition is a pass of its own and the residuals are summed.

    Has the face of `FlexEControlModel` that training and sampling use. Samples that do not have a condition are left
    out of its pass.
    """

    def __init__(self, unet: UNet2DConditionModel, types: list[str], stride: int):
        super().__init__()
        channels = (16, 16, 24, 24)[: stride.bit_length()]
        self.nets = nn.ModuleDict(
            {t: ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=channels) for t in types}
        )
        self.config = SimpleNamespace(types=types, fast="shared", backgrounds=[BACKGROUND[t] for t in types])

    def trainable_parameters(self, part: str = "local") -> dict[str, nn.Parameter]:
        return dict(self.named_parameters())

    def condition_features(self, slots: list[SlotInput]) -> list[SlotInput]:
        return slots

    def forward(self, sample, timestep, encoder_hidden_states, features, return_dict=False):
        total = None
        for slot in features:
            strength = torch.as_tensor(slot.strength, device=sample.device).float().reshape(-1)
            copies = sample.shape[0] // slot.image.shape[0]
            strength = strength.expand(slot.image.shape[0]).repeat(copies)
            rows = strength.nonzero().flatten()
            if not len(rows) and total is not None:
                continue
            rows = rows if len(rows) else rows.new_zeros(1)  # a batch without conditions still needs zeros to add
            image, region = slot.image.to(sample), 1.0 if slot.region is None else slot.region.to(sample)
            image = region * (region * image + (1 - region) * BACKGROUND[slot.type])
            image = image.repeat(copies, 1, 1, 1)[rows]
            down, mid = self.nets[slot.type](
                sample[rows], torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(len(sample))[rows],
                encoder_hidden_states[rows], image, return_dict=False,
            )  # fmt: skip
            weights = strength[rows][:, None, None, None]
            parts = [x.new_zeros(len(sample), *x.shape[1:]).index_add(0, rows, x * weights) for x in (*down, mid)]
            total = parts if total is None else [a + b for a, b in zip(total, parts, strict=True)]
        return tuple(total[:-1]), total[-1]


class ControlNetTask(ArmTask):
    """Arm G behind the same training."""

    def __init__(self, recipe: Recipe, base: Base, bank: Bank):
        super().__init__(recipe, base, bank)
        types = list(self.control.config.types)
        self.control = ControlNets(self.unet, types, self.control.config.condition_stride).train()
        self.control.requires_grad_(True)


def make_arm(arm: str, recipe: Recipe, base: Base, bank: Bank) -> ArmTask:
    """The task of one cell; what is drawn at random depends on `recipe.seed` only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(keyed("micro", recipe.seed).integers(2**63)))
        return (ControlNetTask if arm == "G" else ArmTask)(recipe, base, bank)


class HeldOut:
    """What an arm is shown of held-out scenes: two edge maps, one for each object, each bound to its phrase."""

    def __init__(self, bank: Bank, base: Base):
        self.bank, self.texts, tokens = bank, [], []
        for i, scene in enumerate(bank.scenes):
            words = caption(scene, "objects", seed=i, relations=False)
            self.texts.append(words.text)
            tokens.append(torch.zeros(2, base.tokenizer.model_max_length, dtype=torch.bool))
            for obj, span in words.spans.items():
                first, last = token_span(base.tokenizer, words.text, span)
                tokens[-1][obj - 1, first:last] = True
        self.tokens = torch.stack(tokens)
        masks = (bank.ids.long()[:, None] == torch.tensor([1, 2])[None, :, None, None]).float()
        self.regions = widen(masks)  # (N,2,H,W)
        self.edges = bank.maps["canny"] * self.regions.amax(1, keepdim=True)

    def slots(self, rows: torch.Tensor) -> list[SlotInput]:
        canny = self.bank.maps["canny"][rows]
        return [SlotInput("canny", canny, 1.0, self.regions[rows, i : i + 1]) for i in range(2)]

    def attention(self, rows: torch.Tensor, bind: bool, latent: tuple[int, int]) -> PhraseAttention:
        return PhraseAttention(self.tokens[rows], self.regions[rows], bind, None, latent)


@torch.no_grad()
def sample(
    base: Base, control: nn.Module | None, held: HeldOut, bind: bool, steps: int, guidance: float, batch: int
) -> torch.Tensor:
    """Pictures (N,3,H,W) in [0, 1] of all held-out scenes, DDIM; the same initial noise for every arm and seed.

    The unconditional branch keeps the conditions and is not bound. Without `control` there is only text.
    """
    device, pictures = base.unet.device, []
    for rows in torch.arange(len(held.texts)).split(batch):
        shape = held.bank.mean.shape[1:]
        latents = torch.stack([randn(shape, "micro sample", int(i)) for i in rows]).to(device)
        context = torch.cat([base.encode([""] * len(rows)), base.encode([held.texts[i] for i in rows])])
        features = None if control is None else control.condition_features(held.slots(rows))
        watched = {"unet": base.unet} if control is None else {"unet": base.unet, "adapter": control}
        base.sampler.set_timesteps(steps, device=device)
        with phrase_attention(watched, held.attention(rows, bind, tuple(shape[-2:]))):
            for t in base.sampler.timesteps:
                both, extra = torch.cat([latents] * 2), {}
                if control is not None:
                    down, mid = control(both, t, context, features, return_dict=False)
                    extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
                free, guided = base.unet(both, t, context, **extra).sample.chunk(2)
                latents = base.sampler.step(free + guidance * (guided - free), t, latents).prev_sample
        decoded = base.vae.decode(latents / base.vae.config.scaling_factor).sample
        pictures.append((decoded / 2 + 0.5).clamp(0, 1).cpu())
    return torch.cat(pictures)


@torch.no_grad()
def held_out_error(base: Base, control: nn.Module, held: HeldOut, draws: int, batch: int) -> torch.Tensor:
    """(N,) mean squared error of the scheduler's target (velocity) over `draws` evenly spread timesteps."""
    device, total = base.unet.device, []
    count = base.schedule.config.num_train_timesteps
    for rows in torch.arange(len(held.texts)).split(batch):
        context, features = base.encode([held.texts[i] for i in rows]), control.condition_features(held.slots(rows))
        latents, error = held.bank.mean[rows].to(device), 0.0
        for k in range(draws):
            noise = torch.stack([randn(latents.shape[1:], "micro error", int(i), k) for i in rows]).to(device)
            t = torch.full((len(rows),), int((k + 0.5) * count / draws), device=device)
            noisy = base.schedule.add_noise(latents, noise, t)
            down, mid = control(noisy, t, context, features, return_dict=False)
            out = base.unet(
                noisy, t, context, down_block_additional_residuals=down, mid_block_additional_residual=mid
            ).sample
            target = base.schedule.get_velocity(latents, noise, t)
            error = error + (out - target).square().mean((1, 2, 3)) / draws
        total.append(error.cpu())
    return torch.cat(total)
