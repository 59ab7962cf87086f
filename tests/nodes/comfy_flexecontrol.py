"""WM_FlexEControlApply on a tiny native model, the library's pipeline on its diffusers twin: how far do they differ?

Run by ComfyUI's Python with COMFYUI_PATH set; prints one JSON object. Both start from the same noise and go through
the same sigmas, so that every difference comes from the node.
"""

import json
import tempfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

STEPS = 4  # of 1000 / 3, so that all timesteps are whole numbers
SCALE = 4.0


def pipeline_of(unet, folder: Path):
    """A FlexEControl pipeline on the twin, whose adapter is awake."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    from wm_pipelines import FlexEControlModel, FlexEControlPipeline
    from wm_pipelines.diorama.tokenizer import build_tokenizer

    control = FlexEControlModel.from_unet(
        unet, n=4, r=2, condition_stride=8, feature_channels=(8, 12), pre_channels=(8, 8, 8), map_stride=2
    )
    with torch.no_grad():
        for name, parameter in control.trainable_parameters().items():
            if "zero_conv" in name or name.endswith("kronecker_u"):
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "feature_extractor" in name:
                parameter.mul_(4)
    tokenizer = build_tokenizer(folder)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    vae = AutoencoderKL(
        block_out_channels=(4,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace"
    )
    pipeline = FlexEControlPipeline(
        vae=vae.eval(), text_encoder=CLIPTextModel(text).eval(), tokenizer=tokenizer, unet=unet,
        control=control.requires_grad_(False).eval(), scheduler=scheduler,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def core_control(native):
    """A small ControlNet of core's own kind, awake."""
    import comfy.ops
    import torch
    from comfy.cldm.cldm import ControlNet as Network
    from comfy.controlnet import ControlNet

    config = {**native.model.model_config.unet_config, "hint_channels": 3, "operations": comfy.ops.disable_weight_init}
    config.pop("out_channels")
    torch.manual_seed(2)
    network = Network(**config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return ControlNet(network, load_device=torch.device("cpu"))


def beside(native, apply, sampled, chosen, prompts, far) -> dict:
    """A ControlNet of core's in front of ours and behind it, several entries in a prompt, core's context windows."""
    import torch
    from comfy import context_windows

    import nodes as core

    positive, negative = prompts
    near = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))

    def cores(first, second):
        return core.ControlNetApplyAdvanced().apply_controlnet(
            first, second, core_control(native), near, 1.0, 0.0, 1.0
        )

    ours = apply(chosen)[:2]
    theirs = cores(positive, negative)
    before = apply(chosen, first=theirs[0])[0], apply(chosen, first=theirs[1])[0]
    alone, control = sampled(*ours), sampled(*theirs)
    both = sampled(*before), sampled(*cores(*ours))
    many = apply(chosen, first=[*positive, *negative])[0]
    windowed = native.clone()
    windowed.model_options["context_handler"] = context_windows.IndexListContextHandler(
        context_schedule=context_windows.get_matching_context_schedule("standard_static"),
        fuse_method=context_windows.get_matching_fuse_method("pyramid"),
        context_length=1, context_overlap=0, context_stride=1, closed_loop=False, dim=0,
    )  # fmt: skip
    context_windows.create_prepare_sampling_wrapper(windowed)
    return {
        "order": far(*both),
        "moved": [far(both[0], alone), far(both[0], control)],
        "entries": [sum("control" in more for _, more in many), bool(sampled(many, ours[1]).isfinite().all())],
        "windows": far(sampled(*ours, model=windowed), alone),
    }


def main(folder: Path) -> dict:
    import comfy.sample
    import comfy.samplers
    import torch
    from comfy_native import load_nodes, twins

    nodes = load_nodes(folder)
    from wm_pipelines import Condition

    memory = import_module("custom_nodes_x_wm.nodes._shared.memory")
    native, unet = twins()
    pipeline = pipeline_of(unet, folder)
    handle = memory.PipelineHandle(pipeline, "tiny")
    torch.manual_seed(1)
    noise, texts = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 16)
    positive, negative = ([[text[None], {}]] for text in texts)
    edges = (torch.rand(3, 64, 64) > 0.9).float()
    near = torch.rand(3, 64, 64)
    conditions = {
        "one": (Condition("canny", edges),),
        "several": (
            Condition("canny", edges, region=(0, 0, 0.5, 1), strength=0.7),
            Condition("canny", edges.flip(-1), region=(0.5, 0, 1, 1)),
            Condition("depth", near, start=0.5),
        ),
        "early": (Condition("depth", near, end=0.5, strength=1.5),),
    }
    pipeline.scheduler.set_timesteps(STEPS)
    sigmas = pipeline.scheduler.sigmas.clone()

    def apply(chosen, model=native, strength=1.0, start=0.0, end=1.0, first=positive):
        with torch.inference_mode():
            return (
                nodes["WM_FlexEControlApply"]
                .execute(model, first, negative, handle, chosen, strength, start, end)
                .result
            )

    def sampled(first, second, model=native):
        with torch.inference_mode():
            return comfy.sample.sample_custom(
                model, noise, SCALE, comfy.samplers.sampler_object("euler"), sigmas, first, second,
                torch.zeros_like(noise), seed=0,
            )  # fmt: skip

    def own(chosen, scale=1.0):
        # core starts from noise times sqrt(1 + sigma^2), diffusers from noise times sigma
        start = noise * (1 + sigmas[0] ** 2).sqrt() / pipeline.scheduler.init_noise_sigma
        return pipeline(
            prompt_embeds=texts[:1].expand(2, -1, -1), negative_prompt_embeds=texts[1:].expand(2, -1, -1),
            conditions=list(chosen) or None, latents=start, num_inference_steps=STEPS, guidance_scale=SCALE,
            height=64, width=64, binding="none", controlnet_conditioning_scale=scale, output_type="latent",
        ).images  # fmt: skip

    def far(a, b):
        return float((a - b).abs().max() / b.abs().max())

    plain = sampled(positive, negative)
    scaling = native.model.latent_format.scale_factor
    found = {"plain": far(plain * scaling, own(())), "forms": {}}
    for name, chosen in conditions.items():
        first, second, report = apply(chosen)
        out = sampled(first, second)
        found["forms"][name] = {"twin": far(out * scaling, own(chosen)), "moved": far(out, plain), "report": report}
    one = conditions["one"]
    found["half"] = far(sampled(*apply(one, strength=0.5)[:2]) * scaling, own(one, 0.5))
    found["never"] = far(sampled(*apply(one, strength=0.0)[:2]), plain)
    twice = apply(one, first=apply(one, strength=0.5)[0], strength=0.5)
    once = apply(one)
    found["chained"] = far(sampled(twice[0], once[1]), sampled(once[0], once[1]))
    found["came in"] = "control" in positive[0][1]
    found["beside"] = beside(native, apply, sampled, one, (positive, negative), far)
    found["refused"] = {}
    for name, run in {
        "empty": lambda: apply(()),
        "model": lambda: apply(
            one, model=SimpleNamespace(model=SimpleNamespace(diffusion_model=torch.nn.Linear(1, 1)))
        ),
        "size": lambda: sampled(*apply((Condition("canny", edges[:, :32]),))[:2]),
    }.items():
        try:
            run()
            found["refused"][name] = ""
        except ValueError as error:
            found["refused"][name] = str(error)
    return found


if __name__ == "__main__":
    from comfy_start import start

    with start() as answer, tempfile.TemporaryDirectory() as temporary:
        answer.write(json.dumps(main(Path(temporary))))
