"""Commands on tracked runs: MLflow's pages, its database, and what waits for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdt.cli.application import app
from vdt.system.home import home


@app.command("replay")
def replay_records(
    files: Annotated[list[Path] | None, typer.Argument(help="Files to deliver; by default all that wait.")] = None,
) -> None:
    """Deliver what waits for the tracking store.

    This is what MLflow could not take while runs trained. Runs that a kill left behind are settled, too.
    Safe to repeat: nothing is entered twice. The exit code is 1 while something still waits.
    """
    from vdt.tracking.replay import deliver

    if deliver(home(), files or []):
        raise typer.Exit(1)


@app.command("ui")
def show_runs(port: Annotated[int, typer.Option(help="Of the address.")] = 5000) -> None:
    """Serve MLflow's pages of the runs, until Ctrl-C.

    With a server in MLFLOW_TRACKING_URI there is nothing to serve, and its address is printed.
    """
    from vdt.tracking import describe_runs_page, serve_runs

    page = describe_runs_page(home(), port)
    typer.echo(f"runs: {page.address}")
    if page.command:
        serve_runs(home(), port)


database = typer.Typer(help="The database of runs below VDT_HOME.", rich_markup_mode=None)
app.add_typer(database, name="db")


@database.callback()
def name_database_commands() -> None:
    """Keep and upgrade the database of runs below VDT_HOME."""


@database.command("upgrade")
def upgrade_runs() -> None:
    """Bring the database to the installed MLflow; the old file is kept beside it."""
    from vdt.tracking import upgrade_store

    kept = upgrade_store(home())
    typer.echo(f"upgraded; the old file is kept as {kept}" if kept else "nothing to do: the database is up to date")
