"""Tables of a grid, a sweep or a search: the ranking, the winner, the influence of settings, the offline scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vdt.environments.scores import describe_cut
from vdt.evaluation.records import CellRecord
from vdt.evaluation.trials import PRUNED
from vdt.reporting.calibration import describe_unfinished_fit, find_unfinished_fit
from vdt.reporting.document import Table
from vdt.reporting.frame import compute_estimate, count_cut
from vdt.reporting.importance import Importances
from vdt.reporting.offline_ranks import RankAgreement
from vdt.reporting.ranking import FITTED_Q, OFFLINE, RETURN, SCORES, Ranking, Setting, score_record
from vdt.reporting.statistics import Interval

WANTED = 20  # settings below which a rank correlation says little


def format_value(value: Any) -> str:
    """Return a setting's value as it is read."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_score(number: float, kind: str) -> str:
    """Return a score: one decimal of a normalized_score, four digits of any other."""
    return f"{number:z.1f}" if kind == RETURN else f"{number:.4g}"


def tabulate_ranking(ranking: Ranking) -> Table:
    """Make the table of all settings of a task, the best first, those that were stopped early below."""
    names = [name for name in OFFLINE if any(name in setting.offline for setting in ranking.complete)]
    rows = [
        (
            rank,
            setting.name,
            *(format_value(setting.values.get(key, "-")) for key in ranking.keys),
            _format_mean(ranking, setting),
            len(setting.scores),
            *(f"{setting.offline[name]:.4g}" if name in setting.offline else "-" for name in names),
            _format_seconds(setting),
            "-",
        )
        for rank, setting in enumerate(ranking.complete, start=1)
    ]
    rows += [
        (
            *("-", setting.name, *(format_value(setting.values.get(key, "-")) for key in ranking.keys)),
            *("-", "-", *("-" for _ in names), _format_seconds(setting), _describe_end(setting, ranking.score)),
        )
        for setting in ranking.others
    ]
    what = f"{SCORES[ranking.score]}, tuning seeds"
    header = ("rank", "settings", *(f"`{key}`" for key in ranking.keys), what, "n", *names, "seconds", "stopped")
    lower = [name for name in names if OFFLINE[name] < 0]
    note = (
        "Mean over n tuning seeds [95 % interval: Student's t, with the deviation between seeds pooled over all settings]. "
        "Seconds of all cells together; of settings without finished cells, from begin to end."
        + (f" Lower is better: {', '.join(lower)}." if lower else "")
        + (" Offline scores are those of the policy before online tuning." if names else "")
    )
    return Table(f"Ranking: {ranking.task}", header, rows, note)


def _format_mean(ranking: Ranking, setting: Setting) -> str:
    half = ranking.compute_half_width(setting)
    ends = () if half is None else (setting.mean - half, setting.mean + half)
    interval = f" [{', '.join(format_score(end, ranking.score) for end in ends)}]" if ends else ""
    return f"{format_score(setting.mean, ranking.score)}{interval}"


def _format_seconds(setting: Setting) -> str:
    return "-" if setting.seconds is None else f"{setting.seconds:.0f}"


def _describe_end(setting: Setting, kind: str) -> str:
    """Return how far a setting without a score got."""
    if setting.state != PRUNED or not setting.intermediate:
        return setting.state
    step = max(setting.intermediate)
    return f"at gradient step {step:,}, score {format_score(setting.intermediate[step], kind)}"


def describe_winner(ranking: Ranking, reported: Sequence[CellRecord]) -> str:
    """Return the sentence that names the best settings, their tuning score and that of the reported seeds."""
    best, count = ranking.best, len(ranking.complete)
    values = ", ".join(f"`{key}` = {format_value(best.values.get(key))}" for key in ranking.keys) or best.name
    scores = [score for record in reported if (score := score_record(record, ranking.score)) is not None]
    fresh = (
        f"on seeds that the choice has not seen they score **{format_score(math.fsum(scores) / len(scores), ranking.score)}**"
        if scores
        else "seeds that the choice has not seen have not been run"
    )
    return (
        f"Of {count} settings on {ranking.task}, {values} scored best: {_format_mean(ranking, best)} on tuning seeds, which "
        f"is too high for having been chosen; {fresh}."
    )


def describe_score(ranking: Ranking, records: Sequence[CellRecord]) -> str:
    """Return the sentence that says that settings are ranked by unfinished fits, as a search was asked to; else empty.

    Args:
        ranking: of a task.
        records: its cells.
    """
    steps = find_unfinished_fit(records)
    if steps is None or ranking.score != FITTED_Q:
        return ""
    return f"The settings are ranked by fitted-Q values whose fit had not ended: {describe_unfinished_fit(steps)}."


