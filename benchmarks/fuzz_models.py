"""Folders of whole models at tiny size, for `fuzz.py`: token models, world models, graphs, questions about video."""

import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from fuzz import Reader

SHARE = 0.03
TESTS = Path(__file__).parents[1] / "tests" / "wm_pipelines"


def readers(work: Path) -> Iterator[Reader]:
    """All of them. `work` is an empty folder."""
    from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline
    from wm_pipelines.evaluation.mcq.vision_language import load_vision_language
    from wm_pipelines.graph_transformer.pipeline import GraphTransformerPipeline
    from wm_pipelines.world_model.pipeline import WorldModelPipeline

    token_models = _module(TESTS / "dynamics" / "token_models.py")
    for family in ("plain", "chameleon"):
        for kind in (DynamicsModelPipeline, WorldModelPipeline):
            folder = work / f"{kind.__name__}-{family}"
            kind(**token_models.make_parts(family)).save_pretrained(folder)
            yield Reader(f"{kind.__name__}, {family}", kind.from_pretrained, folder=folder, share=SHARE)
    _vilt().save_pretrained(work / "graph")
    load = GraphTransformerPipeline.from_pretrained
    yield Reader("GraphTransformerPipeline", load, folder=work / "graph", share=SHARE)
    _quiz(work / "quiz")
    yield Reader("vision-language model", lambda path: load_vision_language(path, device="cpu"),
                 folder=work / "quiz", share=SHARE)  # fmt: skip
    yield from _modular(work)


def _modular(work: Path) -> Iterator[Reader]:
    """The embedded checkpoints as repositories of Modular Diffusers."""
    from wm_pipelines.flexecontrol.modular import PARTS, FlexEControlModularPipeline
    from wm_pipelines.flexecontrol.run import load
    from wm_pipelines.mojito.modular import PARTS as MOJITO
    from wm_pipelines.mojito.modular import MojitoModularPipeline
    from wm_pipelines.pipeline import AutoWMPipeline

    control, video = load().components, AutoWMPipeline.from_pretrained("diorama-video").components
    made = (
        FlexEControlModularPipeline.from_parts(**{name: control[name] for name in PARTS}),
        MojitoModularPipeline.from_parts(**{name: part for name, part in video.items() if name in MOJITO}),
    )
    for pipe in made:
        name = type(pipe).__name__
        pipe.save_pretrained(work / name)
        yield Reader(name, type(pipe).from_pretrained, folder=work / name, share=SHARE)


def _vilt() -> Any:
    from transformers import BertTokenizer, ViltConfig, ViltForQuestionAnswering
    from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

    from wm_pipelines.graph_transformer.pipeline import GraphTransformerPipeline

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "it", "red", "blue", "?"]
    config = ViltConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, max_position_embeddings=48, id2label={0: "red", 1: "blue"},
    )  # fmt: skip
    return GraphTransformerPipeline(
        ViltForQuestionAnswering(config).eval(),
        BertTokenizer(vocab={word: n for n, word in enumerate(words)}),
        ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8),
    )


def _quiz(folder: Path) -> None:
    from wm_pipelines.training import Recipe, build

    small = {"width": 16, "layers": 1, "heads": 2, "inner": 32, "vision_width": 16, "vision_layers": 1}
    small |= {"vision_inner": 32, "size": 32, "length": 2, "sources": ["pictures"], "families": ["colour"]}
    folder.mkdir()
    build(Recipe(task="diorama-vlm", options=small, steps=1, batch_size=1)).export(folder)


def _module(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    sys.modules[path.stem] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
