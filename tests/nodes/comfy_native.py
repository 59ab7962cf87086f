"""A tiny native SD-shaped model in a real ComfyUI, beside its diffusers twin: how far do their adapters differ?

Run by ComfyUI's Python with COMFYUI_PATH set; prints one JSON object. Both models have the same weights, so that every
difference comes from the adapter's way into the native one: as LoRA through LoraLoader, or through our node.
"""

import asyncio
import json
import sys
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNET = {
    "image_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 16,
    "adm_in_channels": None,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_checkpoint": False,
    "legacy": False,
}


def load_nodes(folder: Path) -> dict:
    """Our nodes by id, loaded as ComfyUI does, with `folder` in place of models/wm_pipelines."""
    spec = spec_from_file_location("custom_nodes_x_wm", ROOT / "__init__.py")
    package = module_from_spec(spec)
    sys.modules[spec.name] = package
    spec.loader.exec_module(package)

    async def listed() -> list:
        return await (await package.comfy_entrypoint()).get_node_list()

    nodes = {node.__name__: node for node in asyncio.run(listed())}
    folders = sys.modules["custom_nodes_x_wm.nodes._shared.folders"]
    folders.model_roots = lambda: [folder]
    return nodes


def twins():
    """(patcher of the native model, diffusers UNet) with equal random weights."""
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    config = comfy.supported_models.SD15({**UNET, "dtype": torch.float32})
    native = config.get_model({}, device="cpu")
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=16,
        attention_head_dim=8,
    ).eval()
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    native.diffusion_model.load_state_dict({names[key]: tensor for key, tensor in unet.state_dict().items()})
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(native, load_device=device, offload_device=device), unet


def flux():
    """(patcher of a tiny native Flux with random weights, diffusers transformer of the same sizes)."""
    import comfy.model_patcher
    import comfy.supported_models
    import torch
    from diffusers import FluxTransformer2DModel

    sizes = {"in_channels": 16, "out_channels": 16, "vec_in_dim": 8, "context_in_dim": 12, "hidden_size": 32}
    sizes |= {"mlp_ratio": 4.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6]}
    sizes |= {"theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []}
    config = comfy.supported_models.Flux({**sizes, "image_model": "flux", "dtype": torch.float32})
    native = config.get_model({}, device="cpu")
    for parameter in native.parameters():
        torch.nn.init.normal_(parameter)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=True,
    )
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(native, load_device=device, offload_device=device), transformer


