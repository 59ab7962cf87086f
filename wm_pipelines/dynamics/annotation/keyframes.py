"""Which frames of a clip are its key frames, and which pairs of them are worth a label."""

from collections.abc import Sequence

import cv2
import numpy as np

DARK = 16  # of 255: what is nowhere brighter is a black border
SSIM_SIGMA, SSIM_1, SSIM_2 = 1.5, (0.01 * 255) ** 2, (0.03 * 255) ** 2


def strongest(flow: Sequence[float], count: int, spacing: int) -> list[int]:
    """The `count` frames of most motion, any two at least `spacing` frames apart, in the order of time.

    Greedy suppression (arXiv 2506.06006v3, section 3.2): the strongest first, and then the strongest that is far
    enough from all that were taken. Of equal ones the earliest.

    Args:
        flow: mean magnitude of each frame.
    """
    taken: list[int] = []
    for n in sorted(range(len(flow)), key=lambda n: (-flow[n], n)):
        if len(taken) == count:
            break
        if all(abs(n - other) >= spacing for other in taken):
            taken.append(n)
    return sorted(taken)


def perceptual_hash(grey: np.ndarray) -> str:
    """64 bits of a picture `(H, W)`, uint8, as 16 hexadecimal digits: which of its 8 x 8 lowest frequencies (DCT of
    32 x 32 pixels) lie above their median, the mean brightness left out of that."""
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].flatten()
    bits = low > np.median(low[1:])
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"


def hash_distance(first: str, second: str) -> int:
    """Bits in which two hashes differ, 0 to 64."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Mean structural similarity (Wang et al. 2004, Gaussian window of sigma 1.5) of two greys `(H, W)`, uint8."""
    a, b = first.astype(np.float64), second.astype(np.float64)

    def blur(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), SSIM_SIGMA)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + SSIM_1) * (2 * both + SSIM_2)
    return float((top / ((mean_a**2 + mean_b**2 + SSIM_1) * (var_a + var_b + SSIM_2))).mean())


def border(grey: np.ndarray) -> float:
    """Share of a picture `(H, W)`, uint8, that lies in black rows and columns at its edges; 1 for a black picture."""
    bright = grey > DARK
    rows, columns = (np.flatnonzero(bright.any(axis)) for axis in (1, 0))
    if not len(rows):
        return 1.0
    return 1 - (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1) / grey.size
