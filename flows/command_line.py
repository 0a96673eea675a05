"""From command line words to cells: every combination of env, method, patch and seed, resolved before any work."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from flows.words import check_words
from vdt.config.layers import Config, ConfigError
from vdt.config.values import suggest
from vdt.experiments.study import Plan, Study, expand, load_study, parse_seeds, split_words
from vdt.system.home import FolderError, check_folders, home
from vdt.system.processes import die_with_parent, interrupt_on_signals

logger = logging.getLogger(__name__)

DEFAULTS = {"preset": "laptop", "method": "vdt", "seeds": "0", "source": "auto", "reuse": "exact"}
OPTIONS = ("env", "preset", "method", "seeds", "source", "set", "study", "reuse")  # empty: the study's, or the default
REUSE = ("exact", "settings", "none")
FLOW = "vdt_flow.py"
COMMAND = "VDT_COMMAND"  # environment variable: how the flow was called, for messages of child processes


@dataclass(frozen=True)
class Cell:
    """One env x method x patch x seed, as an artifact of plain values."""

    key: str  # names the cell's folders
    number: int
    config_yaml: str
    mlflow_run_id: str = ""
    patch: str = ""
    shares_training: bool = False


def resolve_cells(arguments: Mapping[str, str]) -> tuple[list[Plan], Study | None]:
    """All cells, and the study that names them, if one does.

    Args:
        arguments: the flow's parameters by name (`OPTIONS`), empty where not given.

    Raises:
        ConfigError: naming the first value that is not accepted.
    """
    given = {name: value for name, value in arguments.items() if value and name in OPTIONS}
    reuse = given.get("reuse", DEFAULTS["reuse"])
    if reuse not in REUSE:
        raise ConfigError(
            f"--reuse must be {', '.join(REUSE[:-1])} or {REUSE[-1]}, not {reuse!r}{suggest(reuse, REUSE)}"
        )
    named = load_study(given["study"]) if "study" in given else None
    if named is None:
        given = {**DEFAULTS, "env": "", **given}
    study = named or Study(name="", place="", envs=())
    changes: dict[str, Any] = {name: given[name] for name in ("preset", "source") if name in given}
    if "seeds" in given:
        changes["seeds"] = parse_seeds(given["seeds"])
    for option, field in (("env", "envs"), ("method", "methods")):
        if option in given:
            changes[field] = tuple(split_words(given[option], f"--{option}"))
    study = replace(study, **changes)
    plans = expand(study, given.get("set", ""))
    for plan in plans:
        _check_source(plan.config.data.source)
    return plans, study if named else None


def _check_source(source: str) -> None:
    path = Path(source.removeprefix("path:"))
    if source.startswith("path:") and not path.expanduser().exists():
        raise ConfigError(f"--source path: there is no file or folder {path}")


def open_cells(plans: Sequence[Plan], study: Study | None, flow_run: str) -> list[dict[str, Any]]:
    """Open an MLflow run for each cell that is to be run; returns `Cell`s as mappings."""
    from vdt.tracking import create_run, get_store_errors, settle_abandoned

    check_folders(home())
    try:
        settle_abandoned(home())
    except get_store_errors():
        logger.warning("tracking: the store does not answer; this run is entered when it does")
    cells, name, shares = [], study.name if study else "", bool(study and study.share_training)
    command = os.environ.get(COMMAND, "flows/vdt_flow.py")
    for number, plan in enumerate(plans):
        run_id = create_run(home(), plan.config, flow_run, command, patch=plan.patch, study=name)
        cells.append(asdict(Cell(plan.key, number, plan.config.to_yaml(), run_id, plan.patch, shares)))
        logger.info(f"cell {plan.key}: MLflow run {run_id}")
    return cells


def open_behavior_cells(settings: Mapping[str, Any], flow_run: str) -> list[dict[str, Any]]:
    """Open an MLflow run for each ladder that is to be trained; `settings` are `LadderSettings` by name."""
    from vdt.tracking import create_named_run

    check_folders(home())
    cells = []
    for number, (name, ladder) in enumerate(settings.items()):
        tags = {"ladder": name, "env": ladder.training.environment_id, "seed": str(ladder.training.seed)}
        params, command = asdict(ladder.training), os.environ.get(COMMAND, "flows/behavior_flow.py")
        run_id = create_named_run(home(), f"behavior-{name}-s{tags['seed']}", tags, params, flow_run, command)
        cells.append({"key": name, "number": number, "mlflow_run_id": run_id})
        logger.info(f"ladder {name}: MLflow run {run_id}")
    return cells


def check_command_line(argv: list[str]) -> None:
    """Check the arguments of `run` before Metaflow starts anything; ends the process with one line if wrong.

    The script's own name becomes absolute in `argv`: Metaflow starts tasks by it, and they may change their folder.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in OPTIONS:
        parser.add_argument(f"--{name}", default=os.environ.get(f"METAFLOW_RUN_{name.upper()}", ""))
    parser.add_argument("--max-workers")
    parser.add_argument("--help", action="store_true")
    try:
        given, others = parser.parse_known_args(argv[1:])
    except argparse.ArgumentError as error:
        _refuse(f"{error.argument_name} needs a value" if "expected" in error.message else str(error))
    called = shlex.join([_python(), argv[0]])
    command = next((word for word in others if word in ("run", "resume", "step", "spin")), "")
    if command == "step":
        die_with_parent()
    if command in ("run", "resume"):
        interrupt_on_signals()
        remember_command(argv)
    if given.max_workers:
        os.environ["METAFLOW_RUN_MAX_WORKERS"] = given.max_workers  # so that steps know how many run at once
    if given.help:
        return
    try:
        check_words(called, argv[1:], others, OPTIONS)
        if command == "run":
            _check_run(vars(given), argv)
    except (ConfigError, FolderError) as error:
        _refuse(str(error))


