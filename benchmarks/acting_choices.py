"""Which return should a stored policy be asked for, and when may the choice by Q change it? Nothing is trained.

    python benchmarks/acting_choices.py CHECKPOINT … --results FILE [--episodes 10] [--seed 50000] [--only data]

Each policy acts by each of the task's returns, by quantiles of its data's returns, and by the choice among each of both
lists at every step, once an episode, and with a margin (`planner.select`). All settings see the same episodes. "Hindsight"
is the best of a list's first three returns, chosen for each episode by its score: what a perfect choice per episode
would gain. Each result is appended to FILE as it comes: the same command continues, and several at once may share FILE if
their checkpoints differ.

A CHECKPOINT is the last file of `train_actor` or `tune_online`. Policies of release 0.2.0 do not carry the returns of their
data, which is then looked up in VDT_HOME, or made there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from scipy import stats

from benchmarks.timing import format_table
from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import PlannerSettings
from vdt.checkpoint.store import load_state
from vdt.config.schema import Config
from vdt.data.return_quantiles import compute_return_percentiles, compute_return_quantiles
from vdt.data.storage import load_snapshot
from vdt.datasets.choose import choose_episodes
from vdt.datasets.snapshot import make_snapshot
from vdt.evaluation.evaluate import evaluate
from vdt.system.home import home

QUANTILES = (0.99, 0.9, 0.75, 0.5)
SELECT = ("per_step", "per_episode", "margin")
DEFAULT = "task per_step"
HINDSIGHT = {"task": ("task 1", "task 2", "task 3"), "data": ("data q99", "data q90", "data q75")}

Scores = dict[str, dict[str, float]]  # setting -> policy -> mean score
Episodes = dict[str, dict[str, list[float]]]  # policy -> setting -> score of each episode


def find_percentiles(actor_critic: ActorCritic) -> Sequence[float]:
    """The percentiles of the returns that a policy was trained on."""
    if actor_critic.return_percentiles:
        return actor_critic.return_percentiles
    config = actor_critic.config
    dataset = load_snapshot(Path(make_snapshot(config, home()).path))
    return compute_return_percentiles(choose_episodes(dataset, config)[0].episode_returns)


def make_settings(config: Config, percentiles: Sequence[float]) -> dict[str, PlannerSettings]:
    """Every setting by name; without a trained critic there is no choice."""
    acting = replace(PlannerSettings.from_config(config, percentiles), planning_horizon=1, env_model="none")
    returns = {"task": config.task.candidate_returns, "data": compute_return_quantiles(percentiles, QUANTILES)}
    settings = {f"task {place}": acting.follow(wanted) for place, wanted in enumerate(returns["task"], 1)}
    for share, wanted in sorted(zip(QUANTILES, returns["data"], strict=True)):
        settings[f"data q{100 * share:.0f}"] = acting.follow(wanted)
    count = max(3, config.planner.candidates)
    for source, listed in returns.items():
        for select in SELECT if config.critic.gradient_steps > 0 else ():
            settings[f"{source} {select}"] = replace(acting, candidate_returns=listed[:count], select=select)
    return settings


def measure(path: Path, options: argparse.Namespace, done: set[tuple[str, str]]) -> None:
    """Evaluate one policy under the settings that are not done yet."""
    actor_critic = ActorCritic.from_state(load_state(path)["actor_critic"], torch.device("cpu"))
    config = actor_critic.config
    policy = f"{config.env} {config.method} s{config.seed}"
    evaluation = replace(config.evaluation, episodes=options.episodes, seed=options.seed)
    config = replace(config, evaluation=evaluation, runtime=replace(config.runtime, threads=options.threads))
    for name, settings in make_settings(config, find_percentiles(actor_critic)).items():
        if options.only not in name or (str(path.resolve()), name) in done:
            continue
        report = evaluate(actor_critic, settings, config, f"{policy} {name}")
        entry = {"file": str(path.resolve()), "policy": policy, "setting": name, "returns": settings.candidate_returns}
        counts = {"episodes": options.episodes, "seed": options.seed, "chosen": list(report.chosen_candidates)}
        with options.results.open("a") as file:
            file.write(json.dumps({**entry, **counts, "scores": list(report.normalized_scores)}) + "\n")


def read_results(options: argparse.Namespace) -> tuple[set[tuple[str, str]], Scores]:
    """What is done with these episodes: (file, setting), and the mean scores of the named files."""
    done, scores, episodes = set(), Scores(), Episodes()
    named = {str(path.resolve()): f"{place}" for place, path in enumerate(options.checkpoints, 1)}
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    for entry in map(json.loads, lines):
        if (entry["episodes"], entry["seed"]) == (options.episodes, options.seed) and entry["file"] in named:
            done.add((entry["file"], entry["setting"]))
            label = f"{named[entry['file']]}: {entry['policy']}"
            scores.setdefault(entry["setting"], {})[label] = float(np.mean(entry["scores"]))
            episodes.setdefault(label, {})[entry["setting"]] = entry["scores"]
    for source, names in HINDSIGHT.items():
        best = {
            label: float(np.mean(np.max([found[name] for name in names], axis=0)))
            for label, found in episodes.items()
            if all(name in found for name in names)
        }
        if best:
            scores[f"{source} hindsight"] = best
    return done, scores


def describe_difference(scores: dict[str, float], others: dict[str, float]) -> str:
    """Mean difference, paired by policy, and its 95 % interval by Student's t; "-" of fewer than two pairs."""
    pairs = [scores[policy] - others[policy] for policy in scores if policy in others]
    if len(pairs) < 2:
        return "-"
    half = float(stats.t.ppf(0.975, len(pairs) - 1) * stats.sem(pairs))
    mean = float(np.mean(pairs))
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def summarise(scores: Scores, against: str) -> str:
    """A row per setting: mean over policies, lowest, difference from `against`, and each policy's score."""
    policies = sorted({policy for row in scores.values() for policy in row})
    rows = []
    for name, row in scores.items():
        values = list(row.values())
        difference = describe_difference(row, scores.get(against, {})) if name != against else "0"
        each = [f"{row[policy]:.1f}" if policy in row else "-" for policy in policies]
        rows.append([name, f"{np.mean(values):.1f}", f"{min(values):.1f}", difference, *each])
    return format_table(["setting", "mean", "lowest", f"minus {against} [95 %]", *policies], rows)


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--results", type=Path, required=True, help="file of one JSON object a line; continued")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=50_000, help="of the first episode")
    parser.add_argument("--only", default="", help="settings whose name has this in it")
    parser.add_argument("--against", default=DEFAULT, help="setting that the others are compared with")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    for path in options.checkpoints:
        measure(path, options, read_results(options)[0])
    print(summarise(read_results(options)[1], options.against))


if __name__ == "__main__":
    main()
