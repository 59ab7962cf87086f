"""Morpho4D's nodes in a real ComfyUI. Run by its Python with COMFYUI_PATH set; prints one JSON object."""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from comfy_native import load_nodes


def made_scene(degree=1):
    """Twelve Gaussians of two objects, one of which slides, over three frames."""
    import torch

    from wm_pipelines.morpho4d.gaussians import Cameras, Gaussians
    from wm_pipelines.morpho4d.motion import FreeMotion
    from wm_pipelines.morpho4d.scene import Scene4D

    n = torch.arange(12)
    spread = torch.stack([(n * 0.7).sin(), 0 * n + 3.0, (n * 1.3).cos()], dim=1).float()
    pose = torch.eye(4).repeat(1, 3, 1, 1)
    pose[..., :3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    gaussians = Gaussians(
        means=spread,
        quats=torch.eye(4)[:1].repeat(12, 1),
        log_scales=torch.full((12, 3), -1.6),
        logit_opacities=torch.full((12,), 2.0),
        sh=torch.full((12, (degree + 1) ** 2, 3), 0.3),
        features=torch.zeros(12, 0),
        object_id=n % 2,
        is_dynamic=n % 2 == 1,
    )
    offsets = torch.zeros(3, 6, 3)
    offsets[:, :, 0] = torch.tensor([0.0, 0.2, 0.4])[:, None]
    k = torch.tensor([[[24.0, 0, 12], [0, 24, 8], [0, 0, 1]]])
    return Scene4D(gaussians, FreeMotion(offsets), Cameras(k, pose, (16, 24)), 3, 4.0, {1: "cube"})


def main(folder: Path) -> dict:
    nodes = load_nodes(folder)  # makes the library importable too
    import folder_paths
    import torch
    from comfy_api.latest import Types

    output = folder / "output"
    folder_paths.set_output_directory(str(output))
    scene = made_scene()
    render, export = nodes["WM_Render4D"], nodes["WM_Export4D"]
    with torch.inference_mode():
        images, alpha, fps, splat = render.execute(scene, "orbit", 0, 90.0, 0.3, 0, 0).result
        large = render.execute(scene, "own", 0, 30.0, 0.3, 48, 0).result[0]
        own = render.execute(scene, "own", 0, 30.0, 0.3, 0, 0).result[0]
        written = {}
        for kind in ("glb", "html", "mp4", "ply sequence", "ply", "spz", "splat"):
            written[kind] = export.execute(scene, "here/scene", kind, 1.0, 0, 0.05, kind == "splat").result[0]
        fitted = fit_and_edit(nodes, scene)
        try:
            export.execute(scene, "here/scene", "splat", 0.0, 0, 0.05, False)
            refusal = ""
        except ValueError as error:
            refusal = str(error)
    expected = scene.render(0).frames.movedim(1, -1)
    found = {
        "images": list(images.shape),
        "alpha": list(alpha.shape),
        "large": list(large.shape),
        "fps": fps,
        "own": float((own - expected).abs().max()),
        "written": written,
        "there": sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()),
        "refusal": refusal,
        **fitted,
        "has splats": hasattr(Types, "SPLAT"),
        "splat": splat is not None,
    }
    if splat is not None:
        found["positions"] = list(splat.positions.shape)
        found["slides"] = (splat.positions[2, 1] - splat.positions[0, 1]).tolist()
        found["comfy"] = there_and_back(splat)
    return found


def fit_and_edit(nodes, scene) -> dict:
    """A prompt and a video, each fitted in a few steps; an edit in words and one as JSON, one after the other."""
    from fractions import Fraction

    from comfy_api.latest import InputImpl, Types

    fit, edit = nodes["WM_Morpho4DFit"], nodes["WM_Edit4D"]
    made, report = fit.execute("a red cube slides right", 4, 64, 12, 0).result
    gone, log = edit.execute(made, "remove the red cube").result
    away, logs = edit.execute(gone, json.dumps([json.loads(log)["operation"]])).result
    shown = scene.render(0)
    frames = shown.frames.movedim(1, -1).contiguous()
    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=frames, frame_rate=Fraction(4)))
    k, poses = scene.cameras.K[0], scene.cameras.T_cw[0]
    cameras = json.dumps({"K": k.tolist(), "T_cw": poses.tolist()})
    geometry = {"depth": shown.depth, "masks": shown.object_ids.float(), "cameras": cameras, "names": "cube"}
    filmed = fit.execute("", 3, 64, 12, 0, video, **geometry).result[0]
    refusals = []
    for arguments in ({"video": video}, {"video": video, **geometry, "cameras": "[]"}):
        try:
            fit.execute("", 3, 64, 12, 0, **arguments)
        except ValueError as error:
            refusals.append(str(error))
    return {
        "report": report.splitlines(),
        "log": [json.loads(line)["operation"] for line in logs.splitlines()],
        "opacity left": float(gone.at(0).opacities[gone.at(0).object_id > 0].max()),
        "kept": len(made.edits),
        "filmed": [filmed.frames, filmed.fps, filmed.names[1]],
        "refusals": refusals,
    }


def there_and_back(splat) -> list[int] | None:
    """The shape of the harmonics that come back when ComfyUI's own nodes make a PLY of the first item and read it.

    None where one of ComfyUI's own requirements, which that file imports, is not installed.
    """
    try:
        from comfy_extras.nodes_gaussian_splat import File3DToSplat, SplatToFile3D
    except ModuleNotFoundError:
        return None
    back = File3DToSplat.execute(SplatToFile3D.execute(splat, "ply").result[0]).result[0]
    assert abs(back.positions[0] - splat.positions[0]).max() < 1e-5
    assert abs(back.sh[0] - splat.sh[0]).max() < 1e-5
    return list(back.sh.shape)


if __name__ == "__main__":
    from comfy_start import start

    with start() as answer, tempfile.TemporaryDirectory() as temporary:
        answer.write(json.dumps(main(Path(temporary))))
