"""The answer that a report begins with: one sentence and one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from vdt.config.presets import TRIAL
from vdt.environments.scores import describe_cut, format_return
from vdt.evaluation.records import CellRecord, HeldOutReport, ValueEstimates
from vdt.reporting.aggregates import Aggregate, select_acting
from vdt.reporting.calibration import describe_unfinished_fit, find_unfinished_fit
from vdt.reporting.document import Table
from vdt.reporting.frame import POLICIES, Labels, Result, Task, describe_return, find_task, label_data
from vdt.reporting.tables import name_policy, name_source

WHEN = {"offline": "offline, without interaction", "online": "after online tuning"}
OWN_COLUMNS = ("action error", "a constant's", "its critic's value", "fitted-Q value", "the data earned")


def describe_answer(
    records: Sequence[CellRecord], results: Sequence[Result], aggregates: Sequence[Aggregate]
) -> list[str]:
    """Return the answer in one sentence for cells with an environment, and one for those without.

    Args:
        records: finished cells.
        results: merged over seeds.
        aggregates: of methods over the tasks that they share.
    """
    acting = select_acting(records, results)
    sentences = [_describe_scores(records, acting, aggregates)] if acting else []
    without = [record for record in records if not record.evaluation.policies]
    return [*sentences, *_describe_own_data(without)]


def _describe_scores(records: Sequence[CellRecord], acting: Sequence[Result], aggregates: Sequence[Aggregate]) -> str:
    tasks, methods = (list(dict.fromkeys(values)) for values in ((r.task for r in acting), (r.method for r in acting)))
    compared = _rank_methods(aggregates)
    if len(methods) > 1 and len(compared) > 1:
        ranked = _describe_comparison(compared, acting, len(tasks))
        trial = f"Preset {TRIAL} learns nothing, so this order says nothing of the methods. "
        return f"{trial if {record.preset for record in records} == {TRIAL} else ''}{ranked}"
    if len(tasks) == 1 and len(methods) == 1:
        return _describe_one(records, acting)
    if len(methods) == 1 and compared:
        found = {a.policy: a for a in aggregates if a.policy in WHEN}
        scores = [f"**{a.iqm}** {WHEN[policy]}{_count_tasks(a.tasks, len(tasks))}" for policy, a in found.items()]
        return f"{methods[0]} has an interquartile mean of {' and '.join(scores)}."
    where = f"On **{acting[0].env}**, " if len(tasks) == 1 else f"On {len(tasks)} data sets, "
    scored = {result.method for result in acting if result.score is not None}
    have = "at most one has scores" if len(scored) < 2 else "no data set has scores of all of them"
    if all(result.cut_at is not None for result in acting):
        cut = f"{describe_cut(acting[0].cut_at)} (`evaluation.max_episode_steps`)"
        have = f"they have returns but no scores, as episodes were {cut}"
    return f"{where}{len(methods)} methods have run, and {have}: none is compared."


def _count_tasks(tasks: int, run: int) -> str:
    """Return over how many of the data sets that were run an aggregate is."""
    return f" ({run} data sets)" if tasks == run else f" ({tasks} of {run} data sets)"


def _describe_one(records: Sequence[CellRecord], results: Sequence[Result]) -> str:
    """Return the sentence of one method on one data set."""
    first = results[0]
    before = next((r for r in results if r.policy == "offline"), None)
    after = next((r for r in results if r.policy == "online"), None)
    steps = next((r.config.get("online.environment_steps") for r in records if r.env == first.env), None)
    tuned = f"after {steps:,} steps of online tuning" if steps else "after online tuning"
    parts = [
        *([f"{_say_result(before)} offline"] if before else []),
        *([f"{_say_result(after)} {tuned}"] if after else []),
    ]
    what = "earns a return of" if first.cut_at is not None else "scores"
    score = first.dataset_score
    mean = "" if score is None else f"; the data's episodes score {score:.1f} on average"
    cut = "" if first.cut_at is None else f", in episodes {describe_cut(first.cut_at)}, which have no score"
    over = (
        "; ± is over its episodes"
        if any((r.score or r.episode_return).is_over_episodes for r in (before, after) if r)
        else ""
    )
    seeds = f"{_count_seeds(results)}{over}"
    return f"On **{first.env}**, {first.method} {what} {' and '.join(parts)}{cut}{mean} ({seeds})."


def _say_result(result: Result) -> str:
    return f"**{describe_return(result.episode_return) if result.score is None else result.score}**"


def _count_seeds(results: Sequence[Result]) -> str:
    counts = sorted({len(result.seeds) for result in results})
    numbers = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return f"{numbers} seed{'' if counts == [1] else 's'}"


def _rank_methods(aggregates: Sequence[Aggregate]) -> list[Aggregate]:
    """Return the methods by interquartile mean, the best first: online where all have it, else offline."""
    by_policy = {policy: [a for a in aggregates if a.policy == policy] for policy in WHEN}
    offline, online = by_policy["offline"], by_policy["online"]
    chosen = online if len(online) >= len(offline) else offline
    return sorted(chosen, key=lambda a: -a.iqm.value)


def _describe_comparison(ranked: Sequence[Aggregate], acting: Sequence[Result], tasks: int) -> str:
    """Return the sentence that names the best method and the next, and whether their intervals overlap."""
    best, second, *_ = ranked
    own = [r for r in acting if r.policy == best.policy]
    shared = (
        f"Over the {best.tasks} data sets that all methods have" if best.tasks < tasks else f"Over {tasks} data sets"
    )
    where = f"On **{own[0].env}**" if tasks == 1 else shared
    alike = [a for a in ranked if f"{a.iqm.value:.1f}" == f"{best.iqm.value:.1f}"]
    if len(alike) > 1:
        names, means = (
            f"{', '.join(words[:-1])} and {words[-1]}"
            for words in ([a.method for a in alike], [str(a.iqm) for a in alike])
        )
        return f"{where}, {names} score alike {WHEN[best.policy]}: interquartile means {means} ({_count_seeds(own)})."
    overlap = best.iqm.low <= second.iqm.high
    unsure = ". Their intervals overlap: which is better is not shown" if overlap else ""
    if min(len(result.seeds) for result in own) == 1:
        unsure = ". With one seed an order may be luck"
    return (
        f"{where}, **{best.method}** scores highest of {len(ranked)} methods {WHEN[best.policy]}: interquartile mean "
        f"**{best.iqm}**, before {second.method} with {second.iqm} ({_count_seeds(own)}){unsure}."
    )


def _describe_own_data(records: Sequence[CellRecord]) -> Iterator[str]:
    """Yield a sentence for each env without an environment, with all methods."""
    sentences: dict[str, list[str]] = {}
    groups = _group(records)
    several = {env for env, *_ in groups if len({tuple(data) for own, *data, _ in groups if own == env}) > 1}
    for (env, *_, method), cells in groups.items():
        error, constant = _mean_held_out(cells, lambda r: r.action_rmse), _mean_held_out(cells, lambda r: r.action_std)
        if error is None or constant is None:
            continue
        scale = describe_action_range(cells[0].config)
        missed = f"{method} misses held-out actions by **{error:.3g}**, a constant by {constant:.3g}"
        said = f"{missed}{f', {scale}' if scale else ''}{_describe_value(cells)}"
        what = f"**{env}**, {cells[0].data_label}," if env in several else f"**{env}**"
        sentences.setdefault(what, []).append(said)
    for what, said_of in sentences.items():
        estimated = any("its value is estimated" in said for said in said_of)
        guess = ". Such values are guesses from the data, no measured returns" if estimated else ""
        yield f"{what} has no environment: {'. '.join(said_of)}{guess}."


def _describe_value(cells: Sequence[CellRecord]) -> str:
    """Return what is known of a policy's value: nothing where its fit cannot have ended, for it says where it began."""
    fitted, earned = _mean_value(cells, lambda v: v.fitted_q), _mean_value(cells, lambda v: v.data)
    if fitted is None or earned is None:
        return ""
    steps = find_unfinished_fit(cells)
    if steps is not None:
        return f"; its value is not given: {describe_unfinished_fit(steps)}"
    return f"; its value is estimated at **{fitted:.4g}**, the data earned {earned:.4g}"


