"""LoRA, DoRA, LoKr, OFT and Kronecker adapters with equally many parameters: time, memory, and what each can't do.

    python benchmarks/adapter_methods.py            # writes results/adapter_methods.jsonl
    python benchmarks/adapter_methods.py --quick    # tiny sizes, to see that it runs

Four frozen linear layers in a row, all adapted, by PEFT and in its own modules; ranks are chosen so that each method
trains as many parameters as LoRA of rank 4, as nearly as its sizes allow. Calls alternate in a shuffled order, in CPU
time of one thread; a ratio is of the same repeat, over the layers alone. Memory is what is kept for the backward pass
beyond what the layers alone keep, in multiples of the input; 0.75 a layer is the inputs of three layers of four, the
first being the input itself. "Can" is tried, not read: a call works and its result is right, or the first line of its
error stands.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import (
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    convert_to_lora,
    get_peft_model,
    set_peft_model_state_dict,
)
from peft.utils.hotswap import hotswap_adapter as hotswap_lora
from records import RESULTS, environment, write
from timing import measure, ratio
from torch import nn

from wm_pipelines.adapters.kronecker import KroneckerConfig, hotswap_adapter
from wm_pipelines.runtime.noise import randn

LAYERS = 4
OURS = "Kronecker"


def configs(width: int, targets: list[str] | None = None, **more: Any) -> dict[str, PeftConfig]:
    """{method: config}, each of about 8·width parameters a layer."""
    targets = targets or [str(at) for at in range(LAYERS)]
    common = {"target_modules": targets, **more}
    return {
        "LoRA": LoraConfig(r=4, lora_alpha=4, **common),
        # its magnitudes are width more, so every second layer has one rank less
        "DoRA": LoraConfig(r=4, lora_alpha=4, use_dora=True, rank_pattern={"0": 3, "2": 3}, **common),
        "LoKr": LoKrConfig(r=32 if width >= 512 else 16, alpha=4, decompose_factor=8, **common),
        "OFT": OFTConfig(r=0, oft_block_size=16, use_cayley_neumann=False, **common),
        OURS: KroneckerConfig(n=16, r=4, shared_sets="all", **common),
    }


def stack(width: int) -> nn.Sequential:
    """Frozen layers that keep the size of what passes through."""
    layers = [nn.Linear(width, width).requires_grad_(False) for _ in range(LAYERS)]
    with torch.no_grad():
        for at, layer in enumerate(layers):
            layer.weight.copy_(randn((width, width), "adapter methods", at) * width**-0.5)
            layer.bias.zero_()
    return nn.Sequential(*layers)


def adapted(model: nn.Module, config: PeftConfig) -> PeftModel:
    """With numbers in every factor as after training: a zero factor could be cheaper."""
    model = get_peft_model(model, config).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.add_(0.02 * randn(tuple(parameter.shape), "adapter methods", name))
    return model


def kept(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes of all tensors kept for the backward pass that are neither x nor the model's own."""
    given = {t.untyped_storage().data_ptr() for t in (x, *model.parameters(), *model.buffers())}
    found: dict[int, int] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = model(x)
    assert y.requires_grad
    return sum(size for place, size in found.items() if place not in given)


def speed(tokens: int, width: int, repeats: int) -> list[dict[str, Any]]:
    """Rows of one shape: forward, forward and backward, merging, and what is kept."""
    models = {"base": stack(width)} | {name: adapted(stack(width), c) for name, c in configs(width).items()}
    x = randn((tokens, width), "adapter methods", "x").requires_grad_()
    g = randn((tokens, width), "adapter methods", "g")

    def forward(model: nn.Module) -> Callable[[], Any]:
        return torch.no_grad()(lambda: model(x))

    def both(model: nn.Module) -> Callable[[], None]:
        return lambda: torch.autograd.backward(model(x), g)

    def merge(model: PeftModel) -> Callable[[], None]:
        def run() -> None:
            model.merge_adapter()
            model.unmerge_adapter()

        return run

    rows = []
    for mode, make in (("forward", forward), ("forward and backward", both), ("merge and unmerge", merge)):
        runs = {name: make(model) for name, model in models.items() if name != "base" or make is not merge}
        under = {"base": forward(models["base"])} if make is merge else {}
        times = measure({**under, **runs}, repeats, time.process_time)
        for name in runs:
            row = {"figure": mode, "method": name, **ratio(times[name], times["base"])}
            rows.append({**row, "median_s": float(np.median(times[name]))})
    least = kept(models["base"], x)
    for name, model in models.items():
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        beyond = (kept(model, x) - least) / x.nbytes / LAYERS
        rows.append({"figure": "size", "method": name, "parameters": trained, "kept_of_x_per_layer": round(beyond, 3)})
    return [{"tokens": tokens, "width": width, **row} for row in rows]


# ---- what each can't do ----


class Convolution(nn.Sequential):
    """One layer that is not linear."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(16, 32, 3))


def quantised(width: int) -> nn.Module:
    """torchao's int8 weights."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = stack(width)
    quantize_(model, Int8WeightOnlyConfig())
    return model


