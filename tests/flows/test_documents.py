"""What README and guides tell a reader to run, run as it stands there: commands, servers, Python.

Preset `smoke` takes the place of others, and the names that a reader fills in stand for real things (`NAMES`). Equal
commands are run once. `tests/unit/test_document_blocks.py` checks what is too long to run.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest

from support.data import write_hdf5
from support.documents import RUN_ID, Block, find_blocks, list_commands, shrink
from support.flow import ENV, LIMIT, make_variables
from support.minari import make_minari_set
from support.server import find_free_port
from vdt.system.home import ROOT
from vdt.tracking import list_flow_runs, open_store

MINARI = "vdttest/pendulum/random-v0"
SERVES = re.compile(r"\bvdt (ui|serve)\b|\bmlflow models serve\b")
READER = """
import json
import gymnasium
import numpy as np
observation, reward, action = gymnasium.make("Walker2d-v4").reset(seed=0)[0], 1.0, np.zeros(6)
"""
PRELUDES = {  # what a reader of the page has before its blocks
    "README.md": READER,
    "docs/data.md": "",
    "docs/policies.md": "",
    "docs/export.md": READER
    + """
import onnxruntime
import torch
session = onnxruntime.InferenceSession("policy.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["vdt"])
K, forget_steps, return_to_go = about["context_length"], about["forget_steps"], about["candidate_returns"][0]
length = timestep = 0
window = {
    "observations": np.zeros((1, K, 17), np.float32),
    "actions": np.zeros((1, K, 6), np.float32),
    "returns_to_go": np.zeros((1, K), np.float32),
    "timesteps": np.zeros((1, K), np.int64),
    "mask": np.zeros((1, K), np.bool_),
}
observations, actions, returns_to_go, timesteps, mask = (torch.from_numpy(rows.copy()) for rows in window.values())
mask[0, 0] = True
""",
}


class Reader:
    """Reader in a clone: a folder that has the repository's, whose commands keep to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.variables = folder, make_variables(folder)
        self.variables["PYTHONPATH"] = str(ROOT)
        self.variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        (folder / ".venv").symlink_to(sys.prefix)
        for name in ("flows", "params", "benchmarks"):
            (folder / name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "examples", folder / "examples")  # a filled-in notebook lands beside the empty one
        self.outputs: dict[str, str] = {}
        self.names = {
            "minari:mujoco/walker2d/medium-v0": f"minari:{MINARI}",
            "environment_steps=20000": "environment_steps=50",
            " --seeds 0,1\\b": "",
        }

    def run(self, command: str) -> str:
        """Run a command of a document once; return its output."""
        command = shrink(command, self.names)
        if command not in self.outputs:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self.variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LIMIT,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}"
            self.outputs[command] = done.stdout
        return self.outputs[command]

    def serve(self, command: str) -> None:
        """Start a server, wait until it answers, and end it as Ctrl-C does."""
        port, output = find_free_port(), self.folder / "server.log"
        command = re.sub(r" --port \d+", "", shrink(command, self.names)) + f" --port {port}"
        with open(output, "w") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec env {command}"], cwd=self.folder, env=self.variables, stdout=log, stderr=log
            )
        try:
            until = time.monotonic() + LIMIT
            while not answers(port):
                assert process.poll() is None and time.monotonic() < until, f"{command}\n{output.read_text()}"
                time.sleep(0.5)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(LIMIT)


