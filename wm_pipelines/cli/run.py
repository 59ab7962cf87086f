"""`wm run`: a group that grows by itself. Every public function of a method's `command.py` is a command.

A command is looked for in the folder of its own name first (`graph-transformer` in `graph_transformer/`), so that
only that folder's file is imported; a folder's further commands are found by going through the others.
"""

from importlib import import_module
from inspect import isfunction

import typer
from click import Command
from typer.core import TyperGroup
from typer.main import get_command

from wm_pipelines.methods import folders

PACKAGE = __package__.partition(".")[0]


class MethodCommands(TyperGroup):
    """The commands of all folders that have a `command.py`."""

    def list_commands(self, ctx: typer.Context | None) -> list[str]:
        found = []
        for folder in folders("command.py"):
            try:
                found += functions(folder)
            except Exception as error:  # of one method, which must not take the others along
                typer.echo(f"{folder}: not available: {type(error).__name__}: {error}", err=True)
        return sorted(found)

    def get_command(self, ctx: typer.Context | None, cmd_name: str) -> Command | None:
        own = cmd_name.replace("-", "_")
        for folder in sorted(folders("command.py"), key=lambda folder: folder != own):
            try:
                function = functions(folder).get(cmd_name)
            except Exception:
                if folder == own:
                    raise
                continue
            if function is not None:
                made = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
                made.command(cmd_name)(function)
                return get_command(made)
        return None


def functions(folder: str) -> dict[str, object]:
    """The commands of a method's folder, by name."""
    module = import_module(f"{PACKAGE}.{folder}.command")
    return {
        name.replace("_", "-"): value
        for name, value in vars(module).items()
        if isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


run_app = typer.Typer(cls=MethodCommands, no_args_is_help=True, help="Run a method on your own input.")
