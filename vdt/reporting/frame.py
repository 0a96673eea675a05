"""Table of finished cells, a row per episode, and the estimates that a report prints.

The seed is the unit of replication: standard errors are over seeds, and over episodes only where there is one seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vdt.environments.scores import compute_standard_error, format_return
from vdt.evaluation.records import CellRecord

POLICIES = ("offline", "online", "online_best")  # the last two: last checkpoint, and that of the best online rollouts
SETTINGS = ("single", "candidates", "lookahead")
IDENTITY_KEYS = frozenset({"env", "method", "seed"})  # differ between cells by definition
GROUP = ["env", "source", "md5", "preset", "name"]  # same for all look-ahead settings, offline and online
KEYS = [*GROUP, "policy", "setting"]
LEFT_OUT = ["name", "chosen_candidates", "candidate_returns"]  # left out of results.csv: duplicates, and lists
COLUMNS = [
    *("env", "source", "label", "md5", "preset", "method", "patch", "policy", "setting", "seed", "episode"),
    *("score", "return", "length", "success", "cut_at", "planning_horizon", "env_model", "milliseconds_per_step"),
    *("dataset_score", "data_seed", "run_id", *LEFT_OUT),
]

Task = tuple[str, str, str, str]  # env, data source, its md5, preset


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes:
        mean: mean over seeds of the mean over each seed's episodes.
        standard_error: of the mean; none where a single number was given.
        over: units of the standard error, "seeds" or "episodes".
        seeds: number of seeds.
        episodes: number of episodes, all seeds together.
    """

    mean: float
    standard_error: float | None
    over: str
    seeds: int
    episodes: int

    @property
    def is_over_episodes(self) -> bool:
        """Return whether the standard error is that of one seed's episodes."""
        return self.standard_error is not None and self.over == "episodes"

    def __str__(self) -> str:
        uncertainty = "" if self.standard_error is None else f" ± {self.standard_error:.1f}"
        return f"{self.mean:z.1f}{uncertainty}"  # z: no negative zero


def describe_return(estimate: Estimate) -> str:
    """Return mean and standard error of returns, each with the decimals of `format_return`."""
    error = estimate.standard_error
    return format_return(estimate.mean) + ("" if error is None else f" ± {format_return(error)}")


@dataclass(frozen=True)
class Result:
    """Evaluation of one policy under one look-ahead setting, with the episodes of all its seeds.

    Attributes:
        scores: normalized_score of every episode, one tuple per seed; none for an episode that was cut short.
        returns: episode_return of every episode, one tuple per seed.
        milliseconds_per_step: wall time of an environment step, one number per seed.
        chosen_candidates: share of steps in which each candidate return was chosen, one tuple per seed.
        dataset_score: mean normalized_score of the data set's episodes.
        successes: of every episode, one tuple per seed; empty ones where the environment reports none.
        cut_at: steps after which episodes of the env were cut short; none if all of them are whole.
        is_withheld: whether episodes of others alone were cut short.
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
    scores: tuple[tuple[float | None, ...], ...]
    returns: tuple[tuple[float, ...], ...]
    milliseconds_per_step: tuple[float, ...]
    chosen_candidates: tuple[tuple[float, ...], ...]
    dataset_score: float | None
    successes: tuple[tuple[bool, ...], ...]
    cut_at: int | None = None
    is_withheld: bool = False

    @property
    def task(self) -> Task:
        """Return the key within which scores are compared."""
        return self.env, self.source, self.md5, self.preset

    @property
    def score(self) -> Estimate | None:
        """Return the normalized score; none if an episode was cut short."""
        whole = [[score for score in scores if score is not None] for scores in self.scores]
        return None if self.cut_at is not None else compute_estimate(whole)

    @property
    def episode_return(self) -> Estimate:
        """Return the return of an episode, in environment units."""
        return compute_estimate(self.returns)

    @property
    def run_scores(self) -> list[float]:
        """Return the mean normalized score of each seed's episodes; empty if an episode was cut short."""
        if self.cut_at is not None:
            return []
        return [math.fsum(score for score in run if score is not None) / len(run) for run in self.scores]

    @property
    def planner(self) -> str:
        """Return the look-ahead setting in words."""
        candidates, horizon = len(self.candidate_returns), self.planning_horizon
        model = f", {self.env_model}" if horizon > 1 else ""
        return f"{self.setting} (m={candidates}, E={horizon}{model})"


@dataclass(frozen=True)
class Change:
    """Difference of the normalized score between two results, paired by seed and by episode."""

    effect: str
    before: Result
    after: Result
    estimate: Estimate


Labels = Mapping[tuple[str, str, str], str]  # env, data source, its md5 -> the data in words


