"""Evaluation reports of many cells (env x method x patch x seed) merged into results with uncertainty. Pure functions.

The seed is the unit of replication: standard errors are over seeds, and over episodes only where there is one seed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

POLICIES = ("offline", "online", "online_best")  # the last two: last checkpoint, and that of the best online rollouts
SETTINGS = ("single", "candidates", "lookahead")
IDENTITY_KEYS = frozenset({"env", "method", "seed"})  # differ between cells by definition

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes:
        mean: mean over seeds of the mean over each seed's episodes.
        standard_error: of the mean; none where a single number was given.
        over: what the standard error is taken over, "seeds" or "episodes".
        seeds: number of seeds.
        episodes: number of episodes, all seeds together.
    """

    mean: float
    standard_error: float | None
    over: str
    seeds: int
    episodes: int

    def __str__(self) -> str:
        uncertainty = "" if self.standard_error is None else f" ± {self.standard_error:.1f}"
        return f"{self.mean:.1f}{uncertainty}"


@dataclass(frozen=True)
class Result:
    """One policy under one look-ahead setting, with the episodes of all its seeds.

    Attributes:
        scores: normalized_score of every episode, one tuple per seed.
        returns: episode_return of every episode, one tuple per seed.
        milliseconds_per_step: wall time of an environment step, one number per seed.
        chosen_candidates: share of steps in which each candidate return was chosen, one tuple per seed.
        dataset_score: mean normalized_score of the data set's episodes.
        successes: of every episode, one tuple per seed; empty ones where the environment does not say.
    """

    env: str
    source: str
    md5: str
    preset: str
    method: str
    policy: str
    setting: str
    seeds: tuple[int, ...]
    candidate_returns: tuple[float, ...]
    planning_horizon: int
    env_model: str
    scores: tuple[tuple[float, ...], ...]
    returns: tuple[tuple[float, ...], ...]
    milliseconds_per_step: tuple[float, ...]
    chosen_candidates: tuple[tuple[float, ...], ...]
    dataset_score: float | None
    successes: tuple[tuple[bool, ...], ...]

    @property
    def group(self) -> tuple[str, str, str, str, str]:
        """What stays the same between look-ahead settings and between offline and online."""
        return self.env, self.source, self.md5, self.preset, self.method

    @property
    def planner(self) -> str:
        """The look-ahead setting in words."""
        candidates, horizon = len(self.candidate_returns), self.planning_horizon
        model = f", {self.env_model}" if horizon > 1 else ""
        return f"{self.setting} (m={candidates}, E={horizon}{model})"


@dataclass(frozen=True)
class Change:
    """Difference of the normalized score between two results on the same seeds."""

    effect: str
    before: Result
    after: Result
    estimate: Estimate


def compute_standard_error(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1) over the square root of n; none for fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    mean = math.fsum(values) / count
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)


def compute_estimate(per_seed: Sequence[Sequence[float]]) -> Estimate:
    """Mean and standard error of per-episode numbers.

    Args:
        per_seed: the episodes' numbers, one sequence per seed; every seed counts the same.

    Raises:
        ValueError: if there is no seed, or a seed without episodes.
    """
    if not per_seed or not all(per_seed):
        raise ValueError(f"every seed needs at least one episode; episodes per seed: {[len(s) for s in per_seed]}")
    means = [math.fsum(episodes) / len(episodes) for episodes in per_seed]
    over, sample = ("seeds", means) if len(per_seed) > 1 else ("episodes", per_seed[0])
    return Estimate(
        mean=math.fsum(means) / len(means),
        standard_error=compute_standard_error(sample),
        over=over,
        seeds=len(per_seed),
        episodes=sum(len(episodes) for episodes in per_seed),
    )


def compute_change(before: Result, after: Result) -> Estimate | None:
    """Change of the normalized score between two results, paired by seed and by episode; none without a common seed.

    Both were evaluated on the same environment seeds, so episode k of one is paired with episode k of the other.
    """
    firsts = dict(zip(before.seeds, before.scores, strict=True))
    seconds = dict(zip(after.seeds, after.scores, strict=True))
    common = sorted(set(firsts) & set(seconds))
    changes = [[b - a for a, b in zip(firsts[seed], seconds[seed], strict=True)] for seed in common]
    return compute_estimate(changes) if changes else None


def name_method(cell: Cell) -> str:
    """What a cell is called beside others: its method, with its patch if it carries one."""
    method, patch = str(cell["config"]["method"]), cell.get("patch", "")
    return f"{method} + {patch}" if patch else method


def find_headline(config: Mapping[str, Any]) -> str:
    """The look-ahead setting that a flat configuration acts with: one number stands for the cell."""
    if min(config["planner.candidates"], len(config["task.candidate_returns"])) == 1:
        return "single"
    return "candidates" if config["planner.planning_horizon"] == 1 else "lookahead"