def describe_unranked(records: Sequence[CellRecord]) -> str:
    """Return the sentence that says why no setting of a task is ranked; `records` are its cells, one at least."""
    first, count, cut = records[0], len(records), count_cut(records)
    task = f"On **{first.env}**, data {first.snapshot.source}, {first.method}, no setting is ranked"
    if not cut:
        return f"{task}, since its {count} cells have no score in common."
    reports = (r for record in records for found in record.evaluation.policies.values() for r in found.values())
    at = max(report.cut_at for report in reports if report.cut_at is not None)
    return (
        f"{task}, since episodes of {cut} of {count} cells were {describe_cut(at)} and have no score: "
        "`--set evaluation.max_episode_steps=0` plays episodes to their end."
    )


def tabulate_winner(ranking: Ranking, reported: Sequence[CellRecord], found: Mapping[str, str]) -> Table:
    """Make the table of the best settings, with the warning that their tuning score is biased.

    Args:
        ranking: of a task.
        reported: cells of the winner on the reported seeds, if they have run.
        found: `file` and `command` that run the winner, empty where there are none.
    """
    best, count = ranking.best, len(ranking.complete)
    seeds = ", ".join(map(str, best.scores))
    shrunk = ranking.shrink_best()
    rows: list[tuple[str, str]] = [
        ("settings", ", ".join(f"{key} = {format_value(best.values.get(key))}" for key in ranking.keys) or best.name),
        (f"tuning score, seeds {seeds}, **biased upward**", _format_mean(ranking, best)),
    ]
    if shrunk is not None:
        rows.append(("the same, shrunk towards the mean of all settings", format_score(shrunk, ranking.score)))
    scores: dict[int, list[float]] = {}  # of each seed, one for each data set
    for record in reported:
        if (score := score_record(record, ranking.score)) is not None:
            scores.setdefault(record.seed, []).append(score)
    if scores:
        estimate = compute_estimate([[math.fsum(own) / len(own)] for own in scores.values()])
        error = "" if estimate.standard_error is None else f" ± {format_score(estimate.standard_error, ranking.score)}"
        of = ", ".join(map(str, scores))
        rows.append((f"**score on reported seeds {of}**", f"{format_score(estimate.mean, ranking.score)}{error}"))
    rows += [(name, f"`{found[key]}`") for name, key in (("file", "file"), ("run it", "command")) if found.get(key)]
    note = (
        f"The best of {count} is chosen for its score, luck included, so the tuning score is too high on average: it says "
        "which settings to run, not how well they do. The reported seeds say that; they were not used for the choice."
        + ("" if scores else " They have not been run yet.")
    )
    return Table(f"Winner: {ranking.task}", ("what", "value"), rows, note)


def tabulate_importances(ranking: Ranking, importances: Importances | None) -> Table:
    """Make the table of the influence of each varied key."""
    shares = importances.shares if importances else {}
    correlations = importances.correlations if importances else {}
    rows = [
        (f"`{key}`", f"{share:.2f}", "-" if correlations[key] is None else f"{correlations[key]:+.2f}")
        for key, share in shares.items()
    ]
    header = ("key", "importance", "rank correlation with the score")
    note = f"Importance: {importances.method}. {len(ranking.complete)} settings." if importances else ""
    return Table(f"Importance of settings: {ranking.task}", header, rows, note)


def tabulate_agreements(agreements: Sequence[RankAgreement]) -> Table:
    """Make the table of how well offline scores predict returns."""
    rows = [
        (
            *(a.task, a.score, a.settings, _format_interval(a.spearman), _format_interval(a.kendall)),
            *(f"{number:.1f}" for number in (a.chosen, a.best, a.mean)),
        )
        for a in agreements
    ]
    few = min((a.settings for a in agreements), default=WANTED)
    header = ("task", "offline score", "settings", "Spearman [95 %]", "Kendall [95 %]")
    more = ("normalized_score of its first choice", "of the best", "mean of all")
    note = (
        "Rank correlation over settings with the normalized_score of the policy before online tuning: 1 is the same order, "
        "0 none; the sign is turned where lower is better. Intervals: bootstrap over settings."
        + (f" **Fewer than {WANTED} settings say little.**" if few < WANTED else "")
    )
    return Table("How well offline scores predict returns here", (*header, *more), rows, note)


def _format_interval(interval: Interval) -> str:
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def make_document(ranking: Ranking, importances: Importances | None) -> dict[str, Any]:
    """Return a ranking as plain values, unrounded."""

    def describe(setting: Setting) -> dict[str, Any]:
        mean = setting.mean if setting.scores else None
        half = ranking.compute_half_width(setting) if setting.scores else None
        return {**vars(setting), "values": dict(setting.values), "mean": mean, "half_width": half}

    return {
        "task": ranking.task,
        "score": ranking.score,
        "keys": list(ranking.keys),
        "settings": [describe(setting) for setting in (*ranking.complete, *ranking.others)],
        "shrunk_best": ranking.shrink_best(),
        "importances": None if importances is None else vars(importances),
    }
