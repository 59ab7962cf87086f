"""Pictures as codes and back, through diffusers' `VQModel`."""

import torch
from diffusers import VQModel

ROWS = 1024
"""Vectors that are compared with the whole codebook at once: 67 MB at 8,192 codes."""


class PictureTokens:
    """The codes of a `VQModel` (van den Oord et al., 1711.00937; VQGAN, Esser et al., 2012.09841).

    A picture is `(3, H, W)` in [0, 1], float32; the model sees it as 2x - 1. Sides are multiples of `factor`, and one
    code stands for each `factor` x `factor` cell. `codes.flatten(1)` is the order in which token models read them,
    row by row. Nothing is resized and nothing is moved: pictures and codes lie on the device where the model runs.

    Encoding is done in float32 only: rounding carries vectors over the borders between codes, and codes that flip
    look like motion (with random weights bf16 changes about one code in forty, fp16 one in five hundred). On CUDA
    torch rounds the inputs of float32 convolutions to TF32, as coarse as fp16, unless
    `torch.backends.cudnn.allow_tf32` is False. Decoding runs in the model's dtype.

    Args:
        vq: the model; `load_model(VQModel, folder)` of `hub.stock` loads one.

    Raises:
        ValueError: `vq` is no `VQModel`.

    Example:

        tokens = PictureTokens(VQModel(block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
                                       up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=64))
        codes = tokens.encode(torch.rand(2, 3, 16, 24))   # (2, 8, 12), int64, 0 ... 63
        pictures = tokens.decode(codes)                   # (2, 3, 16, 24)
    """

    def __init__(self, vq: VQModel):
        if not isinstance(vq, VQModel):
            raise ValueError(f"`vq` is a {type(vq).__name__}; it must be a diffusers VQModel")
        self.vq = vq

    @property
    def factor(self) -> int:
        """Pixels, along each side, of the cell that one code stands for."""
        return 2 ** (len(self.vq.config.block_out_channels) - 1)

    @property
    def codebook(self) -> torch.Tensor:
        """`(K, D)`: the vector of each code."""
        return self.vq.quantize.embedding.weight

    @property
    def num_codes(self) -> int:
        """K."""
        return self.codebook.shape[0]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the codes of a picture.

        Raises:
            ValueError: sides in pixels that are no multiples of `factor`.
        """
        if height < 1 or width < 1 or height % self.factor or width % self.factor:
            raise ValueError(
                f"`pictures` are {height}x{width}; height and width must be multiples of {self.factor}: resize or pad "
                "them first"
            )
        return height // self.factor, width // self.factor

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """What the codes are the nearest entries to: the encoder's output behind `quant_conv`.

        Args:
            pictures: `(N, 3, H, W)` in [0, 1], float32.

        Returns:
            `(N, h, w, D)`, differentiable.

        Raises:
            ValueError: another shape or dtype, no picture, sides that don't fit, NaN or values outside [0, 1]; or a
                model that is not in float32.
        """
        check_tensor("pictures", pictures)
        channels = self.vq.config.in_channels
        if pictures.ndim != 4 or pictures.shape[1] != channels or not len(pictures):
            raise ValueError(f"`pictures` have shape {tuple(pictures.shape)}; they must be (N, {channels}, H, W)")
        self.grid(*pictures.shape[2:])
        if pictures.dtype != torch.float32:
            raise ValueError(f"`pictures` are {pictures.dtype}; they must be float32 in [0, 1]")
        if not bool(((pictures >= 0) & (pictures <= 1)).all()):
            raise ValueError("`pictures` have values outside [0, 1] or NaN")
        if self.vq.dtype != torch.float32:
            raise ValueError(f"`vq` is in {self.vq.dtype}, which changes codes; encode with vq.float()")
        return self.vq.encode(2 * pictures - 1).latents.permute(0, 2, 3, 1)

    @torch.no_grad()
    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """The codes of pictures.

        Args:
            pictures: as for `features`, which says what is refused.

        Returns:
            `(N, h, w)`, int64 in [0, K).
        """
        return self.lookup(self.features(pictures))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """The pictures of codes.

        Args:
            codes: `(N, h, w)`, integers in [0, K).

        Returns:
            `(N, 3, h * factor, w * factor)`, float32, cut to [0, 1].

        Raises:
            ValueError: another shape or dtype, no picture, or a code out of range.
        """
        codes = check_codes(codes, self.num_codes)
        if codes.ndim != 3 or not codes.numel():
            raise ValueError(f"`codes` have shape {tuple(codes.shape)}; they must be (N, h, w)")
        vectors = self.embed(codes)
        if self.vq.config.lookup_from_codebook:  # then the model takes the codes, and the shape of their vectors
            decoded = self.vq.decode(codes, force_not_quantize=True, shape=tuple(vectors.shape)).sample
        else:
            decoded = self.vq.decode(vectors.permute(0, 3, 1, 2).contiguous(), force_not_quantize=True).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        """The codebook's vectors `(..., D)` for codes `(...)`, in the model's dtype.

        Raises:
            ValueError: codes that are no integers or lie outside [0, K).
        """
        codes = check_codes(codes, self.num_codes)
        return self.codebook.to(codes.device)[codes]

    @torch.no_grad()
    def lookup(self, vectors: torch.Tensor) -> torch.Tensor:
        """The code nearest to each vector by L2, int64 `(...)`.

        In float64. `VQModel` itself asks `torch.cdist`, which multiplies distances out in the model's dtype where
        there are more than 25 vectors or codes: far from zero and near one another, even a codebook's own entries are
        then missed.

        Args:
            vectors: `(..., D)`, finite.

        Raises:
            ValueError: another last side, NaN or infinity.
        """
        check_tensor("vectors", vectors)
        if vectors.ndim < 1 or vectors.shape[-1] != self.codebook.shape[1]:
            raise ValueError(f"`vectors` are {tuple(vectors.shape)}; their last side must be {self.codebook.shape[1]}")
        if not bool(vectors.isfinite().all()):
            raise ValueError("`vectors` have NaN or infinity")
        device = torch.device("cpu") if vectors.device.type == "mps" else vectors.device  # MPS has no float64
        table = self.codebook.to(device).double()
        rows = vectors.to(device).double().reshape(-1, table.shape[1])
        half = table.square().sum(1) / 2
        codes = torch.cat([(half - some @ table.T).argmin(1) for some in rows.split(ROWS)])
        return codes.reshape(vectors.shape[:-1]).to(vectors.device)

    def code_distances(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Squared L2 between the vectors of two sets of codes of one shape `(...)`: 0 where they are equal.

        Raises:
            ValueError: two shapes, or as `embed`.
        """
        first, second = (check_codes(codes, self.num_codes) for codes in (first, second))
        if first.shape != second.shape:
            raise ValueError(f"`first` is {tuple(first.shape)}, `second` {tuple(second.shape)}; shapes must agree")
        return (self.embed(first).float() - self.embed(second).float()).square().sum(-1)


def check_codes(codes: torch.Tensor, num_codes: int) -> torch.Tensor:
    """`codes` as int64; ValueError if they are no integers in [0, `num_codes`)."""
    codes = check_integers("codes", codes)
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < num_codes:
        raise ValueError(f"`codes` lie in {int(codes.min())} ... {int(codes.max())}; there are 0 ... {num_codes - 1}")
    return codes


def check_integers(name: str, values: torch.Tensor) -> torch.Tensor:
    """`values` as int64; ValueError if they are no tensor of integers."""
    check_tensor(name, values)
    if values.dtype == torch.bool or values.is_floating_point() or values.is_complex():
        raise ValueError(f"`{name}` are {values.dtype}; they must be integers")
    return values.long()


def check_tensor(name: str, value: torch.Tensor) -> None:
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"`{name}` are a {type(value).__name__}; they must be a tensor")
