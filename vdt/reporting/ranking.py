"""Settings that a grid, a sweep or a search has tried, ranked by their mean score over tuning seeds. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vdt.evaluation.records import CellRecord
from vdt.evaluation.trials import COMPLETE, FAILED, PRUNED, Trial
from vdt.reporting.aggregates import find_headline
from vdt.reporting.calibration import find_unfinished_fit

RETURN, FITTED_Q, HELD_OUT = "return", "fitted_q", "held_out"  # kinds of scores, higher is better
SCORES = {RETURN: "normalized_score", HELD_OUT: "minus action error", FITTED_Q: "fitted-Q value"}
OFFLINE = {  # score that needs no environment -> its sign: -1 where lower is better
    "action error": -1,
    "weighted action error": -1,
    "log-likelihood": 1,
    "critic's value": 1,
    "fitted-Q value": 1,
}
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Setting:
    """Settings that were tried together on one task.

    Attributes:
        name: of the patch that its cells carry.
        number: in the order in which they were tried.
        values: dotted key -> value, of all keys that the study varies.
        state: as of `Trial`.
        scores: tuning seed -> score, higher is better; empty unless complete. With several data sets of one env the words
            "seed of the data/seed" stand for the seed.
        offline: offline score -> mean over seeds, of the offline policy.
        offline_return: mean normalized_score of the offline policy over seeds; none where it has none.
        seconds: wall time of all of its cells; of a trial without finished cells that from its begin to its end.
        intermediate: gradient step -> score while it trained.
    """

    name: str
    number: int
    values: Mapping[str, Any]
    state: str = COMPLETE
    scores: Mapping[Any, float] = field(default_factory=dict)
    offline: Mapping[str, float] = field(default_factory=dict)
    offline_return: float | None = None
    seconds: float | None = None
    intermediate: Mapping[int, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Return the mean score over seeds."""
        return math.fsum(self.scores.values()) / len(self.scores)


@dataclass(frozen=True)
class Ranking:
    """All settings that a study has tried on one task.

    Attributes:
        envs: of the task, one for a grid.
        method: of the task.
        data: its source.
        score: kind of the score.
        keys: that are varied.
        complete: settings with a score, the best first.
        others: settings that were stopped early or failed, in the order in which they were tried.
    """

    envs: tuple[str, ...]
    method: str
    data: str
    score: str
    keys: tuple[str, ...]
    complete: tuple[Setting, ...]
    others: tuple[Setting, ...] = ()

    @property
    def task(self) -> str:
        """Return envs, data and method in words."""
        return f"{', '.join(self.envs)}, data {self.data}, {self.method}"

    def holds(self, record: CellRecord) -> bool:
        """Return whether a cell is of this task."""
        return record.env in self.envs and record.method == self.method

    @property
    def best(self) -> Setting:
        """Return the winner."""
        return self.complete[0]

    @property
    def deviation(self) -> tuple[float, int] | None:
        """Return the standard deviation between seeds, pooled over settings, and its degrees of freedom; none without.

        What a data set adds to the scores of all settings is no noise: score = setting + data set + noise is fitted by least
        squares. Settings need not have the same data sets.
        """
        import numpy as np

        sets = list(dict.fromkeys(_name_data(seed) for setting in self.complete for seed in setting.scores))
        scores, members = [], []  # less their setting's means: what is left is of data sets and noise
        for setting in self.complete:
            own = np.array(list(setting.scores.values()), np.float64)
            member = np.array([[_name_data(seed) == name for name in sets] for seed in setting.scores], np.float64)
            scores.append(own - own.mean())
            members.append(member - member.mean(axis=0))
        rest, design = np.concatenate(scores), np.concatenate(members)
        added, _, rank, _ = np.linalg.lstsq(design, rest)
        freedom = len(rest) - len(self.complete) - int(rank)
        if freedom < 1:
            return None
        return math.sqrt(float(np.square(rest - design @ added).sum()) / freedom), freedom

    def compute_half_width(self, setting: Setting) -> float | None:
        """Compute half of a mean's 95 % interval: Student's t with the pooled deviation; none with one seed for all."""
        if self.deviation is None:
            return None
        from scipy.stats import t

        deviation, freedom = self.deviation
        return float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * deviation / math.sqrt(len(setting.scores))

    def shrink_best(self) -> float | None:
        """Compute the winner's score, moved towards the mean of all by the share of the spread that is seeds' noise.

        It is the estimate of James and Stein (positive part). None with one seed for all, or fewer than four settings.
        """
        if self.deviation is None or len(self.complete) < 4:
            return None
        means = [setting.mean for setting in self.complete]
        center = math.fsum(means) / len(means)
        spread = math.fsum((mean - center) ** 2 for mean in means)
        noise = self.deviation[0] ** 2 / len(self.best.scores)
        kept = max(0.0, 1 - (len(means) - 3) * noise / spread) if spread else 0.0
        return center + kept * (self.best.mean - center)


