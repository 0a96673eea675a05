"""Last step of a flow: one report over all cells, stored in MLflow and shown as a card."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow import current

from flows.cards import enter_cards_folder
from flows.command_line import FLOW, REPORT_FLOW, get_command, get_training_command
from flows.next_steps import is_taken, name_policy, suggest_next, suggest_use
from flows.options import get_options
from flows.stage import enter_policies
from vdt.config.errors import ConfigError
from vdt.config.layers import config_from_mapping
from vdt.evaluation.records import CellRecord
from vdt.experiments.cells import (
    describe_cell,
    describe_other_code,
    get_reuse,
    list_words,
    resolve_cells,
    split_finished,
    tag_finished_runs,
)
from vdt.experiments.found import add_winners, describe_search
from vdt.system.files import make_file_name, replace_folder, write_text
from vdt.system.home import home, name_home, shorten_path

if TYPE_CHECKING:
    from vdt.tracking import Record

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedReport:
    """Report as plain values.

    Attributes:
        path: of its Markdown file.
        summary: the last screen of the run.
        mlflow_run_ids: of this flow's cells.
    """

    path: str
    summary: str
    mlflow_run_ids: Sequence[str] = ()


def make_report(flow: Any, inputs: Iterable[Any]) -> FinishedReport:
    """Write, log and show the report, and mark the MLflow runs as finished.

    Args:
        flow: the running flow.
        inputs: the joined branches, with artifacts `cell`, `finished`, `study_facts` and those of `describe_cell`.
    """
    from vdt.tracking import Register, Status, make_artifact_records, make_continue_record, send_now

    branches = list(inputs)
    if branches[0].cell.get("trial") is not None:
        return finish_trial(branches)
    study, finished = branches[0].study_facts, branches[0].finished
    configs = [config_from_mapping(branch.cell["config"]) for branch in branches]
    own = [describe_cell(branch, config) for branch, config in zip(branches, configs, strict=True)]
    for branch, cell, config in zip(branches, own, configs, strict=True):
        enter_policies(branch, cell, config)
    if get_options(flow)["cell"]:
        return finish_alone(flow, branches, own)
    cells = [*own, *finished]
    if study:
        places = {key: place for place, key in enumerate(study["keys"])}
        cells.sort(key=lambda cell: places[cell.key])
        study = {
            **{name: fact for name, fact in study.items() if name != "keys"},
            "missing": [],
        }  # as of `report_study`
        study = add_winners(cells, study, get_reuse({"reuse": flow.reuse}), get_command())
    path = _write(cells, study, get_options(flow))
    files = sorted(path.parent.iterdir())
    opening, closing = make_continue_record(str(current.run_id), fork=False), Status(status="FINISHED")
    kept: Sequence[Record] = ()
    if study:
        _keep_study_report(study, files)
    else:
        kept = make_artifact_records(files, "report")
    # the tuned policy whose score stands above it; the checkpoint of the best rollouts may be worse
    policies = [branch.agents.get("online") or branch.agents["offline"] for branch in branches]
    run_ids = []
    for cell, policy in zip(own, policies, strict=True):
        registered = [Register(name=flow.register, sha256=policy["sha256"])] if flow.register else []
        run_ids.append(send_now(home(), cell.mlflow_run_id, [opening, *kept, *registered, closing]))
    paths = {cell.key: policy["path"] for cell, policy in zip(own, policies, strict=True)}
    summary = _summarise(cells, path, paths, get_options(flow), study)
    enter_cards_folder()  # at last: the summary's paths are relative to the caller's folder
    return FinishedReport(str(path), summary, run_ids)


def finish_trial(branches: Sequence[Any]) -> FinishedReport:
    """Mark the MLflow runs of a search's trial as finished, or as stopped early; its report is the search's."""
    from vdt.tracking import TRIAL_STATE, Status, Tags, make_continue_record, send_now

    finished, lines = [], []
    for branch in branches:
        opening = make_continue_record(str(current.run_id), fork=False)
        state, status = ("complete", "FINISHED") if branch.agents else ("pruned", "KILLED")
        records: list[Record] = [opening, Tags(tags={TRIAL_STATE: state}), Status(status=status)]
        run_id = send_now(home(), branch.mlflow_run_id, records)
        lines.append(f"trial {branch.cell['trial']}: {branch.cell['key']} {state}")
        if branch.agents:
            finished.append(run_id)
    return FinishedReport("", "\n".join(lines), finished)


def finish_alone(flow: Any, branches: Sequence[Any], cells: Sequence[CellRecord]) -> FinishedReport:
    """Mark the MLflow runs of a study's cells that were run by number as finished; the report is the study's."""
    from vdt.reporting.summary import describe_end
    from vdt.tracking import Status, make_continue_record, send_now

    records: list[Record] = [make_continue_record(str(current.run_id), fork=False), Status(status="FINISHED")]
    finished = [send_now(home(), cell.mlflow_run_id, records) for cell in cells]
    policies = [branch.agents.get("online") or branch.agents["offline"] for branch in branches]
    options = {name: value for name, value in get_options(flow).items() if name != "cell"}
    if options["reuse"] == "none":  # which a report has no use for
        del options["reuse"]
    places = {
        "policy": _list_policies(cells, [policy["path"] for policy in policies]),
        "report": [
            f"{name_home()}{get_command().replace(FLOW, REPORT_FLOW.name)} run {shlex.join(list_words(options))}"
        ],
    }
    return FinishedReport("", "\n".join(describe_end(cells, places)), finished)


def report_study(arguments: Mapping[str, str]) -> FinishedReport:
    """Report the cells of a study that are finished; of a search's trial into the run's folder alone.

    Raises:
        ConfigError: if a value is not accepted, or no cell is finished.
    """
    wanted, study = resolve_cells(arguments)
    assert study is not None
    reuse = get_reuse(arguments).replace("none", "exact")  # a report takes what there is
    missing, cells = split_finished(wanted, reuse)
    if not cells:
        other = describe_other_code(wanted, reuse)
        raise ConfigError(
            f"none of the {len(wanted)} cells of {study.place} is finished; flows/vdt_flow.py runs them{other}"
        )
    tag_finished_runs(cells, study)
    described = {**study.describe(arguments.get("set", "")), "missing": [cell.key for cell in missing]}
    if study.trial:  # one of a search's: the search has the ranking, and a folder and a run for its report
        title = f"Trial {study.trial.number} of {study.title or study.name}"
        described |= {"title": title, "folder": "", "ranked": False}
    elif study.search:
        described |= describe_search(study, arguments)
    path = _write(cells, add_winners(cells, described, reuse, get_training_command()), arguments)
    if described["folder"]:
        _keep_study_report(described, sorted(path.parent.iterdir()))
    summary = _summarise(cells, path, {}, arguments, None)
    enter_cards_folder()
    return FinishedReport(str(path), summary)


def _summarise(
    cells: Sequence[CellRecord],
    path: Path,
    policies: Mapping[str, str],
    given: Mapping[str, str],
    study: Mapping[str, Any] | None,
) -> str:
    """Return the last screen of a run: scores, output paths, and possible next commands.

    Args:
        cells: of the report.
        path: of the report.
        policies: the run's own cells' keys -> checkpoints.
        given: options of the run's command line by name, empty where not given.
        study: facts of the study whose ranking says which policy is offered; none where the first is.
    """
    from vdt.reporting.search_report import sort_by_rank
    from vdt.reporting.summary import describe_end

    address, command = _find_runs_page()
    own = [cell for cell in cells if cell.key in policies]
    ranked = sort_by_rank(own, cells, study)
    own = ranked or own
    places = {
        "policy": _list_policies(own, [policies[cell.key] for cell in own]),
        "use": [
            suggest_use(cell, str(current.run_id), shorten_path(policies[cell.key]), choose=len(own) > 1)
            for cell in own
        ],
        "report": [shorten_path(path.with_suffix(".html"))],
        "card": [f"{name_home()}{get_command()} card view {current.run_id}/{current.step_name}"],
        "runs": [address],
        "served": [command],
        "next": [suggest_next(cells, given)],
    }
    return "\n".join(describe_end(cells, places, first="best-ranked" if ranked else "first"))


def _list_policies(cells: Sequence[CellRecord], paths: Sequence[str]) -> list[str]:
    """Return where each cell's policy is found: its file, or Python where the file is another cell's."""
    run_id, choose = str(current.run_id), len(cells) > 1
    return [
        f"vdt.load_policy({name_policy(cell, run_id, path, choose=choose)})" if is_taken(cell) else shorten_path(path)
        for cell, path in zip(cells, paths, strict=True)
    ]


def _find_runs_page() -> tuple[str, str]:
    """Return the address of MLflow's list of runs and the command that serves it; empty where the store is not asked."""
    from vdt.tracking import StoreError, delivers_later, describe_runs_page, get_store_errors

    if not delivers_later():
        with contextlib.suppress(StoreError, *get_store_errors()):
            page = describe_runs_page(home())
            return page.address, page.command
    return "", ""


