"""The same questions answered along the graph, without it, and along a random one of equal density (our design).

What the random graph answers as well as the true one does not come from what the graph says.
"""

import warnings
from collections.abc import Sequence
from typing import Any

from wm_pipelines.graph_transformer.pipeline import GraphTransformerOutput, GraphTransformerPipeline

ARMS = ("graph", "without", "random")


def answer_three_ways(
    pipeline: GraphTransformerPipeline,
    images: Any,
    questions: Any,
    context: Any = None,
    graph: Any = "auto",
    seed: int = 0,
    **options: Any,
) -> dict[str, GraphTransformerOutput]:
    """The outputs of `ARMS`; "graph" comes with attention maps.

    Args:
        images, questions, context, graph, options: of the pipeline's call. seed: of the random graph.

    Raises:
        ValueError: as the pipeline.
    """
    given = {"images": images, "questions": questions, "context": context, **options}
    found = {"graph": pipeline(**given, graph=graph, output_attentions=True)}
    found["without"] = pipeline(**given, graph=None)
    with warnings.catch_warnings(action="ignore"):  # an empty graph was told of already
        found["random"] = pipeline(**given, graph=graph, random_graph=seed)
    return found


def answer_rows(
    outputs: dict[str, GraphTransformerOutput], names: Sequence[str], n: int, top_k: int
) -> list[dict[str, Any]]:
    """The likeliest answers of question `n` along the graph, and what leads in the other arms, with all probabilities.

    Args:
        names: the pipeline's `answers`. top_k: answers along the graph.

    Returns:
        `{"answer", "graph", "without", "random"}` each; candidates alone.
    """
    likeliest = outputs["graph"].probs[n].argsort(descending=True, stable=True)[:top_k].tolist()
    leading = [int(outputs[arm].probs[n].argmax()) for arm in ARMS]
    kept = dict.fromkeys([*likeliest, *leading])
    rows = [{"answer": names[i], **{a: round(float(outputs[a].probs[n, i]), 6) for a in ARMS}} for i in kept]
    return [row for row in rows if any(row[arm] > 0 for arm in ARMS)]