def find_task(record: CellRecord) -> Task:
    """Return the key within which a cell's scores are compared; `Result.task` is that of a result."""
    return record.env, record.snapshot.source, record.snapshot.md5, record.preset


def label_data(records: Iterable[CellRecord]) -> Labels:
    """Return the data of each cell in words."""
    return {(record.env, record.snapshot.source, record.snapshot.md5): record.data_label for record in records}


def make_frame(records: Iterable[CellRecord]) -> pd.DataFrame:
    """Return a row for every evaluated episode, with its cell, policy and look-ahead setting.

    Raises:
        ValueError: if the same cell is given twice.
    """
    frame = pd.DataFrame([row for record in records for row in _list_episodes(record)], columns=COLUMNS)
    frame = frame.astype({"cut_at": "Int64", "data_seed": "Int64"})  # whole numbers, or none
    twice = frame[frame.duplicated([*KEYS, "seed", "episode"])]
    if len(twice):
        env, method, seeds = twice["env"].iloc[0], twice["name"].iloc[0], sorted(set(twice["seed"]))
        raise ValueError(f"the same cell twice: env {env}, method {method}, seeds {seeds}")
    return frame


def _list_episodes(record: CellRecord) -> Iterator[dict[str, Any]]:
    snapshot = record.snapshot
    cell = {
        **{"env": record.env, "source": snapshot.source, "label": snapshot.label, "md5": snapshot.md5},
        **{"preset": record.preset, "name": record.name, "seed": record.seed},
        **{"method": record.method, "patch": record.patch, "dataset_score": snapshot.score},
        "data_seed": record.config.get("data.seed") if snapshot.source == "collected" else None,
        "run_id": record.mlflow_run_id,
    }
    for policy, setting in ((policy, setting) for policy in POLICIES for setting in SETTINGS):
        report = record.evaluation.policies.get(policy, {}).get(setting)
        if report is None:
            continue
        shared = {
            **{"policy": policy, "setting": setting, "env_model": report.env_model},
            **{"candidate_returns": tuple(report.candidate_returns), "planning_horizon": report.planning_horizon},
            "milliseconds_per_step": 1000.0 * report.seconds / sum(report.episode_lengths),
            "chosen_candidates": tuple(report.chosen_candidates),
        }
        successes: Sequence[bool | None] = report.successes or [None] * len(report.episode_returns)
        columns = (report.normalized_scores, report.episode_returns, report.episode_lengths, successes)
        for episode, (score, value, length, success) in enumerate(zip(*columns, strict=True)):
            one = {"episode": episode, "score": score, "return": value, "length": length, "success": success}
            yield {**cell, **shared, **one, "cut_at": report.cut_at if score is None else None}


def format_csv(frame: pd.DataFrame) -> str:
    """Return the frame as CSV, an episode a line, without its lists."""
    return str(frame.drop(columns=LEFT_OUT).to_csv(index=False, lineterminator="\n"))