def collect_results(cells: Iterable[Cell]) -> list[Result]:
    """One result per env, data, method, policy and look-ahead setting, over all seeds among `cells`.

    A seed whose best online checkpoint is its last has no `online_best` of its own; there `online` stands for both, else
    only the seeds that fell off at the end would be averaged.

    Raises:
        ValueError: if the same cell is given twice.
    """
    groups: dict[tuple[str, ...], list[Result]] = {}
    for cell in cells:
        for result in _read_cell(cell):
            groups.setdefault((*result.group, result.policy, result.setting), []).append(result)
    for (*group, policy, setting), results in groups.items():
        if policy == "online_best":
            known = {result.seeds for result in results}
            last = (result for result in groups[(*group, "online", setting)] if result.seeds not in known)
            results += [dataclasses.replace(result, policy=policy) for result in last]
    return [_merge_seeds(results) for results in groups.values()]


def _read_cell(cell: Cell) -> Iterator[Result]:
    config, snapshot, policies = cell["config"], cell["snapshot"], cell["evaluation"]["policies"]
    for policy in POLICIES:
        for setting in SETTINGS:
            report = policies.get(policy, {}).get(setting)
            if report is None:
                continue
            yield Result(
                env=config["env"],
                source=snapshot["source"],
                md5=snapshot["md5"],
                preset=config["preset"],
                method=name_method(cell),
                policy=policy,
                setting=setting,
                seeds=(config["seed"],),
                candidate_returns=tuple(report["candidate_returns"]),
                planning_horizon=report["planning_horizon"],
                env_model=report["env_model"],
                scores=(tuple(report["normalized_scores"]),),
                returns=(tuple(report["episode_returns"]),),
                milliseconds_per_step=(1000.0 * report["seconds"] / sum(report["episode_lengths"]),),
                chosen_candidates=(tuple(report.get("chosen_candidates", ())),),
                dataset_score=snapshot["card"].get("normalized_score_mean"),
                successes=(tuple(report.get("successes") or ()),),
            )


def _merge_seeds(results: Sequence[Result]) -> Result:
    ordered = sorted(results, key=lambda r: r.seeds)
    seeds = tuple(r.seeds[0] for r in ordered)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"the same cell twice: env {results[0].env}, method {results[0].method}, seeds {seeds}")
    return dataclasses.replace(
        ordered[0],
        seeds=seeds,
        scores=tuple(r.scores[0] for r in ordered),
        returns=tuple(r.returns[0] for r in ordered),
        milliseconds_per_step=tuple(r.milliseconds_per_step[0] for r in ordered),
        chosen_candidates=tuple(r.chosen_candidates[0] for r in ordered),
        successes=tuple(r.successes[0] for r in ordered),
    )


def compute_changes(results: Sequence[Result]) -> list[Change]:
    """What the look-ahead changes within a policy, and online tuning within a look-ahead setting."""
    index = {(r.group, r.policy, r.setting): r for r in results}
    pairs = [
        *(("more candidates", (policy, "single"), (policy, "candidates")) for policy in POLICIES),
        *(("longer look-ahead", (policy, "candidates"), (policy, "lookahead")) for policy in POLICIES),
        *(("candidates and look-ahead", (policy, "single"), (policy, "lookahead")) for policy in POLICIES),
        *(("online tuning", ("offline", setting), ("online", setting)) for setting in SETTINGS),
    ]
    changes = []
    for group in dict.fromkeys(r.group for r in results):
        for effect, first, second in pairs:
            before, after = index.get((group, *first)), index.get((group, *second))
            if before and after and (change := compute_change(before, after)):
                changes.append(Change(effect, before, after, change))
    return changes


def compute_config_differences(cells: Sequence[Cell]) -> dict[str, dict[str, list[Any]]]:
    """Configuration keys in which methods (with their patches) differ on the same env: key -> method -> its values."""
    differing: set[str] = set()
    for env in {cell["config"]["env"] for cell in cells}:
        configs = [(name_method(cell), cell["config"]) for cell in cells if cell["config"]["env"] == env]
        for key in {key for _, config in configs for key in config} - IDENTITY_KEYS:
            by_method = {name: repr(config.get(key)) for name, config in configs}
            if len(set(by_method.values())) > 1:
                differing.add(key)
    table: dict[str, dict[str, list[Any]]] = {key: {} for key in sorted(differing)}
    for key, row in table.items():
        for cell in cells:
            values = row.setdefault(name_method(cell), [])
            if cell["config"].get(key) not in values:
                values.append(cell["config"].get(key))
    return table
