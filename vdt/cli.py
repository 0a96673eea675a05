"""Command line of what needs no flow: `python -m vdt.cli data --env walker2d-medium-v2`, `python -m vdt.cli export …`."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from vdt.config.schema import Config
from vdt.experiments.resolve import resolve_config
from vdt.system.files import write_text
from vdt.system.home import FolderError, home, prepare

logger = logging.getLogger(__name__)


def make_data(options: argparse.Namespace) -> None:
    """Make a snapshot and write its md5 and card to dataset.json and dataset.md."""
    from vdt.datasets.card import format_card
    from vdt.datasets.snapshot import make_snapshot

    config = _resolve(options, options.source)
    snapshot = make_snapshot(config, home())
    folder = home() / "reports" / (options.report or config.file_name)
    stable = {"md5": snapshot.md5, "size": snapshot.size, "source": snapshot.source}
    card = {name: value for name, value in snapshot.card.items() if name != "reason"}  # differs from run to run
    write_text(folder / "dataset.json", json.dumps({**stable, "card": card}, indent=2, sort_keys=True) + "\n")
    write_text(folder / "dataset.md", format_card(snapshot.card))
    logger.info(f"data: {folder / 'dataset.json'}")


def export_data(options: argparse.Namespace) -> None:
    """Collect a task's data, unless that was done before, and write it as the Minari data set vdt/ENV/SPLIT-v0."""
    from vdt.datasets.export import export_snapshot, make_dataset_id
    from vdt.datasets.minari_folder import get_root
    from vdt.datasets.snapshot import make_snapshot

    make_dataset_id(options.env)  # a name that cannot be exported is refused before anything is collected
    config = _resolve(options, "collected")
    dataset_id = export_snapshot(config, make_snapshot(config, home()))
    logger.info(f"export: {Path(get_root()) / dataset_id}; minari.load_dataset({dataset_id!r}) opens it")


def _resolve(options: argparse.Namespace, source: str) -> Config:
    return resolve_config(options.env, preset=options.preset, source=source, overrides=options.overrides)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; its `run` is the command's function."""
    parser = argparse.ArgumentParser(prog="python -m vdt.cli", description="Data sets on the command line.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run in (("data", make_data), ("export", export_data)):
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        command.add_argument("--env", required=True, help="name of a task, minari:NAMESPACE/NAME-vN, or data:PATH")
        command.add_argument("--preset", default="laptop", help="file of params/presets/")
        command.add_argument("--set", default="", dest="overrides", help='changes, e.g. "data.steps=50000"')
    data = commands.choices["data"]
    data.add_argument("--source", default="auto", help="auto, collected, d4rl, minari or path:FILE")
    data.add_argument("--report", default="", help="folder of reports/ for dataset.json; by default the env's name")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run a command; bad input ends with one line and status 1."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, FolderError) as error:
        parser.exit(1, f"error: {error}\n")


def run() -> None:
    """Run the command of `sys.argv`."""
    prepare()
    main()


if __name__ == "__main__":
    run()
