"""The door of the Multimodal Graph Transformer (arXiv 2305.00581)."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from wm_pipelines.methods import Method
from wm_pipelines.record import Record


class GraphTransformerConfig(Record):
    """How questions are asked; the sizes of the trained bias are in its `config.json`."""

    image_size: int = Field(384, ge=8, description="shorter side in pixels that the backbone was trained at")
    regions: Literal["full", "knn", "iou"] = Field("full", description="which regions of a picture connect")
    neighbours: int = Field(8, ge=1, description="of a region, for knn")
    overlap: float = Field(0.0, ge=0, lt=1, description="intersection over union that connects, for iou")


def _record(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: options[name] for name in ("regions", "neighbours", "overlap") if name in options}
    if task.endswith("-folder"):
        own = options.get("base", "dandelin/vilt-b32-mlm") is None
        return {"method_config": {**settings, "image_size": options.get("size", 64) if own else 384}}
    from wm_pipelines.graph_transformer.scenes import WORDS

    return {"method_config": {**settings, "image_size": options.get("size", 64)}, "vocabulary": list(WORDS)}


METHODS = (
    Method(
        name="graph-transformer",
        title="Multimodal Graph Transformer",
        hub_task="visual-question-answering",
        about=(
            "Answers questions about a picture with a text or a table beside it, by attention that follows a graph: "
            "words that a parser ties together, the cells of a table, the regions of the picture. It runs on stock "
            "ViLT and LXMERT, and shows what the same model answers without its graph and with a random one."
        ),
        settings=GraphTransformerConfig,
        paper="arXiv:2305.00581",
        pipeline="wm_pipelines.graph_transformer.pipeline.GraphTransformerPipeline",
        tasks={
            "graph-transformer": "wm_pipelines.graph_transformer.scenes.SceneTask",
            "graph-transformer-folder": "wm_pipelines.graph_transformer.data.FolderTask",
        },
        record=_record,
    ),
)
