"""Multimodal Graph Transformer (arXiv 2305.00581, EACL 2023): questions about pictures, with attention that follows a
graph over the words and regions, on stock ViLT and LXMERT.

There is no code of the authors; what the paper leaves open is said where it is decided.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput
from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from wm_pipelines.graph_transformer import inputs, loading
from wm_pipelines.graph_transformer.attention import LONG
from wm_pipelines.graph_transformer.backbones import Inputs, backbone_of
from wm_pipelines.graph_transformer.bias import GraphBias, Regions, compile_graphs
from wm_pipelines.graph_transformer.graph import AttentionGraph
from wm_pipelines.graph_transformer.maps import AttentionMaps, maps_of
from wm_pipelines.graph_transformer.modeling import QuasiAttentionModel
from wm_pipelines.graph_transformer.parsing import Parser, auto_graph, read_graph
from wm_pipelines.graph_transformer.regions import check_regions
from wm_pipelines.graph_transformer.tables import Table
from wm_pipelines.graph_transformer.tokens import Pieces, encode, pad
from wm_pipelines.hub.stock import refuse_code
from wm_pipelines.pipeline import WMPipeline
from wm_pipelines.runtime.offloading import brought, execution_device
from wm_pipelines.text.parsers import make_parser
from wm_pipelines.text.vocabulary import check_vocabulary

ATTENTION = ("auto", "stock", "explicit", "sdpa", "flex")


@dataclass
class GraphTransformerOutput(BaseOutput):
    """Result of `GraphTransformerPipeline`; its tuple form holds the same values in this order, without None.

    Args:
        logits: float32 `(N, answers)` on the CPU.
        probs: their softmax over the candidates; 0 for what is none.
        answers: the likeliest answer of each question.
        graphs: what attention followed; without a node where there was none.
        empty: questions whose graph was empty, so that they saw the padding mask alone.
        attentions: `AttentionMaps` of each question, if asked for.
    """

    logits: torch.Tensor
    probs: torch.Tensor
    answers: list[str]
    graphs: list[AttentionGraph]
    empty: list[int]
    attentions: list[AttentionMaps] | None = None

    def ranked(self, names: Sequence[str], top_k: int = 5) -> list[list[tuple[str, float]]]:
        """The likeliest answers of each question with their probabilities; candidates alone.

        Args:
            names: the pipeline's `answers`.
        """
        rows = []
        for probs in self.probs:
            best = probs.sort(descending=True, stable=True)
            pairs = zip(best.indices[:top_k].tolist(), best.values[:top_k].tolist(), strict=True)
            rows.append([(names[n], p) for n, p in pairs if p > 0])
        return rows


class GraphTransformerPipeline(WMPipeline):
    """Answers questions about pictures, with a text or a table beside them, along a graph.

    Args:
        model: `ViltForQuestionAnswering` or `LxmertForQuestionAnswering`.
        tokenizer: a fast one. image_processor: of ViLT; LXMERT reads features of a detector and has none.
        quasi_attention: the trained bias; None for none.
        answers: what the head's logits mean; by default ViLT's labels, or numbers.
        parser: sentence -> `ParsedText`, or "rules", "spacy:MODEL", "factual:FOLDER_OR_HUB_ID"; default: the rules.

    Example:
        ```py
        from wm_pipelines import DioramaDataset, GraphTransformerPipeline

        picture = DioramaDataset(length=1)[0]["rgb"]  # or a file, a PIL picture, an array
        pipe = GraphTransformerPipeline.from_backbone("dandelin/vilt-b32-finetuned-vqa")
        out = pipe(picture, "What is left of the red cube?")
        print(out.answers, out.ranked(pipe.answers)[0])
        pipe.compile(picture, "What is left of the red cube?").plot(0, picture)
        ```
    """

    model_cpu_offload_seq = "quasi_attention->model"
    _optional_components = ["image_processor", "quasi_attention"]

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: BaseImageProcessor | None = None,
        quasi_attention: QuasiAttentionModel | None = None,
        answers: Sequence[str] | None = None,
        parser: Parser | str | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone_of(model)
        loading.check_parts(self.backbone, image_processor, quasi_attention, answers)
        self.register_modules(
            model=model,
            tokenizer=tokenizer,
            image_processor=image_processor,
            quasi_attention=quasi_attention,
        )
        self.register_to_config(answers=None if answers is None else list(answers))
        self.parser = make_parser("rules" if parser is None else parser)
        self._graphs: dict[tuple, AttentionGraph] = {}

    @classmethod
    def from_backbone(
        cls,
        source: str | os.PathLike,
        answers: Sequence[str] | None = None,
        bias: str | None = None,
        *,
        soft: bool = False,
        lam: float = 1.0,
        s_img: int | None = None,
        parser: Parser | str | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> "GraphTransformerPipeline":
        """A pipeline on a stock checkpoint of ViLT or LXMERT.

        Args:
            source: embedded name, folder or Hub id, for example "dandelin/vilt-b32-finetuned-vqa".
            answers: of a new head; without them the checkpoint's own head stays.
            bias: "shared" or "per_layer": a new trainable bias, all zeros; None for none.
            soft, lam: of that bias. s_img: its longest picture in tokens; by default that of the widest picture.
            seed: of the new head's start.
            kwargs: passed to the model's `from_pretrained`, for example `dtype`.

        Raises:
            ValueError: no such checkpoint, pickled weights, another model, or one without a head and no `answers`.
        """
        refuse_code(kwargs)
        parts = loading.load_parts(source, answers, seed, **kwargs)
        if bias is not None:
            parts["quasi_attention"] = loading.new_bias(parts["model"], bias, soft=soft, lam=lam, s_img=s_img)
        return cls(**parts, parser=parser)

    @property
    def answers(self) -> list[str]:
        """What each logit means."""
        if self.config.answers is not None:
            return list(self.config.answers)
        labels = self.model.config.id2label
        count = self.backbone.answers
        return [labels[n] for n in range(count)] if len(labels) == count else [str(n) for n in range(count)]

    def activation_bytes(self, pictures: int, training: bool = False) -> int:
        """Bytes to keep free for a call on so many pictures, with room to spare."""
        config = self.model.config
        tokens = min(self.backbone.limit, 512) + 256
        values = tokens * (12 * config.hidden_size + 4 * self.backbone.heads * tokens)
        layers = self.backbone.layers if training else 1
        return min(pictures, 32) * values * layers * self.model.dtype.itemsize

    @torch.no_grad()
    def __call__(
        self,
        images: Any,
        questions: str | Sequence[str],
        context: inputs.Context | Sequence[inputs.Context] = None,
        graph: Any = "auto",
        *,
        regions: str | torch.Tensor | Sequence[Sequence[Any]] | None = None,
        neighbours: int | None = None,
        overlap: float | None = None,
        candidates: Sequence[str] | Sequence[Sequence[str]] | None = None,
        random_graph: int | None = None,
        attention: str = "auto",
        truncate: bool = False,
        output_attentions: bool = False,
        batch_size: int = 32,
        return_dict: bool = True,
    ) -> GraphTransformerOutput | tuple:
        """Answer questions: question i about picture i, or the only one of either with all of the other.

        Args:
            images: pictures of any kind and size for ViLT, `RegionFeatures` for LXMERT.
            questions: one or several.
            context: a text, a `Table`, or None; one for all questions, or one for each.
            graph: "auto" reads question and context with the parser; None follows no graph; or a graph, or a list with
                one for each question: see `parsing.read_graph` for what may be one. Its image nodes, if there are any,
                decide which regions connect.
            regions, neighbours, overlap: which regions connect otherwise; see `regions.region_adjacency`. By default
                what the checkpoint's record says, or all.
            candidates: answers to choose from; one list for all questions, or one for each.
            random_graph: a seed: every graph is replaced by a random one of equal density, the control.
            attention: "stock" is the backbone's own, bit for bit; "sdpa", "flex" and "explicit" are those of
                `attention.quasi_attention`; "auto" is "stock" below 1024 tokens and leaves the choice to
                `quasi_attention` from there on.
            truncate: cut texts that are too long, at their end.
            output_attentions: return the weights of every layer; the attention is "stock" then.
            batch_size: questions in one pass.

        Raises:
            ValueError: before any pass: malformed pictures, texts, graphs, candidates or options, a text that is too
                long, a graph that does not fit, or more tokens than the trained bias has.
        """
        connect = self._connect(regions, neighbours, overlap)
        # 1. everything that was given, checked
        examples = self.check_inputs(
            images,
            questions=questions,
            context=context,
            graph=graph,
            options={
                "regions": connect[0],
                "neighbours": connect[1],
                "overlap": connect[2],
                "attention": attention,
                "random_graph": random_graph,
                "output_attentions": output_attentions,
                "batch_size": batch_size,
            },
        )
        places = inputs.read_candidates(candidates, self.answers, len(examples))
        # 2. each text as tokens with its graph
        pieces = [self.encode_text(example, n, truncate) for n, example in enumerate(examples)]
        graphs = [self.read_graph(example, own) for example, own in zip(examples, pieces, strict=True)]
        empty = [n for n, own in enumerate(graphs) if own is not None and inputs.is_empty(own)]
        # 3. pass by pass
        rows, maps = [], []
        batches = range(0, len(examples), batch_size)
        with self.progress_bar(total=len(batches)) as progress:
            for start in batches:
                part = slice(start, start + batch_size)
                logits, weights = self._pass(
                    examples[part],
                    pieces=pieces[part],
                    graphs=graphs[part],
                    regions=connect,
                    random_graph=random_graph,
                    attention=attention,
                    output_attentions=output_attentions,
                )
                rows.append(logits)
                maps += weights
                progress.update()
        self.maybe_free_model_hooks()
        # 4. answers
        if empty:
            warnings.warn(
                f"{len(empty)} of {len(graphs)} graphs are empty, first that of {examples[empty[0]].question!r}; they "
                "see the padding mask alone",
                stacklevel=2,
            )
        logits = torch.cat(rows)
        probs = _probabilities(logits, places)
        names = self.answers
        found = [names[n] for n in probs.argmax(1).tolist()]
        followed = [own or AttentionGraph() for own in graphs]
        result = GraphTransformerOutput(
            logits,
            probs,
            answers=found,
            graphs=followed,
            empty=empty,
            attentions=maps if output_attentions else None,
        )
        return result if return_dict else result.to_tuple()

    def compile(
        self,
        images: Any,
        questions: str | Sequence[str],
        context: inputs.Context | Sequence[inputs.Context] = None,
        graph: Any = "auto",
        *,
        regions: str | torch.Tensor | Sequence[Sequence[Any]] | None = None,
        neighbours: int | None = None,
        overlap: float | None = None,
        truncate: bool = False,
    ) -> GraphBias:
        """The bias that a call would use, for all questions in one batch: to look at (`plot`), or for another model.

        Args: as in `__call__`.
        """
        connect = self._connect(regions, neighbours, overlap)
        options = dict(zip(("regions", "neighbours", "overlap"), connect, strict=True))
        examples = self.check_inputs(images, questions=questions, context=context, graph=graph, options=options)
        pieces = [self.encode_text(example, n, truncate) for n, example in enumerate(examples)]
        graphs = [self.read_graph(example, own) for example, own in zip(examples, pieces, strict=True)]
        with torch.no_grad(), brought(self.model):
            embedded = self.backbone.embed(self.pack(examples, pieces).to(execution_device(self.model)))
        return self.bias_for(pieces, graphs, embedded.regions, connect)

    def check_inputs(
        self, images: Any, questions: Any, context: Any, graph: Any, options: dict[str, Any]
    ) -> list[inputs.Example]:
        """Everything a call was given, read and checked.

        Raises:
            ValueError: as `__call__`.
        """
        check_regions(options["regions"], options["neighbours"], options["overlap"])
        if options.get("attention", "auto") not in ATTENTION:
            raise ValueError(f"`attention` is {options['attention']!r}; allowed: {', '.join(ATTENTION)}")
        if options.get("output_attentions") and options["attention"] not in ("auto", "stock"):
            raise ValueError(f"`output_attentions` needs `attention` 'stock', got {options['attention']!r}")
        for name, least in (("batch_size", 1), ("random_graph", 0)):
            value = options.get(name)
            if value is not None and (type(value) is not int or value < least):
                raise ValueError(f"`{name}` is {value!r}; an integer of {least} or more")
        if options.get("batch_size", 1) is None:
            raise ValueError("`batch_size` is None; an integer of 1 or more")
        examples = inputs.read_examples(images, questions, context, graph, regions=self.image_processor is None)
        known = self.wm_config.vocabulary if self.wm_config is not None else None
        if known:
            check_vocabulary(known, [example.question for example in examples], "`questions`")
            check_vocabulary(known, [e.context_text for e in examples if e.context is not None], "`context`")
        return examples

    def encode_text(self, example: inputs.Example, place: int = 0, truncate: bool = False) -> Pieces:
        """Question and context as tokens.

        Raises:
            ValueError: more tokens than the model takes.
        """
        name = f"questions[{place}]"
        return encode(
            self.tokenizer,
            example.question,
            context=example.context_text,
            limit=self.backbone.limit,
            truncate=truncate,
            name=name,
        )

    def read_graph(self, example: inputs.Example, pieces: Pieces) -> AttentionGraph | None:
        """The graph of an example over its text, as far as that was encoded.

        Raises:
            ValueError: a graph that is none, or does not fit the text.
        """
        if example.graph is None:
            return None
        if isinstance(example.graph, str) and example.graph == "auto":
            key = (pieces.text, pieces.kept, isinstance(example.context, Table), self.parser)
            if key not in self._graphs:
                if len(self._graphs) > 4096:
                    self._graphs.clear()
                self._graphs[key] = _within(auto_graph(example.question, example.context, self.parser), pieces)
            return self._graphs[key]
        return read_graph(example.graph, pieces.text)

    def pack(self, examples: Sequence[inputs.Example], pieces: Sequence[Pieces]) -> Inputs:
        """A batch for the backbone, on the CPU; texts padded to the longest."""
        ids = pad([own.ids for own in pieces], self.tokenizer.pad_token_id or 0)
        mask = pad([[1] * len(own) for own in pieces], 0)
        types = pad([own.types for own in pieces], 0)
        if self.image_processor is not None:
            found = self.image_processor([example.picture for example in examples], return_tensors="pt")
            return Inputs(ids, mask, types, (found["pixel_values"], found["pixel_mask"]))
        most = max(len(example.picture.boxes) for example in examples)
        features = [_padded(example.picture.features, most) for example in examples]
        boxes = [_padded(example.picture.boxes, most) for example in examples]
        there = pad([[1] * len(example.picture.boxes) for example in examples], 0)
        return Inputs(ids, mask, types, (torch.stack(features), torch.stack(boxes), there))

    def _connect(self, regions: Any, neighbours: Any, overlap: Any) -> tuple[Any, Any, Any]:
        """What was asked for, else what the record recommends, else all regions."""
        return (
            self.recommended("regions", regions, "full"),
            self.recommended("neighbours", neighbours, 8),
            self.recommended("overlap", overlap, 0.0),
        )

    def bias_for(
        self, pieces: Sequence[Pieces], graphs: Sequence[AttentionGraph | None], regions: Regions, kind: tuple
    ) -> GraphBias:
        """The bias of texts and pictures that were encoded and embedded.

        Args:
            kind: regions, neighbours and overlap, as `__call__` takes them.

        Raises:
            ValueError: a graph that does not fit its text or picture.
        """
        names = [self.tokenizer.convert_ids_to_tokens(list(own.ids)) for own in pieces]
        return compile_graphs(
            graphs, pieces, regions=regions, kind=kind[0], neighbours=kind[1], overlap=kind[2], names=names
        )

    def _pass(
        self,
        examples: Sequence[inputs.Example],
        pieces: Sequence[Pieces],
        graphs: Sequence[AttentionGraph | None],
        regions: tuple,
        random_graph: int | None,
        attention: str,
        output_attentions: bool,
    ) -> tuple[torch.Tensor, list[AttentionMaps]]:
        device = execution_device(self.model)
        with brought(self.model):
            embedded = self.backbone.embed(self.pack(examples, pieces).to(device))
            bias = self.bias_for(pieces, graphs, embedded.regions, regions)
            bias = bias if random_graph is None else bias.randomised(random_graph)
            long = bias.valid.shape[1] >= LONG and not output_attentions
            backend = attention if attention != "auto" else "auto" if long else "stock"
            logits, weights = self.backbone.encode(
                embedded, loading.bias_of(bias.to(device), self.quasi_attention), output_attentions, backend
            )
        maps = maps_of(bias, weights, embedded.regions.special) if output_attentions else []
        return logits.float().cpu(), maps


def _within(graph: AttentionGraph, pieces: Pieces) -> AttentionGraph:
    """The nodes of a graph that was read from the whole text whose words were all encoded."""
    kept = [
        n
        for n, node in enumerate(graph.nodes)
        if any(start <= node.span[0] and node.span[1] <= end for start, end in pieces.kept)
    ]
    places = {n: k for k, n in enumerate(kept)}
    edges = tuple((places[i], places[j], what) for i, j, what in graph.edges if i in places and j in places)
    return AttentionGraph(tuple(graph.nodes[n] for n in kept), edges) if edges else AttentionGraph()


def _padded(values: torch.Tensor, most: int) -> torch.Tensor:
    return torch.cat([values.float(), values.new_zeros(most - len(values), values.shape[1]).float()])


def _probabilities(logits: torch.Tensor, places: list[list[int]] | None) -> torch.Tensor:
    if places is None:
        return logits.softmax(1)
    out = torch.full_like(logits, -torch.inf)
    for row, own in enumerate(places):
        out[row, own] = logits[row, own]
    return out.softmax(1)
