"""WM_MojitoApply on tiny native models in a real ComfyUI: which attention gets which bias, and what comes out.

Run by ComfyUI's Python with COMFYUI_PATH set; prints one JSON object. The UNet is compared with its diffusers twin,
biased by the library's own attention processors; Wan by the masks that another override sees.
"""

import functools
import json
import sys
import tempfile
from inspect import signature
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from comfy_native import load_nodes, twins

PROMPT = "a red cube and a (blue ball:1.2) moving left"
FRAMES = 3
WAN_FRAMES = 9  # three latent frames


def tiny_clip():
    """A CLIP with SD 1.5's own tokenizer and a small text encoder of random weights, 16 wide."""
    import comfy.sd
    import torch
    from comfy import sd1_clip

    config = {
        "hidden_act": "quick_gelu", "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2,
        "num_hidden_layers": 1, "max_position_embeddings": 77, "vocab_size": 49408, "projection_dim": 16,
        "eos_token_id": 49407,
    }  # fmt: skip
    encoder = functools.partial(sd1_clip.SDClipModel, textmodel_json_config=config, return_projected_pooled=False)

    class Target:
        params: dict = {}
        tokenizer = sd1_clip.SD1Tokenizer
        clip = functools.partial(sd1_clip.SD1ClipModel, clip_model=encoder)

    clip = comfy.sd.CLIP(Target(), parameters=1)
    torch.manual_seed(0)
    for parameter in clip.cond_stage_model.parameters():  # ComfyUI leaves them as the memory was
        torch.nn.init.normal_(parameter, std=0.5)
    return clip


def tiny_wan():
    """Patcher of a native Wan of two blocks with random weights, text 16 wide."""
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    sizes = {
        "model_type": "t2v",
        "dim": 24,
        "ffn_dim": 32,
        "num_heads": 2,
        "num_layers": 2,
        "in_dim": 16,
        "out_dim": 16,
    }
    sizes |= {"freq_dim": 8, "text_dim": 16, "text_len": 77, "patch_size": (1, 2, 2), "image_model": "wan2.1"}
    config = comfy.supported_models.WAN21_T2V({**sizes, "dtype": torch.float32})
    native = config.get_model({}, device="cpu")
    for parameter in native.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(native, load_device=device, offload_device=device)