def _write(cells: Sequence[CellRecord], study: Mapping[str, Any] | None, given: Mapping[str, str]) -> Path:
    """Write the report, and copy it to the path of the newest report. Its card is its HTML file (`flows/cards.py`)."""
    from vdt.reporting.report import write_report
    from vdt.tracking import read_curves, resolve_run_ids

    known = resolve_run_ids(home(), [cell.mlflow_run_id for cell in cells])  # of runs that reached the store late
    cells = [replace(cell, mlflow_run_id=known[cell.mlflow_run_id]) for cell in cells]
    curves = read_curves(home(), [cell.mlflow_run_id for cell in cells])
    report = write_report(
        cells, home() / "reports" / str(current.run_id), study=study, curves=curves, origin=_describe_origin(given)
    )
    path = report.path
    for winner in (study or {}).get("found", {}).values():
        write_text(path.with_name(Path(winner["file"]).name), (home() / winner["file"]).read_text())
    envs = {make_file_name(cell.env) for cell in cells}
    if study and (name := _name_report(study)):
        replace_folder(path.parent, home() / "reports" / name)
    elif not study and len(envs) == 1:  # a run of one env is also found under the env's name
        folder = home() / "reports" / envs.pop()
        for name in ("report.json", "metrics.json"):
            write_text(folder / name, path.with_name(name).read_text())
    if main := os.environ.get("VDT_REPORT"):  # the main result is written by its stage of dvc.yaml alone
        replace_folder(path.parent, home() / "reports" / main)
    return path


