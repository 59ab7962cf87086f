"""The door of CPL, counterfactual prompt learning (arXiv 2210.10362)."""

from typing import Literal

from pydantic import Field

from wm_pipelines.methods import Method
from wm_pipelines.record import Record


class CPLConfig(Record):
    """How a prompt was fitted; its sizes are in its `config.json`."""

    image_size: int = Field(224, ge=8, description="side in pixels that the base reads")
    variant: Literal["released", "paper"] = Field("released", description="which form of the counterfactual loss")
    lambda_cf: float = Field(1.0, ge=0, description="weight of the counterfactual loss; 0 is CoCoOp")


METHODS = (
    Method(
        name="cpl",
        title="CPL",
        hub_task="zero-shot-image-classification",
        about=(
            "A learned prompt for a frozen CLIP: a few context vectors and a small net that shifts them by what the "
            "picture shows. It was fitted to a handful of pictures a class with counterfactual negatives, and it "
            "takes new class names as it is."
        ),
        settings=CPLConfig,
        paper="arXiv:2210.10362",
        pipeline="wm_pipelines.cpl.pipeline.CPLPipeline",
    ),
)
