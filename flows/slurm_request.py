"""Command line of `flows/slurm.py`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from flows.options import parse_words
from vdt.config.errors import ConfigError
from vdt.experiments.cells import OPTIONS

COMMANDS = ("submit", "status")
OURS = (  # options of sbatch
    *("--array", "-a", "--job-name", "-J", "--comment", "--dependency", "-d", "--wrap", "--chdir", "-D"),
    *("--output", "-o"),
)
UNFIT = ("--clusters", "-M", "--test-only", "--wait", "-W")  # of sbatch: with them its answer is no job of this cluster


@dataclass(frozen=True)
class Request:
    """Command line of this script.

    Attributes:
        command: one of `COMMANDS`.
        options: those of a run by name, that were given.
        sbatch: further options of sbatch.
        sbatch_report: of its last job alone.
        at_once: jobs that run at once; 0: as many as Slurm gives.
    """

    command: str
    options: dict[str, str]
    sbatch: Sequence[str]
    sbatch_report: Sequence[str]
    at_once: int


def parse_request(argv: Sequence[str]) -> Request:
    """Read the command line.

    Raises:
        ConfigError: naming the word that is not accepted.
    """
    command = argv[1] if len(argv) > 1 else ""
    if command not in COMMANDS:
        raise ConfigError(
            f"the first word is {' or '.join(COMMANDS)}, not {command!r}: flows/slurm.py submit --study FILE"
        )
    values, others = parse_words(["slurm.py", *_join_values(argv[2:])])
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--at-once", default="0")
    parser.add_argument("--sbatch", default="")
    parser.add_argument("--sbatch-report", default="")
    given, stray = parser.parse_known_args(others)
    options = {name: getattr(values, name) for name in OPTIONS if getattr(values, name)}
    for name in ("cell", "trial"):
        if name in options:
            raise ConfigError(f"--{name}: all that is missing is submitted; leave it out")
    if stray or values.register or values.max_workers:
        word = (stray or ["--register and --max-workers"])[0]
        raise ConfigError(f"{word} belongs to no option of flows/slurm.py; those of sbatch go into --sbatch")
    if "study" not in options and "sweep" not in options:
        raise ConfigError("--study needs the name or the path of a study file")
    if not given.at_once.isdigit():
        raise ConfigError(f"--at-once takes a whole number from 0 (as many as Slurm gives), not {given.at_once!r}")
    sbatch, report = _split("--sbatch", given.sbatch), _split("--sbatch-report", given.sbatch_report)
    request = Request(command, options, sbatch, report, int(given.at_once))
    for word in (*request.sbatch, *request.sbatch_report):
        if option := _find_option(word, OURS):
            raise ConfigError(f"--sbatch: {option} is set here, for the cells are found by it; leave it out")
        if option := _find_option(word, UNFIT):
            raise ConfigError(
                f"--sbatch: {option} is not accepted: several jobs are submitted to this cluster, one after another, and "
                "`status` follows them; leave it out"
            )
    return request


def _split(option: str, text: str) -> list[str]:
    """Return the words of an option's value, which a shell would make of it."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: {error}; quotation marks come in pairs") from None


def _find_option(word: str, options: Sequence[str]) -> str:
    """Return which of the options a word gives: `--job-name=a`, abbreviated `--job=a`, `-Ja`; empty if none."""
    name = word.partition("=")[0]
    long = name.startswith("--")
    return next((option for option in options if (option.startswith(name) if long else word.startswith(option))), "")


def _join_values(words: Sequence[str]) -> list[str]:
    """Join `--sbatch` and its value, which begins with dashes too, into one word."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in ("--sbatch", "--sbatch-report"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
