"""The fault campaign on Slurm: nodes, jobs and the submitting shell are killed at random; all cells end as if undisturbed.

    python tests/faults/slurm_campaign.py --folder FOLDER [--cells 40] [--faults 40] [--seconds 20] [--seed 0] [--cores 1]

A study of small cells runs on a real Slurm of two nodes. Every `--seconds`, on average, one fault strikes, until there were
as many as wanted. Then each cell's final states and curves are compared with those of the same training, done here in one
process. Rows go to FOLDER/faults.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["OMP_NUM_THREADS"] = "1"  # as in a job of one core

from support.builders import assert_identical  # noqa: E402
from support.faults import find_final_checkpoints, read_curves  # noqa: E402
from support.flow import ENV  # noqa: E402
from support.slurm import run_cluster  # noqa: E402
from support.slurm_study import SlurmStudy  # noqa: E402
from vdt.checkpoint.store import CheckpointStore, load_state  # noqa: E402
from vdt.experiments.cells import resolve_cells  # noqa: E402
from vdt.experiments.study import Cell  # noqa: E402
from vdt.tracking import NullTracker, name_dataset  # noqa: E402

STUDY = """
preset: smoke
source: collected
share_training: false
envs: [{env}]
methods: [vdt]
seeds: [{seeds}]
set:
  data: {{steps: 1000}}
  critic: {{gradient_steps: 400}}
  actor: {{gradient_steps: 200}}
  online: {{environment_steps: 0}}
  evaluation: {{episodes: 1, lookahead_horizon: 0, requested_episodes: 0, max_episode_steps: 5}}
  checkpoint: {{interval_seconds: 0.2, interval_steps: 20}}
