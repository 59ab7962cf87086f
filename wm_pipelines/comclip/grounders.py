"""Where a picture shows what: open-vocabulary detectors of transformers.

A grounder is any callable `(picture (3, H, W), phrases) -> {label: [(x0, y0, x1, y1), ...]}` in absolute pixels, the
best box of a label first. Boxes that are known already go to the pipeline as they are.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from wm_pipelines.hub.stock import load_model, load_part
from wm_pipelines.media.boxes import Box
from wm_pipelines.media.pictures import to_pil

DETECTORS = ("grounding-dino", "owlv2")


class Grounder(Protocol):
    """What `ComCLIPPipeline` asks of a grounder."""

    def __call__(self, picture: torch.Tensor, phrases: Sequence[str]) -> dict[str, list[Box]]: ...


class PhraseDetector:
    """Grounding DINO or OWLv2: each phrase is looked for by itself, so the answer depends on no other phrase.

    Args:
        model, processor: `GroundingDinoForObjectDetection` or `Owlv2ForObjectDetection` with its processor.
        threshold: least score of a box, in (0, 1).

    Raises:
        ValueError: another model or threshold.
    """

    def __init__(self, model: Any, processor: Any, threshold: float = 0.3):
        if model.config.model_type not in DETECTORS:
            raise ValueError(f"the detector is a {model.config.model_type!r}; known are {', '.join(DETECTORS)}")
        if not 0 < threshold < 1:
            raise ValueError(f"threshold={threshold!r}; it must lie in (0, 1)")
        self.model, self.processor, self.threshold = model.eval(), processor, threshold

    @classmethod
    def from_pretrained(cls, source: str, threshold: float = 0.3) -> "PhraseDetector":
        """A detector from a folder or Hub id.

        Raises:
            ValueError: no such checkpoint, pickled weights, or another model.
        """
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        from wm_pipelines import hub

        folder = hub.resolve(source)
        hub.check_weights(folder)
        model = load_model(AutoModelForZeroShotObjectDetection, folder)
        return cls(model, load_part(AutoProcessor, folder), threshold)

    @torch.no_grad()
    def __call__(self, picture: torch.Tensor, phrases: Sequence[str]) -> dict[str, list[Box]]:
        height, width = picture.shape[-2:]
        image, found = to_pil(picture), {}
        for phrase in dict.fromkeys(phrases):
            text = f"{phrase.lower()}." if self.model.config.model_type == "grounding-dino" else [[phrase]]
            inputs = self.processor(images=image, text=text, return_tensors="pt").to(self.model.device)
            outputs = self.model(**inputs)
            result = self.processor.post_process_grounded_object_detection(
                outputs, threshold=self.threshold, target_sizes=[(height, width)]
            )[0]
            order = result["scores"].argsort(descending=True, stable=True)
            limits = torch.tensor([width, height, width, height], dtype=torch.float32)
            boxes = torch.minimum(result["boxes"][order].float().cpu().clamp_min(0), limits)
            kept = [tuple(box) for box in boxes.tolist() if box[0] < width and box[1] < height]
            if kept:
                found[phrase] = kept
        return found
