"""`wm convert`: the files of others become ours. Public functions of a folder's `convert_command.py` are its commands.

A method, or a room such as `tokens`, brings its own, named by what they read.
"""

import typer

from wm_pipelines.cli.run import MethodCommands


class Conversions(MethodCommands):
    """The commands of all folders that have a `convert_command.py`."""

    file = "convert_command.py"


convert_app = typer.Typer(
    cls=Conversions,
    no_args_is_help=True,
    help="Make our folders and tables of other people's files, offline. Pickles are read without running what they "
    "hold; nothing that is there is replaced.",
)
