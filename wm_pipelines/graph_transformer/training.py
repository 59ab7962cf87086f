"""Training of a graph transformer on questions: one task, whatever the source of its rows.

Recipe options (with their defaults in `DEFAULTS`; each source adds its own):
    base: embedded name, folder or Hub id of a stock ViLT; without one a new small one is made.
    width, layers, heads, mlp, patch, size, text_length: of a new ViLT; `size` is the side of its pictures in pixels.
    bias: "shared", "per_layer" or None: the trained bias Ĝ. lam, soft: as `QuasiAttentionModel` takes them.
    bias_rate: factor of the learning rate of Ĝ, which has no weight decay.
    graph: "auto", the parser's; "given", that of the row, or the parser's where it has none; "random", the parser's
    drawn at random at equal density; None: the padding mask alone.
    regions, neighbours, overlap: which regions connect. loss: "ce", cross-entropy over all answers, or "bce", binary
    cross-entropy with each answer apart, as is common for VQAv2. truncate: cut texts that are too long.
"""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from wm_pipelines.graph_transformer import loading
from wm_pipelines.graph_transformer.graph import AttentionGraph
from wm_pipelines.graph_transformer.inputs import Example
from wm_pipelines.graph_transformer.pipeline import GraphTransformerPipeline
from wm_pipelines.graph_transformer.regions import check_regions
from wm_pipelines.graph_transformer.words import build_tokenizer
from wm_pipelines.hub.weights import save_half
from wm_pipelines.media.pictures import Picture
from wm_pipelines.training import KeyedNoise, Recipe, Task, check_keys

DEFAULTS: dict[str, Any] = {
    "base": None, "width": 128, "layers": 4, "heads": 4, "mlp": 512, "patch": 8, "size": 64, "text_length": 128,
    "bias": "shared", "lam": 1.0, "soft": False, "bias_rate": 10.0, "graph": "auto", "regions": "full",
    "neighbours": 8, "overlap": 0.0, "loss": "ce", "truncate": False,
}  # fmt: skip
GRAPHS = ("auto", "given", "random", None)
LOSSES = ("ce", "bce")


@dataclass(frozen=True)
class Row:
    """A question about a picture.

    Args:
        question, context: texts; the context may be None. answer: one of the source's.
        graph: over question, a space and context; None where the source has none.
    """

    question: str
    context: str | None
    answer: str
    graph: AttentionGraph | None = None


class Source(Protocol):
    """Rows, numbered from 0.

    Attributes: `length`, how many; `data`, a line for the record; `answers`, all there are, in the order of the
    logits; `words`, those that a new tokenizer has as one token each.
    """

    length: int
    data: str
    answers: list[str]
    words: list[str]

    def row(self, index: int) -> Row: ...

    def picture(self, index: int) -> Picture: ...


