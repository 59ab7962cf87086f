"""Where a picture changes, and how much each place weighs in the loss (arXiv 2506.06006, section 3.3).

The paper weighs a code's loss by the squared distance of the two pictures' features there and gives no normaliser, no
floor and no limit; those are our design.
"""

import torch
from torch.nn import functional

from wm_pipelines.dynamics.coded import Recognizer
from wm_pipelines.tokens.pictures import PictureTokens

ALPHA = 0.8
"""Share of the weight that every place gets; 1 is plain cross-entropy, 0.5 is strong."""
LARGEST = 10.0
SMALLEST_CHANGE = 1e-8  # mean distance below which two pictures count as one


def recognition_weights(distances: torch.Tensor, alpha: float = ALPHA) -> torch.Tensor:
    """Weights of mean 1 for distances `(B, ...)`: clip(alpha + (1 - alpha) d / mean d, 0, 10), rescaled.

    Exactly 1 everywhere for `alpha` 1, and for a pair that doesn't differ.

    Raises:
        ValueError: `alpha` outside [0, 1], or distances that are negative or not finite.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` is {alpha}; it must lie in [0, 1]")
    if not bool((distances.isfinite() & (distances >= 0)).all()):
        raise ValueError("`distances` must be finite and 0 or more")
    if alpha == 1:
        return torch.ones_like(distances)
    flat = distances.flatten(1).double()
    mean = flat.mean(1, keepdim=True)
    raw = (alpha + (1 - alpha) * flat / mean.clamp(min=SMALLEST_CHANGE)).clamp(0, LARGEST)
    weights = torch.where(mean < SMALLEST_CHANGE, torch.ones_like(raw), raw / raw.mean(1, keepdim=True))
    return weights.reshape(distances.shape).to(distances.dtype)


def vq_l2(tokens: PictureTokens) -> Recognizer:
    """Squared L2 of the features behind `quant_conv`, before the nearest code is looked up."""

    @torch.no_grad()
    def recognise(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return (tokens.features(before) - tokens.features(after)).square().sum(-1)

    return recognise


def code_change(tokens: PictureTokens) -> Recognizer:
    """1 where the code differs, else 0. Hard zeros: with `alpha` 0 what rests is not learned at all."""

    def recognise(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return (tokens.encode(before) != tokens.encode(after)).float()

    return recognise


def latent_l2(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Squared difference of latents `(B, C, h, w)`, averaged over channels: `(B, h, w)`."""
    return (before - after).square().mean(1)


def vae_l2(vae: torch.nn.Module) -> Recognizer:
    """Squared difference of the latents' means, averaged over channels: the form for editors that diffuse latents."""

    @torch.no_grad()
    def recognise(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        first, second = (vae.encode(2 * pictures - 1).latent_dist.mean for pictures in (before, after))
        return latent_l2(first, second)

    return recognise


def weighted_denoising_loss(predicted: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean squared error of a denoiser `(B, C, h, w)`, each place weighed by `weights` `(B, h, w)`; with weights that
    are all 1, `functional.mse_loss` itself."""
    if bool((weights == 1).all()):
        return functional.mse_loss(predicted, wanted)
    return (weights.detach()[:, None] * (predicted - wanted).square()).mean()


RECOGNIZERS = {"vq_l2": vq_l2, "code_change": code_change}
"""Those that a picture tokeniser alone is enough for, by name."""