def main(folder: Path) -> dict:
    import folder_paths
    import torch
    from peft import inject_adapter_in_model
    from safetensors.torch import load_file, save_file

    import nodes as core

    ours = load_nodes(folder)["WM_KroneckerApply"]  # makes the library importable too
    from wm_pipelines.adapters.kronecker import KroneckerConfig, save_adapter, save_lora

    folder_paths.add_model_folder_path("loras", str(folder))
    patcher, unet = twins()
    sample, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)

    def native(patched) -> torch.Tensor:
        patched.patch_model()
        try:
            return patched.model.diffusion_model(sample, torch.tensor([3.0, 700.0]), context=text)
        finally:
            patched.unpatch_model()

    def weights(patched) -> dict[str, torch.Tensor]:
        patched.patch_model()
        found = {key: tensor.clone() for key, tensor in patched.model.state_dict().items()}
        patched.unpatch_model()
        return found

    def twin() -> torch.Tensor:
        return unet(sample, torch.tensor([3, 700]), text).sample

    def randomise(model, name: str) -> None:
        for layer in (m for m in model.modules() if hasattr(m, "spec")):
            layer.set_adapter([name])
            for kind in layer.adapter_layer_names:
                if name in getattr(layer, kind):
                    getattr(layer, kind)[name].normal_(0, 0.3)

    def far(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).norm() / b.norm())

    def refusal(model, name: str) -> str:
        try:
            ours.execute(model, name, 1.0)
        except ValueError as error:
            return str(error)
        return ""

    targets = ["to_q", "to_v", "to_out.0", "ff.net.2"]
    before = {key: tensor.clone() for key, tensor in patcher.model.state_dict().items()}
    with torch.no_grad():
        plain = twin()
        found = {"twins": far(native(patcher), plain), "forms": {}}
        for form, options in {
            "rank_one": {},
            "dense": {"factored": False},
            "bias": {"bias": "own", "target_modules": ["to_out.0", "ff.net.2"]},
        }.items():
            adapted = inject_adapter_in_model(
                KroneckerConfig(**{"n": 8, "target_modules": targets, **options}), unet, form
            )
            randomise(adapted, form)
            expected = twin()
            save_adapter(unet, folder / form, form)
            save_lora(unet, folder, form, format="kohya").rename(folder / f"{form}.safetensors")
            save_lora(unet, folder, form, format="diff").rename(folder / "diff.safetensors")
            whole, _ = core.LoraLoader().load_lora(patcher, None, "diff.safetensors", 1.0, 1.0)
            lora, _ = core.LoraLoader().load_lora(patcher, None, f"{form}.safetensors", 1.0, 1.0)
            node = ours.execute(patcher, form, 1.0).result[0]
            half = ours.execute(patcher, form, 0.5).result[0]
            by_lora, by_node, by_half = weights(lora), weights(node), weights(half)
            found["forms"][form] = {
                "adapter moves the output": far(expected, plain),
                "LoraLoader": far(native(lora), expected),
                "LoraLoader, diff": far(native(whole), expected),
                "node": far(native(node), expected),
                "weights, node to LoRA": max(far(by_node[key], by_lora[key]) for key in before),
                "weights changed": sum(not torch.equal(by_node[key], before[key]) for key in before),
                "modules": sum(hasattr(m, "spec") and form in m.spec for m in unet.modules()),
                "half strength": max(far(by_half[k], (before[k] + by_node[k]) / 2) for k in before),
            }
        packed, transformer = flux()
        config = KroneckerConfig(n=8, bias="own", target_modules=["to_q", "to_v", "proj_mlp", "linear_2"])
        inject_adapter_in_model(config, transformer, "packed")
        randomise(transformer, "packed")
        save_adapter(transformer, folder / "packed", "packed")
        layers = {name: m for name, m in transformer.named_modules() if hasattr(m, "spec")}
        q, v = (layers[f"transformer_blocks.0.attn.to_{kind}"] for kind in "qv")
        plain = packed.model.state_dict()
        plain = {key: tensor.clone() for key, tensor in plain.items()}
        by_node = weights(ours.execute(packed, "packed", 1.0).result[0])
        zero = torch.zeros(32, 32)
        qkv = torch.cat([q.get_delta_weight("packed"), zero, v.get_delta_weight("packed")])
        bias = torch.cat([q.full_bias("packed"), zero[0], v.full_bias("packed")])
        key = "diffusion_model.double_blocks.0.img_attn.qkv"
        # PEFT's own LoRA file of the same update, as core reads it
        lora_keys = {f"transformer.{k}": t for k, t in load_file(save_lora(transformer, folder, "packed")).items()}
        lora_keys = {k.replace("base_model.model.", ""): t for k, t in lora_keys.items() if "bias" not in k}
        save_file(lora_keys, folder / "flux.safetensors")
        by_lora = weights(core.LoraLoader().load_lora(packed, None, "flux.safetensors", 1.0, 1.0)[0])
        changed = [k for k in plain if not torch.equal(by_node[k], plain[k])]
        found["flux"] = {
            "weight": far(by_node[f"{key}.weight"] - plain[f"{key}.weight"], qkv),
            "bias": far(by_node[f"{key}.bias"] - plain[f"{key}.bias"], bias),
            "weights, node to LoRA": max(far(by_node[k], by_lora[k]) for k in plain if not k.endswith("bias")),
            "changed": sorted({k.removeprefix("diffusion_model.").rpartition(".")[0] for k in changed}),
        }
        after = patcher.model.state_dict()
        found["model that came in is unchanged"] = all(torch.equal(after[key], before[key]) for key in before)

        inject_adapter_in_model(KroneckerConfig(n=8, bias="own", target_modules=["attn1.to_q"]), unet, "no_bias")
        save_adapter(unet, folder / "no_bias", "no_bias")
        wide = torch.nn.ModuleDict({"conv_in_": torch.nn.Linear(8, 8)})
        save_adapter(
            inject_adapter_in_model(KroneckerConfig(n=8, target_modules=["conv_in_"]), wide), folder / "unknown"
        )
        small = torch.nn.Module()
        small.time_embedding = torch.nn.ModuleDict({"linear_1": torch.nn.Linear(8, 8)})
        save_adapter(
            inject_adapter_in_model(KroneckerConfig(n=8, target_modules=["linear_1"]), small), folder / "size"
        )
        found["refused"] = {name: refusal(patcher, name) for name in ("unknown", "size", "no_bias", "../size")}
    return found


if __name__ == "__main__":
    from comfy_start import start

    with start() as answer, tempfile.TemporaryDirectory() as temporary:
        answer.write(json.dumps(main(Path(temporary))))
