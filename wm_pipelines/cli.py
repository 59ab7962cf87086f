"""`wm`: run, train, look at and publish, from the command line. Bad input ends with one line and exit status 2."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
run_app = typer.Typer(no_args_is_help=True, help="Run a method on your own input.")
app.add_typer(run_app, name="run")

TASK_NAMES = sorted(path.stem for path in (Path(__file__).parent / "recipes").glob("*.yaml"))  # each has a recipe
Out = Annotated[Path, typer.Option(help="folder for the results")]
Folder = Annotated[Path, typer.Argument(help="checkpoint folder")]


@run_app.command("flexecontrol")
def run_flexecontrol(
    prompt: Annotated[str | None, typer.Option(help="the text; may be left out with --scene-graph")] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="TYPE=FILE[,from=photo][,fit=crop|pad|stretch][,phrase=..][,strength=..][,region=..][,start=..][,end=..]"
        ),
    ] = None,
    scene_graph: Annotated[Path | None, typer.Option(help="JSON file of a scene graph")] = None,
    out: Out = Path("outputs/flexecontrol"),
    base: Annotated[
        str | None, typer.Option(help="embedded name, folder or Hub id; default: the adapter's own")
    ] = None,
    control: Annotated[str, typer.Option(help="embedded name, folder or Hub id")] = "flexecontrol",
    negative_prompt: Annotated[str | None, typer.Option()] = None,
    seed: Annotated[int, typer.Option(help="picture i uses seed + i")] = 0,
    images: Annotated[int, typer.Option(min=1, help="number of pictures")] = 1,
    steps: Annotated[int, typer.Option(min=1)] = 50,
    guidance: Annotated[float, typer.Option(help="classifier-free guidance")] = 7.5,
    height: Annotated[int | None, typer.Option()] = None,
    width: Annotated[int | None, typer.Option()] = None,
    binding: Annotated[str, typer.Option(help="attention | none")] = "attention",
    on_conflict: Annotated[str, typer.Option(help="warn | error | ignore")] = "warn",
) -> None:
    """Text to picture under any number of conditions."""
    from wm_pipelines.flexecontrol.run import run

    report = run(
        prompt,
        condition or [],
        out,
        base,
        control,
        scene_graph,
        seed,
        images,
        height,
        width,
        negative_prompt=negative_prompt,
        num_inference_steps=steps,
        guidance_scale=guidance,
        binding=binding,
        on_conflict=on_conflict,
    )
    for conflict in report["conflicts"]:
        typer.echo(f"conflict: {conflict['message']}", err=True)
    typer.echo(f"{images} picture(s) and report.json in {out}")


@run_app.command("lid")
def run_lid(
    pictures: Annotated[Path, typer.Argument(help="folder with a folder of pictures for each class")],
    base: Annotated[str, typer.Option(help="embedded name, folder or Hub id of a CLIP model")],
    out: Out = Path("outputs/lid"),
    projection: Annotated[str, typer.Option(help="fastfood | dense | sparse")] = "fastfood",
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    steps: Annotated[int, typer.Option(min=1, help="of every training")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="pictures a step")] = 32,
    max_dim: Annotated[int | None, typer.Option(min=1, help="highest dimension to try; default: all")] = None,
) -> None:
    """Local intrinsic dimension of attention and MLP in every layer: which of them your pictures need."""
    from wm_pipelines.kadaptation.subspace.run import run

    result = run(pictures, base, out, projection, seeds, steps, batch, max_dim, say=typer.echo)
    for line in result.describe():
        typer.echo(line)
    typer.echo(f"lid.json and curves.svg in {out}")


@run_app.command("kadaptation")
def run_kadaptation(
    pictures: Annotated[list[Path] | None, typer.Argument(help="files and folders to classify")] = None,
    train: Annotated[Path | None, typer.Option(help="folder with a sub-folder of pictures for each class")] = None,
    out: Out = Path("outputs/kadaptation"),
    base: Annotated[str, typer.Option(help="CLIP to fit: embedded name, folder or Hub id")] = "diorama-clip",
    model: Annotated[str, typer.Option(help="fitted checkpoint to use without --train")] = "kadaptation",
    validation: Annotated[Path | None, typer.Option(help="like --train; chooses the epoch")] = None,
    template: Annotated[list[str] | None, typer.Option(help="sentence with {} for the class")] = None,
    epochs: Annotated[int, typer.Option(min=0, help="0: by the class names alone")] = 50,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    n: Annotated[int, typer.Option(min=1, help="size of the shared factors; divides the widths")] = 32,
    r: Annotated[int, typer.Option(min=1, help="rank of the factors of a layer")] = 1,
    probe: Annotated[bool, typer.Option("--probe", help="train the head alone, without an adapter")] = False,
) -> None:
    """Few-shot classification: fit a CLIP to folders of pictures, and classify more of them."""
    from wm_pipelines.kadaptation.run import TEMPLATES, run

    options = {"epochs": epochs, "seed": seed, "probe": probe}
    report = run(train, pictures or [], out, base, model, validation, template or TEMPLATES, n, r, **options)
    for row in report["predictions"]:
        typer.echo(f"{row['file']}: {row['label']} ({row['probs'][row['label']]:.2f})")
    typer.echo(f"report.json in {out}" + (f", the classifier in {out / 'model'}" if train else ""))


@run_app.command("cpl")
def run_cpl(
    pictures: Annotated[list[Path] | None, typer.Argument(help="files and folders to classify")] = None,
    class_name: Annotated[
        list[str] | None, typer.Option(help="text to compare with; default: those of --train")
    ] = None,
    train: Annotated[Path | None, typer.Option(help="folder with a sub-folder of pictures for each class")] = None,
    out: Out = Path("outputs/cpl"),
    base: Annotated[str, typer.Option(help="CLIP to fit on: embedded name, folder or Hub id")] = "diorama-clip",
    model: Annotated[str, typer.Option(help="fitted prompt to use without --train")] = "cpl",
    explain: Annotated[list[str] | None, typer.Option(help="FILE=NAME, twice: the first one's counterfactual")] = None,
    variant: Annotated[str, typer.Option(help="released | paper")] = "released",
    lambda_cf: Annotated[float | None, typer.Option(help="weight of the counterfactual loss; 0 is CoCoOp")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    batch_size: Annotated[int, typer.Option(min=1)] = 1,
    lr: Annotated[float, typer.Option(help="of SGD")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    benchmark: Annotated[
        str | None,
        typer.Option(help="instead: a protocol on a local data set, such as caltech101, folders, flickr30k"),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="with --benchmark: the folder that holds the data set")] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="with --benchmark: default 16, of flickr30k 145")] = None,
) -> None:
    """Few-shot prompts: fit one to folders of pictures, and compare pictures with any class names."""
    from wm_pipelines.cpl.run import run, run_benchmark

    settings = {"variant": variant, "lambda_cf": lambda_cf, "epochs": epochs, "batch_size": batch_size, "lr": lr}
    if benchmark is not None or root is not None or shots is not None:
        if pictures or class_name or train or explain or model != "cpl":
            raise ValueError(
                "benchmark and root stand alone; leave pictures, class names, train, explain and model out"
            )
        run_benchmark(benchmark, root, out, base, shots, seed, say=typer.echo, **settings)
        typer.echo(f"benchmark.jsonl in {out}")
        return
    report = run(pictures or [], class_name or [], train, out, base, model, explain or [], seed=seed, **settings)
    for row in report["predictions"]:
        typer.echo(f"{row['file']}: {row['top1']} ({row['probs'][row['top1']]:.2f})")
    if "explanation" in report:
        told = report["explanation"]
        state = "flipped" if told["flipped"] else "did not flip"
        typer.echo(f"{len(told['swapped'])} entries swapped, the match {state}: explanation.png")
    typer.echo(f"report.json in {out}" + (f", the prompt in {out / 'model'}" if train else ""))


@run_app.command("comclip")
def run_comclip(
    image: Annotated[list[Path], typer.Option(help="picture; one for each text, or one for all")],
    text: Annotated[list[str], typer.Option(help="caption; one for each picture, or one for all")],
    boxes: Annotated[
        list[Path] | None, typer.Option(help="JSON file {label: [[x0,y0,x1,y1], ..]}, one for each picture")
    ] = None,
    out: Out = Path("outputs/comclip"),
    base: Annotated[
        str, typer.Option(help="ComCLIP, CLIP, SigLIP or BLIP-2: embedded name, folder or Hub id")
    ] = "diorama-clip",
    detector: Annotated[
        str | None, typer.Option(help="Grounding DINO or OWLv2, where there are no boxes: folder or Hub id")
    ] = None,
    fusion: Annotated[str | None, typer.Option(help="released | gclip | late | equal")] = None,
    missing: Annotated[str | None, typer.Option(help="what a part without a box sees: full | blank")] = None,
    embed: Annotated[str | None, typer.Option(help="unit | raw")] = None,
    fit: Annotated[str | None, typer.Option(help="how a picture becomes square: pad | stretch | crop")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="stop where a caption or box is missing its part")] = False,
) -> None:
    """How well pictures and captions go together, by the parts that a caption names."""
    from wm_pipelines.comclip.run import run

    options = {"fusion": fusion, "missing": missing, "embed": embed}
    report = run(image, text, out, base, boxes or [], detector, fit, strict, **options)
    for row in report["pairs"]:
        controls = f"plain {row['baseline']:.4f}, boxes {row['detector']:.2f}"
        typer.echo(f"{row['image']} / {row['text']}: {row['score']:.4f} ({controls})")
    for failure in report["failures"]:
        typer.echo(f"{failure['kind']}: {failure['message']}", err=True)
    typer.echo(f"sub-images, report.json and index.html in {out}")


@run_app.command("mojito")
def run_mojito(
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
    canvas: Annotated[str | None, typer.Option(help="WIDTH,HEIGHT that points were drawn on, in pixels")] = None,
    speed: Annotated[str | None, typer.Option(help="along points: points | constant")] = None,
    out: Out = Path("outputs/mojito"),
    model: Annotated[str, typer.Option(help="embedded name, folder or Hub id")] = "diorama-video",
    base: Annotated[str | None, typer.Option(help="where to find the base that the model's record names")] = None,
    negative_prompt: Annotated[str | None, typer.Option()] = None,
    seed: Annotated[int, typer.Option()] = 0,
    frames: Annotated[int, typer.Option(min=1, help="of the video")] = 16,
    fps: Annotated[float, typer.Option(help="frames a second of the files")] = 8.0,
    steps: Annotated[int | None, typer.Option(min=1, help="default: the model's own")] = None,
    guidance: Annotated[float | None, typer.Option(help="classifier-free guidance; default: the model's own")] = None,
    intensity: Annotated[float | None, typer.Option(help="how much moves, 0 to 10; default: not said")] = None,
    eta: Annotated[float | None, typer.Option(help="step towards the boxes; default: the model's own")] = None,
    iterations: Annotated[int | None, typer.Option(help="moves in a guided step; default: the model's own")] = None,
    fraction: Annotated[float | None, typer.Option(help="share of guided steps; default: the model's own")] = None,
    bias: Annotated[float, typer.Option(help="pushes attention into the boxes in all steps, no gradient")] = 0.0,
    height: Annotated[int | None, typer.Option()] = None,
    width: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Text to video with objects that follow boxes or paths, and a dial for how much moves."""
    from wm_pipelines.mojito.run import run
    from wm_pipelines.mojito.trajectories import POINT_FORMATS

    reading = {"phrases": phrase, "size": _pair(box, "box"), "canvas": _pair(canvas, "canvas"), "speed": speed}
    reading["num_frames"] = frames if format in POINT_FORMATS else None
    report = run(
        prompt,
        object or [],
        trajectory or [],
        out,
        model,
        base,
        format,
        reading,
        seed,
        frames,
        fps,
        negative_prompt=negative_prompt,
        num_inference_steps=steps,
        guidance_scale=guidance,
        motion_intensity=intensity,
        guidance_eta=eta,
        guidance_iterations=iterations,
        guidance_fraction=fraction,
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


@app.command()
def demo(out: Out = Path("outputs/demo"), seed: Annotated[int, typer.Option(min=0)] = 0) -> None:
    """Scenes under one, two and three conditions, and clips under trajectories and intensities, with their pages."""
    from wm_pipelines.flexecontrol.demo import demo as pictures
    from wm_pipelines.mojito.demo import demo as clips

    typer.echo(pictures(out, seed))
    typer.echo(clips(out / "motion", seed))


@app.command()
def train(
    task: Annotated[str, typer.Argument(help=", ".join(TASK_NAMES))],
    out: Annotated[Path, typer.Option(help="run folder; a run that is there goes on")],
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file; default: the one that ships with the package")
    ] = None,
    set: Annotated[list[str] | None, typer.Option(help="key=value, also options.key=value")] = None,
) -> None:
    """Train by a recipe; kill it at any moment and start it again to go on."""
    from wm_pipelines.training import train_main

    train_main(task, recipe, out, set or [])


