"""From command line words to cells: every combination of env, method and seed, resolved and checked before any work."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vdt.config import Config, ConfigError, resolve_config
from vdt.runtime import FolderError, check_folders, die_with_parent, home, interrupt_on_signals

DEFAULTS = {"env": "", "preset": "laptop", "method": "vdt", "seeds": "0", "source": "auto", "set": ""}
COMMAND = "VDT_COMMAND"  # environment variable: how the flow was called, for messages of child processes


@dataclass(frozen=True)
class Cell:
    """One env x method x seed, as an artifact of plain values."""

    key: str  # names the cell's folders
    number: int
    config_yaml: str
    mlflow_run_id: str = ""


def split_words(text: str, option: str) -> list[str]:
    """Comma-separated words, each once.

    Raises:
        ConfigError: if there is none, an empty one, or one twice.
    """
    words = [word.strip() for word in text.split(",")]
    if "" in words:
        raise ConfigError(f"{option} needs at least one name, several separated by commas, not {text!r}")
    if len(set(words)) < len(words):
        raise ConfigError(f"{option} names something twice: {text!r}")
    return words


def resolve_cells(arguments: Mapping[str, str]) -> list[Config]:
    """The configurations of all cells.

    Args:
        arguments: the flow's parameters by name, see `DEFAULTS`.

    Raises:
        ConfigError: naming the first value that is not accepted.
    """
    seeds = []
    for word in split_words(arguments["seeds"], "--seeds"):
        if not word.isdecimal():
            raise ConfigError(f"--seeds takes whole numbers from 0, separated by commas, not {arguments['seeds']!r}")
        seeds.append(int(word))
    configs = []
    for env in split_words(arguments["env"], "--env"):
        for method in split_words(arguments["method"], "--method"):
            first = resolve_config(
                env,
                preset=arguments["preset"],
                method=method,
                source=arguments["source"],
                seed=seeds[0],
                overrides=arguments["set"],
            )
            configs += [first.with_seed(seed) for seed in seeds]
    _check_source(configs[0].data.source)
    return configs


def _check_source(source: str) -> None:
    path = Path(source.removeprefix("path:"))
    if source.startswith("path:") and not path.expanduser().exists():
        raise ConfigError(f"--source path: there is no file or folder {path}")


def open_cells(arguments: Mapping[str, str], flow_run: str) -> list[dict[str, Any]]:
    """Resolve all cells and open an MLflow run for each; returns `Cell`s as mappings."""
    from vdt.tracking import create_run, get_store_errors, settle_abandoned

    configs = resolve_cells(arguments)
    check_folders(home())
    try:
        settle_abandoned(home())
    except get_store_errors():
        print("WARNING: tracking: the store does not answer; this run is entered when it does", flush=True)
    cells = []
    for number, config in enumerate(configs):
        key = f"{config.file_name}-{config.method}-s{config.seed}"
        run_id = create_run(home(), config, flow_run, os.environ.get(COMMAND, "flows/vdt_flow.py"))
        cells.append(asdict(Cell(key, number, config.to_yaml(), run_id)))
        print(f"cell {key}: MLflow run {run_id}", flush=True)
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
        print(f"ladder {name}: MLflow run {run_id}", flush=True)
    return cells


def check_command_line(argv: list[str]) -> None:
    """Check the arguments of `run` before Metaflow starts anything; ends the process with one line if wrong.

    The script's own name becomes absolute in `argv`: Metaflow starts tasks by it, and they may change their folder.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name}", default=os.environ.get(f"METAFLOW_RUN_{name.upper()}", default))
    parser.add_argument("--max-workers")
    parser.add_argument("--help", action="store_true")
    given, others = parser.parse_known_args(argv[1:])
    command = next((word for word in others if word in ("run", "resume", "step", "spin")), "")
    if command == "step":
        die_with_parent()
    if command in ("run", "resume"):
        interrupt_on_signals()
        remember_command(argv)
    if given.max_workers:
        os.environ["METAFLOW_RUN_MAX_WORKERS"] = given.max_workers  # so that steps know how many run at once
    if given.help or command != "run":
        return
    try:
        configs = resolve_cells(vars(given))
        _check_data(configs)
        check_folders(home())
    except (ConfigError, FolderError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _check_data(configs: list[Config]) -> None:
    """Named tasks that nothing stands in for need their file: say where to put it before anything is started.

    Raises:
        ConfigError: if no source of one of them is within reach.
    """
    for config in {config.env: config for config in configs}.values():
        if config.task.d4rl_url and config.task.collected.ladder is None:
            from vdt.data.sources import DataError, choose_source

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
