"""Texts put together piece by piece, so that it is known where each entity stands (our design)."""

from wm_pipelines.diorama.questions.record import TextGraph
from wm_pipelines.diorama.scene import SHAPES


class Wording:
    """A text that grows, and the graph of its entities."""

    def __init__(self):
        self.text = ""
        self._nodes: list[tuple[int, int]] = []
        self._edges: list[tuple[int, int, str]] = []

    def say(self, text: str) -> "Wording":
        self.text += text
        return self

    def node(self, text: str) -> int:
        """Adds `text` as an entity or relation and returns its number."""
        self._nodes.append((len(self.text), len(self.text) + len(text)))
        self.text += text
        return len(self._nodes) - 1

    def join(self, a: int, b: int, label: str) -> None:
        self._edges.append((a, b, label))

    def fact(self, subject: str, relation: str, other: str) -> None:
        """ "subject relation other": the relation is a node that joins both."""
        a = self.node(subject)
        r = self.say(" ").node(relation)
        b = self.say(" ").node(other)
        self.join(a, r, "subject")
        self.join(r, b, "object")

    @property
    def graph(self) -> TextGraph:
        return TextGraph(tuple(self._nodes), tuple(self._edges))


def the(words: list[str] | tuple[str, ...]) -> str:
    """ "the red cube" of ("red", "cube"), "the red object" of ("red",)."""
    noun = () if words[-1] in SHAPES else ("object",)
    return " ".join(("the", *words, *noun))