def describe_action_range(config: Mapping[str, Any]) -> str:
    """Return the widest range of a task's actions in words, the scale of action errors; empty where it is not known."""
    low, high = (config.get(f"task.action_{end}") for end in ("low", "high"))
    return f"of a range from {min(low):.4g} to {max(high):.4g}" if low and high else ""


def tabulate_answer(records: Sequence[CellRecord], results: Sequence[Result]) -> Table:
    """Make the table below the sentence: a row for each data set and method, without look-ahead settings.

    The scores are means; their intervals are drawn.
    """
    labels = label_data(records)
    groups: dict[tuple[Task, str], dict[str, Result]] = {}
    for result in select_acting(records, results):
        groups.setdefault((result.task, result.method), {})[result.policy] = result
    header = ("env", "data", "data's mean score", "preset", "method", *map(name_policy, POLICIES), "change by tuning")
    order = list(dict.fromkeys(task for task, _ in groups))
    rows = [
        (*_describe_row(found, labels), *("-" for _ in OWN_COLUMNS))
        for (task, _), found in sorted(groups.items(), key=lambda group: order.index(group[0][0]))
    ]
    rows += list(_list_own_rows(records))
    return Table("", (*header, "seeds", *OWN_COLUMNS), rows)


def _describe_row(found: dict[str, Result], labels: Labels) -> tuple[object, ...]:
    first = next(iter(found.values()))
    score = "-" if first.dataset_score is None else f"{first.dataset_score:.1f}"
    before, after = (found[p].score if p in found else None for p in ("offline", "online"))
    change = "-" if before is None or after is None else f"{after.mean - before.mean:+z.1f}"
    return (
        *(first.env, name_source(labels[first.env, first.source, first.md5]), score, first.preset, first.method),
        *(_format_mean(found.get(policy)) for policy in POLICIES),
        *(change, f"{len(first.seeds)} ({', '.join(map(str, first.seeds))})"),
    )


