"""Attention maps laid over the picture that they belong to."""

import torch

from wm_pipelines.media.drawing import spread

COLOUR = (1.0, 0.55, 0.0)
"""sRGB of full attention: orange shows on every colour of the miniature world and on photos."""


def attention_overlay(picture: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """One phrase's attention over a picture: attended places glow, the rest is dimmed to half and grey.

    Args:
        picture: float `(3, H, W)` in [0, 1].
        attention: float `(h, w)`, not negative, as in `FlexEControlPipelineOutput.attention_maps`. It is scaled by its
            own maximum, so overlays show where, not how much.

    Returns:
        float32 `(3, H, W)` in [0, 1] on the CPU.

    Raises:
        ValueError: another shape, or attention that is negative or not finite.
    """
    if picture.ndim != 3 or picture.shape[0] != 3:
        raise ValueError(f"picture has shape {tuple(picture.shape)}; it must be (3, H, W)")
    picture = picture.detach().float().cpu().clamp(0, 1)
    heat = spread(attention, picture.shape[1:])
    grey = picture.mean(0, keepdim=True).expand(3, -1, -1) / 2
    glow = (picture + torch.tensor(COLOUR).view(3, 1, 1)) / 2
    return grey + heat * (glow - grey)


def attention_overlays(
    pictures: torch.Tensor, maps: list[dict[str, torch.Tensor]] | None
) -> tuple[torch.Tensor, list[str]]:
    """Overlays of every phrase on every picture, and what each one shows.

    Args:
        pictures: float `(B, 3, H, W)` in [0, 1].
        maps: one dict for each picture, phrase -> `(h, w)`; None or empty dicts where nothing was recorded.

    Returns:
        float32 `(N, 3, H, W)` with N = pictures times phrases, picture by picture, and N labels. Where there is no
        map at all, the pictures themselves with the label "no phrase".
    """
    rows, labels = [], []
    for index, (picture, phrases) in enumerate(zip(pictures, maps or [], strict=bool(maps))):
        for phrase, attention in phrases.items():
            rows.append(attention_overlay(picture, attention))
            labels.append(f"picture {index + 1}: {phrase}")
    if not rows:
        return pictures.detach().float().cpu().clamp(0, 1), ["no phrase"] * len(pictures)
    return torch.stack(rows), labels
