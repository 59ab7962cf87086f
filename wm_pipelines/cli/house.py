"""The commands of the house itself, which any method's checkpoints and runs go through."""

import json
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from wm_pipelines.methods import folders, recipes
from wm_pipelines.runtime.claims import check_folder, claimed

TASKS = START, MAKE, ADAPT, MEASURE, DATA, CHECKPOINTS = (
    "Start here", "Make and judge", "Adapt", "Measure", "Data", "Checkpoints"
)  # fmt: skip
"""What commands are for; `wm --help` lists them under these, in this order."""


class ByTask(TyperGroup):
    """Commands by their tasks, those that hold further commands first."""

    def list_commands(self, ctx: typer.Context | None) -> list[str]:
        def place(name: str) -> tuple[int, bool]:
            command = self.commands[name]
            return TASKS.index(command.rich_help_panel), not isinstance(command, TyperGroup)

        return sorted(self.commands, key=place)


app = typer.Typer(cls=ByTask, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Out = Annotated[Path, typer.Option(help="folder for the results")]
PACKAGE = __package__.partition(".")[0]
Folder = Annotated[Path, typer.Argument(help="checkpoint folder")]


@app.command(rich_help_panel=START)
def demo(
    method: Annotated[str | None, typer.Argument(help="only this one, such as flexecontrol; default: all")] = None,
    out: Out = Path("outputs/demo"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """What every method does with the embedded checkpoints: one page of pictures, clips and figures."""
    names = {name.replace("_", "-"): name for name in folders("demo.py")}
    if method is not None and method not in names:
        raise ValueError(f"`method` is {method!r}; there are demos of {', '.join(names)}")
    with claimed(check_folder(out)):
        from wm_pipelines.cli.gallery import show_all

        chosen = names if method is None else {method: names[method]}
        demos = {name: import_module(f"{PACKAGE}.{folder}.demo").demo for name, folder in chosen.items()}
        show_all(demos, out, seed, typer.echo)


@app.command(rich_help_panel=ADAPT)
def train(
    task: Annotated[str, typer.Argument(help=", ".join(recipes()))],
    out: Annotated[Path, typer.Option(help="run folder; a run that is there goes on")],
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file; default: the one that ships with the package")
    ] = None,
    set: Annotated[list[str] | None, typer.Option(help="key=value, also options.key=value")] = None,
) -> None:
    """Train by a recipe; kill it at any moment and start it again to go on."""
    from wm_pipelines.training import train_main

    train_main(task, recipe, out, set or [])


@app.command(rich_help_panel=CHECKPOINTS)
def seal(
    run: Annotated[Path, typer.Argument(help="folder of a finished `wm train`")],
    out: Annotated[Path, typer.Argument(help="checkpoint folder to make")],
    evaluation: Annotated[list[Path] | None, typer.Option(help="JSONL results of a benchmark")] = None,
    earlier: Annotated[list[Path] | None, typer.Option(help="run that this one stands on")] = None,
    page: Annotated[Path | None, typer.Option(help="folder for card, record, recipe and log")] = None,
) -> None:
    """Make a checkpoint of a finished run: weights, record with hashes, card."""
    from wm_pipelines.hub.sealing import seal_run

    config = seal_run(run, out=out, evaluation=evaluation or [], earlier=earlier or [], page=page)
    typer.echo(f"{out}: {config.method}, {len(config.files)} files")


@app.command(rich_help_panel=MAKE)
def extract(
    type: Annotated[str, typer.Argument(help="canny, lines, softedge, sketch, seg")],
    photo: Annotated[Path, typer.Argument()],
    out: Annotated[Path, typer.Argument(help="PNG file of the map")],
) -> None:
    """Make a condition map from a photo. Nothing is downloaded."""
    from wm_pipelines.media.conditions import extract as run_extractor
    from wm_pipelines.media.pictures import load_image, save_image

    typer.echo(save_image(run_extractor(type, load_image(photo)), out))


@app.command("list", rich_help_panel=CHECKPOINTS)
def list_checkpoints() -> None:
    """The embedded checkpoints."""
    from wm_pipelines.config import WMConfig
    from wm_pipelines.hub import EMBEDDED_ROOT, embedded_names

    for name in embedded_names():
        config = WMConfig.load(EMBEDDED_ROOT / name)
        base = f" on {config.base_model.name}" if config.base_model else ""
        typer.echo(f"{name}: {config.pipeline or 'module'}{base}")


@app.command(rich_help_panel=CHECKPOINTS)
def card(folder: Folder) -> None:
    """Write the model card from the record."""
    from wm_pipelines.hub.cards import write_card

    for path in write_card(folder):
        typer.echo(path)


@app.command(rich_help_panel=CHECKPOINTS)
def validate(folder: Folder) -> None:
    """Check a checkpoint: record, hashes, formats, card."""
    from wm_pipelines.hub.publishing import validate as check

    problems = check(folder)
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{folder}: ready to publish")


@app.command(rich_help_panel=CHECKPOINTS)
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


@app.command(rich_help_panel=CHECKPOINTS)
def schema() -> None:
    """Print the JSON Schema of wm_config.json."""
    from wm_pipelines.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command(rich_help_panel=START)
def doctor(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """What is installed, what works, what doesn't."""
    from wm_pipelines.hub.doctor import describe
    from wm_pipelines.hub.doctor import doctor as look

    report = look()
    typer.echo(json.dumps(report, indent=2) if as_json else "\n".join(describe(report)))
    if report["problems"]:
        raise typer.Exit(1)


@app.command(rich_help_panel=MAKE)
def edit(
    scene: Annotated[str, typer.Argument(help="folder of a scene in time")],
    instruction: Annotated[str, typer.Argument(help='such as "remove the red cube"')],
    out: Out = Path("outputs/edit"),
    endpoint: Annotated[str | None, typer.Option(help="OpenAI-compatible URL that reads the command")] = None,
    model: Annotated[str | None, typer.Option(help="name of the model there")] = None,
) -> None:
    """Edit a scene in time by an English command; the scene itself stays as it is."""
    from wm_pipelines.morpho4d.run import edit as run_edit

    report = run_edit(scene, instruction, out, endpoint=endpoint, model=model)
    for step in report["edits"]:
        typer.echo(f"{step['operation']}: {step['chosen']} Gaussians")
    typer.echo(f"scene and clips in {out}")


@app.command(rich_help_panel=MEASURE)
def physics(
    source: Annotated[Path, typer.Argument(help="folder of a scene in time, or a video file")],
    out: Out = Path("outputs/physics"),
    masks: Annotated[Path | None, typer.Option(help=".npy of object ids, a picture a frame")] = None,
    depth: Annotated[Path | None, typer.Option(help=".npy of metres, a picture a frame")] = None,
    cameras: Annotated[Path | None, typer.Option(help='JSON of "K" and "T_cw"')] = None,
    gravity: Annotated[float, typer.Option(help="m/s^2 that the motion is held against")] = 9.81,
) -> None:
    """How physical a scene or a video is; without masks, depth and cameras it is one of the miniature world."""
    from wm_pipelines.morpho4d.physics.run import run as measure

    report = measure(source, out, masks=masks, depth=depth, cameras=cameras, gravity=gravity)
    typer.echo("\n".join(report.lines()))
    typer.echo(f"report and plots in {out}")


@app.command(rich_help_panel=DATA)
def diorama(
    out: Out = Path("outputs/diorama"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    size: Annotated[int, typer.Option(min=1)] = 64,
    pair: Annotated[bool, typer.Option("--pair", help="states before and after actions, in words")] = False,
    question: Annotated[bool, typer.Option("--question", help="questions with their truth and its twins")] = False,
    family: Annotated[str | None, typer.Option(help="of questions; default: one of each")] = None,
    physics: Annotated[str | None, typer.Option(help="an event: throw, push, collide, topple, slide")] = None,
    cameras: Annotated[int | None, typer.Option(min=1, help="show it from a ring of so many cameras")] = None,
) -> None:
    """A scene of the miniature world: all maps on one sheet, a GIF and the JSON; or what one option asks for."""
    given = {"pair": pair, "question": question, "physics": physics, "cameras": cameras}
    asked = [f"`--{name}`" for name, value in given.items() if value not in (None, False)]
    if len(asked) > 1:
        raise ValueError(f"{', '.join(asked)} make a sheet each; give one of them")
    if family is not None and not question:
        raise ValueError(f"`--family` is {family!r}, but no questions are asked for; give `--question` too")
    if pair:
        from wm_pipelines.diorama.pair_sheet import write_pair_sheet as write
    elif question:
        from wm_pipelines.diorama.questions.sheet import write_question_sheet

        write = partial(write_question_sheet, family=family)
    elif physics is not None:
        from wm_pipelines.diorama.physics_sheet import write_physics_sheet

        write = partial(write_physics_sheet, family=physics)
    elif cameras is not None:
        from wm_pipelines.diorama.camera_sheet import write_camera_sheet

        write = partial(write_camera_sheet, cameras=cameras)
    else:
        from wm_pipelines.diorama.sheet import write_sheet as write
    with claimed(check_folder(out)):
        for path in write(out, seed=seed, size=size):
            typer.echo(path)
