"""Trajectories from masks and of other trajectories, long clips, animated pictures, batches of maps in a real ComfyUI.

Run by ComfyUI's Python with COMFYUI_PATH set and a folder of small pipelines; prints one JSON object. What a node
makes is compared with the library's own call.
"""

import json
import sys
from collections import namedtuple
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

PROMPT = "a red cube moving right"
PICTURE = "a red cube left of a blue sphere"
SEG = namedtuple("SEG", "cropped_image cropped_mask confidence crop_region bbox label control_net_wrapper")


def main(folder: Path) -> dict:
    import torch
    from comfy_native import load_nodes

    torch.set_num_threads(1)
    nodes = load_nodes(folder)
    from wm_pipelines import AutoWMPipeline

    memory = import_module("custom_nodes_x_wm.nodes._shared.memory")
    handles = {
        name: memory.PipelineHandle(AutoWMPipeline.from_pretrained(folder / name), name)
        for name in ("tiny", "tiny-mojito", "tiny-ltx")
    }

    def run(node, **inputs):
        """The outputs of a node with its defaults, or what is said against the inputs."""
        info = nodes[node].GET_NODE_INFO_V1()["input"]
        given = {**info.get("required", {}), **info.get("optional", {})}
        widgets = {name: spec[1]["default"] for name, spec in given.items() if "default" in spec[1]}
        try:
            with torch.inference_mode():
                return nodes[node].execute(**{**widgets, **inputs}).result
        except ValueError as error:
            return str(error)

    return {
        "trajectories": trajectories(run),
        "clips": clips(run, handles),
        "base": base(run, handles),
        "maps": maps(run, handles["tiny"]),
        "unusual": unusual(run, handles),
    }


def rounded(items, frames) -> list:
    return [[[round(x, 4) for x in box] for box in item.frame_boxes(frames).tolist()] for item in items]


def trajectories(run) -> dict:
    import torch

    masks = torch.zeros(3, 8, 8)
    masks[0, :4, :4] = masks[2, :4, 4:] = 1
    stacked = torch.zeros(2, 4, 4, dtype=torch.uint8)
    stacked[0, 0, 0] = stacked[1, 3, 3] = 1
    segs = (8, 8), [SEG(None, stacked, 0.9, (2, 2, 6, 6), (2, 2, 6, 6), "blue ball", None)]
    (cube, _) = run("WM_TrajectoryFromTracks", phrases="red cube", masks=masks)
    (both, _) = run("WM_TrajectoryFromTracks", phrases="", segs=segs, more=cube)
    (back, text) = run(
        "WM_TrajectoryEdit", trajectory=both, phrases="red cube", reverse=True, shift_y=0.25, weight=2.0
    )
    (there_and_back, _) = run("WM_TrajectoryJoin", first=cube, second=back, pause=1)
    (eased, _) = run("WM_TrajectoryEdit", trajectory=cube, num_frames=5, easing="in")
    return {
        "masks": rounded(cube, 3),
        "bridged": cube[0].hidden,
        "segments": [item.phrase for item in both] + rounded(both[1:], 2),
        "edited": rounded(back[:1], 3),
        "weights": [item.weight for item in back],
        "json": [item["phrase"] for item in json.loads(text)["objects"]],
        "joined": rounded(there_and_back[:1], 7),
        "eased": rounded(eased, 5),
        "alone": run("WM_TrajectoryJoin", second=cube)[0][0] is cube[0],
        "refused": [
            run("WM_TrajectoryFromTracks", phrases="red cube"),
            run("WM_TrajectoryFromTracks", phrases="red cube", masks=masks, segs=segs),
            run("WM_TrajectoryFromTracks", phrases="red cube\nblue ball", masks=masks),
            run("WM_TrajectoryEdit", trajectory=cube, shift_x=0.5),
            run("WM_TrajectoryEdit", trajectory=cube, phrases="red cub"),
            run("WM_TrajectoryJoin"),
        ],
    }