def answers(port: int) -> bool:
    """Whether anything answers HTTP at a port, with whatever status."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """A reader who has run README's smoke command, and has data of several kinds."""
    folder = tmp_path_factory.mktemp("reader")
    reader = Reader(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", reader.variables["MINARI_DATASETS_PATH"])
        make_minari_set(MINARI)
    reader.run(f".venv/bin/python flows/vdt_flow.py run --env {ENV}")
    (run,) = list_flow_runs(folder / "home")
    reader.names |= {
        RUN_ID: run.run_id,
        r"\bPOLICY\b": run.run_id,
        r"\bRUN\b": find_tracked(folder / "home"),
        r"path:FILE\b": f"path:{write_walker(folder / 'walker.hdf5')}",
        "/FOLDER": str(folder / "home"),
    }
    for writer in (block for block in find_blocks("run", "python") if block.page == "docs/data.md"):
        run_python(reader, writer)  # the folders `logs`, which README trains on, and `pendulum`
    return reader


def write_walker(path: Path, episodes: int = 12, length: int = 40) -> Path:
    """Write a file in D4RL's schema, of the walker's sizes."""
    rng, steps = np.random.default_rng(0), episodes * length
    arrays = {
        "observations": rng.normal(size=(steps, 17)),
        "next_observations": rng.normal(size=(steps, 17)),
        "actions": rng.uniform(-1, 1, size=(steps, 6)),
        "rewards": rng.normal(size=steps),
        "terminals": np.zeros(steps, bool),
        "timeouts": np.arange(steps) % length == length - 1,
    }
    return write_hdf5(path, arrays)


def find_tracked(home: Path) -> str:
    """Id of the only MLflow run."""
    client = open_store(home)
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return str(run.info.run_id)


def run_python(reader: Reader, block: Block) -> None:
    """Run a block of Python, after what its page has before it."""
    text = block.text
    for name, value in reader.names.items():
        text = re.sub(name if name != RUN_ID else "<run id>", value, text)
    if 'EpisodeWriter("logs")' in text:  # whose episodes follow those that are there, of another page's sizes
        shutil.rmtree(reader.folder / "logs", ignore_errors=True)
    (reader.folder / "block.py").write_text(PRELUDES[block.page] + text)
    reader.outputs.pop(".venv/bin/python block.py", None)  # another text each time
    reader.run(".venv/bin/python block.py")


@pytest.mark.parametrize("block", find_blocks("run", "bash"), ids=str)
def test_commands_do_what_the_page_says(reader: Reader, block: Block) -> None:
    for command in list_commands(block.text):
        do: Callable[[str], object] = reader.serve if SERVES.search(command) else reader.run
        do(command)


@pytest.mark.parametrize("block", find_blocks("run", "python"), ids=str)
def test_python_runs(reader: Reader, block: Block) -> None:
    if block.page == "docs/export.md":
        for file in ("policy.onnx", "policy.torchscript"):
            if not (reader.folder / file).exists():
                reader.run(f".venv/bin/vdt export POLICY --format {file.partition('.')[2]} --output {file}")
    run_python(reader, block)


def test_the_notebook_draws_the_comparison(reader: Reader) -> None:
    """Filled in by the command of docs/compare.md, on all runs that the documents' commands have made."""
    (command,) = [
        line for block in find_blocks("run", "bash") for line in list_commands(block.text) if "jupyter" in line
    ]
    reader.run(f".venv/bin/python flows/vdt_flow.py run --env {ENV} --method vdt,dt")
    reader.outputs.pop(command, None)
    reader.run(command)
    notebook = nbformat.read(reader.folder / "examples" / "my_runs.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [output["data"] for output in outputs if "data" in output]
    pictures, tables = (
        [data[kind] for data in shown if kind in data and (kind == "image/png" or "image/png" not in data)]
        for kind in ("image/png", "text/html")
    )
    assert len(pictures) == 3 and len(tables) == 3
    assert all(name in tables[0] for name in ("vdt-s0", "dt-s0", "smoke")), "MLflow's runs"
    assert "actor.q_coefficient" in tables[1], "what the runs differ in"
    assert re.search(r"vdt-s0\S* smoke [0-9a-f]{8}<", tables[1]), "each run by name, preset and id"
    assert all(name in tables[2] for name in ("vdt s0", "dt s0", "lookahead")), "Metaflow's records of the same runs"