def main(folder: Path) -> dict:
    import torch

    torch.set_num_threads(1)
    nodes = load_nodes(folder)  # makes the library importable too
    from comfy.patcher_extension import WrappersMP

    from wm_pipelines.mojito.bases.families import FAMILIES
    from wm_pipelines.mojito.guidance.attention import motion_attention_processors
    from wm_pipelines.mojito.guidance.state import MotionState, Slots
    from wm_pipelines.mojito.trajectories.objects import MotionObject, object_boxes

    ours, clip = nodes["WM_MojitoApply"], tiny_clip()
    cube = MotionObject("red cube", [(0.0, 0.1, 0.5, 0.6), (0.4, 0.1, 0.9, 0.6)], keyframes=[0, 2])
    ball = MotionObject("blue ball", (0.2, 0.5, 0.75, 1.0))
    objects = (cube, ball)

    def apply(model, prompt=PROMPT, chosen=objects, frames=FRAMES, bias=3.0, fraction=1.0, schedule=""):
        with torch.inference_mode():
            return ours.execute(model, clip, prompt, chosen, frames, bias, bias, fraction, schedule=schedule).result

    def refusal(*args, **options) -> str:
        try:
            apply(*args, **options)
        except ValueError as error:
            return str(error)
        return ""

    def call(patched, x, text, which=(1, 0), **options) -> torch.Tensor:
        """The model as the sampler calls it: unconditional rows first, unless `which` says otherwise."""
        options = {"cond_or_uncond": list(which), "wrappers": patched.wrappers, **options}
        if hasattr(patched.model.diffusion_model, "input_blocks"):
            text = text.repeat_interleave(len(x) // len(which), 0)
        t = torch.full((len(x),), 500.0)
        with torch.no_grad():
            return patched.model.diffusion_model(x, t, context=text, transformer_options=options)

    def far(a, b) -> float:
        return float((a - b).norm() / b.norm())

    unet, twin = twins()
    patched, positive, report, *_ = apply(unet)
    (bias,) = patched.wrappers[WrappersMP.DIFFUSION_MODEL]["wm_mojito"]
    encoded = positive[0][0]
    torch.manual_seed(0)
    text = torch.randn(2, 77, 16)
    x = torch.randn(1, 4, 8, 8).repeat(2 * FRAMES, 1, 1, 1) + 0.5 * torch.randn(2 * FRAMES, 4, 8, 8)
    plain = call(unet, x, text)
    biased = call(patched, x, text)

    def expected(where=range(FRAMES), rows=(None, 0)) -> torch.Tensor:
        """The diffusers twin under the library's own processors."""
        boxes = object_boxes(objects, FRAMES)[:, list(where)]
        tokens = torch.tensor([p for own in bias.positions for p in own])
        owners = torch.tensor([o for o, own in enumerate(bias.positions) for _ in own])
        slots = Slots(tokens, owners, boxes, torch.ones(2), 77)
        state = MotionState([slots], frames=len(where), height=8, width=8, rows=list(rows), bias_in=3.0, bias_out=3.0)
        frames = [r * FRAMES + f for r in range(len(rows)) for f in where]
        context = text[-len(rows) :].repeat_interleave(len(where), 0)
        with torch.no_grad(), motion_attention_processors(FAMILIES[0], twin, state):
            return twin(x[frames], torch.full((len(frames),), 500), context).sample

    window = type("Window", (), {"index_list": [1, 2], "total_frames": FRAMES})()
    some = [f + FRAMES * r for r in range(2) for f in (1, 2)]
    schedule = torch.linspace(10, 0, 11)
    late, early = (
        call(apply(unet, fraction=0.3)[0], x, text, sample_sigmas=schedule, sigmas=torch.tensor([sigma]))
        for sigma in (7.0, 8.0)
    )
    falling = apply(unet, schedule="1, 0")[0]
    first, middle, last = (
        call(falling, x, text, sample_sigmas=schedule, sigmas=torch.tensor([sigma])) for sigma in (10.0, 4.0, 1.0)
    )  # steps 0, 6 and 9 of ten
    third = call(apply(unet, bias=1.0)[0], x, text)
    found = {
        "positions": bias.positions,
        "tokens": [
            clip.tokenizer.clip_l.inv_vocab[clip.tokenize(PROMPT)["l"][0][p][0]] for p in sum(bias.positions, [])
        ],
        "encoded": list(encoded.shape),
        "report": report,
        "unet": {
            "moved": far(biased[FRAMES:], plain[FRAMES:]),
            "unconditional rows": far(biased[:FRAMES], plain[:FRAMES]),
            "twin": far(biased, expected()),
            "conditional first": far(call(patched, x.roll(FRAMES, 0), text.flip(0), (0, 1)), biased.roll(FRAMES, 0)),
            "conditional alone": far(call(patched, x[FRAMES:], text[1:], which=(0,)), biased[FRAMES:]),
            "zero bias": far(call(apply(unet, bias=0.0)[0], x, text), plain),
            "core window": far(call(patched, x[some], text, context_window=window), expected((1, 2))),
            "AnimateDiff window": far(
                call(patched, x[some], text, ad_params={"sub_idxs": [1, 2], "full_length": FRAMES}), expected((1, 2))
            ),
            "after the fraction": far(late, plain),
            "within the fraction": far(early, biased),
            "schedule": [far(first, biased), far(middle, third), far(last, plain)],
            "repeated context": far(call(patched, x, text.repeat(1, 2, 1)), biased),
            "came in": len(unet.wrappers.get(WrappersMP.DIFFUSION_MODEL, {})),
        },
        "refused": {
            "absent": refusal(unet, chosen=(MotionObject("green cone", (0, 0, 1, 1)),)),
            "twice": refusal(unet, prompt="a red cube and a red cube", chosen=(cube,)),
        },
    }
    second = MotionObject("red cube", (0, 0, 1, 1), span=(17, 25))
    again = apply(unet, prompt="a Red Cube and a red cube", chosen=(second,))[0]
    found["second mention"] = again.wrappers[WrappersMP.DIFFUSION_MODEL]["wm_mojito"][0].positions
    for name, (model, sample, context) in {
        "another number of frames": (patched, x[: 2 * (FRAMES - 1)], text),
        "another conditioning": (patched, x, text[:, :50]),
    }.items():
        try:
            call(model, sample, context)
        except ValueError as error:
            found["refused"][name] = str(error)

    wan = tiny_wan()
    patched = apply(wan, frames=WAN_FRAMES, chosen=(MotionObject("red cube", [(0, 0, 0.5, 0.5)] * 9), ball))[0]
    masks: list = []

    def record(function, *args, mask=None, **kwargs):
        masks.append((args[0].shape[1], args[1].shape[1], mask))
        return function(*args, mask=mask, **kwargs)

    torch.manual_seed(1)
    clip_latent = torch.randn(2, 16, 3, 8, 12)
    call(patched, clip_latent, text, optimized_attention_override=record)
    biased = call(patched, clip_latent, text)
    kinds = [(queries, keys, mask is not None) for queries, keys, mask in masks]
    mask = masks[1][2]
    frame, row, column = 1, 2, 3  # of 3 x 4 x 6 cells
    cell = frame * 24 + row * 6 + column
    found["wan"] = {
        "calls": kinds,
        "mask": list(mask.shape),
        "unconditional rows": float(mask[0].abs().max()),
        "ball inside": float(mask[1, 0, cell, bias.positions[1][0]]),
        "cube outside": float(mask[1, 0, cell, bias.positions[0][0]]),
        "other tokens": float(mask[1, 0, cell, 0]),
        "moved": far(biased[1], call(wan, clip_latent, text)[1]),
        "zero bias": far(call(apply(wan, frames=WAN_FRAMES, bias=0.0, chosen=(ball,))[0], clip_latent, text),
                         call(wan, clip_latent, text)),
    }  # fmt: skip
    try:
        call(apply(wan, frames=8, chosen=(ball,))[0], clip_latent, text)
    except ValueError as error:
        found["refused"]["stride"] = str(error)
    found["ksampler"] = sampled(unet, wan, clip, apply)
    path = MotionObject("red cube", [(0.03 * k, 0.1, 0.03 * k + 0.5, 0.6) for k in range(16)])
    of_latent = apply(unet, chosen=(path, ball), frames=0)[0]
    by_hand, _, said, *_ = apply(unet, chosen=(path, ball))
    found["resampled"] = {"report": said, "by the latent": far(call(of_latent, x, text), call(by_hand, x, text))}
    found["windows"] = {
        f"{kind}, {schedule}, {fix}": windows(kind, model, clip, apply, schedule, fix)
        for kind, model in (("unet", unet), ("wan", wan))
        for schedule in ("standard_static", "standard_uniform", "looped_uniform", "batched")
        for fix in (True, False)
    }
    hidden = MotionObject("red cube", (0, 0, 1, 1), hidden=[1, 2])
    found["hidden"] = apply(unet, chosen=(hidden,))[2]
    found["conditioning"] = passed(unet, clip, ours, objects)
    found["boxes"] = boxes(nodes["WM_TrajectoryFromTracks"], nodes["WM_Trajectory"])
    return found


def passed(unet, clip, node, objects) -> dict:
    """Conditionings that go through the node: another node's work on the prompt, combined ones, and others."""
    import torch

    def encode(text):
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    mine, other, negative = encode(PROMPT), encode("a green cone"), encode("blurry")
    controlled = [[tokens, {**more, "control_apply_to_uncond": False, "strength": 0.5}] for tokens, more in mine]
    longer = [[torch.cat([mine[0][0], other[0][0]], dim=1), mine[0][1]]]

    def run(**conditionings):
        with torch.inference_mode():
            return node.execute(unet, clip, PROMPT, objects, FRAMES, 3.0, 3.0, 1.0, **conditionings).result

    def refusal(positive) -> str:
        try:
            run(positive=positive)
        except ValueError as error:
            return str(error)
        return ""

    _, positive, _, _, back = run(positive=controlled, negative=negative)
    _, both, _, _, empty = run(positive=[*other, *controlled])
    return {
        "as they came": positive is controlled and back is negative,
        "combined": len(both),
        "empty": bool(torch.equal(empty[0][0], encode("")[0][0])),
        "other": refusal(other),
        "concatenated": refusal(longer),
    }


def boxes(from_tracks, from_text) -> dict:
    """Boxes and paths as other nodes hand them on, at the last frame of a clip of 16; or what is said against them."""

    def read(node, *first, side=512, outside="error", **inputs) -> list:
        try:
            found, _ = node.execute(
                *first,
                num_frames=16,
                box_width=0.1,
                box_height=0.1,
                canvas_width=side,
                canvas_height=side,
                speed="points",
                outside=outside,
                **inputs,
            ).result
        except ValueError as error:
            return str(error)
        return [[round(x, 4) for x in item.frame_boxes(16)[-1].tolist()] for item in found]

    drawn = [(128, 128, 256, 256), (0, 0, 64, 128)]
    core = {"x": 128, "y": 128, "width": 128, "height": 128}
    freetraj = "0, 0, 0.25, 0, 0.25\n{}, 0, 0.25, 0.25, 0.5"
    return {
        "corners": read(from_tracks, "red cube", bboxes=drawn[:1], box_format="xyxy"),
        "sizes": read(from_tracks, "red cube", bboxes=drawn[:1], box_format="xywh"),
        "core": read(from_tracks, "red cube", bboxes=[core] * 16),
        "saved before": read(from_tracks, "red cube", bboxes=drawn[:1]),
        "drawn": read(from_tracks, "red cube\nblue ball", bboxes=drawn, box_format="xyxy"),
        "drawn for one": read(from_tracks, "red cube", bboxes=drawn, box_format="xyxy"),
        "motionctrl": read(from_text, "64, 64\n128, 192", "motionctrl", "red cube", side=0),
        "freetraj": read(from_text, freetraj.format(5), "freetraj", "red cube", side=0),
        "freetraj further": read(from_text, freetraj.format(3), "freetraj", "red cube", side=0),
        "freetraj cut": read(from_text, freetraj.format(4), "freetraj", "red cube", side=0, outside="clip"),
    }


def sampled(unet, wan, clip, apply) -> dict:
    """Core's KSampler on the steered models, also in core's context windows: what is biased, and what comes out."""
    import torch
    from comfy.context_windows import IndexListContextHandler
    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode

    import nodes as core
    from wm_pipelines.mojito.trajectories.objects import MotionObject

    masks: list = []

    def record(function, *args, mask=None, **kwargs):
        masks.append((args[0].shape[1] != args[1].shape[1], None if mask is None else tuple(mask.shape)))
        return function(*args, mask=mask, **kwargs)

    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))

    def run(model, positive, latent):
        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = record
        del masks[:]
        with torch.inference_mode():
            out = core.common_ksampler(model, 0, 4, 5.0, "euler", "simple", positive, negative, {"samples": latent})
        text = [shape for is_text, shape in masks if is_text]
        return (
            out[0]["samples"],
            sum(shape is not None for shape in text) / len(text),
            {shape for shape in text if shape},
        )

    frames = torch.zeros(FRAMES, 4, 8, 8)
    plain, _, _ = run(unet, apply(unet)[1], frames)
    zero, none, _ = run(*apply(unet, fraction=0.0)[:2], frames)
    half, share, _ = run(*apply(unet, fraction=0.5)[:2], frames)
    steered, _, _ = run(*apply(unet)[:2], frames)

    video = torch.zeros(1, 16, 3, 8, 12)
    model, positive, *_ = apply(wan, frames=WAN_FRAMES, chosen=[MotionObject("blue ball", (0.2, 0.5, 0.75, 1.0))])
    whole, _, shapes = run(model, positive, video)
    windowed = WanContextWindowsManualNode.execute(model, 5, 1, "standard_static", 1, False, "pyramid", False).result[
        0
    ]
    pieces, _, window_shapes = run(windowed, positive, video)
    return {
        "fraction 0": float((zero - plain).abs().max()),
        "biased calls at fraction 0": none,
        "biased calls at fraction 0.5": share,
        "moved": [float((out - plain).abs().max()) for out in (half, steered)],
        "wan masks": sorted(shapes),
        "wan masks in windows": sorted(window_shapes),
        "windows have the frame before": "causal_window_fix" in signature(IndexListContextHandler).parameters,
        "wan": [bool(torch.isfinite(out).all()) for out in (whole, pieces)],
    }


