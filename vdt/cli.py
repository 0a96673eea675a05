"""Command `vdt`: data sets, settings and waiting records, without a flow. Its commands import what they need.

Training is `python flows/vdt_flow.py run --env ENV`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vdt.system.home import FolderError, home, prepare

if TYPE_CHECKING:
    from vdt.config.schema import Config

logger = logging.getLogger(__name__)

app = typer.Typer(
    name="vdt",
    help="Data sets, settings and tracking of the Value-Guided Decision Transformer.\n\n"
    'To train: python flows/vdt_flow.py run --env ENV [--preset laptop] [--method vdt] [--seeds 0-4] [--set "KEY=VALUE"]',
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Env = Annotated[
    str, typer.Argument(metavar="ENV", help="Task (see `vdt tasks`), minari:NAMESPACE/NAME-vN or data:PATH.")
]
Preset = Annotated[str, typer.Option(help="Sizes and budgets (see `vdt presets`).")]
Source = Annotated[str, typer.Option(help="auto, collected, d4rl, minari or path:FILE.")]
Changes = Annotated[
    str, typer.Option("--set", metavar="CHANGES", help='Changed settings, e.g. "data.steps=50000" (see `vdt keys`).')
]
Report = Annotated[
    str, typer.Option(metavar="NAME", help="Folder of reports/ to write to; by default named after ENV.")
]


@app.command("data")
def make_data(
    env: Env, preset: Preset = "laptop", source: Source = "auto", changes: Changes = "", report: Report = ""
) -> None:
    """Make, check and version the data set of ENV.

    Its md5 and card are written to reports/NAME/dataset.json and dataset.md.
    """
    from vdt.datasets.card import format_card
    from vdt.datasets.snapshot import make_snapshot
    from vdt.system.files import write_text

    config = _resolve(env, preset, source, changes)
    snapshot = make_snapshot(config, home())
    folder = home() / "reports" / (report or config.file_name)
    stable = {"md5": snapshot.md5, "size": snapshot.size, "source": snapshot.source}
    card = {name: value for name, value in snapshot.card.items() if name != "reason"}  # differs from run to run
    write_text(folder / "dataset.json", json.dumps({**stable, "card": card}, indent=2, sort_keys=True) + "\n")
    write_text(folder / "dataset.md", format_card(snapshot.card))
    logger.info(f"data: {folder / 'dataset.json'}")


@app.command("export")
def export_data(env: Env, preset: Preset = "laptop", changes: Changes = "") -> None:
    """Write collected data as a Minari data set.

    It is collected first, unless that was done before. The data set of task NAME-SPLIT-vN is vdt/NAME/SPLIT-v0.
    """
    from vdt.datasets.export import export_snapshot, make_dataset_id
    from vdt.datasets.minari_folder import get_root
    from vdt.datasets.snapshot import make_snapshot

    make_dataset_id(env)  # a name that cannot be exported is refused before anything is collected
    config = _resolve(env, preset, "collected", changes)
    dataset_id = export_snapshot(config, make_snapshot(config, home()))
    logger.info(f"export: {get_root() / dataset_id}; minari.load_dataset({dataset_id!r}) opens it")


def _resolve(env: str, preset: str, source: str, changes: str) -> Config:
    from vdt.experiments.resolve import resolve_config

    return resolve_config(env, preset=preset, source=source, overrides=changes)


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


@app.command("keys")
def list_keys(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or with *; another name, such as lr; a word.")] = "",
) -> None:
    """Show settings: default, range, meaning, source."""
    from vdt.config.errors import ConfigError, suggest_key
    from vdt.config.reference import find_knobs, list_knobs
    from vdt.config.schema import KEYS

    knobs = find_knobs(pattern) if pattern else list_knobs()
    if not knobs:
        raise ConfigError(f"no key matches {pattern!r}{suggest_key(pattern, KEYS)}")
    for knob in knobs:
        presets = [f"{name}: {value}" for name, value in knob.presets.items()]
        source = f" (source: {knob.source})" if knob.source else ""
        typer.echo(f"{knob.name} = {', '.join([knob.default or '(the task or the command line says it)', *presets])}")
        typer.echo(f"    accepted: {knob.accepted}\n    {knob.meaning}{source}\n")


@app.command("tasks")
def list_tasks() -> None:
    """List tasks, and where their data may come from."""
    from vdt.config.layers import load_tasks

    for name, facts in load_tasks().items():
        recipe = facts.get("task.collected.ladder") or facts.get("task.collected.controller", "none") != "none"
        named = {"collected": recipe, "d4rl": facts["task.d4rl_url"], "minari": facts.get("task.minari_ids")}
        sources = ", ".join(source for source, there in named.items() if there)
        typer.echo(f"{name:<30}{facts['task.environment_id']:<24}{sources}")


@app.command("methods")
def list_methods() -> None:
    """List the methods, and what each is."""
    _list_files("methods")


@app.command("presets")
def list_presets() -> None:
    """List the presets, and what each is for."""
    _list_files("presets")


@app.command("studies")
def list_studies() -> None:
    """List studies: many runs, and the table they fill."""
    _list_files("studies")


def _list_files(folder: str) -> None:
    """Print the names of a folder of params/, with the first sentence of each file's comment."""
    from vdt.config.layers import PARAMS, list_names

    for name in list_names(folder):
        lines = (PARAMS / folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        comment = " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
        typer.echo(f"{name:<12}{comment.partition('. ')[0].rstrip('.')}")


@app.command("run", hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def refuse_run() -> None:
    """Refuse a command that `vdt` does not have, and name the one that starts training."""
    raise ValueError("runs are started by `python flows/vdt_flow.py run --env ENV`")


def run(words: Sequence[str]) -> int:
    """Run a command; return 2 after one line where the words or what they name are wrong."""
    try:
        return int(app(args=list(words) or ["--help"], prog_name="vdt", standalone_mode=False) or 0)
    except typer.Abort:
        return 130
    except (ValueError, FolderError) as error:
        message = str(error)
    except Exception as error:
        if not hasattr(error, "format_message"):  # Typer's, about the arguments
            raise
        message = error.format_message()
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    return 2


def main() -> int:
    """Set up the process and run the command of its arguments."""
    prepare()
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