def clips(run, handles) -> dict:
    import torch

    (cube, _) = run("WM_TrajectoryFromTracks", phrases="red cube", masks=torch.eye(9)[:, None].repeat(1, 8, 1))
    few = {"prompt": PROMPT, "steps": 2, "guidance_fraction": 0.5, "guidance_iterations": 1, "seed": 3}
    long = {**few, "pipeline": handles["tiny-mojito"], "num_frames": 20}
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    small = {"pipeline": handles["tiny-ltx"], "num_frames": 9, "width": 64, "height": 64, "guidance_scale": 3.0}
    plain = run("WM_MojitoSample", **few, **small, image=picture)[1]
    pipe = handles["tiny-ltx"].pipeline
    from PIL import Image

    own = pipe(
        PROMPT, num_inference_steps=2, num_frames=9, width=64, height=64, guidance_scale=3.0, output_type="pt",
        image=Image.fromarray((picture[0] * 255).round().byte().numpy()),
        generator=torch.Generator().manual_seed(3), negative_prompt="",
    ).frames[0]  # fmt: skip
    clocks = {"trajectory": cube, "guidance_iterations": 0, "weak_clock": 0.5, "strong_clock": 1.0}
    dragged = run("WM_MojitoSample", **{**few, **small, "image": picture, **clocks})[1]
    windowed = run("WM_MojitoSample", **long, window=8, trajectory=cube)
    return {
        "long": list(windowed[1].shape),
        "too long": run("WM_MojitoSample", **long),
        "stride": run("WM_MojitoSample", **long, window=8, window_stride=9),
        "animated": float((plain.movedim(-1, 1) - own.float().cpu()).abs().max()),
        "dragged": float((dragged - plain).abs().max()),
        "no picture": run("WM_MojitoSample", **{**long, "num_frames": 8}, image=picture),
        "clock alone": run("WM_MojitoSample", **few, **small, trajectory=cube, strong_clock=0.5),
    }


def maps(run, handle) -> dict:
    import torch

    drawn = torch.zeros(2, 64, 64, 3)
    drawn[0, 20:40, 20] = drawn[1, 30, 10:50] = 1
    (batch,) = run("WM_Condition", image=drawn)
    (both,) = run("WM_Condition", image=drawn[:1], type="depth", conditions=batch, schedule="1, 0")
    sampled = {"pipeline": handle, "prompt": PICTURE, "steps": 3, "seed": 5}
    pictures = run("WM_FlexEControlSample", **sampled, conditions=both)[0]
    from wm_pipelines import Condition

    rows = [
        [Condition("canny", one.movedim(-1, 0)), Condition("depth", drawn[0].movedim(-1, 0), schedule=[1, 0])]
        for one in drawn
    ]
    own = handle.pipeline(
        [PICTURE] * 2, conditions=rows, num_inference_steps=3, generator=torch.Generator().manual_seed(5),
        output_type="pt", negative_prompt=["", ""], on_conflict="ignore",
    ).images  # fmt: skip
    masks = torch.ones(3, 64, 64)
    (three,) = run("WM_Condition", image=drawn[:1], region=masks)
    native = {"positive": [], "negative": [], "pipeline": handle, "conditions": batch}
    return {
        "in the batch": [len(one) if isinstance(one, tuple) else 1 for one in both],
        "pictures": float((pictures.movedim(-1, 1) - own.cpu()).abs().max()),
        "differ": float((pictures[0] - pictures[1]).abs().max()),
        "regions": len(three[0]),
        "four": len(run("WM_FlexEControlSample", **sampled, conditions=batch, batch_size=2)[0]),
        "refused": [
            run("WM_Condition", image=drawn, region=masks),
            run("WM_FlexEControlSample", **sampled, conditions=(*batch, *three)),
            run("WM_Condition", image=drawn[:1], schedule="1, half"),
            run("WM_Condition", image=drawn[:1], schedule="2"),
        ],
        "native": native_refusal(run, native),
    }


