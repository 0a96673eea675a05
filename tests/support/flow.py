"""Starts of the real flow in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

from support.isolation import make_environment_variables
from vdt.system.home import ROOT

FLOW = ROOT / "flows" / "vdt_flow.py"
ENV = "walker2d-medium-v2"
LIMIT = 900  # seconds; far above what any command takes


def make_variables(folder: Path) -> dict[str, str]:
    """Make the environment of a flow process that keeps to a folder and has two workers, whatever the number of cores."""
    (folder / "user").mkdir(exist_ok=True)
    workers = {"METAFLOW_RUN_MAX_WORKERS": "2", "METAFLOW_RESUME_MAX_WORKERS": "2"}
    return {**os.environ, **make_environment_variables(folder), **workers}


def start_flow(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start `python flows/vdt_flow.py run …` with stdout and stderr in one stream."""
    command = [sys.executable, str(FLOW), "--no-pylint", *words]
    return subprocess.Popen(
        command, cwd=folder, env=make_variables(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run_flow(folder: Path, *words: str) -> tuple[int, str]:
    """Run a flow command; return exit code and output."""
    with start_flow(folder, *words) as process:
        output, _ = process.communicate(timeout=LIMIT)
    return process.returncode, output
