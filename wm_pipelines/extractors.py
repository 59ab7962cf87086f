"""Condition maps from pictures, without a model and without a download: OpenCV and a little arithmetic.

Every function here takes one uint8 picture `(H, W, 3)` and returns float32 `(H, W)` or `(H, W, 3)` in [0, 1];
`wm_pipelines.conditions.extract` is the public face, which also takes batches.
Nothing is random: the only seed is the palette's. Source of the choice: flexecontrol.md, sections 8 and 12.
"""

import cv2
import numpy as np


def canny(photo: np.ndarray, low: float = 100, high: float = 200) -> np.ndarray:
    """Canny edges, white on 0, float32 `(H, W)`; thresholds on the 8-bit Sobel scale, the strongest channel counts."""
    if not 0 <= low <= high:
        raise ValueError(f"canny thresholds low={low}, high={high}; they must satisfy 0 <= low <= high")
    return (cv2.Canny(photo, low, high) > 0).astype(np.float32)