def unusual(run, handles) -> dict:
    """Inputs that graphs of real life bring now and then: grey pictures, blank lines, other lengths, nothing found."""
    import torch

    from wm_pipelines import AutoWMPipeline, embedded

    comclip = type(handles["tiny"])(AutoWMPipeline.from_pretrained(embedded("comclip")), "comclip")
    drawn = torch.zeros(1, 64, 64, 3)
    drawn[0, 20:40, 20] = 1
    sampled = {"pipeline": handles["tiny"], "prompt": PICTURE, "steps": 2}
    pictures = [
        run("WM_FlexEControlSample", **sampled, conditions=run("WM_Condition", image=image)[0])[0]
        for image in (drawn, drawn[..., :1], torch.cat([drawn, drawn[..., :1]], dim=-1))
    ]
    empty = run("WM_Condition", image=drawn, region=torch.zeros(1, 64, 64))[0]
    (cube, _) = run("WM_Trajectory")
    matched = {"pipeline": comclip, "image": drawn, "text": "a red cube"}
    scene = run("WM_DioramaScene", frames=6, num_objects=1)
    blank = torch.full((6, 64, 64, 3), 0.47)
    best, ranked, scores, _ = run("WM_PhysicsChoice", images=torch.cat([blank, scene[0]]), clips=2)
    few = {"prompt": PROMPT, "steps": 2, "num_frames": 5, "pipeline": handles["tiny-mojito"]}
    return {
        "grey, and a fourth channel": [float((pictures[0] - other).abs().max()) for other in pictures[1:]],
        "two channels": run("WM_ExtractCondition", image=drawn[..., :2]),
        "empty region": run("WM_FlexEControlSample", **sampled, conditions=empty),
        "previews": [len(run("WM_TrajectoryPreview", trajectory=cube, num_frames=n)[0]) for n in (1, 7, 17)],
        "pictures for frames": run("WM_TrajectoryPreview", trajectory=cube, images=drawn.repeat(3, 1, 1, 1)),
        "nothing": [
            run("WM_TrajectoryFromTracks", phrases="red cube", masks=torch.zeros(4, 8, 8)),
            run("WM_TrajectoryFromTracks", phrases="", segs=((64, 64), [])),
            run("WM_TrajectoryPreview", trajectory=()),
            run("WM_DioramaJudge", images=drawn),
        ],
        "no segment": run("WM_ComCLIPMatch", **matched, segs=((64, 64), []))[0] - run("WM_ComCLIPMatch", **matched)[0],
        "blank": run("WM_ComCLIPMatch", **{**matched, "text": "a red cube\n\na blue cube"}),
        "kept": [float((best - scene[0]).abs().max()), list(ranked.shape), scores.splitlines()],
        "clips": run("WM_PhysicsChoice", images=blank, clips=4),
        "short": run("WM_PhysicsChoice", images=blank[:4], clips=1),
        "odd": len(run("WM_MojitoSample", **few, trajectory=cube)[1]),
        "schedule": run("WM_MojitoSample", **few, intensity_schedule="1, 0"),
        "factors": run("WM_MojitoSample", **few, motion_intensity=5.0, intensity_schedule="1, x"),
    }


def base(run, handles) -> dict:
    """The base of a pipeline and its native twin, part by part, and what KSampler makes of it."""
    import torch

    import nodes as core
    from wm_pipelines import AutoWMPipeline, embedded

    pipe = AutoWMPipeline.from_pretrained(embedded("flexecontrol"))
    handle = type(handles["tiny"])(pipe, "embedded")
    model, clip, vae, report = run("WM_NativeBase", pipeline=handle)
    torch.manual_seed(0)
    x, t, z = torch.randn(2, 4, 16, 16), torch.tensor([10.0, 800.0]), torch.randn(1, 4, 16, 16)
    with torch.inference_mode():
        positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (PICTURE, ""))
        ids = pipe.tokenizer(PICTURE, padding="max_length", max_length=77, return_tensors="pt").input_ids
        text = pipe.text_encoder(ids)[0]
        shown = vae.decode(z)
        again = vae.encode(shown)
        latent = {"samples": torch.zeros(2, 4, 16, 16)}
        sampled = core.common_ksampler(model, 0, 2, 5.0, "euler", "normal", positive, negative, latent)[0]["samples"]
        pairs = {
            "text": (positive[0][0], text),
            "unet": (
                model.model.diffusion_model(x, t, context=text.expand(2, -1, -1)),
                pipe.unet(x, t, text.expand(2, -1, -1)).sample,
            ),
            "decoded": (shown.movedim(-1, 1), (pipe.vae.decode(z).sample / 2 + 0.5).clamp(0, 1)),
            "encoded": (again, pipe.vae.encode(shown.movedim(-1, 1) * 2 - 1).latent_dist.mode()),
            "noise": (model.model.model_sampling.sigmas, (1 / pipe.scheduler.alphas_cumprod - 1) ** 0.5),
        }
    return {
        "far": {name: float((a - b).abs().max() / b.abs().max()) for name, (a, b) in pairs.items()},
        "report": report,
        "sampled": [list(sampled.shape), bool(torch.isfinite(sampled).all()), float(sampled.std()) > 0],
        "refused": [run("WM_NativeBase", pipeline=handles[name]) for name in handles],
    }


def native_refusal(run, inputs) -> str:
    from comfy_native import twins

    model, unet = twins()
    inputs["pipeline"].pipeline.control.register_to_config(unet_config=dict(unet.config))
    return run("WM_FlexEControlApply", model=model, **inputs)


if __name__ == "__main__":
    from comfy_start import start

    given = Path(sys.argv[1])  # which ComfyUI does not need to see
    with start() as answer:
        answer.write(json.dumps(main(given)))
