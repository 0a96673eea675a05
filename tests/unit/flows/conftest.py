"""Fixtures of flows: a cluster's commands."""

import itertools
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.slurm_commands import STUDY


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of Slurm's names that keep their words, for what a cluster is not needed for."""
    folder, words = tmp_path / "bin", tmp_path / "said"
    folder.mkdir()
    bodies = {
        "sbatch": 'echo 12$(wc -l < "$SAID")',
        "squeue": 'echo "7_2|2|RUNNING|n1|4:00|None|/a|b"; echo "9|N/A|PENDING||5:00|Dependency|/c/report"',
        "scancel": "",
        "scontrol": 'echo "MaxArraySize            = 3"',
    }
    for name, body in bodies.items():
        file = folder / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" | tr "\\n" " " >> "$SAID"; echo >> "$SAID"\n{body}\n')
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("SAID", str(words))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    (tmp_path / "two.yaml").write_text(STUDY)
    return words


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Number calls within one second as those of several processes are."""
    monkeypatch.setattr("vdt.experiments.submissions.os", SimpleNamespace(getpid=itertools.count(1).__next__))
