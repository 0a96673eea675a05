"""What would the choice among returns gain if the simulator made it? An upper bound; nothing is trained.

    python benchmarks/oracle_choice.py CHECKPOINT … --results FILE [--episodes 3] [--every 50] [--seed 50000]

At every 50th step an episode is played to its end from a copy of the simulator, once for each candidate return. The best
one is followed until the next choice. Policy and simulator draw nothing, so this oracle knows what each return leads to,
and never earns less than the best return that is followed alone ("hindsight").

Beside both stand the first return, followed alone, and the choice by Q at every step. If the oracle gains nothing, the
candidates are at fault; if it gains and Q does not, the critic is. Each episode is appended to FILE as it comes: the same
command continues.

A CHECKPOINT is the last file of `train_actor` or `tune_online`, of a task whose environment is a MuJoCo simulator.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from scipy import stats

from benchmarks.acting_choices import find_percentiles
from benchmarks.timing import format_table
from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import Agent, PlannerSettings
from vdt.checkpoint.store import load_state
from vdt.data.return_quantiles import compute_return_quantiles
from vdt.data.trajectory import FloatArray
from vdt.environments import Environment, get_action_bounds, make_environment
from vdt.environments.scores import compute_normalized_score
from vdt.evaluation.evaluate import evaluate
from vdt.planning.env_model import get_simulator_state, set_simulator_state

QUANTILES = (0.99, 0.9, 0.75)  # of the data's returns: the candidates
COLUMNS = ("first", "by Q", "hindsight", "oracle")


@dataclass
class Episode:
    """What has happened so far: one more observation than actions and rewards."""

    observations: list[FloatArray]
    actions: list[FloatArray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def copy(self) -> Episode:
        """Return an episode that goes on by itself."""
        return Episode([*self.observations], [*self.actions], [*self.rewards])


@torch.inference_mode()
def play(agent: Agent, environment: Environment, begun: Episode, wanted: float) -> Episode:
    """Play an episode on to its end with one return, as if that had been followed from the first step."""
    episode, (low, high) = begun.copy(), get_action_bounds(environment)
    agent.begin(1)
    recalled = bool(begun.rewards)
    if recalled:
        past = (np.stack(x)[None] for x in (begun.observations, begun.actions))
        agent.recall(*past, np.array([begun.rewards], np.float32), np.array([[wanted]], np.float32))
    goes_on, horizon = True, agent.actor_critic.config.task.horizon
    while goes_on:
        decided = agent.decide().actions.cpu().numpy() if recalled else agent.act(episode.observations[-1][None])
        recalled = False
        executed = np.clip(decided, low, high).astype(np.float32)
        observation, reward, ended, _, _ = environment.step(executed[0])
        episode.observations.append(np.asarray(observation, np.float32))
        episode.actions.append(executed[0])
        episode.rewards.append(float(reward))
        goes_on = not ended and len(episode.rewards) < horizon
        agent.observe(executed, np.array([reward], np.float32), np.array([goes_on]))
    return episode


def run_oracle(actor_critic: ActorCritic, returns: tuple[float, ...], seed: int, every: int) -> dict[str, Any]:
    """Play one episode by the oracle's choice; return its score, and that of each return followed alone."""
    config = actor_critic.config
    acting = PlannerSettings.from_config(config, find_percentiles(actor_critic))
    agents = {wanted: Agent(actor_critic, acting.follow(wanted)) for wanted in returns}
    environment, scratch = make_environment(config.task), make_environment(config.task)
    episode = Episode([np.asarray(environment.reset(seed=seed)[0], np.float32)])
    alone: list[float] = []
    changes, chosen = 0, returns[0]
    while True:
        futures, state = {}, get_simulator_state(environment)
        for wanted, agent in agents.items():
            scratch.reset(seed=seed)
            set_simulator_state(scratch, state)
            futures[wanted] = play(agent, scratch, episode, wanted)
        alone = alone or [_score(future, config.task) for future in futures.values()]
        best = max(returns, key=lambda wanted: sum(futures[wanted].rewards))
        changes, chosen = changes + (best != chosen), best
        future, done = futures[best], len(episode.rewards)
        if len(future.rewards) <= done + every:
            return {"alone": alone, "oracle": _score(future, config.task), "changes": changes}
        stop = done + every
        for action in future.actions[done:stop]:
            observation = environment.step(action)[0]
        if not np.array_equal(np.asarray(observation, np.float32), future.observations[stop]):
            raise SystemExit("the simulator's copy went another way than the simulator; the oracle would be wrong")
        episode = Episode(future.observations[: stop + 1], future.actions[:stop], future.rewards[:stop])