def _format_mean(result: Result | None) -> str:
    if result is None:
        return "-"
    return (
        f"return {format_return(result.episode_return.mean)}" if result.score is None else f"{result.score.mean:z.1f}"
    )


def _list_own_rows(records: Sequence[CellRecord]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of cells without an environment, mean over seeds."""
    for (env, *_, method), cells in _group(r for r in records if not r.evaluation.policies).items():
        numbers = (
            _mean_held_out(cells, lambda r: r.action_rmse),
            _mean_held_out(cells, lambda r: r.action_std),
            _mean_value(cells, lambda v: v.critic),
            _mean_value(cells, lambda v: v.fitted_q),
            _mean_value(cells, lambda v: v.data),
        )
        shown = ["-" if number is None else f"{number:.4g}" for number in numbers]
        if numbers[3] is not None and find_unfinished_fit(cells) is not None:
            shown[3] = "unfinished"
        seeds = [str(cell.seed) for cell in cells]
        known = (env, name_source(cells[0].data_label), "-", cells[0].preset, method)
        empty = ("-",) * (len(POLICIES) + 1)
        yield (
            *known,
            *empty,
            f"{len(seeds)} ({', '.join(seeds)})",
            *shown,
        )


def _group(records: Iterable[CellRecord]) -> dict[tuple[str, ...], list[CellRecord]]:
    """Return the cells of each env, source, md5, preset and method."""
    groups: dict[tuple[str, ...], list[CellRecord]] = {}
    for record in records:
        groups.setdefault((*find_task(record), record.name), []).append(record)
    return groups


def _mean_held_out(cells: Sequence[CellRecord], read: Callable[[HeldOutReport], float | None]) -> float | None:
    return _average(
        read(cell.evaluation.held_out["offline"]) for cell in cells if "offline" in cell.evaluation.held_out
    )


def _mean_value(cells: Sequence[CellRecord], read: Callable[[ValueEstimates], float | None]) -> float | None:
    return _average(read(cell.evaluation.values["offline"]) for cell in cells if "offline" in cell.evaluation.values)


def _average(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
