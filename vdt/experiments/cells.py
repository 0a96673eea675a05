"""Cells (env x method x patch x seed) of a command: all of a run, those with a result, those still to be run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vdt.config.errors import ConfigError, suggest
from vdt.config.schema import Config
from vdt.evaluation.records import CellRecord
from vdt.experiments.data_keys import find_data_key, make_data_key
from vdt.experiments.grid import name_sweep, parse_sweep
from vdt.experiments.opened import open_cells
from vdt.experiments.preflight import check_cells, check_source
from vdt.experiments.ranges import parse_numbers, split_words
from vdt.experiments.results_store import (
    began_with_this_code,
    compute_identity,
    find_result,
    list_identities,
    save_result,
)
from vdt.experiments.search_trials import (
    add_trials,
    choose_trial,
    get_search,
    load_trials,
    refuse_seeds,
)
from vdt.experiments.study import Cell, Study, count_cells, expand, load_study
from vdt.system.home import home

logger = logging.getLogger(__name__)

DEFAULTS = {"preset": "laptop", "method": "vdt", "seeds": "0", "source": "auto", "reuse": "exact"}
OPTIONS = (  # empty: the study's, or the default
    *("env", "preset", "method", "seeds", "data_seeds", "source", "set", "sweep", "init_from", "study", "reuse"),
    *("trial", "cell"),
)
REUSE = ("exact", "settings", "none")


def resolve_cells(arguments: Mapping[str, str]) -> tuple[list[Cell], Study | None]:
    """Return all cells, and the study that names them, if one does.

    Args:
        arguments: the flow's parameters by name (`OPTIONS`), empty where not given.

    Raises:
        ConfigError: naming the first value that is not accepted.
    """
    study = resolve_study(arguments)
    if study.search and study.trial is None:
        study = add_trials(study, load_trials(study, arguments.get("set", ""), get_reuse(arguments)))
    numbers = parse_cell_numbers(arguments["cell"], study) if arguments.get("cell") else None
    cells = expand(study, arguments.get("set", ""), numbers)
    for source in {cell.config.data.source for cell in cells}:
        check_source(source)
    return cells, study if study.name else None


def parse_cell_numbers(text: str, study: Study) -> list[int]:
    """Return the numbers of `--cell`, from 1, in the order of the study.

    Raises:
        ConfigError: if a word is no number of a cell, or there is no study.
    """
    if not study.name:
        raise ConfigError("--cell takes numbers of a study's cells (--study, --sweep), and this run is no study")
    numbers = sorted(parse_numbers(text, "--cell", least=1))
    count = count_cells(study)
    for number in numbers:
        if not 1 <= number <= count:
            raise ConfigError(f"--cell: the cells of {study.place} have the numbers 1 to {count:,}, not {number}")
    return numbers


def resolve_study(arguments: Mapping[str, str]) -> Study:
    """Return the study of a command line, without a name for a run that has none; arguments as of `resolve_cells`.

    Raises:
        ConfigError: if a file or a word is not accepted; `expand` checks the rest.
    """
    given = {name: value for name, value in arguments.items() if value and name in OPTIONS}
    reuse = get_reuse(given)
    if reuse not in REUSE:
        raise ConfigError(
            f"--reuse must be {', '.join(REUSE[:-1])} or {REUSE[-1]}, not {reuse!r}{suggest(reuse, REUSE)}"
        )
    named = load_study(given["study"]) if "study" in given else None
    if named is None:
        given = {**DEFAULTS, "env": "", **given}
    study = named or Study(name="", place="", envs=())
    study = replace(study, **_read_changes(given, is_named=named is not None))
    if study.search:
        return _resolve_search(study, given)
    if "trial" in given:
        raise ConfigError(f"--trial: {study.place or 'this run'} is no search")
    return study


def _read_changes(given: Mapping[str, str], *, is_named: bool) -> dict[str, Any]:
    """Return the fields of a study that the command line gives."""
    changes: dict[str, Any] = {name: given[name] for name in ("preset", "source", "init_from") if name in given}
    if "seeds" in given:
        changes["seeds"] = parse_numbers(given["seeds"], "--seeds")
    if "data_seeds" in given:
        changes["data_seeds"] = parse_numbers(given["data_seeds"], "--data-seeds")
    for option, name in (("env", "envs"), ("method", "methods")):
        if option in given:
            _refuse_comma(option, given[option])
            changes[name] = tuple(split_words(given[option], f"--{option}"))
    if "sweep" in given:
        changes["grid"] = parse_sweep(given["sweep"])
        if not is_named:
            changes |= name_sweep(changes["grid"])
    return changes


def _refuse_comma(option: str, text: str) -> None:
    """Refuse an address of data that holds a comma, which would be read as several.

    Raises:
        ConfigError: naming the folder or file.
    """
    place = Path(text.removeprefix("data:")).expanduser()
    if text.startswith("data:") and "," in text and place.exists():
        raise ConfigError(
            f"--{option} {text}: accepted is a name without a comma, which separates data sets; rename {place}"
        )


def _resolve_search(study: Study, given: Mapping[str, str]) -> Study:
    """Return a search, or one of its trials, after refusing words that it has no place for."""
    search, reuse = get_search(study), get_reuse(given)
    if "cell" in given:
        raise ConfigError(f"--cell: {study.place} is a search, whose workers take its trials in turn; leave it out")
    if "sweep" in given:
        raise ConfigError(f"--sweep: {study.place} is a search, whose space says what is tried")
    if "data_seeds" in given:
        raise ConfigError(
            f"--data-seeds: {study.place} is a search, whose file names them: data_seeds, and search: report: data_seed"
        )
    if len(study.methods) > 1:
        raise ConfigError(f"--method: a search has one method, not {', '.join(study.methods)}")
    if reuse == "none":
        raise ConfigError("--reuse none does not go with a search; a change of its section begins another one")
    refuse_seeds(study.seeds, search)
    if "trial" in given:
        return choose_trial(study, given["trial"], study.seeds, given.get("set", ""), reuse)
    if "seeds" in given:
        raise ConfigError(f"--seeds: {study.place} names its tuning seeds and its reported ones")
    return study


def name_option(name: str) -> str:
    """Return an option of `OPTIONS` as the command line has it, e.g. `--init-from`."""
    return f"--{name.replace('_', '-')}"


def list_words(options: Mapping[str, str]) -> list[str]:
    """Return options of `OPTIONS` by name as the words of a command line, without the empty ones."""
    return [word for name in OPTIONS if options.get(name) for word in (name_option(name), options[name])]


def get_reuse(arguments: Mapping[str, str]) -> str:
    """Return which earlier results are reused: exact, settings (of any code), none."""
    return arguments.get("reuse") or DEFAULTS["reuse"]


def plan_cells(
    arguments: Mapping[str, str],
    flow_run: str,
    command: str,
    *,
    checked: bool = False,
    name_run: Callable[[str], str] | None = None,
) -> tuple[list[dict[str, Any]], list[CellRecord], dict[str, Any] | None]:
    """Choose the cells to run, and open an MLflow run for each.

    A flow without a study runs all its cells. A study runs those without a result of the same settings, data and code.

    Args:
        arguments: as of `resolve_cells`.
        flow_run: id of the flow's run.
        command: that started the flow.
        checked: whether `check_cells` has passed already; an engine of a cluster starts the first step without it.
        name_run: as of `open_cells`.

    Returns:
        The cells to run (`OpenedCell`s), the finished ones in the form of `describe_cell`, and the facts of the study
        for a report, none without one.

    Raises:
        ConfigError: if a value is not accepted, or a study has nothing left to run.
    """
    cells, study = resolve_cells(arguments)
    overrides = arguments.get("set", "")
    missing, finished = split_finished(cells, get_reuse(arguments)) if study else (cells, [])
    if not missing and study:
        raise ConfigError(f"all {len(cells)} cells of {study.place} are finished; flows/report_flow.py reports them")
    if not checked:
        check_cells(missing, device=False)
    if study is None:
        return open_cells(cells, None, flow_run, command, name_run, overrides), [], None
    other = describe_other_code(missing, get_reuse(arguments))
    logger.info(f"study {study.name}: {len(finished)} cells are finished, {len(missing)} are run{other}")
    tag_finished_runs(finished, study)
    described = {**study.describe(overrides), "keys": [cell.key for cell in cells]}
    opened = open_cells(order_by_critic(missing), study, flow_run, command, name_run, overrides)
    return opened, finished, described


def split_finished(cells: Sequence[Cell], reuse: str) -> tuple[list[Cell], list[CellRecord]]:
    """Return the cells without a result, and the results of the others.

    Raises:
        ConfigError: if an env's data is unavailable.
    """
    missing: list[Cell] = []
    finished: list[CellRecord] = []
    identities = compute_identities(cells) if reuse != "none" else [""] * len(cells)
    for cell, identity in zip(cells, identities, strict=True):
        result = None
        if reuse != "none":
            result = find_result(home(), identity, any_code=reuse == "settings")
        record = None if result is None else _read_record({**result, "key": cell.key, "patch": cell.patch})
        if record is None:
            missing.append(cell)
        else:
            finished.append(record)
    return missing, finished


def describe_other_code(cells: Sequence[Cell], reuse: str) -> str:
    """Return a clause that counts the cells with a result of other code, and says what takes it; empty without one.

    Raises:
        ConfigError: if an env's data is unavailable.
    """
    known = list_identities(home()) if reuse == "exact" else set()
    count = sum(identity in known for identity in compute_identities(cells)) if known else 0
    return f"; {count} of these have results of other code, which --reuse settings takes" if count else ""


def compute_identities(cells: Sequence[Cell]) -> list[str]:
    """Compute the identity of each cell (`compute_identity`).

    Raises:
        ConfigError: if an env's data is unavailable.
    """
    keys: dict[str, str] = {}
    return [compute_identity(cell.config, find_data_key(cell.config, keys)) for cell in cells]


def _read_record(result: Mapping[str, Any]) -> CellRecord | None:
    """Return a kept result as a record; none if an earlier release kept it in another form."""
    try:
        return CellRecord.from_json(result)
    except ValueError as error:
        logger.warning(
            f"{result['key']}: its result is of another release ({str(error).splitlines()[0]}); it is run again"
        )
        return None


def order_by_critic(cells: Sequence[Cell]) -> list[Cell]:
    """Move the first cell of each critic before the second ones, so that few wait for a critic that another trains."""
    from vdt.experiments.sharing import compute_critic_key

    seen: dict[tuple[str, str], int] = {}
    turns = []
    for cell in cells:
        critic = (cell.config.env, compute_critic_key(cell.config, ""))
        turns.append(seen.get(critic, 0))
        seen[critic] = turns[-1] + 1
    return [cell for _, cell in sorted(zip(turns, cells, strict=True), key=lambda pair: pair[0])]


def tag_finished_runs(finished: Sequence[CellRecord], study: Study) -> None:
    """Add a study to the MLflow runs of its finished cells; one whose flow was stopped afterwards becomes FINISHED."""
    from vdt.tracking import JoinStudy, Record, Status, send_to_each

    records: list[Record] = [JoinStudy(study=study.name), Status(status="FINISHED")]
    send_to_each(home(), [cell.mlflow_run_id for cell in finished], records)


def describe_cell(branch: Any, config: Config) -> CellRecord:
    """Return the facts of a cell for a report; `branch` has the artifacts of its steps."""
    cell = {
        "key": branch.cell["key"],
        "patch": branch.cell["patch"],
        "config": config.flatten(),
        "snapshot": branch.snapshot,
        "evaluation": asdict(branch.evaluation),
        "mlflow_run_id": branch.mlflow_run_id,
        "seconds": branch.seconds,
        "memory": branch.memory,
        "shared_from": {"pretrain_critic": branch.critic_shared_from, "train_actor": branch.actor_shared_from},
    }
    return CellRecord.from_json(
        json.loads(json.dumps(cell))
    )  # the same values whether they come from this flow or from a file


def keep_result(record: CellRecord, config: Config, data: Path, cell: Mapping[str, Any]) -> None:
    """Store the result of a finished `OpenedCell`, which was trained on the snapshot at `data`, unless the code has changed."""
    if not began_with_this_code(cell):
        logger.warning(
            f"vdt/ has changed since {record.key} began, so no study takes its result; run it again for that"
        )
        return
    key = make_data_key(record.snapshot.source, data.parent.name)
    save_result(home(), compute_identity(config, key), record.to_json())
