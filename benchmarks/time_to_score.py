"""How many minutes of training until the policy scores as much as its data, 10 and 20 points more?

    python benchmarks/time_to_score.py --folder FOLDER [--env walker2d-medium-v2] [--seeds 100 101 102] [--set "KEY=VALUE …"]

Critic and actor are trained as in the flow, but without episodes in between (`evaluation.curve_points` 0). The clock has
their training and the writing of their checkpoints, which --every makes more frequent than the flow's. Every checkpoint of
the actor is then evaluated without look-ahead, which does not count. What is done is kept in FOLDER/curves.jsonl: the same
command continues. With --threads 1 the clock is the processor's: neither other work on the machine counts, nor waiting for
the disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.timing import describe_machine, format_table
from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import PlannerSettings
from vdt.checkpoint.store import CheckpointStore, load_state
from vdt.config.schema import Config
from vdt.data.storage import load_snapshot
from vdt.data.trajectory import TrajectoryDataset
from vdt.datasets.snapshot import make_snapshot
from vdt.environments.scores import compute_normalized_score
from vdt.evaluation.evaluate import evaluate
from vdt.experiments.resolve import resolve_config
from vdt.tracking import LoadableModel, NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor

ABOVE_THE_DATA = (0, 10, 20)  # normalized points


def read_clock() -> float:
    """Seconds: of this process's work if that is one thread's, else of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.monotonic()


class _Clock(NullTracker):
    """Notes when each checkpoint was written."""

    def __init__(self) -> None:
        self.began = read_clock()
        self.seconds: dict[Path, float] = {}

    def log_checkpoint(
        self, name: str, path: Path, step: int, metrics: Mapping[str, float], model: LoadableModel | None = None
    ) -> None:
        self.seconds[path] = read_clock() - self.began


def measure(config: Config, dataset: TrajectoryDataset, folder: Path, every: int) -> list[dict[str, float]]:
    """Train one seed; minutes, gradient steps of the actor and mean score of each of its checkpoints."""
    never = CheckpointStore(folder / "critic", interval_seconds=1e9, interval_steps=10**9, keep=1)
    often = CheckpointStore(folder / "actor", interval_seconds=1e9, interval_steps=every, keep=10**6)
    began = read_clock()
    critic = pretrain_critic(config, dataset, NullTracker(), never)
    critic_seconds, clock = read_clock() - began, _Clock()
    train_actor(config, dataset, critic, clock, often)
    settings, curve = PlannerSettings.from_config(config), []
    settings = PlannerSettings(settings.candidate_returns[:1], context_length=settings.context_length)
    for path, seconds in clock.seconds.items():
        state = load_state(path)
        report = evaluate(
            ActorCritic.from_state(state["actor_critic"], torch.device("cpu")),
            settings,
            config,
            f"step {state['step']}",
        )
        minutes = (critic_seconds + seconds) / 60
        curve.append({"minutes": minutes, "step": state["step"], "score": report.normalized_score_mean})
    return curve


def find_minutes(curve: list[dict[str, float]], score: float) -> float | None:
    """When the curve first reaches a score and never falls below it again."""
    lasting = None
    for point in reversed(curve):
        if point["score"] < score:
            break
        lasting = point["minutes"]
    return lasting


def summarise(curves: dict[int, list[dict[str, float]]], data_score: float) -> str:
    """A row per level: the median over seeds, and each seed's minutes."""
    rows = []
    for above in ABOVE_THE_DATA:
        minutes = [find_minutes(curve, data_score + above) for curve in curves.values()]
        each = ", ".join("never" if m is None else f"{m:.1f}" for m in minutes)
        median = statistics.median(float("inf") if m is None else m for m in minutes)
        rows.append([f"data + {above} ({data_score + above:.1f})", f"{median:.1f}", each])
    last = [curve[-1] for curve in curves.values()]
    whole, scores = (", ".join(f"{p[key]:.1f}" for p in last) for key in ("minutes", "score"))
    rows.append(["the end", f"{statistics.median(p['minutes'] for p in last):.1f}", f"{whole}; scores {scores}"])
    return format_table(["score, from there on", "minutes, median", "each seed"], rows)


def main() -> None:
    """Measure the seeds that are not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--env", default="walker2d-medium-v2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--set", default="", help="overrides, as of the flow")
    parser.add_argument("--every", type=int, default=100, help="actor steps between two checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    kept, curves = options.folder / "curves.jsonl", {}
    done: list[dict[str, Any]] = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for seed in options.seeds:
        config = resolve_config(options.env, seed=seed, overrides=f"{options.set} evaluation.curve_points=0")
        dataset = load_snapshot(Path(make_snapshot(config, options.folder).path))
        text, task = config.to_yaml(), config.task
        found = [entry["curve"] for entry in done if entry["config"] == text]
        if not found:
            folder = options.folder / f"seed-{seed}-{time.time_ns()}"
            found = [measure(config, dataset, folder, options.every)]
            with kept.open("a") as file:
                file.write(json.dumps({"seed": seed, "config": text, "curve": found[0]}) + "\n")
        curves[seed] = found[0]
    mean = float(dataset.episode_returns.mean())
    data_score = compute_normalized_score(mean, task.reference_return_min, task.reference_return_max)
    print(f"{describe_machine(torch.device('cpu'))}\n{options.env} {options.set}\n")
    print(summarise(curves, data_score))


if __name__ == "__main__":
    main()