"""
SBATCH = "--sbatch=--gres=none --mem=1500M"  # several cells on a node
FAULTS = ("node lost", "job cancelled", "job out of time", "shell killed")
NOTICED_SECONDS = 90.0  # after which a lost node is started again at the latest


class Campaign:
    """The study, and the faults that strike it."""

    def __init__(self, study: SlurmStudy, options: argparse.Namespace) -> None:
        self.study, self.cluster, self.options = study, study.cluster, options
        self.random, self.counts, self.began = random.Random(options.seed), Counter[str](), time.monotonic()
        self.lost: dict[str, float] = {}

    def run(self) -> None:
        """Strike until there were enough faults, then let all cells end."""
        self.submit()
        next_fault = self.draw_moment()
        while not self.is_finished():
            time.sleep(1.0)
            self.bring_back()
            enough = sum(self.counts.values()) >= self.options.faults
            if not enough and time.monotonic() >= next_fault:
                self.strike(self.random.choice(FAULTS))
                next_fault = self.draw_moment()
            if not self.cluster.list_queue():
                self.submit()

    def draw_moment(self) -> float:
        """Return when the next fault comes."""
        return time.monotonic() + self.random.uniform(0.2, 1.8) * self.options.seconds

    def submit(self) -> None:
        """Submit what is missing."""
        print(
            f"{time.monotonic() - self.began:6.0f} s  {self.study.call('submit', SBATCH).splitlines()[0]}", flush=True
        )

    def is_finished(self) -> bool:
        """Whether nothing waits or runs and nothing is missing."""
        return not self.cluster.list_queue() and " 0 failed, 0 missing" in self.study.call("status")

    def bring_back(self) -> None:
        """Start lost nodes again when Slurm has noticed."""
        queue = self.cluster.list_queue() if self.lost else {}
        for node, since in list(self.lost.items()):
            if time.monotonic() - since > NOTICED_SECONDS or node not in {place for _, place, _ in queue.values()}:
                self.cluster.start_node(node)
                del self.lost[node]

    def strike(self, fault: str) -> None:
        """Let one fault happen, if there is something that it can hit."""
        running = {job: node for job, (state, node, _) in self.cluster.list_queue().items() if state == "RUNNING"}
        target = self.random.choice(sorted(running)) if running else ""
        if fault == "shell killed":
            target = self.kill_shell()
        elif not target or (fault == "node lost" and self.lost):
            return
        elif fault == "node lost":
            node = running[target]
            self.cluster.lose_node(node)
            self.lost[node] = time.monotonic()
        elif fault == "job cancelled":
            self.cluster.cancel(target)
        else:
            self.cluster.cancel("--signal=USR1", "--batch", target)
        self.counts[fault] += 1
        row = {"seconds": round(time.monotonic() - self.began), "fault": fault, "hits": target}
        with open(self.study.folder / "faults.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{row['seconds']:6} s  {fault}: {target}", flush=True)

    def kill_shell(self) -> str:
        """Start a submission and kill it after a moment."""
        command = [sys.executable, str(ROOT / "flows" / "slurm.py"), "submit", SBATCH, "--study", self.study.file.name]
        shell = subprocess.Popen(
            command, cwd=self.study.folder, env=self.study.variables, stdout=subprocess.DEVNULL, start_new_session=True
        )
        delay = self.random.uniform(0.5, 10.0)
        time.sleep(delay)
        os.killpg(shell.pid, signal.SIGKILL)
        return f"after {delay:.1f} s, {'it had ended' if shell.wait() == 0 else 'while it worked'}"


class Recorder(NullTracker):
    """Keeps the points of each curve."""

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[int, float]]] = {}

    def log(self, step: int, metrics: Any) -> None:
        """Keep points."""
        for key, value in metrics.items():
            self.points.setdefault(key, []).append((step, float(value)))


def train_here(cell: Cell, folder: Path, home: Path) -> tuple[dict[str, Any], dict[str, list[tuple[int, float]]]]:
    """Train a cell in this process; return its final states by step, and its curves."""
    from vdt.data.storage import load_snapshot
    from vdt.datasets.snapshot import make_snapshot
    from vdt.training.critic_pretraining import pretrain_critic
    from vdt.training.offline import train_actor

    config, recorder = cell.config, Recorder()
    snapshot = asdict(make_snapshot(config, home))
    facts = {"name": name_dataset(config, snapshot["source"]), **{k: snapshot[k] for k in ("source", "label", "md5")}}
    dataset = load_snapshot(Path(snapshot["path"])).split(config.data.held_out_fraction, config.data.seed)[0]

    def open_store(step: str) -> CheckpointStore:
        settings = config.checkpoint
        return CheckpointStore(
            folder / step,
            [],
            interval_seconds=settings.interval_seconds,
            interval_steps=settings.interval_steps,
            keep=settings.keep,
            continue_finished=True,
            facts={"data": facts},
        )

    critic = pretrain_critic(config, dataset, recorder, open_store("pretrain_critic"))
    actor = train_actor(config, dataset, critic, recorder, open_store("train_actor"))
    return {"pretrain_critic": load_state(critic), "train_actor": load_state(actor)}, recorder.points


def compare(study: SlurmStudy) -> str:
    """Compare each cell with its training in this process; return what was compared."""
    cells, _ = resolve_cells({"study": str(study.file)})
    files, curves = find_final_checkpoints(study.home), read_curves(study.home)
    equal = points = missing = doubled = 0
    for cell in cells:
        states, wanted = train_here(cell, study.folder / "here" / cell.key, study.home)
        for step, state in states.items():
            assert_identical(load_state(files[f"{step}/{cell.key}"]), state, f"{cell.key} {step}")
            equal += 1
        (found,) = (run for name, run in curves.items() if name.startswith(f"vdt-s{cell.config.seed}-"))
        for key, expected in wanted.items():
            if key.startswith(("steps_per_second/", "seconds/")):
                continue
            there = found.get(key, [])
            points, missing = points + len(expected), missing + len(set(expected) - set(there))
            doubled += len(there) - len(set(there)) + len({step for step, _ in there} - {step for step, _ in expected})
    runs = len([name for name in curves if not name.startswith("report-")])
    return (
        f"{len(cells)} cells: {equal} final states equal to the bit; {runs} MLflow runs, all FINISHED; "
        f"{points} points, {missing} missing, {doubled} twice or of no undisturbed step"
    )


def main() -> int:
    """Run the campaign; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=40)
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=20.0, help="between two faults, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores", type=int, default=1, help="of a node, and so cells at once on it")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True)
    os.environ["METAFLOW_USER"] = "test"
    os.environ["VDT_HOME"] = str(folder / "home")
    text = STUDY.format(env=ENV, seeds=", ".join(map(str, range(options.cells))))
    with run_cluster(folder / "slurm", cores=options.cores) as cluster:
        campaign = Campaign(SlurmStudy(folder, cluster, "many", text), options)
        campaign.run()
    print(f"faults: {dict(campaign.counts)}, {time.monotonic() - campaign.began:.0f} s")
    logs = [path.read_text(errors="replace").splitlines() for path in campaign.study.jobs.glob("*/*/*_*.log")]
    starts = sum(line.startswith("start ") for lines in logs for line in lines)
    print(f"job starts: {starts} for {options.cells} cells")
    print(compare(campaign.study))
    return 0


if __name__ == "__main__":
    sys.exit(main())