def _check_run(given: Mapping[str, str], argv: list[str]) -> None:
    """Resolve all that is to be run; a study that is finished goes on as its report."""
    is_main = Path(argv[0]).name == FLOW
    if not given["study"] and not is_main:
        raise ConfigError("--study needs the name or the path of a study file")
    plans, study = resolve_cells(given)
    if study and is_main:
        from flows.studies import get_reuse, report_instead

        report_instead(plans, study, get_reuse(given), argv)
    _check_data([plan.config for plan in plans])
    check_folders(home())


def _refuse(message: str) -> NoReturn:
    """End the process with one line."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _check_data(configs: list[Config]) -> None:
    """Named tasks that nothing stands in for need their file: say where to put it before anything is started.

    Raises:
        ConfigError: if no source of one of them is within reach.
    """
    for config in {config.env: config for config in configs}.values():
        recipe = config.task.collected
        if config.task.d4rl_url and recipe.ladder is None and recipe.controller == "none":
            from vdt.datasets.choose import DataError, choose_source

            try:
                choose_source(config, home())
            except DataError as error:
                raise ConfigError(str(error)) from None


def remember_command(argv: list[str]) -> None:
    """Keep how the flow was called for messages, and make the script's name absolute: tasks may change their folder."""
    os.environ[COMMAND] = shlex.join([_python(), argv[0]])
    argv[0] = os.path.abspath(argv[0])


def make_resume_command(run_id: str) -> str:
    """The exact command that continues a run."""
    folder = f"VDT_HOME={shlex.quote(os.environ['VDT_HOME'])} " if os.environ.get("VDT_HOME") else ""
    command = os.environ.get(COMMAND, f"{_python()} flows/vdt_flow.py")
    return f"{folder}{command} resume --origin-run-id {run_id}"


def _python() -> str:
    found = shutil.which("python")
    return "python" if found and os.path.samefile(found, sys.executable) else sys.executable