def windows(kind, model, clip, apply, schedule, fix) -> dict:
    """Core's KSampler in context windows over a path that goes from left to right: for each call whether the biased
    cells of each frame lie where the path is in that frame of the whole clip, the borrowed frame before included."""
    import torch
    from comfy import context_windows
    from comfy.patcher_extension import WrappersMP

    import nodes as core
    from wm_pipelines.mojito.trajectories.objects import MotionObject

    total = 7
    frames = total if kind == "unet" else 4 * total - 3
    path = [(0.5 * k / (frames - 1), 0.0, 0.5 * k / (frames - 1) + 0.5, 1.0) for k in range(frames)]
    steered, positive, *_ = apply(model, chosen=(MotionObject("red cube", path),), frames=frames)
    (bias,) = steered.wrappers[WrappersMP.DIFFUSION_MODEL]["wm_mojito"]
    steered = steered.clone()
    options = {"causal_window_fix": fix}
    known = signature(context_windows.IndexListContextHandler).parameters
    steered.model_options["context_handler"] = context_windows.IndexListContextHandler(
        context_schedule=context_windows.get_matching_context_schedule(schedule),
        fuse_method=context_windows.get_matching_fuse_method("pyramid"),
        context_length=4,
        context_overlap=2,
        context_stride=1,
        closed_loop=schedule == "looped_uniform",
        dim=0 if kind == "unet" else 2,
        **{name: value for name, value in options.items() if name in known},
    )
    context_windows.create_prepare_sampling_wrapper(steered)
    running, seen = {}, []

    def watch(executor, x, timesteps, context, *args, **kwargs):
        given = args[2] if len(args) > 2 else kwargs["transformer_options"]
        window = given["context_window"]
        before = getattr(window, "causal_anchor_index", None)
        before = [] if before is None or before < 0 else [before]
        running["frames"], running["borrowed"] = before + list(window.index_list), len(before)
        running["parts"] = [which == 0 for which in given["cond_or_uncond"]]
        return executor(x, timesteps, context, *args, **kwargs)

    def record(function, *args, mask=None, **kwargs):
        if mask is not None and any(running["parts"]):
            count, part = len(running["frames"]), running["parts"].index(True)
            rows = mask.unflatten(0, (len(running["parts"]), -1))[part][..., bias.positions[0][0]]
            rows = rows.flatten().view(count, -1)  # (frames of the window, cells)
            if rows.shape[1] in (64, 24):  # the finest grid: 8 x 8, and Wan's 4 x 6
                columns = 8 if kind == "unet" else 6
                inside = (rows.view(count, -1, columns) > 0).any(1)
                middle = (inside * (torch.arange(columns) + 0.5)).sum(1) / inside.sum(1) / columns
                seen.append((running["frames"], middle.tolist(), running["borrowed"]))
        return function(*args, mask=mask, **kwargs)

    steered.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    steered.model_options["transformer_options"]["optimized_attention_override"] = record
    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    latent = torch.zeros(total, 4, 8, 8) if kind == "unet" else torch.zeros(1, 16, total, 8, 12)
    with torch.inference_mode():
        out = core.common_ksampler(steered, 0, 2, 5.0, "euler", "simple", positive, negative, {"samples": latent})[0][
            "samples"
        ]
    wanted = [[0.25 + 0.5 * f / (total - 1) for f in where] for where, _, _ in seen]
    off = (
        abs(m - w)
        for (_, middles, _), row in zip(seen, wanted, strict=True)
        for m, w in zip(middles, row, strict=True)
    )
    return {
        "calls": len(seen),
        "borrowed": sum(borrowed for _, _, borrowed in seen),
        "off": max(off),
        "finite": bool(torch.isfinite(out).all()),
        "frames": sorted({f for where, _, _ in seen for f in where}),
    }


if __name__ == "__main__":
    from comfy_start import start

    with start() as answer, tempfile.TemporaryDirectory() as temporary:
        answer.write(json.dumps(main(Path(temporary))))
