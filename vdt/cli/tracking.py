"""Commands on tracked runs: MLflow's pages, its database, and what waits for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vdt.cli.application import app
from vdt.system.home import home, make_resume_command, name_home


@app.command("runs")
def list_runs(
    every: Annotated[bool, typer.Option("--all", help="Finished runs too, with their policies.")] = False,
) -> None:
    """List what can be resumed, with the command, and what goes on.

    A run is known once it has begun a cell. `--all` also shows finished runs, and where their policies lie. The exit
    code is 1 if a run's list of policies is damaged.
    """
    from vdt.tracking import get_tracking_uri, has_store, list_flow_runs

    if not has_store(home()):
        typer.echo(f"no run has begun here: there is no {get_tracking_uri(home())} (VDT_HOME says where runs are kept)")
        return
    known, damaged = list_flow_runs(home()), False
    shown = [run for run in known if every or run.state != "finished"]
    for run in shown:
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started / 1000))
        count = f"{run.finished} of {len(run.cells)} finished" if len(run.cells) > 1 else ""
        typer.echo(f"{run.state:<9} {run.run_id}  {started}  {_list_names(run.cells)}  {count}".rstrip())
        if run.state in ("failed", "stopped"):
            line = f"{name_home()}{run.line}" if run.line else make_resume_command(run.command, run.run_id)
            typer.echo(f"    {line}")
        if every:
            damaged |= not _list_policies(run.run_id)
    hidden = len(known) - len(shown)
    if not shown:
        typer.echo("nothing to resume" + (f"; `vdt runs --all` lists {hidden} finished" if hidden else ""))
    if damaged:
        raise typer.Exit(1)


def _list_names(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _list_policies(run_id: str) -> bool:
    """Print where a run's policies are, as far as they lie below VDT_HOME; return whether they are known."""
    from vdt.agent.policy_files import list_policies
    from vdt.checkpoint.names import CheckpointError

    intact = True
    for folder in sorted((home() / ".vdt" / "checkpoints").glob(f"*/{run_id}")):
        try:
            cells = list_policies(folder, home())
        except CheckpointError as error:
            typer.echo(f"    error: {error}", err=True)
            intact = False
            continue
        for cell, policies in cells.items():
            for name, policy in policies.items():
                shared = policy.path.is_relative_to(home() / ".vdt" / "shared")  # may act by another cell's settings
                where = f"vdt.load_policy({run_id!r}, cell={cell!r}, name={name!r})" if shared else policy.path
                typer.echo(f"    {cell} {name}: {where}")
    return intact


@app.command("deliver")
def deliver_records(
    files: Annotated[list[Path] | None, typer.Argument(help="Files to deliver; by default all that wait.")] = None,
) -> None:
    """Deliver what waits for the tracking store.

    Records wait where VDT_TRACKING=later, or where MLflow could not take them while runs trained. Runs that a kill left
    behind are settled, and results name their runs by MLflow's ids. Safe to repeat: nothing is entered twice. The exit
    code is 1 while something still waits.
    """
    from vdt.experiments.results_store import name_delivered_runs
    from vdt.tracking.deliver import deliver, find_local_ids

    failed = deliver(home(), files or [])
    name_delivered_runs(home(), lambda: find_local_ids(home()))
    if failed:
        raise typer.Exit(1)


@app.command("ui")
def show_runs(port: Annotated[int, typer.Option(help="Of the address.", min=1, max=65535)] = 5000) -> None:
    """Serve MLflow's pages of the runs, until Ctrl-C.

    With a server in MLFLOW_TRACKING_URI there is nothing to serve, and its address is printed.
    """
    from vdt.tracking import describe_runs_page, serve_runs

    page = describe_runs_page(home(), port)
    typer.echo(f"runs: {page.address}")
    if page.command:
        typer.echo("MLflow's server starts, which takes some seconds; Ctrl-C ends it")
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
