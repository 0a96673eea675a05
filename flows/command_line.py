"""Command line of a flow: checked before Metaflow starts anything, and stored for the command that resumes a run."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from flows.options import REGISTER, parse_words
from flows.unfinished import RUN_ID_FILE, continue_cells
from flows.words import check_words
from vdt.config.convergence import describe_unfinished
from vdt.config.errors import ConfigError
from vdt.config.guidance import describe_idle_plans
from vdt.experiments.cells import OPTIONS, get_reuse, name_option, resolve_cells, resolve_study, split_finished
from vdt.experiments.preflight import check_cells
from vdt.experiments.search_trials import check_search
from vdt.experiments.study import Cell, Study, load_study
from vdt.system.files import check_folders
from vdt.system.home import FolderError, home, make_vdt_command, shorten_path
from vdt.system.processes import (
    FLOW_COMMANDS,
    count_memory_kills,
    follow_parent,
    interrupt_on_signals,
    save_request,
)
from vdt.tracking import StoreError, check_model_name, delivers_later, get_tracking_uri

logger = logging.getLogger(__name__)

FLOW = "vdt_flow.py"
REPORT_FLOW = Path(__file__).with_name("report_flow.py")
SEARCH_FILE = Path(__file__).with_name("search.py")
ENGINES = ("kubernetes", "batch", "slurm")  # `--with` these, steps run elsewhere
CHECKED = "VDT_CHECKED"  # environment variable: the command line was checked on this machine
MEMORY_KILLS = "VDT_MEMORY_KILLS"  # environment variable: `count_memory_kills` when the flow began
COMMAND = "VDT_COMMAND"  # environment variable: how the flow was called, for messages of child processes


def check_command_line(argv: list[str]) -> None:
    """Check the arguments of `run` before Metaflow starts anything; end the process with one line if one is wrong.

    The script's own name becomes absolute in `argv`: Metaflow starts tasks by it, and they may change their folder.
    """
    try:
        given, others = parse_words(argv)
    except argparse.ArgumentError as error:
        _refuse(f"{error.argument_name} needs a value" if "expected" in error.message else str(error))
    called = shlex.join([_python(), argv[0]])
    command = next((word for word in others if word in FLOW_COMMANDS), "")
    if command == "step":
        follow_parent()
        save_request.listen()
    _prepare_cards(others)
    if command in ("run", "resume"):
        interrupt_on_signals()
        remember_command(argv)
        os.environ[MEMORY_KILLS] = str(count_memory_kills())
    if given.help:
        return
    try:
        _take_workers(given.max_workers)
        check_words(called, argv[1:], others, [name_option(name) for name in (*OPTIONS, REGISTER)])
        if command in ("run", "resume"):
            delivers_later()  # refuses another word than its two
            get_tracking_uri(home())  # refuses an address that depends on where a program starts
        if command == "run":
            _check_run(vars(given), argv)
        if command == "resume":
            check_resume(others)
    except (ConfigError, FolderError, StoreError) as error:
        _refuse(str(error))


def _take_workers(given: str | None) -> None:
    """Check `--max-workers`, and keep it so that steps know how many run at once."""
    if given is None:
        return
    if not (given.isdecimal() and int(given)):
        raise ConfigError(f"--max-workers must be a whole number of at least 1, not {given!r}")
    os.environ["METAFLOW_RUN_MAX_WORKERS"] = given


def check_resume(words: Sequence[str]) -> None:
    """Refuse to continue no run, or one that another run has continued, unless a step is named to be repeated.

    Args:
        words: of the command line, without the options of the flow.

    Raises:
        ConfigError: naming the run to resume instead.
    """
    given = _find_values(words, "--origin-run-id")
    if not given:
        return  # Metaflow takes the last one
    from vdt.agent.addresses import DEFAULT_FLOW
    from vdt.agent.policy_files import find_continued

    if not given[0].strip():
        raise ConfigError("--origin-run-id is empty; accepted is a run id, as vdt runs lists them")
    behind = words[words.index("resume") + 1 :]
    if not _find_values(behind, "--origin-run-id"):
        raise ConfigError("--origin-run-id stands before the word resume, but belongs after it")
    names_step = not behind[0].startswith("-")
    later = find_continued(home() / ".vdt" / "checkpoints" / DEFAULT_FLOW / given[0].rpartition("/")[2])
    if later and not names_step:
        raise ConfigError(
            f"--origin-run-id {given[0]}: run {later[0].name} has continued it, so resume that one; a step that is named "
            "(resume STEP --origin-run-id …) is repeated"
        )


def _prepare_cards(words: Sequence[str]) -> None:
    """Prepare `card ACTION`, Metaflow's own commands."""
    for word, action in pairwise(words):
        if word == "card":
            from flows.cards import prepare_viewing  # here: Metaflow must not be loaded by programs that run before it

            prepare_viewing(action)