@app.command()
def seal(
    run: Annotated[Path, typer.Argument(help="folder of a finished `wm train`")],
    out: Annotated[Path, typer.Argument(help="checkpoint folder to make")],
    evaluation: Annotated[list[Path] | None, typer.Option(help="JSONL results of a benchmark")] = None,
    earlier: Annotated[list[Path] | None, typer.Option(help="run that this one stands on")] = None,
    page: Annotated[Path | None, typer.Option(help="folder for card, record, recipe and log")] = None,
) -> None:
    """Make a checkpoint of a finished run: weights, record with hashes, card."""
    from wm_pipelines.hub.sealing import seal_run

    config = seal_run(run, out, evaluation or [], earlier or [], page)
    typer.echo(f"{out}: {config.method}, {len(config.files)} files")


@app.command()
def extract(
    type: Annotated[str, typer.Argument(help="canny, lines, softedge, sketch, seg")],
    photo: Annotated[Path, typer.Argument()],
    out: Annotated[Path, typer.Argument(help="PNG file of the map")],
) -> None:
    """Make a condition map from a photo. Nothing is downloaded."""
    from wm_pipelines.media.conditions import extract as run_extractor
    from wm_pipelines.media.pictures import load_image, save_image

    typer.echo(save_image(run_extractor(type, load_image(photo)), out))


