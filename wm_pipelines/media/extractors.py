"""Condition maps from pictures, without a model and without a download: OpenCV and a little arithmetic.

Every extractor takes one uint8 picture `(H, W, 3)`, sRGB, and returns float32 `(H, W)` in [0, 1], white on 0; seg
returns int64 ids. `media.conditions.extract` is the public face, which also takes batches. Nothing is random.
Colour counts channel by channel, so that an edge between equally bright colours is an edge.
Sources: Canny 1986; LSD, von Gioi et al. 2010; XDoG, Winnemoeller et al. 2012; thinning, Zhang and Suen 1984.
"""

from collections.abc import Sequence

import cv2
import numpy as np

# Sensor grain and compression noise: below this, on a scale where a step from 0 to 1 is about 3.2, nothing is an edge.
_GRAIN = 0.1


def canny(photo: np.ndarray, low: float = 100, high: float = 200) -> np.ndarray:
    """Canny edges; thresholds on the 8-bit Sobel scale, the strongest channel counts."""
    if not 0 <= low <= high:
        raise ValueError(f"canny thresholds low={low}, high={high}; they must satisfy 0 <= low <= high")
    return (cv2.Canny(photo, low, high) > 0).astype(np.float32)


def softedge(photo: np.ndarray, sigmas: Sequence[float] = (1, 2, 4), quantile: float = 0.99) -> np.ndarray:
    """Mean over scales of the Sobel magnitude, each divided by its maximum, then scaled so that `quantile` is 1.

    It stands where HED stands but is not HED: weights trained on HED maps see a shifted distribution.
    """
    if not sigmas or min(sigmas) <= 0 or not 0 < quantile <= 1:
        raise ValueError(f"softedge sigmas={sigmas}, quantile={quantile}; sigmas must be > 0 and quantile in (0, 1]")
    picture = photo.astype(np.float32) / 255
    total = np.zeros(photo.shape[:2], np.float32)
    for sigma in sigmas:
        blurred = cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
        across = cv2.Sobel(blurred, cv2.CV_32F, 1, 0, borderType=cv2.BORDER_REFLECT_101)
        down = cv2.Sobel(blurred, cv2.CV_32F, 0, 1, borderType=cv2.BORDER_REFLECT_101)
        # Times sigma, a step has the same height at every scale.
        magnitude = np.maximum(sigma * np.hypot(across, down).max(-1) - _GRAIN, 0)
        total += magnitude / (magnitude.max() or 1)
    # In a mostly empty picture the quantile is 0; the maximum then serves.
    scale = np.quantile(total, quantile) or total.max() or 1
    return np.clip(total / scale, 0, 1).astype(np.float32)


def lines(photo: np.ndarray, min_length: float = 0.06) -> np.ndarray:
    """Straight segments by LSD, one pixel wide; `min_length` is a fraction of the longer side."""
    if not 0 <= min_length <= 1:
        raise ValueError(f"lines min_length={min_length}; it must lie in [0, 1]")
    canvas = np.zeros(photo.shape[:2], np.uint8)
    # LSD reads one channel: the most contrasted one misses an edge only if all do.
    detector = cv2.createLineSegmentDetector()
    for channel in [cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), *cv2.split(photo)]:
        # LSD works on a picture shrunk by a fifth and gives up below a few pixels.
        found = detector.detect(np.ascontiguousarray(channel))[0] if min(channel.shape) >= 8 else None
        for x0, y0, x1, y1 in [] if found is None else found.reshape(-1, 4):
            if np.hypot(x1 - x0, y1 - y0) >= min_length * max(photo.shape[:2]):
                cv2.line(canvas, (round(float(x0)), round(float(y0))), (round(float(x1)), round(float(y1))), 255)
    return thin(canvas > 0).astype(np.float32)