def fill_best(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with every seed of a group that has a best online checkpoint.

    A seed whose best checkpoint is its last has no `online_best` of its own; there `online` stands for both, else only
    the seeds that fell off at the end would be averaged.
    """
    group = [*GROUP, "setting"]
    known = frame[frame["policy"] == "online_best"]
    wanted = known[group].drop_duplicates()
    last = frame[frame["policy"] == "online"].merge(wanted, on=group)
    seen = known[[*group, "seed"]].drop_duplicates()
    missing = last.merge(seen, on=[*group, "seed"], how="left", indicator=True)
    missing = missing[missing["_merge"] == "left_only"].drop(columns="_merge")
    return pd.concat([frame, missing.assign(policy="online_best")], ignore_index=True) if len(missing) else frame


def withhold_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame without scores of envs where an episode was cut short: those that were not are no fair sample."""
    cut = frame.groupby("env")["cut_at"].transform("max")
    own = frame["cut_at"]
    return frame.assign(score=frame["score"].where(cut.isna()), cut_at=cut, withheld=own.isna() & cut.notna())


def count_cut(records: Sequence[CellRecord]) -> int:
    """Return in how many cells an episode was cut short."""
    reports = [[r for found in record.evaluation.policies.values() for r in found.values()] for record in records]
    return sum(any(report.cut_at is not None for report in found) for found in reports)


def collect_results(frame: pd.DataFrame, *, by_seed: bool = False) -> list[Result]:
    """Return one result per env, data, method, policy and look-ahead setting, over all seeds or for each seed."""
    keys = [*KEYS, "seed"] if by_seed else KEYS
    return [_make_result(rows.sort_values(["seed", "episode"])) for _, rows in frame.groupby(keys, sort=False)]


def _make_result(rows: pd.DataFrame) -> Result:
    first = rows.iloc[0]
    seeds = rows.drop_duplicates("seed")
    cut = rows["cut_at"].dropna()
    # A seed whose critic may not guide follows the first return; the others say what the setting is.
    _, planner = max(
        seeds.iterrows(), key=lambda item: (len(item[1]["candidate_returns"]), item[1]["planning_horizon"])
    )
    candidates = planner["candidate_returns"]
    return Result(
        **{key: str(first[key]) for key in ("env", "source", "md5", "preset", "policy", "setting")},
        method=str(first["name"]),
        seeds=tuple(map(int, seeds["seed"])),
        candidate_returns=candidates,
        planning_horizon=int(planner["planning_horizon"]),
        env_model=str(planner["env_model"]),
        scores=_split(rows, "score"),
        returns=_split(rows, "return"),
        milliseconds_per_step=tuple(map(float, seeds["milliseconds_per_step"])),
        chosen_candidates=tuple(_pad(shares, len(candidates)) for shares in seeds["chosen_candidates"]),
        dataset_score=None if pd.isna(first["dataset_score"]) else float(first["dataset_score"]),
        successes=tuple(tuple(map(bool, run.dropna())) for _, run in rows.groupby("seed")["success"]),
        cut_at=int(cut.max()) if len(cut) else None,
        is_withheld=bool("withheld" in rows and rows["withheld"].all()),
    )


def _pad(shares: Sequence[float], count: int) -> tuple[float, ...]:
    """Return shares of candidates that were followed, 0 for those that were not tried; none where none are known."""
    return (*shares, *[0.0] * (count - len(shares))) if shares else ()


def _split(rows: pd.DataFrame, column: str) -> tuple[tuple[Any, ...], ...]:
    """Return the numbers of each seed; none for the score of an episode that was cut short."""
    missing = rows["cut_at"].notna() & rows[column].isna()
    values = rows[column].astype(object).where(~missing, None)
    return tuple(tuple(run) for _, run in values.groupby(rows["seed"]))


def compute_estimate(per_seed: Sequence[Sequence[float]]) -> Estimate:
    """Return mean and standard error of per-episode numbers.

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


def compute_changes(frame: pd.DataFrame) -> list[Change]:
    """Return the changes by look-ahead within a policy, and by online tuning within a look-ahead setting.

    Both sides were evaluated on the same environment seeds, so episode k of one is paired with episode k of the other.
    Episodes that were cut short have no score, and no change of it.
    """
    results = {(*r.task, r.method, r.policy, r.setting): r for r in collect_results(frame)}
    pairs = [
        *(("more candidates", (policy, "single"), (policy, "candidates")) for policy in POLICIES),
        *(("longer look-ahead", (policy, "candidates"), (policy, "lookahead")) for policy in POLICIES),
        *(("candidates and look-ahead", (policy, "single"), (policy, "lookahead")) for policy in POLICIES),
        *(("online tuning", ("offline", setting), ("online", setting)) for setting in SETTINGS),
    ]
    changes: list[Change] = []
    for group, rows in frame.groupby(GROUP, sort=False):
        for effect, first, second in pairs:
            per_seed = _pair(rows, first, second)
            if per_seed:
                before, after = results[(*group, *first)], results[(*group, *second)]
                changes.append(Change(effect, before, after, compute_estimate(per_seed)))
    return changes


def _pair(rows: pd.DataFrame, first: tuple[str, str], second: tuple[str, str]) -> list[list[float]]:
    """Return the changes from one policy and setting to another, per seed; empty without a common seed or a score."""
    before, after = (rows[(rows["policy"] == p) & (rows["setting"] == s)] for p, s in (first, second))
    both = before.merge(after, on=["seed", "episode"], suffixes=("", "_after"), validate="one_to_one")
    changes = both["score_after"].astype(float) - both["score"].astype(float)
    if changes.isna().any():
        return []
    return [run.tolist() for _, run in changes.groupby(both["seed"])]


def compute_config_differences(records: Sequence[CellRecord]) -> dict[str, dict[str, list[Any]]]:
    """Return the keys in which methods (with patches) differ on the same env: key -> method -> its values."""
    differing: set[str] = set()
    for env in {record.env for record in records}:
        configs = [(record.name, record.config) for record in records if record.env == env]
        for key in {key for _, config in configs for key in config} - IDENTITY_KEYS:
            by_method = {name: repr(config.get(key)) for name, config in configs}
            if len(set(by_method.values())) > 1:
                differing.add(key)
    table: dict[str, dict[str, list[Any]]] = {key: {} for key in sorted(differing)}
    for key, row in table.items():
        for record in records:
            values = row.setdefault(record.name, [])
            if record.config.get(key) not in values:
                values.append(record.config.get(key))
    return table