def _score(episode: Episode, task: Any) -> float:
    return compute_normalized_score(sum(episode.rewards), task.reference_return_min, task.reference_return_max)


def measure(path: Path, options: argparse.Namespace, done: set[tuple[str, int]]) -> None:
    """Play the episodes of one policy that are not done yet."""
    actor_critic = ActorCritic.from_state(load_state(path)["actor_critic"], torch.device("cpu"))
    config = actor_critic.config
    if config.task.environment_id is None or config.critic.gradient_steps == 0:
        raise SystemExit(f"{path}: a policy with a trained critic and a MuJoCo environment is needed")
    percentiles = find_percentiles(actor_critic)
    returns = compute_return_quantiles(percentiles, QUANTILES)
    acting = replace(PlannerSettings.from_config(config, percentiles), planning_horizon=1, env_model="none")
    for seed in range(options.seed, options.seed + options.episodes):
        if (str(path.resolve()), seed) in done:
            continue
        one = replace(config, evaluation=replace(config.evaluation, episodes=1, seed=seed))
        by_q = evaluate(actor_critic, replace(acting, candidate_returns=returns), one, f"{config.env} by Q")
        policy = f"{config.env} d{config.data.seed} {config.method} s{config.seed}"
        entry = {"file": str(path.resolve()), "policy": policy, "seed": seed, "every": options.every}
        found = run_oracle(actor_critic, returns, seed, options.every)
        with options.results.open("a") as file:
            file.write(json.dumps({**entry, **found, "by Q": by_q.normalized_scores[0]}) + "\n")


def read_results(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the entries of the named files with these episodes."""
    named = {str(path.resolve()) for path in options.checkpoints}
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    seeds = range(options.seed, options.seed + options.episodes)
    entries = [entry for entry in map(json.loads, lines) if entry["file"] in named and entry["seed"] in seeds]
    return [entry for entry in entries if entry["every"] == options.every]


def summarise(entries: list[dict[str, Any]]) -> str:
    """Return a row for each policy, and the mean gain over the first return with its 95 % interval over policies."""
    policies: dict[str, list[list[float]]] = {}
    for entry in entries:
        scores = [entry["alone"][0], entry["by Q"], max(entry["alone"]), entry["oracle"]]
        policies.setdefault(f"{entry['policy']}|{entry['file']}", []).append(scores)
    means = {name: np.mean(scores, axis=0) for name, scores in policies.items()}
    rows = [[name.partition("|")[0], *(f"{value:.1f}" for value in row)] for name, row in means.items()]
    if len(means) > 1:
        gains = np.stack([row - row[0] for row in means.values()])
        halves = stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains, axis=0)
        shown = [f"{mean:+.1f} ± {half:.1f}" for mean, half in zip(gains.mean(axis=0), halves, strict=True)]
        rows.append(["gain over first (± half of a 95 % interval)", "0", *shown[1:]])
    return format_table(["policy", *COLUMNS], rows)


def main() -> None:
    """Play what is not played yet, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--results", type=Path, required=True, help="file of one JSON object a line; continued")
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--every", type=int, default=50, help="steps between two choices")
    parser.add_argument("--seed", type=int, default=50_000, help="of the first episode")
    options = parser.parse_args()
    done = {(entry["file"], entry["seed"]) for entry in read_results(options)}
    torch.set_num_threads(1)
    for path in options.checkpoints:
        measure(path, options, done)
    print(summarise(read_results(options)))


if __name__ == "__main__":
    main()
