"""`wm`: run, train, look at and publish, from the command line. Bad input ends with one line and exit status 2.

The commands of the house are in `house`; those of the methods (`wm run`, `wm convert`) are found in their folders.
"""

import os
import sys

import typer

from wm_pipelines.cli.annotate import annotate_app
from wm_pipelines.cli.convert import convert_app
from wm_pipelines.cli.evaluation import eval_app
from wm_pipelines.cli.house import DATA, MAKE, MEASURE, app
from wm_pipelines.cli.run import run_app

app.add_typer(run_app, name="run", rich_help_panel=MAKE)
app.add_typer(eval_app, name="eval", rich_help_panel=MEASURE)
app.add_typer(annotate_app, name="annotate", rich_help_panel=DATA)
app.add_typer(convert_app, name="convert", rich_help_panel=DATA)


def main() -> None:
    """Entry point: what the user or the machine got wrong is one line on standard error."""
    # transformers warns at every start that torchvision, which nothing here needs, is not installed
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except SystemExit as end:
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):  # typer says nothing of it
            typer.echo("interrupted", err=True)
        raise
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        typer.echo(f"error: {error or type(error).__name__}", err=True)
        sys.exit(2)
