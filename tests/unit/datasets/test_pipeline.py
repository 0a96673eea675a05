"""dvc.yaml: it names what its stages execute, finds its Python, reruns what changed, and prints numbers."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.data import ROOT

STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SMALL = ["--set", "data.steps=100"]
RECORD = """
import atexit, sys
def record():
    modules = [module for name, module in list(sys.modules.items()) if name.split(".")[0] in ("vdt", "flows")]
    print("modules", *(module.__file__ for module in modules if module.__file__))
atexit.register(record)
from vdt.cli import run
sys.exit(run(sys.argv[1:]))
"""


def list_dependencies(stage: str) -> list[Path]:
    return [(ROOT / name).resolve() for name in STAGES[stage]["deps"]]


def test_the_data_stage_depends_on_every_module_that_it_executes(home: Path) -> None:
    words = shlex.split(STAGES["snapshot"]["cmd"])
    arguments = [*words[words.index("vdt.cli") + 1 :], *SMALL]
    command = [sys.executable, "-c", RECORD, *arguments]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    executed = [Path(name).resolve() for name in done.stdout.splitlines()[-1].split()[1:]]
    assert ROOT / "vdt" / "system" / "progress.py" in executed
    named = list_dependencies("snapshot")
    missing = [str(path) for path in executed if not any(path.is_relative_to(dependency) for dependency in named)]
    assert not missing
    assert (home / "reports" / "main-data" / "dataset.json").is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_are_there(stage: str) -> None:
    made = {next(iter(out)) for other in STAGES.values() for out in other["outs"]}
    gone = [name for name in STAGES[stage]["deps"] if name not in made and not (ROOT / name).exists()]
    assert not gone


def run_script(*words: str, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    command = ["/bin/sh", str(ROOT / "flows" / "python.sh"), *words]
    return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True)


def test_a_stage_runs_the_python_of_the_process_that_started_it() -> None:
    """As `.venv/bin/dvc repro` without an activated environment, where `python` is not found or another one."""
    done = run_script("-c", "import sys; print(sys.prefix)")
    assert (done.stdout.strip(), done.returncode) == (sys.prefix, 0), done.stderr


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A git clone whose stages are small."""
    folder = tmp_path / "clone"
    for name in ("vdt", "flows", "params"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    data = STAGES["snapshot"]
    data = {**data, "cmd": shlex.join([*shlex.split(data["cmd"]), *SMALL])}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"snapshot": data, "run": STAGES["run"]}}))
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    call_dvc(folder, "init", "-q")
    return folder


def call_dvc(folder: Path, *words: str) -> str:
    """`.venv/bin/dvc …` without an activated environment; returns what it prints."""
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "VDT_HOME")}
    command = [sys.executable, "-m", "dvc", *words]
    environment = {**kept, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_repro_runs_what_changed_and_nothing_else(clone: Path) -> None:
    assert "Running stage 'snapshot'" in call_dvc(clone, "repro", "snapshot")
    written = json.loads((clone / "reports" / "main-data" / "dataset.json").read_text())
    assert written["source"] == "collected"
    assert "didn't change, skipping" in call_dvc(clone, "repro", "snapshot")
    with open(clone / "vdt" / "system" / "progress.py", "a") as file:
        file.write("# changed\n")
    assert "Running stage 'snapshot'" in call_dvc(clone, "repro", "snapshot")


@pytest.mark.slow
def test_metrics_of_the_main_result_are_numbers(clone: Path) -> None:
    (path,) = STAGES["run"]["metrics"][0]
    assert path == "reports/main/metrics.json"
    (clone / path).parent.mkdir(parents=True)
    (clone / path).write_text(json.dumps({"walker2d-medium-v2": {"vdt": {"offline_score": 61.25}}}))
    assert "61.25" in call_dvc(clone, "metrics", "show")