@app.command("list")
def list_checkpoints() -> None:
    """The embedded checkpoints."""
    from wm_pipelines.config import WMConfig
    from wm_pipelines.hub import EMBEDDED_ROOT, embedded_names

    for name in embedded_names():
        config = WMConfig.load(EMBEDDED_ROOT / name)
        base = f" on {config.base_model.name}" if config.base_model else ""
        typer.echo(f"{name}: {config.pipeline or 'module'}{base}")


@app.command()
def card(folder: Folder) -> None:
    """Write the model card from the record."""
    from wm_pipelines.hub.cards import write_card

    for path in write_card(folder):
        typer.echo(path)


@app.command()
def validate(folder: Folder) -> None:
    """Check a checkpoint: record, hashes, formats, card."""
    from wm_pipelines.hub.publishing import validate as check

    problems = check(folder)
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{folder}: ready to publish")


@app.command()
def publish(
    folder: Folder,
    repo_id: Annotated[str, typer.Argument(help="owner/name on the Hub")],
    upload: Annotated[
        bool, typer.Option("--upload", help="really upload; without it, only say what would go")
    ] = False,
    private: Annotated[bool, typer.Option("--private")] = False,
) -> None:
    """Upload a validated checkpoint to the Hub; a dry run by default."""
    from wm_pipelines.hub.publishing import publish as send

    result = send(folder, repo_id, dry_run=not upload, private=private)
    for name, size in result.files.items():
        typer.echo(f"{size:>12,} {name}")
    typer.echo(f"commit {result.commit}" if result.commit else f"dry run: nothing was sent to {repo_id}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of wm_config.json."""
    from wm_pipelines.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """What is installed, what works, what doesn't."""
    from wm_pipelines.hub.doctor import describe
    from wm_pipelines.hub.doctor import doctor as look

    report = look()
    typer.echo(json.dumps(report, indent=2) if as_json else "\n".join(describe(report)))
    if report["problems"]:
        raise typer.Exit(1)


@app.command()
def diorama(
    out: Out = Path("outputs/diorama"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    size: Annotated[int, typer.Option(min=1)] = 64,
) -> None:
    """A scene of the miniature world: all maps on one sheet, a GIF and the JSON."""
    from wm_pipelines.diorama.sheet import write_sheet

    for path in write_sheet(out, seed, size):
        typer.echo(path)


def main() -> None:
    """Entry point: what the user or the machine got wrong is one line on standard error."""
    # transformers warns at every start that torchvision, which nothing here needs, is not installed
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