def _check_run(given: Mapping[str, str], argv: list[str]) -> None:
    """Resolve all cells to be run; continue a finished study as its report."""
    is_main = Path(argv[0]).name == FLOW
    if not given["study"] and not given["sweep"] and not is_main:
        raise ConfigError("--study needs the name or the path of a study file")
    if given["cell"] and not is_main:
        raise ConfigError("--cell: a report is of all cells of its study; leave it out")
    if given["cell"] and given[REGISTER]:
        raise ConfigError("--register does not go with --cell; of a finished run: vdt register RUN NAME")
    if is_main and is_search(given):
        if given[REGISTER]:
            raise ConfigError(
                "--register takes the policies of a run, not of a search; afterwards: vdt register RUN NAME"
            )
        search = resolve_study(given)
        if any(word.partition("=")[0] == RUN_ID_FILE for word in argv):
            raise ConfigError(
                f"{RUN_ID_FILE}: {search.place} is a search, which is no single run and whose trials keep their ids; "
                "leave it out"
            )
        check_cells(check_search(search, given["set"]))
        check_folders(home())
        os.execv(sys.executable, [sys.executable, str(SEARCH_FILE), *argv])
    cells, study = resolve_cells(given)
    if given[REGISTER]:
        check_registration(given[REGISTER], cells, is_main=is_main)
    if is_main:
        cells = _leave_finished_out(cells, study, given, argv)
        check_cells(cells, device=not runs_elsewhere(argv))
        configs = [cell.config for cell in cells]
        for warning in (*describe_unfinished(configs), *describe_idle_plans(configs)):
            logger.warning(warning)
        os.environ[CHECKED] = "1"
    check_folders(home())


def _leave_finished_out(
    cells: list[Cell], study: Study | None, given: Mapping[str, str], argv: list[str]
) -> list[Cell]:
    """Return the cells left to begin; what is only to be continued or reported begins none."""
    if study is None or study.trial is not None:
        return cells
    return (continue_cells if given["cell"] else report_instead)(cells, study, given, argv)


def runs_elsewhere(words: Sequence[str]) -> bool:
    """Return whether `--with` names an engine that runs the steps on other machines."""
    return any(value.partition(":")[0] in ENGINES for value in _find_values(words, "--with"))


def _find_values(words: Sequence[str], option: str) -> list[str]:
    """Return the values of an option of Metaflow's, in both of its forms."""
    values = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    return values + [word for before, word in pairwise(words) if before == option]


def is_search(given: Mapping[str, str]) -> bool:
    """Return whether a command line names a search, and no trial of it."""
    return bool(given["study"]) and not given["trial"] and load_study(given["study"]).search is not None


def check_registration(name: str, cells: Sequence[Cell], *, is_main: bool) -> None:
    """Check the value of `--register`.

    Raises:
        ConfigError: if it is no name, or policies would be registered that are never compared.
    """
    try:
        check_model_name(name)
    except ValueError as error:
        raise ConfigError(f"--register: {error}") from None
    envs = list(dict.fromkeys(cell.config.env for cell in cells))
    if not is_main:
        raise ConfigError(f"--register belongs to a run that trains; of a finished one: vdt register RUN {name!r}")
    if len(envs) > 1:
        raise ConfigError(
            f"--register takes policies of one env, whose scores can be compared, not of {', '.join(envs)}; leave it out, "
            f"and afterwards: vdt register RUN NAME"
        )


def _refuse(message: str) -> NoReturn:
    """End the process with one line."""
    print(f"error: {message}", file=sys.stderr)  # noqa: T201  (before Metaflow starts)
    sys.exit(2)


def report_instead(cells: Sequence[Cell], study: Study, given: Mapping[str, str], argv: list[str]) -> list[Cell]:
    """Return the cells of a study left to run; if there are none, replace this process by the flow that reports it.

    Raises:
        ConfigError: if an env's data is unavailable, or nothing is trained that could be registered.
    """
    missing, finished = split_finished(cells, get_reuse(given))
    if not missing and given.get(REGISTER):
        raise ConfigError(
            f"--register: all {len(finished)} cells of {study.place} are finished, nothing is trained; of a finished run: "
            f"vdt register {finished[0].mlflow_run_id} {given[REGISTER]!r}"
        )
    if not missing:
        logger.info(f"study {study.name}: all {len(finished)} cells are finished; nothing is trained, only reported")
        os.execv(sys.executable, [sys.executable, str(REPORT_FLOW), *argv[1:]])
    if given.get(REGISTER):
        for record in finished:
            command = make_vdt_command(f"register {record.mlflow_run_id} {given[REGISTER]}")
            logger.warning(f"--register takes what this run trains; {record.key} is finished: {command}")
    return missing


def remember_command(argv: list[str]) -> None:
    """Store the command for messages, and make the script's name absolute: tasks may change their folder."""
    os.environ[COMMAND] = shlex.join([_python(), argv[0]])
    argv[0] = os.path.abspath(argv[0])


def get_command() -> str:
    """Return the command that started the flow."""
    return os.environ.get(COMMAND, f"{_python()} flows/vdt_flow.py")


def get_training_command() -> str:
    """Return the command that trains, also where the flow that reports was started."""
    return get_command().replace(REPORT_FLOW.name, FLOW)


def _python() -> str:
    """Return how this interpreter is called: a virtual environment's `python` may link to that of the PATH, and differs."""
    found = shutil.which("python")
    same = found is not None and os.path.samefile(Path(found).parent, Path(sys.executable).parent)
    return "python" if same else shorten_path(sys.executable)
