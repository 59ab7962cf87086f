"""How `diorama-tokens` is trained: `VQModel` on 64 x 64 pictures, a grid of codes for each."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from wm_pipelines.diorama.training import SIZE, options_of, pictures_of
from wm_pipelines.hub.stock import load_model
from wm_pipelines.hub.weights import save_half
from wm_pipelines.runtime.readers import read_json
from wm_pipelines.tokens.pictures import PictureTokens
from wm_pipelines.training import KeyedNoise, Recipe, Task

FLOOR = 1 / 4  # of a VAE's features that codes begin at: places without things for each with one
TONE = 0.05  # between the brightest and the darkest value of a place that is bare floor
APART = 0.98  # share of bare places that a floor's own codes hold: no other code lies so near
PICTURES, VECTORS = 1536, 65536  # at most, that the codes of an export are centres of
COMMITMENT = 0.25  # beta of van den Oord et al.: the weight of what pulls the encoder to the codes


class Codebook(nn.Module):
    """K codes as a learned linear map of K points (SimVQ, Zhu et al., arXiv 2411.02038, eq. 5, where the points rest).

    The map moves every code at each step, those too that no picture used, so that none falls out of use. With as few
    dimensions as here it can't give the codes another shape than the points have, so that the points are learned too.
    """

    def __init__(self, points: torch.Tensor):
        super().__init__()
        self.points = nn.Parameter(points)
        self.map = nn.Parameter(torch.eye(points.shape[1]))

    def forward(self) -> torch.Tensor:
        """(K, D)."""
        return self.points @ self.map


@torch.no_grad()
def spread(tokens: PictureTokens, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Lets the encoder's output begin with mean 0 and width 1 on `pictures`, as the codes do; else few are used.

    Returns:
        The mean and the width that it had, `(D,)` each.
    """
    features = tokens.features(pictures).flatten(0, 2)
    mean, std = features.mean(0), features.std(0).clamp(min=1e-3)
    tokens.vq.quant_conv.weight.div_(std[:, None, None, None])
    tokens.vq.quant_conv.bias.sub_(mean).div_(std)
    return mean, std


