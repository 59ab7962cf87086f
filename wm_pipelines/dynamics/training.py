"""Tuning a token model for one direction: loss on the completion alone, LoRA or all weights."""

import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn
from torch.nn import functional

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME, WMConfig
from wm_pipelines.dynamics.adapters import (
    ATTENTION,
    LINEAR,
    active,
    adapter_names,
    add_adapter,
    refill_adapter,
    save_adapter,
)
from wm_pipelines.dynamics.backend import TokenBackend
from wm_pipelines.dynamics.coded import CodedPairs, Recognizer, encode_pairs
from wm_pipelines.dynamics.data import Pair, read_aurora, read_folder
from wm_pipelines.dynamics.layout import Sample
from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline
from wm_pipelines.dynamics.token_pipeline import TokenPipeline
from wm_pipelines.hub.stock import load_pipeline
from wm_pipelines.hub.weights import save_half
from wm_pipelines.training import KeyedNoise, Recipe, Task, check_keys

TARGETS = {"attention": ATTENTION, "linear": LINEAR}
DIORAMA = "diorama"
DEFAULTS: dict[str, Any] = {
    "base": "diorama-world", "data": DIORAMA, "length": 8000, "cache": None, "resize": None,
    "rank": 16, "alpha_lora": None, "dropout": 0.0, "targets": "attention", "train_lm_head": False,
    "compile": False,
}  # fmt: skip
LENGTHS = 64
"""Compiled layers see lengths that are multiples of this; each new one is compiled anew."""


def read_pairs(options: dict[str, Any], size: tuple[int, int], start: int = 0) -> Sequence[Pair]:
    """Pairs that `options.data` names: "diorama", a JSON file of AURORA's layout, a folder with `pairs.jsonl`, or a
    list of such files and folders, whose pairs follow one another.

    Args:
        start: the first of the miniature world's.

    Raises:
        ValueError: another name, or what the readers refuse.
    """
    data = options["data"]
    if isinstance(data, list) and data and DIORAMA not in data:
        parts = [read_pairs({**options, "data": part}, size) for part in data]
        return [replace(pair, name=f"{n}/{pair.name}") for n, part in enumerate(parts) for pair in part]
    if data == DIORAMA:
        from wm_pipelines.dynamics.scenes import DioramaPairs

        return DioramaPairs(length=options["length"], start=start, size=size[0])
    path = Path(data) if isinstance(data, str) else None
    if path is not None and path.suffix == ".json":
        return read_aurora(path)
    if path is not None and path.is_dir():
        return read_folder(path)
    raise ValueError(
        f"options.data is {data!r:.200}; it must be 'diorama', a .json file of AURORA's layout, a folder, or "
        "a list of such files and folders"
    )


class TokenTask(Task):
    """A token model tuned on pairs in one direction; what `DynamicsTask` and the world model's task share.

    Options:
        base: whole checkpoint to start from. data: as `read_pairs`. length: pairs of the miniature world. cache: file
            that keeps the pairs' codes between runs, of one direction and of both. resize: for pictures of another
            size, "pad" or "crop".
        rank: of the LoRA; 0 trains all weights. alpha_lora: its scale times rank, twice the rank by default. dropout:
            in it. targets: "attention" or "linear", which layers have it. train_lm_head: beside the LoRA, an output
            layer of its own is trained whole and kept in the adapter.
        compile: as `compile_layers`.
    """

    pipeline_class: type[TokenPipeline]
    defaults: dict[str, Any] = DEFAULTS

    def __init__(self, recipe: Recipe):
        check_keys(recipe.options, self.defaults, "options")
        self.options = {**self.defaults, **recipe.options}
        if self.options["targets"] not in TARGETS:
            raise ValueError(f"options.targets is {self.options['targets']!r}; allowed: {', '.join(TARGETS)}")
        if self.options["train_lm_head"] and not self.options["rank"]:
            raise ValueError("options.train_lm_head stands beside a LoRA; options.rank 0 trains all weights already")
        self.pipeline = load_pipeline(self.pipeline_class, self.options["base"])
        self.backend: TokenBackend = self.pipeline.backend
        self.pairs = self.read()
        self.length = len(self.pairs)
        self.data = f"{self.options['data']}, {self.length} pairs"
        self._prepare()

    def read(self) -> CodedPairs:
        """The labelled pairs, as codes.

        Raises:
            ValueError: a pair without an action.
        """
        pairs = self.coded(read_pairs(self.options, self.backend.layout.size), self.options["cache"])
        unlabelled = [name for name, actions in zip(pairs.names, pairs.actions, strict=True) if not actions]
        if unlabelled:
            raise ValueError(f"options.data: pair {unlabelled[0]!r} has no action")
        return pairs

    def coded(self, pairs: Sequence[Pair], cache: str | None) -> CodedPairs:
        """Pairs as codes, by this task's recogniser."""
        layout, name = self.backend.layout, self.options.get("recognizer", "")
        return encode_pairs(
            pairs, self.backend.pictures, layout.size, self.recognizer(), self.options["resize"], layout.pad_colour,
            cache, self.options["data"], name,
        )  # fmt: skip

    def recognizer(self) -> Recognizer | None:
        """What says how far each place changed; None counts codes that differ."""
        return None

    def _prepare(self) -> None:
        model, rank = self.backend.model, self.options["rank"]
        model.requires_grad_(False)
        if rank:
            add_adapter(
                model, self.pipeline.direction, rank, self.options["alpha_lora"], self.options["dropout"],
                TARGETS[self.options["targets"]], self.options["train_lm_head"],
            )  # fmt: skip
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(f".{self.pipeline.direction}." in name)
            model.train(self.options["dropout"] > 0)
        else:
            if names := adapter_names(model):
                raise ValueError(
                    f"options.base has the adapters {', '.join(names)}; options.rank 0 trains all weights of a base "
                    "without any"
                )
            inside = {id(parameter) for parameter in getattr(model.base_model, "vqmodel", nn.Module()).parameters()}
            for parameter in model.parameters():
                parameter.requires_grad_(id(parameter) not in inside)  # tokenisers of pictures stay as they are
        if self.options["compile"]:
            compile_layers(model)

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.backend.model}

    def load_weights(self, source: str) -> dict[str, int]:
        """Starts from an adapter of the same layers and rank, a folder or an embedded name."""
        if not self.options["rank"]:
            raise ValueError("init_from holds an adapter; with options.rank 0 give a whole checkpoint as options.base")
        refill_adapter(self.backend.model, hub.resolve(source), self.pipeline.direction)
        return {"parameters": sum(p.numel() for p in self.backend.model.parameters() if p.requires_grad)}

    @abstractmethod
    def sample(self, index: int, noise: KeyedNoise) -> tuple[Sample, torch.Tensor | None]:
        """The sequence of pair `index` as this step words it, and a weight for each token of its completion."""

    def drawn(self, index: int, noise: KeyedNoise, instructions: Sequence[str]) -> tuple[str, str]:
        """One of the pair's wordings, and one of the instructions."""
        rng = noise.generator(index, "words")
        actions = self.pairs.actions[index]
        return actions[rng.integers(len(actions))], instructions[rng.integers(len(instructions))]

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        samples, weights = zip(*(self.sample(index, noise) for index in indices), strict=True)
        with active(self.backend.model, self.pipeline.adapter):
            lengths = LENGTHS if self.options["compile"] else 1
            return {"loss": completion_loss(self.backend, samples, weights, self.device, lengths)}

    def export(self, folder: Path) -> None:
        """Writes the adapter alone, or the whole checkpoint where all weights were trained; fp16."""
        if self.options["rank"]:
            save_adapter(self.backend.model, self.pipeline.direction, folder, torch.float16)
        else:
            save_whole(self.pipeline, folder)