def _describe_origin(given: Mapping[str, str]) -> str:
    """Return date, commit and command of a report in words; `given` are the command's options by name."""
    from vdt.tracking import get_git_commit, is_code_changed

    commit, changed = get_git_commit(), ", with changes" if is_code_changed() else ""
    code = f", commit {commit[:7]}{changed}" if commit else ""
    return f"{date.today().isoformat()}{code}, by `{get_command()} run {shlex.join(list_words(given))}`"


def _name_report(study: Mapping[str, Any]) -> str:
    """Return the folder of a study's report, empty for none; a run that an earlier release began says nothing of it."""
    return str(study.get("folder", f"study-{study['name']}"))


def _keep_study_report(study: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Store a study's report in an MLflow run of its own, one per study."""
    from vdt.tracking import REPORT_OF, Status, create_named_run, make_artifact_records

    folder = _name_report(study)
    name = f"report-{folder.removeprefix('study-')}"
    records = [*make_artifact_records(files, "report"), Status(status="FINISHED")]
    tags, command = {REPORT_OF: tag_report(folder)}, get_command()
    create_named_run(home(), name, tags, {}, str(current.run_id), command, records=records)


def tag_report(folder: str) -> str:
    """Return what tells the MLflow run of a report from those of all others, by the folder of the report.

    It is a study's name; that of a search or a winner stands behind its kind and a slash, which is in no study's name.
    """
    kind, _, name = folder.partition("-")
    return name if kind == "study" else f"{kind}/{name}"
