"""Options of a flow's command line, and the commands of other flows that are made of them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdt.experiments.cells import OPTIONS, list_words, name_option

ATTRIBUTES = {"set": "overrides", "cell": "cell_numbers"}  # options whose names mean something else in a flow
REGISTER = "register"  # option: name under which the registry of models gets the policies


def parse_words(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the values of a flow's options by name, empty where not given, and the other words of its command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in (*OPTIONS, REGISTER):
        parser.add_argument(name_option(name), default=os.environ.get(f"METAFLOW_RUN_{name.upper()}", ""))
    parser.add_argument("--max-workers")
    parser.add_argument("--help", action="store_true")
    return parser.parse_known_args(argv[1:])


def get_options(flow: Any) -> dict[str, str]:
    """Return the options that a running flow was given by name; empty where it has none of the name."""
    return {name: _get(flow, ATTRIBUTES.get(name, name)) for name in OPTIONS}


def _get(flow: Any, attribute: str) -> str:
    """Return a flow's parameter; empty in a resumed run that began before the parameter existed."""
    try:
        value: str = getattr(flow, attribute, "")
    except KeyError:  # Metaflow's, of a parameter that the first run has not stored
        return ""
    return value


@dataclass(frozen=True)
class Command:
    """Command line of a flow, from which those of others are made.

    Attributes:
        script: the flow's file.
        given: values of its options by name, those that were given.
        before: words before `run`.
        after: words behind it that are no options of ours.
    """

    script: str
    given: Mapping[str, str]
    before: Sequence[str]
    after: Sequence[str]

    @classmethod
    def parse(cls, argv: Sequence[str]) -> Command:
        """Read the flow's file and its arguments."""
        values, others = parse_words(argv)
        place = others.index("run")
        given = {name: getattr(values, name) for name in OPTIONS if getattr(values, name)}
        workers = ["--max-workers", values.max_workers] if values.max_workers else []
        return cls(argv[0], given, others[:place], [*others[place + 1 :], *workers])

    def make_run(self, file: Path, **changes: str) -> list[str]:
        """Return the command of a flow with changed options; `file` gets its run's id."""
        options = list_words({**self.given, **changes})
        return [sys.executable, self.script, *self.before, "run", *options, *self.after, "--run-id-file", str(file)]

    def make_resume(self, file: Path, run_id: str) -> list[str]:
        """Return the command that continues a flow's run."""
        words = ["resume", "--origin-run-id", run_id, *self.after, "--run-id-file", str(file)]
        return [sys.executable, self.script, *self.before, *words]