def compile_layers(model: nn.Module) -> None:
    """Compile each decoder layer for itself, with its attention written out, in place: on a CPU a step then takes half
    of the time (`diorama-world`, batches of 16), after half a minute for each length."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.set_attn_implementation("eager")
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=False)


def completion_loss(
    backend: TokenBackend,
    samples: Sequence[Sample],
    weights: Sequence[torch.Tensor | None],
    device: torch.device,
    multiple: int = 1,
) -> torch.Tensor:
    """Mean cross-entropy of the completions' tokens over all tokens of the vocabulary; prompts cost nothing.

    Args:
        multiple: sequences are padded to a multiple of so many tokens.
        weights: for each sample one weight a token of its completion, or None. Where all are 1, or none is given, this
            is `functional.cross_entropy`, bit for bit.
    """
    rows = [[*sample.prompt, *sample.completion[:-1]] for sample in samples]
    backend.check_context(max(map(len, rows)) + 1)
    longest = math.ceil(max(map(len, rows)) / multiple) * multiple
    tokens, mask = (torch.zeros(len(rows), longest, dtype=torch.long) for _ in range(2))
    places, wanted, weight = [], [], []
    for n, (row, sample) in enumerate(zip(rows, samples, strict=True)):
        tokens[n, : len(row)], mask[n, : len(row)] = torch.tensor(row), 1
        start, count = len(sample.prompt) - 1, len(sample.completion)
        places += [n * longest + start + t for t in range(count)]
        wanted += sample.completion
        weight.append(torch.ones(count) if weights[n] is None else weights[n])
    hidden = backend.hidden(tokens.to(device), mask.to(device)).flatten(0, 1)
    logits = backend.logits(hidden[torch.tensor(places, device=device)])
    targets, factor = torch.tensor(wanted, device=device), torch.cat(weight).to(device)
    if bool((factor == 1).all()):
        return functional.cross_entropy(logits, targets)
    return (factor.detach() * functional.cross_entropy(logits, targets, reduction="none")).mean()


def save_whole(pipeline: DiffusionPipeline, folder: Path, parts: Sequence[str] = ("model", "vq")) -> None:
    """Writes a pipeline's folder with its models, the components `parts`, in fp16."""
    pipeline.save_pretrained(folder)
    for name in parts:
        module = getattr(pipeline, name)
        if module is not None:
            for file in (Path(folder) / name).glob("*.safetensors"):
                file.unlink()
            save_half(module, Path(folder) / name)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()), indent=2) + "\n")
    if (folder / CONFIG_NAME).is_file():
        hub.seal(folder, WMConfig.load(folder))  # over the files as they are now


class DynamicsTask(TokenTask):
    """The dynamics model: -log p(action | source, target), the action's tokens alone (arXiv 2506.06006)."""

    pipeline_class = DynamicsModelPipeline

    def sample(self, index: int, noise: KeyedNoise) -> tuple[Sample, torch.Tensor | None]:
        action, instruction = self.drawn(index, noise, self.backend.layout.inverse_instructions)
        said = self.backend.sequences
        return said.inverse_sample(self.pairs.source[index], action, self.pairs.target[index], instruction), None
