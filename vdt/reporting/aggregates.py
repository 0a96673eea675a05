"""Aggregates of methods over all envs of a study, each by its acting look-ahead setting. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vdt.evaluation.records import CellRecord, name_setting
from vdt.reporting.frame import POLICIES, Estimate, Result, Task, compute_estimate
from vdt.reporting.statistics import Interval, compute_improvement_interval, compute_iqm_interval

Headlines = dict[str, dict[str, dict[Task, Result]]]  # policy -> method -> task -> result


@dataclass(frozen=True)
class Aggregate:
    """Result of a method's policy over the tasks that all methods of a report share.

    Attributes:
        tasks: number of data sets.
        runs: trained policies, all tasks together.
        mean: of the tasks' means, with its standard error over seeds; without one where tasks have different seeds.
        iqm: interquartile mean over all runs, with a bootstrap interval stratified by task.
        shared: those data sets.
        has_equal_seeds: whether all tasks have the same seeds.
    """

    method: str
    policy: str
    tasks: int
    runs: int
    mean: Estimate
    iqm: Interval
    shared: tuple[Task, ...] = ()
    has_equal_seeds: bool = True


@dataclass(frozen=True)
class Improvement:
    """Probability that a run of `method` scores above one of `baseline`, mean over tasks, with its bootstrap interval."""

    method: str
    baseline: str
    policy: str
    tasks: int
    probability: Interval


def find_headline(config: Mapping[str, Any]) -> str:
    """Return the look-ahead setting that a flat configuration acts with: one number stands for the cell."""
    of_data = config.get("planner.returns", "task") == "data"  # results of release 0.2.0 lack the key
    known = config["planner.return_quantiles" if of_data else "task.candidate_returns"]
    return name_setting(min(config["planner.candidates"], len(known)), config["planner.planning_horizon"])


def find_headlines(records: Sequence[CellRecord]) -> dict[tuple[str, str], str]:
    """Return the look-ahead setting that each method acts with on each env: (name, env) -> setting."""
    return {(record.name, record.env): find_headline(record.config) for record in records}


def select_acting(records: Sequence[CellRecord], results: Sequence[Result]) -> list[Result]:
    """Return the results of the look-ahead settings that the methods act with."""
    wanted = find_headlines(records)
    return [result for result in results if result.setting == wanted[result.method, result.env]]


def collect_headlines(records: Sequence[CellRecord], results: Sequence[Result]) -> Headlines:
    """Return the results that represent their methods; those of episodes that were cut short are left out."""
    headlines: Headlines = {}
    for result in select_acting(records, results):
        if result.cut_at is None:
            headlines.setdefault(result.policy, {}).setdefault(result.method, {})[result.task] = result
    return headlines


def find_common_tasks(methods: Mapping[str, Mapping[Task, Result]]) -> list[Task]:
    """Return the tasks that every method has, in the order of the first method."""
    first, *others = methods.values()
    return [task for task in first if all(task in other for other in others)]


def list_envs(tasks: Sequence[Task]) -> list[tuple[str, str, str]]:
    """Return env, source and preset of each task: those that differ by the data's md5 alone are data sets of one env."""
    return [(env, source, preset) for env, source, _, preset in tasks]


def collect_scores(results: Mapping[Task, Result], tasks: Sequence[Task]) -> list[list[float]]:
    """Return one number per task and run: the mean over the run's episodes."""
    return [results[task].run_scores for task in tasks]


def compute_aggregates(headlines: Headlines) -> list[Aggregate]:
    """Return every method of every policy, over the tasks that all methods with this policy share."""
    aggregates = []
    for policy in POLICIES:
        methods = headlines.get(policy, {})
        tasks = find_common_tasks(methods) if methods else []
        for method, results in methods.items() if tasks else ():
            scores, own = collect_scores(results, tasks), [results[task] for task in tasks]
            runs, iqm = sum(map(len, scores)), compute_iqm_interval(scores, envs=list_envs(tasks))
            equal = len({frozenset(result.seeds) for result in own}) == 1
            mean = _average_seeds(own) if equal else _average_tasks(scores)
            aggregates.append(Aggregate(method, policy, len(tasks), runs, mean, iqm, tuple(tasks), equal))
    return aggregates


def _average_seeds(results: Sequence[Result]) -> Estimate:
    """Return the mean over tasks that have the same seeds, seed by seed; with one seed its error is unknown here."""
    per_seed = [dict(zip(r.seeds, r.run_scores, strict=True)) for r in results]
    return compute_estimate([[math.fsum(s[seed] for s in per_seed) / len(per_seed)] for seed in per_seed[0]])


def _average_tasks(scores: Sequence[Sequence[float]]) -> Estimate:
    """Return the mean of the tasks' means, whose error is unknown: a seed that one task lacks pairs no runs."""
    means, runs = [math.fsum(task) / len(task) for task in scores], [len(task) for task in scores]
    return Estimate(math.fsum(means) / len(means), None, "seeds", max(runs), sum(runs))


def compute_improvements(headlines: Headlines) -> list[Improvement]:
    """Return the first method of each policy against each other one."""
    improvements = []
    for policy in POLICIES:
        methods = headlines.get(policy, {})
        for baseline in list(methods)[1:]:
            method = next(iter(methods))
            tasks = find_common_tasks({name: methods[name] for name in (method, baseline)})
            if tasks:
                ours, theirs = (collect_scores(methods[name], tasks) for name in (method, baseline))
                share = compute_improvement_interval(ours, theirs, envs=list_envs(tasks))
                improvements.append(Improvement(method, baseline, policy, len(tasks), share))
    return improvements