def _name_data(seed: Any) -> str:
    """Return the data's part of a seed's name in `Setting.scores`; empty where all seeds have one data set."""
    return str(seed).rpartition("/")[0]


def score_record(record: CellRecord, kind: str) -> float | None:
    """Return a cell's score of the given kind, of its last policy, higher is better; none if it was not measured."""
    evaluation = record.evaluation
    if kind == FITTED_Q:
        value = evaluation.values.get("offline")
        return None if value is None else value.fitted_q
    if kind == HELD_OUT:
        held_out = evaluation.held_out.get("online") or evaluation.held_out.get("offline")
        return None if held_out is None else -held_out.action_rmse
    return _get_return(record, "online") if "online" in evaluation.policies else _get_return(record, "offline")


def _get_return(record: CellRecord, policy: str) -> float | None:
    """Return the mean normalized_score of a policy with the look-ahead that the cell acts with."""
    report = record.evaluation.policies.get(policy, {}).get(find_headline(record.config))
    return None if report is None else report.normalized_score_mean


def choose_score(records: Iterable[CellRecord]) -> str | None:
    """Return the best kind of score that all cells have: their return, action error or fitted-Q value; none without.

    The action error orders settings better than a fitted-Q value (docs/searching.md). Fitted-Q values count for none where
    a cell's fit is unfinished: such a value says how long the fit was, and that may differ between settings.
    """
    held = list(records)
    kinds = [kind for kind in SCORES if kind != FITTED_Q or find_unfinished_fit(held) is None]
    return next((kind for kind in kinds if all(score_record(record, kind) is not None for record in held)), None)


def measure_offline(record: CellRecord) -> dict[str, float]:
    """Return offline score -> value of a cell's offline policy, those that were measured."""
    found: dict[str, float | None] = {}
    if held_out := record.evaluation.held_out.get("offline"):
        found["action error"] = held_out.action_rmse
        found["weighted action error"] = held_out.weighted_action_rmse
        found["log-likelihood"] = held_out.log_likelihood
    if value := record.evaluation.values.get("offline"):
        found["critic's value"] = value.critic
        found["fitted-Q value"] = value.fitted_q
    return {name: number for name, number in found.items() if number is not None}


def rank_grid(records: Sequence[CellRecord], settings: Mapping[str, Mapping[str, Any]]) -> list[Ranking]:
    """Return the ranking of a grid's settings on each task; tasks whose cells have no common score are left out.

    Args:
        records: finished cells; those whose patch is not among the settings are left out.
        settings: name of a patch -> dotted key -> value.
    """
    rankings = []
    for own in _group_by_task(records, settings):
        kind, first = choose_score(own), own[0]
        if kind is not None:
            tried = _collect_settings(own, settings, kind)
            rankings.append(make_ranking((first.env,), first.method, first.snapshot.source, kind, tried))
    return rankings


def list_unranked(records: Sequence[CellRecord], settings: Mapping[str, Any]) -> list[list[CellRecord]]:
    """Return the cells of each task that `rank_grid` leaves out, of which it takes the same arguments."""
    return [own for own in _group_by_task(records, settings) if choose_score(own) is None]


