"""`wm run mojito`."""

from pathlib import Path
from typing import Annotated

import typer

GROUP = "Make"


def mojito(
    prompt: Annotated[str, typer.Option(help="the text; it must hold the phrases of all objects")],
    object: Annotated[
        list[str] | None, typer.Option(help="PHRASE=x0,y0,x1,y1>x0,y0,x1,y1.. in fractions of the picture")
    ] = None,
    trajectory: Annotated[list[Path] | None, typer.Option(help="file of objects or paths")] = None,
    format: Annotated[
        str, typer.Option(help="of files: json, freetraj, trailblazer, kjnodes, ati, motionctrl, tora, dragnuwa")
    ] = "json",
    phrase: Annotated[list[str] | None, typer.Option(help="object of each path in a file that names none")] = None,
    box: Annotated[str | None, typer.Option(help="WIDTH,HEIGHT around points, in fractions of the picture")] = None,
    canvas: Annotated[
        str | None, typer.Option(help="WIDTH,HEIGHT that points were drawn on, in pixels; default: the format's own")
    ] = None,
    speed: Annotated[
        str | None, typer.Option(help="along points: points (as the format's tool times them) | constant")
    ] = None,
    outside: Annotated[
        str | None, typer.Option(help="points and boxes that leave the picture: error | clip; default: error")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("outputs/mojito"),
    model: Annotated[str, typer.Option(help="embedded name, folder or Hub id")] = "diorama-video",
    base: Annotated[str | None, typer.Option(help="where to find the base that the model's record names")] = None,
    negative_prompt: Annotated[str | None, typer.Option()] = None,
    seed: Annotated[int, typer.Option()] = 0,
    frames: Annotated[int, typer.Option(min=0, help="of the video; 0: those of the keyframes in the files")] = 16,
    fps: Annotated[float, typer.Option(help="frames a second of the files")] = 8.0,
    steps: Annotated[int | None, typer.Option(min=1, help="default: the model's own")] = None,
    guidance: Annotated[float | None, typer.Option(help="classifier-free guidance; default: the model's own")] = None,
    intensity: Annotated[float | None, typer.Option(help="how much moves, 0 to 10; default: not said")] = None,
    eta: Annotated[float | None, typer.Option(help="step towards the boxes; default: the model's own")] = None,
    iterations: Annotated[int | None, typer.Option(help="moves in a guided step; default: the model's own")] = None,
    fraction: Annotated[float | None, typer.Option(help="share of guided steps; default: the model's own")] = None,
    trailing: Annotated[
        int | None, typer.Option(help="text positions after the prompt steered with its object; default: the model's")
    ] = None,
    bias: Annotated[float, typer.Option(help="pushes attention into the boxes in all steps, no gradient")] = 0.0,
    height: Annotated[int | None, typer.Option()] = None,
    width: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Text to video with objects that follow boxes or paths, and a dial for how much moves."""
    from wm_pipelines.mojito.run import run
    from wm_pipelines.mojito.trajectories.reading import TIMED_FORMATS

    reading = {"phrases": phrase, "size": _pair(box, "box"), "canvas": _pair(canvas, "canvas"), "speed": speed}
    reading |= {"outside": outside, "num_frames": frames if format in TIMED_FORMATS else None}
    report = run(
        prompt=prompt,
        objects=object or [],
        trajectories=trajectory or [],
        out=out,
        model=model,
        base=base,
        format=format,
        reading=reading,
        seed=seed,
        num_frames=frames,
        fps=fps,
        negative_prompt=negative_prompt,
        num_inference_steps=steps,
        guidance_scale=guidance,
        motion_intensity=intensity,
        guidance_eta=eta,
        guidance_iterations=iterations,
        guidance_fraction=fraction,
        trailing_tokens=trailing,
        bias_in=bias,
        bias_out=bias,
        bias_fraction=1.0 if bias else None,
        height=height,
        width=width,
    )
    for line in report["summary"]:
        typer.echo(line, err=line.startswith(("conflict", "warning")))
    typer.echo(f"video, frames and report.json in {out}")


def _pair(text: str | None, name: str) -> tuple[float, float] | None:
    """Two numbers of an option."""
    if text is None:
        return None
    try:
        first, second = (float(value) for value in text.split(","))
    except ValueError:
        raise ValueError(f"--{name} {text!r} must be two numbers, WIDTH,HEIGHT") from None
    return first, second
