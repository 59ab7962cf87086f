"""Text encoders of a real ComfyUI beside ours: which of the layers in our files does its LoRA reader find?

Run by ComfyUI's Python with COMFYUI_PATH set; prints one JSON object. The native models have random weights: what is
compared is how far each of them moves, against ΔW of our adapter.
"""

import json
import sys
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


def make_importable() -> None:
    """The library, as ComfyUI makes it: by loading the node pack."""
    spec = spec_from_file_location("custom_nodes_x_wm", ROOT / "__init__.py")
    package = module_from_spec(spec)
    sys.modules[spec.name] = package
    spec.loader.exec_module(package)


def native(*names: str):
    """A patcher of a model with a tiny text encoder for each of `names` ("clip_l", "clip_g"), as ComfyUI nests it."""
    import comfy.clip_model
    import comfy.model_patcher
    import comfy.ops
    import torch

    model = torch.nn.Module()
    for name in names:
        sizes = {**SIZES, "hidden_act": "quick_gelu", "eos_token_id": 2, "layer_norm_eps": 1e-5}
        sizes |= {"max_position_embeddings": 8, "vocab_size": 9, "projection_dim": 16}
        inner = torch.nn.Module()
        inner.transformer = comfy.clip_model.CLIPTextModel(sizes, torch.float32, "cpu", comfy.ops.disable_weight_init)
        model.add_module(name, inner)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def main(folder: Path) -> dict:
    import comfy.lora
    import torch
    from peft import inject_adapter_in_model
    from safetensors.torch import load_file
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    make_importable()
    from wm_pipelines.adapters.kronecker import KroneckerConfig, save_lora

    def encoder(kind):
        sizes = CLIPTextConfig(**SIZES, vocab_size=9, max_position_embeddings=8, projection_dim=16, eos_token_id=2)
        made = inject_adapter_in_model(KroneckerConfig(n=4, bias="own", target_modules=TARGETS), kind(sizes))
        for parameter in made.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        return made

    def read(path: Path, patcher, name: str, adapted) -> dict:
        """What ComfyUI's reader makes of a file for the encoder `name`, against the updates of `adapted`."""
        keys = comfy.lora.model_lora_keys_clip(patcher.model, {})
        tensors = load_file(path)
        patches = comfy.lora.load_lora(tensors, keys, log_missing=False)
        before = {key: tensor.clone() for key, tensor in patcher.model.state_dict().items()}
        patched = patcher.clone()
        taken = patched.add_patches(patches)
        patched.patch_model()
        after = {key: tensor.clone() for key, tensor in patched.model.state_dict().items()}
        patched.unpatch_model()
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        worst, expected = 0.0, set()
        for module, layer in ((n, m) for n, m in adapted.named_modules() if hasattr(m, "spec")):
            place = f"{name}.transformer.text_model.{module.removeprefix('text_model.')}"
            wanted = {f"{place}.weight": layer.get_delta_weight("default")}
            if any(key.endswith("diff_b") for key in tensors):
                wanted[f"{place}.bias"] = layer.full_bias("default")
            for key, delta in wanted.items():
                expected.add(key)
                worst = max(worst, float((after[key] - before[key] - delta).norm() / delta.norm()))
        return {"layers": len(taken), "as meant": changed == expected, "error": worst}

    found = {}
    with torch.no_grad():
        plain, projected = encoder(CLIPTextModel), encoder(CLIPTextModelWithProjection)
        one, both = native("clip_l"), native("clip_l", "clip_g")
        for form in ("kohya", "diff", "diffusers"):
            prefixes = ("text_encoder",) * 2 if form == "diffusers" else ("lora_te", "lora_te1")
            second = "text_encoder_2" if form == "diffusers" else "lora_te2"
            for what, adapted, prefix, patcher, name in (
                ("by default", plain, None, one, "clip_l"),
                ("the only one", plain, prefixes[0], one, "clip_l"),
                ("the only one, with a projection", projected, prefixes[0], one, "clip_l"),
                ("the first of two", plain, prefixes[1], both, "clip_l"),
                ("the second of two", projected, second, both, "clip_g"),
            ):
                path = save_lora(adapted, folder, format=form, prefix=prefix)
                found[f"{form}, {what}"] = read(path, patcher, name, adapted)
    return found


if __name__ == "__main__":
    from comfy_start import start

    with start() as answer, tempfile.TemporaryDirectory() as temporary:
        answer.write(json.dumps(main(Path(temporary))))
