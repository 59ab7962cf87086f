"""`wm eval`: each file of this folder is a command, its function of the file's name; only that is imported."""

import pkgutil
from importlib import import_module

import typer
from click import Command
from typer.core import TyperGroup
from typer.main import get_command


class EvaluationCommands(TyperGroup):
    """The commands of the folder's files."""

    def list_commands(self, ctx: typer.Context | None) -> list[str]:
        return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))

    def get_command(self, ctx: typer.Context | None, cmd_name: str) -> Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_")
        made = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        made.command(cmd_name)(getattr(import_module(f"{__name__}.{name}"), name))
        return get_command(made)


eval_app = typer.Typer(
    cls=EvaluationCommands,
    no_args_is_help=True,
    help="Whether a model sees a video, or guesses: scores with controls.",
)
