"""The door of ComCLIP (arXiv 2211.13854)."""

from typing import Literal

from pydantic import Field

from wm_pipelines.methods import Method
from wm_pipelines.record import Record


class ComCLIPConfig(Record):
    """How pairs are scored; the method has no weights of its own."""

    fusion: Literal["released", "gclip", "late", "equal"] = Field("released", description="how components are added")
    missing: Literal["full", "blank"] = Field("full", description="what a component without a box sees")
    embed: Literal["unit", "raw"] = Field("unit", description="length of the embeddings that are added")
    clamp: bool = Field(True, description="negative similarities count as 0")
    fit: Literal["pad", "stretch", "crop"] = Field("pad", description="how a picture becomes square")


METHODS = (
    Method(
        name="comclip",
        title="ComCLIP",
        hub_task="zero-shot-image-classification",
        about=(
            "Training-free matching of pictures and sentences: the things and relations that a sentence names are "
            "found in the picture, and what each shows is weighed beside the whole. This checkpoint holds the "
            "settings; the weights are those of its base."
        ),
        settings=ComCLIPConfig,
        paper="arXiv:2211.13854",
        pipeline="wm_pipelines.comclip.pipeline.ComCLIPPipeline",
    ),
)