def sketch(
    photo: np.ndarray,
    sigma: float | None = None,
    sharpness: float = 20.0,
    threshold: float = 0.02,
    polarity: str = "white",
) -> np.ndarray:
    """Drawn outlines: XDoG ink, thinned to one pixel.

    Args:
        sigma: of the narrower Gaussian in pixels; by default the longer side / 640, at least 0.8.
        sharpness: XDoG's p: how far the difference of Gaussians is amplified.
        threshold: ink where the sharpened picture falls this far below its blur (on [0, 1], after `sharpness`/20).
        polarity: "white" = white on 0 (ours), "black" = black on 1 (Uni-ControlNet's).
    """
    if polarity not in ("white", "black"):
        raise ValueError(f"sketch polarity={polarity!r}; choose from white, black")
    sigma = max(0.8, max(photo.shape[:2]) / 640) if sigma is None else sigma
    if sigma <= 0 or sharpness <= 0 or threshold <= 0:
        raise ValueError(f"sketch sigma={sigma}, sharpness={sharpness}, threshold={threshold}; all must be > 0")
    picture = photo.astype(np.float32) / 255
    narrow = cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    wide = cv2.GaussianBlur(picture, (0, 0), 1.6 * sigma, borderType=cv2.BORDER_REFLECT_101)
    # XDoG adds p times this to the picture and cuts at one level; without the picture's own tone, dark areas stay
    # paper and only the dark side of each edge becomes ink.
    ink = (sharpness / 20 * (narrow - wide)).min(-1) < -threshold
    drawn = thin(_drop_specks(ink, max(3, max(photo.shape[:2]) // 32))).astype(np.float32)
    return drawn if polarity == "white" else 1 - drawn


# OpenPose's 18 body points: nose, neck, right arm, left arm, right leg, left leg, eyes, ears; and its 17 limbs.
_LIMBS = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
          (1, 0), (0, 14), (14, 16), (0, 15), (15, 17))  # fmt: skip


def draw_pose(keypoints: np.ndarray, height: int, width: int, threshold: float = 0.3) -> np.ndarray:
    """Draw people's skeletons in OpenPose's order, one hue per limb, on black.

    Args:
        keypoints: `(people, 18, 3)`: x and y in pixels, confidence; below `threshold` or not finite = unseen.

    Returns:
        float32 `(H, W, 3)` in [0, 1].
    """
    keypoints = np.asarray(keypoints, np.float32)
    if keypoints.ndim != 3 or keypoints.shape[1:] != (18, 3):
        raise ValueError(f"keypoints have shape {keypoints.shape}; they must be (people, 18, 3): x, y, confidence")
    hues = np.zeros((1, 18, 3), np.uint8)
    hues[0, :, 0], hues[..., 1:] = np.arange(18) * 10, 255
    colours = cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)[0].tolist()
    canvas = np.zeros((height, width, 3), np.uint8)
    thickness = max(1, min(height, width) // 128)
    for person in keypoints:
        seen = np.isfinite(person).all(-1) & (person[:, 2] >= threshold)
        # Far-off points would overflow OpenCV's coordinates; they are out of the picture anyway.
        points = np.clip(np.nan_to_num(person[:, :2]).round(), -10000, 10000).astype(int).tolist()
        for colour, (a, b) in zip(colours, _LIMBS, strict=False):
            if seen[a] and seen[b]:
                cv2.line(canvas, points[a], points[b], colour, 2 * thickness)
        for colour, point, visible in zip(colours, points, seen, strict=True):
            if visible:
                cv2.circle(canvas, point, 2 * thickness, colour, cv2.FILLED)
    return canvas.astype(np.float32) / 255


def _drop_specks(mask: np.ndarray, smallest: int) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= smallest
    keep[0] = False
    return keep[labels]


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin a bool mask `(H, W)` to lines one pixel wide that keep its topology (Zhang and Suen's two-pass scheme)."""
    mask = np.pad(mask.astype(bool), 1)
    while True:
        before = int(mask.sum())
        for first in (True, False):
            north, east, south, west = mask[:-2, 1:-1], mask[1:-1, 2:], mask[2:, 1:-1], mask[1:-1, :-2]
            ring = [north, mask[:-2, 2:], east, mask[2:, 2:], south, mask[2:, :-2], west, mask[:-2, :-2]]
            count = sum(pixel.astype(np.uint8) for pixel in ring)
            rises = sum((~a & b).astype(np.uint8) for a, b in zip(ring, ring[1:] + ring[:1], strict=True))
            if first:
                free = ~(north & east & south) & ~(east & south & west)
            else:
                free = ~(north & east & west) & ~(north & south & west)
            gone = (count >= 2) & (count <= 6) & (rises == 1) & free
            mask[1:-1, 1:-1] &= ~gone
        if int(mask.sum()) == before:
            return mask[1:-1, 1:-1]


def seg(photo: np.ndarray, regions: int = 8, method: str = "watershed") -> np.ndarray:
    """Class-free regions as ids 1 to `regions` (fewer if the picture has fewer), the largest first, int64 `(H, W)`.

    Args:
        regions: 1 to 12.
        method: "watershed" grows connected regions from the largest even places; "kmeans" clusters colour and, weakly,
            place; "meanshift" smooths before that.
    """
    if isinstance(regions, bool) or not isinstance(regions, int) or not 1 <= regions <= 12:
        raise ValueError(f"seg regions={regions!r}; it must be an integer from 1 to 12")
    if method not in ("watershed", "kmeans", "meanshift"):
        raise ValueError(f"seg method={method!r}; choose from watershed, kmeans, meanshift")
    if method == "watershed":
        labels = _watershed(photo, regions)
    else:
        labels = _kmeans(cv2.pyrMeanShiftFiltering(photo, 8, 24) if method == "meanshift" else photo, regions)
    _, compact, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(1, len(sizes) + 1)
    return rank[compact.reshape(labels.shape)]


def _kmeans(photo: np.ndarray, regions: int) -> np.ndarray:
    height, width = photo.shape[:2]
    colour = cv2.cvtColor(photo.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    rows, columns = np.mgrid[:height, :width].astype(np.float32) / max(height, width) * 8
    # Shadows change lightness more than they change what a thing is.
    features = np.stack([0.5 * colour[..., 0], colour[..., 1], colour[..., 2], rows, columns], -1).reshape(-1, 5)
    sample = features[:: max(1, len(features) // 16384)]
    # Farthest-first seeds make the clustering deterministic; OpenCV's own seeds come from a global generator. They are
    # apart in colour, so that place alone never splits an even ground.
    centres = [sample.mean(0)]
    distance = np.full(len(sample), np.inf, np.float32)
    for _ in range(regions):
        distance = np.minimum(distance, ((sample - centres[-1])[:, :3] ** 2).sum(-1))
        if distance.max() < 36:
            break
        centres.append(sample[int(distance.argmax())])
    centres = np.stack(centres[1:] or centres)
    for _ in range(12):
        nearest = _nearest(sample, centres)
        centres = np.stack(
            [sample[nearest == k].mean(0) if (nearest == k).any() else centre for k, centre in enumerate(centres)]
        )
    return _nearest(features, centres).reshape(height, width)


def _nearest(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.stack([((features - centre) ** 2).sum(-1) for centre in centres]).argmin(0)


def _watershed(photo: np.ndarray, regions: int) -> np.ndarray:
    steps = cv2.morphologyEx(photo, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).max(-1)
    _, seeds, stats, _ = cv2.connectedComponentsWithStats((steps < 24).astype(np.uint8), connectivity=4)
    largest = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:regions]
    if len(largest) < 2:
        return np.ones(photo.shape[:2], np.int32)
    markers = np.zeros(photo.shape[:2], np.int32)
    for number, label in enumerate(largest, start=1):
        markers[seeds == label] = number
    markers = cv2.watershed(photo, markers)
    # Watershed leaves ridges and the picture's border at -1: give them to a neighbouring region.
    while (markers < 1).any():
        grown = cv2.dilate(np.maximum(markers, 0).astype(np.uint16), np.ones((3, 3), np.uint8)).astype(np.int32)
        markers = np.where(markers < 1, grown, markers)
    return markers
