"""Commands on data sets."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Annotated

import typer

from vdt.cli.application import app
from vdt.system.home import home

if TYPE_CHECKING:
    from vdt.config.schema import Config

logger = logging.getLogger(__name__)

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


Minari = Annotated[
    bool, typer.Option("--minari", help="Collect the data and write it as Minari's vdt/NAME/SPLIT-v0 instead.")
]


@app.command("data")
def make_data(
    env: Env,
    preset: Preset = "laptop",
    source: Source = "auto",
    changes: Changes = "",
    report: Report = "",
    minari: Minari = False,
) -> None:
    """Make, check and version the data set of ENV.

    Its md5 and card are written to reports/NAME/dataset.json and dataset.md.
    """
    if minari:
        _export_to_minari(env, preset, source, changes, report)
        return
    from vdt.config.layers import parse_overrides
    from vdt.datasets.card import format_card
    from vdt.datasets.snapshot import make_snapshot
    from vdt.system.files import write_text

    config = _resolve(env, preset, source, changes)
    _check_environment(config, changes)
    snapshot = make_snapshot(config, home(), parse_overrides(changes))
    folder = home() / "reports" / (report or config.file_name)
    stable = {"md5": snapshot.md5, "size": snapshot.size, "source": snapshot.source}
    card = {name: value for name, value in snapshot.card.items() if name != "reason"}  # differs from run to run
    write_text(folder / "dataset.json", json.dumps({**stable, "card": card}, indent=2, sort_keys=True) + "\n")
    write_text(folder / "dataset.md", format_card(snapshot.card))
    logger.info(f"data: {folder / 'dataset.json'}")


def _export_to_minari(env: str, preset: str, source: str, changes: str, report: str) -> None:
    """Write collected data as a Minari data set; it is collected first, unless that was done before."""
    from vdt.datasets.export import export_snapshot, make_dataset_id
    from vdt.datasets.minari_folder import get_root
    from vdt.datasets.snapshot import make_snapshot

    if source not in ("auto", "collected") or report:
        raise ValueError("--minari writes collected data to Minari's folder: it goes without --source and --report")
    make_dataset_id(env)  # a name that cannot be exported is refused before anything is collected
    config = _resolve(env, preset, "collected", changes)
    _check_environment(config, changes)
    dataset_id = export_snapshot(config, make_snapshot(config, home()))
    logger.info(f"data: {get_root() / dataset_id}; minari.load_dataset({dataset_id!r}) opens it")


def _resolve(env: str, preset: str, source: str, changes: str) -> Config:
    from vdt.experiments.resolve import resolve_config

    return resolve_config(env, preset=preset, source=source, overrides=changes)


def _check_environment(config: Config, changes: str) -> None:
    """Check what `--set` says of the environment as a run does; data of a task need none that can be made here.

    Raises:
        ConfigError: as `vdt.experiments.preflight.check_cells`.
    """
    from vdt.config.layers import parse_overrides

    if any(key.startswith("task.") for key in parse_overrides(changes)):
        from vdt.experiments.preflight import check_cells
        from vdt.experiments.study import Cell

        check_cells([Cell(config)], device=False)
