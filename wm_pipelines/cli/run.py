"""`wm run`: a group that grows by itself. Every public function of a method's `command.py` is a command.

A command is looked for in the folder of its own name first (`graph-transformer` in `graph_transformer/`), so that
only that folder's file is imported; a folder's further commands are found by going through the others.
"""

from importlib import import_module
from inspect import isfunction
from types import ModuleType

import typer
from click import Command
from typer.core import TyperGroup
from typer.main import get_command

from wm_pipelines.methods import folders

PACKAGE = __package__.partition(".")[0]
GROUPS = ("Make", "Judge", "Adapt")
"""Tasks that a `command.py` may give as its `GROUP`, under which help lists its commands, in this order."""


class MethodCommands(TyperGroup):
    """The commands of all folders that have a `command.py`, or another file that a subclass names."""

    file = "command.py"

    def list_commands(self, ctx: typer.Context | None) -> list[str]:
        found: dict[str, tuple[int, str]] = {}
        for folder in folders(self.file):
            try:
                group = group_of(folder, self.file)
                place = GROUPS.index(group) if group in GROUPS else len(GROUPS)
                found |= {name: (place, name) for name in functions(folder, self.file)}
            except Exception as error:  # of one method, which must not take the others along
                typer.echo(f"{folder}: not available: {type(error).__name__}: {error}", err=True)
        return sorted(found, key=found.__getitem__)

    def get_command(self, ctx: typer.Context | None, cmd_name: str) -> Command | None:
        own = cmd_name.replace("-", "_")
        for folder in sorted(folders(self.file), key=lambda folder: folder != own):
            try:
                function = functions(folder, self.file).get(cmd_name)
            except Exception:
                if folder == own:
                    raise
                continue
            if function is not None:
                made = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
                made.command(cmd_name, rich_help_panel=group_of(folder, self.file))(function)
                return get_command(made)
        return None


def functions(folder: str, file: str) -> dict[str, object]:
    """The commands in a file of a method's folder, by name."""
    module = _module(folder, file)
    return {
        name.replace("_", "-"): value
        for name, value in vars(module).items()
        if isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def group_of(folder: str, file: str) -> str | None:
    """The task that a file of commands is for; None where it says none."""
    return getattr(_module(folder, file), "GROUP", None)


def _module(folder: str, file: str) -> ModuleType:
    return import_module(f"{PACKAGE}.{folder}.{file.removesuffix('.py')}")


run_app = typer.Typer(cls=MethodCommands, no_args_is_help=True, help="Run a method on your own input.")
