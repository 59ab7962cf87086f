"""One call's pictures and captions, evaluated a timestep at a time; every pass is made once, and counted."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from wm_pipelines.discffusion.captions import Captions
from wm_pipelines.discffusion.denoisers import Denoiser
from wm_pipelines.discffusion.reading import Reading, Rule, parts_of, read_pass
from wm_pipelines.runtime.noise import randn

Pair = tuple[int, int]
EMPTY = -1  # stands for the empty caption, which is the last row of the captions


def digest(picture: torch.Tensor) -> str:
    """Names a picture by its values."""
    return hashlib.blake2b(picture.contiguous().numpy().tobytes(), digest_size=16).hexdigest()


@dataclass
class Sheet:
    """What `step` evaluates.

    Args:
        latents: float32 `(C, h, w)` of each picture, which may differ in size. names: of the pictures, by content.
        texts, captions: captions and their encodings, the empty one last.
        weights: of all heads `(S,)`.
        seed: step k has the noise keyed by (seed, k), one for all pairs; without `shared_noise` one for each pair, by
            what picture and caption are, so that company never matters.
        batch_size: samples that go through the denoiser at once.

    Attributes: `forwards`, samples that went through the denoiser; `maps`, sums over steps of each pair's maps.
    """

    denoiser: Denoiser
    sites: Mapping[str, nn.Module]
    rule: Rule
    weights: torch.Tensor
    latents: Sequence[torch.Tensor]
    names: Sequence[str]
    texts: Sequence[str]
    captions: Captions
    timesteps: Sequence[int]
    seed: int = 0
    shared_noise: bool = True
    batch_size: int = 16
    forwards: int = 0
    maps: dict[Pair, torch.Tensor] = field(default_factory=dict)

    def step(self, k: int, pairs: Sequence[Pair], maps: bool = False) -> np.ndarray:
        """A_t, B_t and the mean square error of (picture, caption) pairs at step k, float64 `(3, pairs)`.

        B_t is NaN where no pass with the empty caption is needed.

        Raises:
            FloatingPointError: the denoiser gave NaN or infinity; they would otherwise pass for steps not looked at.
        """
        rows: list[tuple[int, int, int]] = [(i, j, j) for i, j in pairs]  # picture, caption, whose noise
        if self.rule.needs_empty:
            shared = [(i, EMPTY, EMPTY) for i in dict.fromkeys(i for i, _ in pairs)]
            rows += shared if self.shared_noise else [(i, EMPTY, j) for i, j in pairs]
        found = self._run(k, rows, maps)
        out = np.full((3, len(pairs)), np.nan)
        for n, (i, j) in enumerate(pairs):
            own = found[i, j, j]
            empty = found.get((i, EMPTY, EMPTY if self.shared_noise else j))
            lse, dc = parts_of(self.rule, self.weights, own, empty)
            values = [float(lse), 0.0 if dc is None else float(dc), float(own.error)]
            if not np.isfinite(values).all():
                raise FloatingPointError(
                    f"the score of image {i} and text {j} at timestep {self.timesteps[k]} is not finite "
                    f"({self.denoiser.model.dtype}, lse_lambda={self.rule.lse_lambda:g}); load in float32 or bfloat16"
                )
            out[:, n] = values[0], np.nan if dc is None else values[1], values[2]
            if maps:
                self.maps[i, j] = self.maps.get((i, j), 0) + own.maps[0]
        return out

    def _run(self, k: int, rows: Sequence[tuple[int, int, int]], maps: bool) -> dict[tuple[int, int, int], Reading]:
        found: dict[tuple[int, int, int], Reading] = {}
        sizes: dict[tuple[int, ...], list[tuple[int, int, int]]] = {}
        for row in rows:
            sizes.setdefault(tuple(self.latents[row[0]].shape), []).append(row)
        for alike in sizes.values():
            for start in range(0, len(alike), self.batch_size):
                part = alike[start : start + self.batch_size]
                reading = self._pass(k, part, maps)
                for n, row in enumerate(part):
                    own = slice(n, n + 1)
                    found[row] = Reading(
                        reading.lse[own], reading.norm[own], reading.error[own],
                        reading.maps[own].cpu() if maps and row[1] != EMPTY else None,
                    )  # fmt: skip
        return found

    def _pass(self, k: int, rows: Sequence[tuple[int, int, int]], maps: bool) -> Reading:
        latents = torch.stack([self.latents[i] for i, _, _ in rows])
        noise = torch.stack([self._noise(k, i, whose) for i, _, whose in rows]).to(latents.device)
        t = torch.full((len(rows),), self.timesteps[k], device=latents.device)
        captions = self.captions.rows([j % len(self.captions.embeds) for _, j, _ in rows])
        self.forwards += len(rows)
        given = {"latents": latents, "noise": noise, "timesteps": t, "captions": captions, "maps": maps}
        return read_pass(self.denoiser, self.sites, self.rule, **given)

    def _noise(self, k: int, picture: int, whose: int) -> torch.Tensor:
        shape = tuple(self.latents[picture].shape)
        if self.shared_noise:
            return randn(shape, "discffusion", self.seed, k)
        return randn(shape, "discffusion", self.seed, k, self.names[picture], self.texts[whose])
