"""What a text says as a `SceneGraph`, as far as that can hold it: things, attributes and places."""

from wm_pipelines.text.parsed import ParsedText
from wm_pipelines.text.scene_graph import PREDICATES, Edge, Node, SceneGraph

# prepositions that mean a predicate of scene graphs
_MEANT = {
    "on top of": "on", "inside": "in", "under": "below", "underneath": "below", "beneath": "below", "over": "above",
}  # fmt: skip


def scene_graph_of(parsed: ParsedText) -> tuple[SceneGraph, list[str]]:
    """The scene graph of a parse, and what it can't hold, in words: verbs, ends that are not said, contradictions.

    Ids are the names, numbered where one occurs again.
    """
    ids: dict[str, str] = {}
    for entity in parsed.entities:
        name = entity.name.replace(" ", "_")
        again = sum(id == name or id.startswith(f"{name}_") for id in ids.values())
        ids[entity.id] = f"{name}_{again + 1}" if again else name
    nodes = tuple(Node(ids[entity.id], entity.name, entity.attributes) for entity in parsed.entities)
    graph, left = SceneGraph(nodes), []
    names = {entity.id: entity.text for entity in parsed.entities}
    for relation in parsed.relations:
        said = " ".join((names.get(relation.subject, "?"), relation.verb, names.get(relation.object, "?")))
        predicate = _MEANT.get(relation.verb, relation.verb)
        if predicate not in PREDICATES or relation.subject is None or relation.object is None:
            left.append(said)
            continue
        try:
            edge = Edge(ids[relation.subject], predicate, ids[relation.object])
            graph = graph if edge in graph.edges else SceneGraph(nodes, (*graph.edges, edge))
        except ValueError as error:
            left.append(f"{said} ({error})")
    return graph, left