def _group_by_task(records: Sequence[CellRecord], settings: Mapping[str, Any]) -> list[list[CellRecord]]:
    groups: dict[tuple[str, ...], list[CellRecord]] = {}
    for record in records:
        if record.patch in settings:
            key = (record.env, record.snapshot.source, record.preset, record.method)
            groups.setdefault(key, []).append(record)
    return list(groups.values())


def _collect_settings(
    records: Sequence[CellRecord], settings: Mapping[str, Mapping[str, Any]], kind: str
) -> list[Setting]:
    """Return the settings that have cells, in the order of the study."""
    tried: list[Setting] = []
    several, by_patch = len({record.snapshot.md5 for record in records}) > 1, _group_by_patch(records)
    for name, values in settings.items():
        own = by_patch.get(name, [])
        scores = {
            f"{record.config.get('data.seed')}/{record.seed}" if several else record.seed: score
            for record in own
            if (score := score_record(record, kind)) is not None
        }
        if scores:
            seconds = math.fsum(sum(record.seconds.values()) for record in own)
            tried.append(Setting(name, len(tried), values, COMPLETE, scores, *_average_offline(own), seconds=seconds))
    return tried


def _group_by_patch(records: Sequence[CellRecord]) -> dict[str, list[CellRecord]]:
    groups: dict[str, list[CellRecord]] = {}
    for record in records:
        groups.setdefault(record.patch, []).append(record)
    return groups


def _average_offline(records: Sequence[CellRecord]) -> tuple[dict[str, float], float | None]:
    """Return the means over cells of each offline score that all have, and of the offline policy's normalized_score."""
    found = [measure_offline(record) for record in records]
    names = [name for name in OFFLINE if found and all(name in scores for scores in found)]
    returns = [score for record in records if (score := _get_return(record, "offline")) is not None]
    mean = math.fsum(returns) / len(returns) if len(returns) == len(records) > 0 else None
    return {name: math.fsum(scores[name] for scores in found) / len(found) for name in names}, mean


def rank_trials(records: Sequence[CellRecord], trials: Sequence[Trial], kind: str) -> Ranking:
    """Return the ranking of a search's trials.

    Args:
        records: finished cells of the search, at least one; they say what the task is and give the offline scores.
        trials: all of them.
        kind: of the score.
    """
    tried, by_patch = [], _group_by_patch(records)
    for trial in trials:
        own = by_patch.get(trial.patch, [])
        scores = trial.scores_by_seed if trial.state == COMPLETE else {}
        known = (trial.patch, trial.number, trial.settings, trial.state, scores, *_average_offline(own))
        # those from begin to end count the time in which the search stood still
        seconds = math.fsum(sum(record.seconds.values()) for record in own) if own else trial.seconds
        tried.append(Setting(*known, seconds=seconds, intermediate=trial.intermediate))
    envs = tuple(dict.fromkeys(record.env for record in records))
    return make_ranking(envs, records[0].method, records[0].snapshot.source, kind, tried)


def make_ranking(envs: tuple[str, ...], method: str, data: str, kind: str, tried: Sequence[Setting]) -> Ranking:
    """Return the ranking of a task's settings: the highest mean score first, of equal ones the earlier."""
    complete = sorted((s for s in tried if s.scores), key=lambda s: (-s.mean, s.number))
    others = [s for s in tried if not s.scores and s.state in (PRUNED, FAILED)]
    return Ranking(envs, method, data, kind, find_varied_keys(tried), tuple(complete), tuple(others))


def find_varied_keys(tried: Sequence[Setting]) -> tuple[str, ...]:
    """Return the keys that do not have the same value in all settings, in the order of the study."""
    keys = dict.fromkeys(key for setting in tried for key in setting.values)
    return tuple(key for key in keys if len({repr(setting.values.get(key)) for setting in tried}) > 1)


def track_best(settings: Iterable[Setting]) -> tuple[list[int], list[float]]:
    """Return how many settings had been tried, and the best score among them, after each complete one."""
    counts: list[int] = []
    best: list[float] = []
    for setting in sorted(settings, key=lambda s: s.number):
        if setting.scores:
            counts.append(setting.number + 1)
            best.append(max(setting.mean, best[-1]) if best else setting.mean)
    return counts, best