def nearest(vectors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Of `codes` (K, D) the number of that next to each of `vectors` (N, D)."""
    return torch.cat([torch.cdist(some, codes).argmin(1) for some in vectors.split(4096)])


def distances(vectors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """From each of `vectors` (N, D) to that of `codes` (K, D) which is next to it."""
    return (vectors - codes[nearest(vectors, codes)]).norm(dim=1)


def spaced(vectors: torch.Tensor, count: int) -> torch.Tensor:
    """`count` of `vectors`, or all if there are fewer, at equal steps."""
    return vectors[torch.linspace(0, len(vectors) - 1, min(len(vectors), count)).long()]


def centres(vectors: torch.Tensor, count: int) -> torch.Tensor:
    """`count` centres (count, D) of `vectors` (N, D) by k-means, from as many of them at equal steps."""
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")  # it stays where it began
        found, _ = kmeans2(vectors.numpy(), spaced(vectors, count).numpy(), iter=20, minit="matrix")
    return torch.from_numpy(found)


def dyed(
    pictures: torch.Tensor, solid: torch.Tensor, indices: list[int], noise: KeyedNoise, share: float
) -> torch.Tensor:
    """`pictures` (N, 3, H, W), of which about `share` have, where `solid` (N, H, W) is true, their red, green and blue
    in another order."""
    pictures = pictures.clone()
    for n, index in enumerate(indices):
        rng = noise.generator(index, "dyed")
        if rng.random() < share:
            pictures[n] = torch.where(solid[n], pictures[n, torch.from_numpy(rng.permutation(3))], pictures[n])
    return pictures


def bare_places(pictures: torch.Tensor, ids: torch.Tensor, factor: int) -> torch.Tensor:
    """Places (N, H / factor, W / factor) that hold neither solid nor shadow: nothing but floor of one tone.

    Args:
        pictures: (N, 3, H, W) in [0, 1]. ids: (N, H, W), 0 where no object is.
    """
    most, least = (functional.max_pool2d(sign * pictures, factor).amax(1) for sign in (1, -1))
    solid = functional.max_pool2d((ids > 0).float()[:, None], factor)[:, 0] > 0
    return (most + least < TONE) & ~solid


class TokensTask(Task):
    """VQ-VAE (van den Oord et al., arXiv 1711.00937): absolute and squared error and error of differences, in which
    solids count as much as floor, and the two terms of the codes, of which beta weighs the encoder's.

    `VQModel` itself gives beta to the codebook's term, so its loss isn't used.

    Options:
        channels: of the levels; four of them make one code of 8 x 8 pixels, three one of 4 x 4.
        latent: channels between encoder and codes. codes, dim: how many codes, and how long their vectors are.
        still: weight of a term (our design) that keeps the features of a place as they are where something else in the
            picture changes: normalisation over the picture moves them, and codes flip that a world model should copy.
            Rectangles of other pictures are pasted in; what lies a place or more away must not feel it. 0: none.
        dyed: share of the pictures in which red, green and blue of the solids change places, so that things come in
            other colours than the world gives them: what never saw a red cone draws one as an orange.
        bare: weight of a term (our design) that draws the features of all places of bare floor to one point: they say
            nothing, and codes that tell them apart are noise to what is trained on codes. 0: none.
        floor: at export, so many codes are centres of bare floor, all others of what lies farther from those than
            nearly all bare floor. A floor of many codes flickers. 0: the codes stay as they were trained.
        length, cache: how many pictures, and the file that keeps them between runs.
    """

    def __init__(self, recipe: Recipe):
        from diffusers import VQModel

        defaults = {"length": 12000, "cache": None, "channels": [16, 32, 48, 56], "latent": 32, "codes": 1024}
        defaults |= {"dim": 8, "still": 0.0, "dyed": 0.0, "bare": 0.0, "floor": 0}
        self.options = options_of(recipe, defaults)
        self.images = pictures_of(self.options)
        self.length = len(self.images)
        self.data = f"Diorama images, train split, {self.length} scenes"
        channels, dim = tuple(self.options["channels"]), self.options["dim"]
        self.vq = VQModel(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            latent_channels=self.options["latent"],
            vq_embed_dim=dim,
            num_vq_embeddings=self.options["codes"],
            layers_per_block=1,
            norm_num_groups=8,
            mid_block_add_attention=False,
            sample_size=SIZE,
        )
        self.vq.quantize.embedding.requires_grad_(False)  # export writes it
        self.tokens = PictureTokens(self.vq)
        self.codebook = Codebook(torch.randn(self.options["codes"], dim))
        spread(self.tokens, self.images.pictures(range(min(64, self.length))))

    def modules(self) -> dict[str, nn.Module]:
        return {"vq": self.vq, "codebook": self.codebook}

    def load_weights(self, source: str) -> dict[str, int]:
        """Starts from a folder or embedded name of the same architecture; or from an `AutoencoderKL` with the same
        channels, by itself or as the `vae` of a pipeline: the mean of its posterior is what is quantised then, and the
        codes begin as the centres of such means.
        """
        from diffusers import AutoencoderKL, VQModel

        from wm_pipelines.hub import check_weights, resolve

        folder = resolve(source)
        check_weights(folder)
        inner = folder / "vae" if (folder / "vae").is_dir() else folder
        if read_json(inner / "config.json").get("_class_name") == "AutoencoderKL":
            saved: nn.Module = load_model(AutoencoderKL, inner)
            self._quantise(saved)
        else:
            saved = load_model(VQModel, folder)
            self.vq.load_state_dict(saved.state_dict())
            self._begin(self.tokens.codebook)
        return {"parameters": sum(p.numel() for p in saved.parameters())}

    @torch.no_grad()
    def _begin(self, codes: torch.Tensor) -> None:
        self.codebook.points.copy_(codes)
        self.codebook.map.copy_(torch.eye(len(self.codebook.map)))

    @torch.no_grad()
    def _quantise(self, vae: Any) -> None:
        """Encoder, decoder and codes from a VAE; before quantisation the two decode alike."""
        count = vae.config.latent_channels
        if (self.options["latent"], self.options["dim"]) != (count, count):
            raise ValueError(f"init_from: a VAE of {count} channels needs options.latent = options.dim = {count}")
        encoder, mean = vae.encoder.state_dict(), vae.quant_conv.weight[:count, :, 0, 0]
        weight, bias = (encoder[f"conv_out.{name}"] for name in ("weight", "bias"))
        encoder["conv_out.weight"] = torch.einsum("om,mihw->oihw", mean, weight)
        encoder["conv_out.bias"] = mean @ bias + vae.quant_conv.bias[:count]
        try:
            self.vq.encoder.load_state_dict(encoder)
            self.vq.decoder.load_state_dict(vae.decoder.state_dict())
        except RuntimeError as error:
            raise ValueError(f"init_from: the VAE has another architecture: {str(error)[:200]}") from None
        self.vq.quant_conv.weight.copy_(torch.eye(count)[:, :, None, None])
        self.vq.quant_conv.bias.zero_()
        some = range(min(1024, self.length))
        pictures = self.images.pictures(some)
        centre, width = spread(self.tokens, pictures[:256])
        after = vae.post_quant_conv
        self.vq.post_quant_conv.weight.copy_(after.weight * width[None, :, None, None])
        self.vq.post_quant_conv.bias.copy_(after.bias + after.weight[:, :, 0, 0] @ centre)
        features = torch.cat([self.tokens.features(part) for part in pictures.split(64)])
        solid = functional.max_pool2d((self.images.ids[some] > 0).float()[:, None], self.tokens.factor)[:, 0] > 0
        rest = features[
            ~solid
        ]  # most places are floor, and a few codes are enough for it: where it has many they flicker
        both = torch.cat([features[solid], spaced(rest, int(FLOOR * solid.sum()))])
        self._begin(centres(both.cpu(), self.options["codes"]))

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        ids = self.images.ids[indices]
        whole = self.images.pictures(indices)
        pictures = dyed(whole, ids > 0, indices, noise, self.options["dyed"]).to(self.device)
        features = self.tokens.features(pictures)
        table = self.codebook()
        with torch.no_grad():
            flat = features.flatten(0, 2)
            codes = (table.square().sum(1) / 2 - flat @ table.T).argmin(1).reshape(features.shape[:-1])
        vectors = table[codes]
        code_loss = functional.mse_loss(vectors, features.detach())
        commitment = functional.mse_loss(features, vectors.detach())
        passed_on = features + (vectors - features).detach()  # straight through: the decoder's gradient, as it is
        out = self.vq.decode(passed_on.permute(0, 3, 1, 2).contiguous(), force_not_quantize=True).sample
        weight = self._weight(indices)
        wanted = pictures * 2 - 1
        error, square = (weight * (out - wanted).abs()).mean(), (weight * (out - wanted).square()).mean()
        edges = sum((out.diff(dim=d) - wanted.diff(dim=d)).abs().mean() for d in (-1, -2))
        loss = error + 5 * square + 0.5 * edges + code_loss + COMMITMENT * commitment
        parts = {"l1": error, "mse": square, "edges": edges, "codes": commitment}
        if self.options["still"]:
            parts["still"] = self.unrest(pictures, features, indices, noise)
            loss = loss + self.options["still"] * parts["still"]
        if self.options["bare"]:
            bare = features[bare_places(whole, ids, self.tokens.factor).to(self.device)]
            parts["bare"] = (bare - bare.mean(0)).square().mean() if len(bare) else features.new_zeros(())
            loss = loss + self.options["bare"] * parts["bare"]
        used = torch.tensor(len(codes.unique()), dtype=torch.float32)
        return {"loss": loss, **parts, "used": used}

    def unrest(
        self, pictures: torch.Tensor, features: torch.Tensor, indices: list[int], noise: KeyedNoise
    ) -> torch.Tensor:
        """Mean squared difference of the features `(N, h, w, D)` where nothing changed, after a rectangle of up to
        half of each side came from the next picture."""
        rows, columns = features.shape[1:3]
        pasted = torch.zeros(len(indices), 1, rows, columns, device=self.device)
        for n, index in enumerate(indices):
            rng = noise.generator(index, "paste")
            height, width = (int(rng.integers(1, size // 2 + 1)) for size in (rows, columns))
            top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
            pasted[n, :, top : top + height, left : left + width] = 1
        whole = functional.interpolate(pasted, size=pictures.shape[2:], mode="nearest")
        mixed = torch.where(whole > 0, pictures.roll(1, 0), pictures)
        rest = 1 - functional.max_pool2d(pasted, 3, stride=1, padding=1)[:, 0]
        away = (self.tokens.features(mixed) - features.detach()).square().mean(-1)
        return (away * rest).sum() / rest.sum().clamp(min=1)

    def _weight(self, indices: list[int]) -> torch.Tensor:
        """(N, 1, H, W), mean 1: solids, with a margin of two pixels, weigh as much as the rest of the batch."""
        solid = (self.images.ids[indices] > 0).float()[:, None].to(self.device)
        solid = functional.max_pool2d(solid, 5, stride=1, padding=2)
        share = solid.mean().clamp(0.01, 0.99)
        return solid / share / 2 + (1 - solid) / (1 - share) / 2

    def export(self, folder: Path) -> None:
        """Writes the model in fp16; its codes are those of the codebook in fp16."""
        with torch.no_grad():
            codes = self._of_few_floors() if self.options["floor"] else self.codebook()
            self.tokens.codebook.copy_(codes)
        save_half(self.vq, folder)

    def _of_few_floors(self) -> torch.Tensor:
        some = range(min(PICTURES, self.length))
        pictures = self.images.pictures(some)
        parts = pictures.to(self.device).split(64)
        features = torch.cat([self.tokens.features(part).cpu() for part in parts])
        bare = bare_places(pictures, self.images.ids[some], self.tokens.factor)
        floor, rest = features[bare], features[~bare]
        codes = centres(spaced(floor, VECTORS), self.options["floor"])
        radius = distances(spaced(floor, VECTORS), codes).quantile(APART)
        count = len(self.codebook.points) - len(codes)
        apart = rest[distances(rest, codes) > radius]
        return torch.cat([codes, centres(spaced(apart if len(apart) >= count else rest, VECTORS), count)])