class Experts(nn.Module):
    """A parameter of three dimensions, as mixtures of experts have it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.weight.transpose(1, 2)).sum(0)


def _half_error(config: PeftConfig) -> None:
    """Merging into bf16 and taking it out again must give the very weights back."""
    model = adapted(stack(64).to(torch.bfloat16), config)
    before = [p.clone() for p in model.parameters()]
    model.merge_adapter()
    model.unmerge_adapter()
    changed = [int((a != b).sum()) for a, b in zip(before, model.parameters(), strict=True)]
    if any(changed):
        raise ValueError(f"{sum(changed)} numbers of the base differ afterwards")


def _trains(model: nn.Module, config: PeftConfig, x: torch.Tensor) -> None:
    model = get_peft_model(model, config)
    (model(x) - 1).square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


def _swap(config: PeftConfig) -> None:
    model = adapted(stack(64), config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        (hotswap_adapter if isinstance(config, KroneckerConfig) else hotswap_lora)(model, folder, "default")


def _mixed(config: PeftConfig) -> None:
    model, x = adapted(stack(64), config).eval(), torch.ones(2, 64)
    y = model(x, adapter_names=["default", "__base__"])
    if torch.allclose(y[0], y[1]):
        raise ValueError("every sample has the same adapters, whatever `adapter_names` says")


def _must_equal(found: torch.Tensor, wanted: torch.Tensor) -> None:
    if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-3):
        raise ValueError(f"the output differs by {float((found - wanted).abs().max()):.2g}")


@torch.no_grad()
def _sum(config: PeftConfig) -> None:
    model, x = adapted(stack(64), config).eval(), torch.ones(1, 64)
    wanted = model(x)
    model.base_model.add_weighted_adapter(["default"], [1.0], "other", combination_type="linear")
    model.set_adapter("other")
    _must_equal(model(x), wanted)


@torch.no_grad()
def _as_lora(config: PeftConfig) -> None:
    model, x = adapted(stack(64), config).eval(), torch.ones(1, 64)
    lora_config, state = convert_to_lora(model, rank=64)
    lora = get_peft_model(stack(64), lora_config).eval()
    set_peft_model_state_dict(lora, state)
    _must_equal(lora(x), model(x))


PROBES: dict[str, Callable[[str], None]] = {
    "adapters by sample": lambda name: _mixed(configs(64)[name]),
    "sum of adapters": lambda name: _sum(configs(64)[name]),
    "hotswap": lambda name: _swap(configs(64)[name]),
    "as LoRA": lambda name: _as_lora(configs(64)[name]),
    "unmerged bit for bit (bf16)": lambda name: _half_error(configs(64)[name]),
    "Conv2d": lambda name: _trains(Convolution(), configs(64, ["0"])[name], torch.ones(1, 16, 5, 5)),
    "int8 base (torchao)": lambda name: _trains(quantised(64), configs(64)[name], torch.ones(1, 64)),
    "experts in one parameter": lambda name: _trains(
        nn.Sequential(Experts()), _for_parameters(name), torch.ones(3, 16)
    ),
}


def _for_parameters(name: str) -> PeftConfig:
    kinds = {"LoRA": LoraConfig, "DoRA": LoraConfig, "LoKr": LoKrConfig, "OFT": OFTConfig, OURS: KroneckerConfig}
    own = {"DoRA": {"use_dora": True}, OURS: {"n": 4}}.get(name, {})
    return kinds[name](target_parameters=["weight"], **own)


def can() -> list[dict[str, Any]]:
    """One row a probe and method: it works, or why not."""
    rows = []
    for probe, run in PROBES.items():
        for name in configs(64):
            try:
                run(name)
                works, said = True, ""
            except ModuleNotFoundError as error:
                works, said = None, f"not run: {error}"
            except Exception as error:
                works, said = False, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:200]
            rows.append({"figure": "can", "what": probe, "method": name, "works": works, "said": said})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, as docs/adapters.md has them."""
    lines = []
    for tokens, width in dict.fromkeys((r["tokens"], r["width"]) for r in rows if "tokens" in r):
        here = [r for r in rows if (r.get("tokens"), r.get("width")) == (tokens, width)]
        lines += [f"{tokens} tokens, width {width}:", ""]
        lines.append("| | parameters | forward | forward and backward | merge and unmerge | kept of x a layer |")
        lines.append("|---|---|---|---|---|---|")
        for name in dict.fromkeys(r["method"] for r in here):
            size = next(r for r in here if r["method"] == name and r["figure"] == "size")
            cells = [f"{size['parameters']:,}"]
            for mode in ("forward", "forward and backward", "merge and unmerge"):
                found = [r for r in here if (r["method"], r["figure"]) == (name, mode)]
                cells += [f"{r['ratio']:.2f} [{r['ci95'][0]:.2f}, {r['ci95'][1]:.2f}]" for r in found] or [""]
            lines.append(f"| {name} | {' | '.join(cells)} | {size['kept_of_x_per_layer']:.2f} |")
        lines.append("")
    names = list(configs(64))
    lines += ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for probe in PROBES:
        words = {True: "yes", False: "no", None: "not run"}
        works = {r["method"]: words[r["works"]] for r in rows if r.get("what") == probe}
        lines.append(f"| {probe} | " + " | ".join(works[name] for name in names) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, three repeats, nothing recorded by default")
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    shapes = ((8, 64),) if args.quick else ((256, 768), (1024, 768))
    rows = [row for shape in shapes for row in speed(*shape, args.repeats or (3 if args.quick else 9))]
    rows += can()
    print(table(rows))
    for row in rows:
        if row.get("said"):
            print(f"{row['method']}, {row['what']}: {row['said']}")
    out = args.out or (None if args.quick else RESULTS / "adapter_methods.jsonl")
    if out:
        where = environment()
        write(out, [{"benchmark": "adapter_methods", **row, **where} for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