class GraphTransformerTask(Task):
    """Answers of a stock ViLT with the graph's bias; a task for a source says how that is made."""

    defaults = DEFAULTS

    @abstractmethod
    def make_source(self) -> Source:
        """The source, by `self.options`."""

    def __init__(self, recipe: Recipe):
        check_keys(recipe.options, self.defaults, "options")
        self.options = {**self.defaults, **recipe.options}
        for name, allowed in (("graph", GRAPHS), ("loss", LOSSES), ("bias", (*loading.BIASES, None))):
            if self.options[name] not in allowed:
                choices = ", ".join(map(str, allowed))
                raise ValueError(f"options.{name} is {self.options[name]!r}; allowed: {choices}")
        check_regions(self.options["regions"], self.options["neighbours"], self.options["overlap"])
        self.seed = recipe.seed
        self.source = self.make_source()
        self.length, self.data = self.source.length, self.source.data
        self.places = {answer: n for n, answer in enumerate(self.source.answers)}
        self.pipeline = GraphTransformerPipeline(**self._parts())
        self.model, self.bias = self.pipeline.model.train(), self.pipeline.quasi_attention
        self._read: dict[int, tuple] = {}

    def _parts(self) -> dict[str, Any]:
        options, answers = self.options, self.source.answers
        if options["base"] is not None:
            parts = loading.load_parts(options["base"], answers, self.seed)
            if "image_processor" not in parts:
                raise ValueError(f"options.base {options['base']!r} reads features of a detector; it must be a ViLT")
        else:
            parts = new_parts(options, answers, self.source.words)
        if options["bias"] is not None:
            s_img = None if options["base"] is not None else (options["size"] // options["patch"]) ** 2 + 1
            parts["quasi_attention"] = loading.new_bias(
                parts["model"], options["bias"], soft=options["soft"], lam=options["lam"], s_img=s_img
            )
        return parts

    # ---- the engine's side ----

    def modules(self) -> dict[str, nn.Module]:
        found = {"model": self.model, "quasi_attention": self.bias}
        return {name: module for name, module in found.items() if module is not None}

    def group(self, name: str, parameter: nn.Parameter) -> tuple[float, bool]:
        if name.startswith("quasi_attention."):
            return float(self.options["bias_rate"]), False
        return super().group(name, parameter)

    def logits(self, indices: Sequence[int]) -> torch.Tensor:
        """`(N, answers)` of some rows."""
        examples, pieces, graphs = zip(*(self.row(i) for i in indices), strict=True)
        connect = tuple(self.options[name] for name in ("regions", "neighbours", "overlap"))
        backbone = self.pipeline.backbone
        embedded = backbone.embed(self.pipeline.pack(examples, pieces).to(self.device))
        bias = self.pipeline.bias_for(pieces, graphs, embedded.regions, connect)
        bias = bias.randomised(self.seed) if self.options["graph"] == "random" else bias
        return backbone.encode(embedded, loading.bias_of(bias.to(self.device), self.bias))[0]

    def row(self, index: int) -> tuple:
        """A row as the pipeline reads it; texts and graphs are kept, pictures are not."""
        if index not in self._read:
            row, wanted = self.source.row(index), self.options["graph"]
            given = row.graph if wanted == "given" and row.graph is not None else "auto"
            example = Example(None, row.question, row.context, None if wanted is None else given)
            try:
                pieces = self.pipeline.encode_text(example, index, self.options["truncate"])
                self._read[index] = (example, pieces, self.pipeline.read_graph(example, pieces))
            except ValueError as error:
                raise ValueError(f"row {index}: {error}") from None
        example, pieces, graph = self._read[index]
        seen = Example(self.source.picture(index), example.question, example.context, None)
        return seen, pieces, graph

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        logits = self.logits(indices)
        targets = torch.tensor([self.places[self.source.row(i).answer] for i in indices], device=logits.device)
        if self.options["loss"] == "ce":
            loss = functional.cross_entropy(logits, targets)
        else:
            hot = functional.one_hot(targets, logits.shape[1]).to(logits.dtype)
            loss = functional.binary_cross_entropy_with_logits(logits, hot) * logits.shape[1]
        empty = sum(self._read[i][2] is not None and not self._read[i][2].nodes for i in indices)
        right = (logits.argmax(1) == targets).float().mean()
        return {"loss": loss, "right": right, "empty_graphs": torch.tensor(empty / len(indices))}

    def export(self, folder: Path) -> None:
        """The pipeline in fp16, in diffusers' layout."""
        parts = {name: part for name, part in self.pipeline.components.items()}
        for name in self.modules():
            parts[name] = copy.deepcopy(parts[name]).cpu().eval()
        GraphTransformerPipeline(**parts).save_pretrained(folder)
        for name in self.modules():
            save_half(parts[name], folder / name)

    def load_weights(self, source: str) -> dict[str, Any]:
        """Start from an exported pipeline of the same sizes and answers: an embedded name, a folder or a Hub id."""
        from wm_pipelines import hub

        folder = hub.resolve(source)
        hub.check_weights(folder)
        saved = GraphTransformerPipeline.from_pretrained(folder)
        if saved.answers != self.pipeline.answers:
            raise ValueError(f"init_from: {source!r} has {len(saved.answers)} answers, other than these")
        for name, module in self.modules().items():
            own = getattr(saved, name)
            if own is None:
                continue  # a bias that is new starts at zero
            try:
                module.load_state_dict(own.state_dict())
            except RuntimeError as error:
                raise ValueError(f"init_from: {source!r} is a model of other sizes: {error}") from error
        return {"parameters": sum(p.numel() for p in saved.model.parameters())}


def new_parts(options: dict[str, Any], answers: Sequence[str], words: Sequence[str]) -> dict[str, Any]:
    """A new ViLT of the sizes in `options`, its tokenizer and image processor; weights by PyTorch's generator."""
    from transformers import ViltConfig, ViltForQuestionAnswering
    from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

    size, patch = options["size"], options["patch"]
    if size % patch:
        raise ValueError(f"options.size is {size}; it must be a multiple of options.patch, {patch}")
    if options["width"] % options["heads"]:
        raise ValueError(f"options.width is {options['width']}; it must be a multiple of options.heads")
    tokenizer = build_tokenizer(words, options["text_length"])
    labels = dict(enumerate(answers))
    config = ViltConfig(
        vocab_size=len(tokenizer),
        hidden_size=options["width"],
        num_hidden_layers=options["layers"],
        num_attention_heads=options["heads"],
        intermediate_size=options["mlp"],
        image_size=size,
        patch_size=patch,
        max_position_embeddings=options["text_length"],
        id2label=labels,
        label2id={name: n for n, name in labels.items()},
        pad_token_id=tokenizer.pad_token_id,
    )
    processor = ViltImageProcessorPil(size={"shortest_edge": size}, size_divisor=patch)
    return {"model": ViltForQuestionAnswering(config), "tokenizer": tokenizer, "image_processor": processor}
