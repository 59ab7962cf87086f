"""The parts of a pipeline: stock checkpoints with their own head or a new one, and the trained bias."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from wm_pipelines import hub
from wm_pipelines.graph_transformer.attention import Cells
from wm_pipelines.graph_transformer.backbones import Backbone, backbone_of
from wm_pipelines.graph_transformer.bias import GraphBias
from wm_pipelines.graph_transformer.modeling import QuasiAttentionModel
from wm_pipelines.hub.stock import load_model, load_part
from wm_pipelines.runtime.readers import read_json

BIASES = ("shared", "per_layer")


def check_parts(backbone: Backbone, image_processor: Any, quasi_attention: Any, answers: Any) -> None:
    """ValueError where the parts of a pipeline don't go together."""
    kind = type(backbone.model).__name__
    if (image_processor is None) == kind.startswith("Vilt"):
        needs = "needs an image processor" if image_processor is None else "reads region features; leave it out"
        raise ValueError(f"`image_processor` is {type(image_processor).__name__}; {kind} {needs}")
    if answers is not None:
        if isinstance(answers, str) or not all(isinstance(name, str) for name in answers):
            raise ValueError("`answers` must be a list of texts")
        if len(answers) != backbone.answers:
            raise ValueError(f"`answers` has {len(answers)} entries; the model's head has {backbone.answers}")
    if quasi_attention is not None:
        config = quasi_attention.config
        if config.heads != backbone.heads:
            raise ValueError(f"`quasi_attention` is for {config.heads} heads; the model has {backbone.heads}")
        if config.per_layer and config.layers != backbone.layers:
            raise ValueError(f"`quasi_attention` is for {config.layers} layers; the model has {backbone.layers}")


def load_parts(source: str | os.PathLike, answers: Sequence[str] | None, seed: int, **kwargs: Any) -> dict[str, Any]:
    """Components of a pipeline from a stock checkpoint.

    Args:
        answers: of a new head; None keeps the checkpoint's own.
        kwargs: passed to the model's `from_pretrained`.

    Raises:
        ValueError: another model, weights that are cut off, or no head and no `answers`.
    """
    from transformers import AutoTokenizer, LxmertForQuestionAnswering, ViltForQuestionAnswering
    from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

    folder = hub.resolve(source)
    hub.check_weights(folder)
    try:
        kind = read_json(folder / "config.json").get("model_type")
    except (ValueError, AttributeError):
        kind = None
    classes = {"vilt": ViltForQuestionAnswering, "lxmert": LxmertForQuestionAnswering}
    if kind not in classes:
        raise ValueError(f"{folder} holds a model of type {kind!r}; a graph transformer stands on 'vilt' or 'lxmert'")
    if answers is not None:
        kwargs |= _head(kind, answers)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model, found = load_model(classes[kind], folder, output_loading_info=True, **kwargs)
    _check_loaded(folder, found, answers)
    parts: dict[str, Any] = {"model": model.eval(), "tokenizer": load_part(AutoTokenizer, folder)}
    if kind == "vilt":
        # on Pillow, so that pictures come out alike with and without torchvision
        parts["image_processor"] = load_part(ViltImageProcessorPil, folder)
    elif answers is not None:
        parts["answers"] = list(answers)
    return parts


def _head(kind: str, answers: Sequence[str]) -> dict[str, Any]:
    names = list(answers)
    if len(set(names)) != len(names) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`answers` must be two or more different texts, got {len(names)}")
    if kind == "lxmert":
        return {"num_qa_labels": len(names), "ignore_mismatched_sizes": True}
    labels = dict(enumerate(names))
    return {"id2label": labels, "label2id": {n: i for i, n in labels.items()}, "ignore_mismatched_sizes": True}


def _check_loaded(folder: Any, found: dict[str, Any], answers: Sequence[str] | None) -> None:
    """A head may be new where answers were given; nothing else may."""
    new = [*found.get("missing_keys", ()), *(entry[0] for entry in found.get("mismatched_keys", ()))]
    own = [name for name in new if not name.startswith(("classifier.", "answer_head."))]
    if own:
        raise ValueError(f"{folder} lacks {len(own)} weights of its own model, first {sorted(own)[0]!r}")
    if new and answers is None:
        raise ValueError(f"{folder} has no answer head; pass `answers`, the texts of a new one")


def new_bias(
    model: Any,
    kind: str = "shared",
    soft: bool = False,
    lam: float = 1.0,
    s_img: int | None = None,
    s_text: int | None = None,
) -> QuasiAttentionModel:
    """A trained bias for a model, all zeros, on its device and in its dtype.

    Args:
        kind: "shared" by all layers, or "per_layer".
        s_img: tokens of the longest picture; by default those of ViLT's widest, or 36 regions.
        s_text: tokens of the longest text; by default what the model takes, for LXMERT 40.

    Raises:
        ValueError: another kind.
    """
    if kind not in BIASES:
        raise ValueError(f"`bias` is {kind!r}; allowed: {', '.join(BIASES)}, or None")
    backbone = backbone_of(model)
    vilt = type(model).__name__.startswith("Vilt")
    made = QuasiAttentionModel(
        s_text=s_text or (backbone.limit if vilt else 40),
        s_img=s_img or (_widest(model.config) if vilt else 36),
        heads=backbone.heads,
        per_layer=kind == "per_layer",
        lam=lam,
        layers=backbone.layers,
        soft=soft,
    )
    return made.to(model.device, model.dtype).eval()


def _widest(config: Any) -> int:
    """Tokens of the longest picture that ViLT's processor makes: its longer side is 1333/800 of the shorter."""
    side = config.image_size // config.patch_size
    return side * math.ceil(side * 1333 / 800) + 1


def bias_of(bias: GraphBias, quasi_attention: QuasiAttentionModel | None) -> Callable[[int], Cells]:
    """Layer -> its whole bias; one that is shared is made once."""
    if quasi_attention is not None:
        quasi_attention.check(bias.text_length, bias.valid.shape[1])
    per_layer = quasi_attention is not None and quasi_attention.config.per_layer
    made: dict[int, Cells] = {}

    def of(layer: int) -> Cells:
        key = layer if per_layer else 0
        if key not in made:
            made.clear()
            if quasi_attention is None:
                made[key] = Cells(bias.allowed, bias.valid)
            else:
                made[key] = quasi_attention.cells(bias.allowed, bias.valid, bias.text_length, key)
        return made[key]

    return of
