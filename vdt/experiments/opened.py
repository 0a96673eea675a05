"""Opened cells: those that a flow runs, each with its MLflow run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vdt.config.layers import parse_overrides
from vdt.experiments.results_store import compute_code_digest
from vdt.experiments.search_trials import describe_journal
from vdt.experiments.study import Cell, Study
from vdt.system.files import check_folders
from vdt.system.home import home

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedCell:
    """Cell with its MLflow run, as an artifact of plain values.

    Attributes:
        key: names the cell's folders.
        number: place among the cells of the flow.
        config: the resolved configuration, see `Config.to_mapping`.
        mlflow_run_id: of its run.
        patch: name of the patch that it carries, if any.
        shares_training: whether cells that would train the same train it once.
        tunes_online: whether it has an online phase.
        shown: what the name of its MLflow run tells beside method and data: patch, and settings of `--set`.
        label: distinguishes it from the flow's other cells; empty if there is none.
        trial: number of the search's trial that it belongs to; none outside a search.
        code: digest of the code with which the run began.
        search: journal to which its scores are reported while it trains: `folder`, `pruner`, `first_rung`; empty for none.
    """

    key: str
    number: int
    config: Mapping[str, Any]
    mlflow_run_id: str
    patch: str = ""
    shown: str = ""
    shares_training: bool = False
    tunes_online: bool = True
    label: str = ""
    trial: int | None = None
    code: str = ""
    search: Mapping[str, Any] = field(default_factory=dict)


def open_cells(
    cells: Sequence[Cell],
    study: Study | None,
    flow_run: str,
    command: str,
    name_run: Callable[[str], str] | None = None,
    overrides: str = "",
) -> list[dict[str, Any]]:
    """Open an MLflow run for each cell that is to be run; return `OpenedCell`s as mappings.

    Args:
        cells: to be run.
        study: that they belong to, if any.
        flow_run: id of the flow's run.
        command: that started the flow.
        name_run: cell's key -> local id of its MLflow run; by default a new one each time.
        overrides: `--set` text, which names and tags of the runs tell.
    """
    from vdt.tracking import create_run, make_local_id, make_trial_tags, name_variant

    check_folders(home())
    _settle_abandoned()
    opened, name, shares = [], study.name if study else "", bool(study and study.share_training)
    place = study.trial if study else None
    tags, trial = (make_trial_tags(place.number, place.run_id), place.number) if place else ({}, None)
    tags = {**tags, "set": overrides, "code": compute_code_digest()}
    changes = parse_overrides(overrides)
    for number, (cell, label) in enumerate(zip(cells, make_labels(cells), strict=True)):
        config = cell.config
        local_id = name_run(cell.key) if name_run else make_local_id()
        shown = name_variant(cell.patch, changes)
        run_id = create_run(
            *(home(), config, flow_run, command),
            patch=cell.patch,
            shown=shown,
            study=name,
            more_tags=tags,
            local_id=local_id,
        )
        one = OpenedCell(
            cell.key,
            number,
            config.to_mapping(),
            run_id,
            cell.patch,
            shown,
            shares,
            tunes_online=config.online.environment_steps > 0,
            label=label,
            trial=trial,
            code=tags["code"],
            search=describe_journal(study, config) if study else {},
        )
        opened.append(asdict(one))
        logger.info(f"cell {number + 1}/{len(cells)} {cell.key}: MLflow run {run_id}")
    return opened


def _settle_abandoned() -> None:
    """Mark the runs of killed flows, unless the store is away or is not to be asked."""
    from vdt.tracking import delivers_later, describe_failure, get_store_errors, settle_abandoned

    if delivers_later():
        return
    try:
        settle_abandoned(home())
    except get_store_errors() as error:
        logger.warning(f"tracking: {describe_failure(error)}; this run is entered when it does")


def make_labels(cells: Sequence[Cell]) -> list[str]:
    """Return for each cell its number among all and the distinguishing words of its key; "" for one cell."""
    configs = [(cell.config, cell.patch) for cell in cells]
    words = [(c.file_name, c.method, patch, c.data_name, f"s{c.seed}") for c, patch in configs]
    varying = [place for place, column in enumerate(zip(*words, strict=True)) if len(set(column)) > 1]
    if len(cells) == 1:
        return [""]
    return [
        " ".join(filter(None, (f"{number}/{len(cells)}", *(row[place] for place in varying))))
        for number, row in enumerate(words, start=1)
    ]
