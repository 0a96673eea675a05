"""Table of a comparison as papers print it: a row for each data set, a column for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vdt.evaluation.records import CellRecord
from vdt.reporting.aggregates import Aggregate, collect_headlines, find_common_tasks
from vdt.reporting.answer import WHEN
from vdt.reporting.document import Table
from vdt.reporting.frame import Labels, Result, Task, label_data
from vdt.reporting.tables import name_source

COLUMNS = ("env", "data", "data's mean score", "preset")


def tabulate_comparison(
    records: Sequence[CellRecord], results: Sequence[Result], aggregates: Sequence[Aggregate]
) -> list[Table]:
    """Make a table of scores for each policy that two methods or more have on two data sets or more.

    A score is a mean over seeds with its standard error; of one seed it is the mean alone. The last row is the
    interquartile mean over all runs of the data sets that every method has.
    """
    headlines = collect_headlines(records, results)
    found = {policy: headlines[policy] for policy in WHEN if _is_comparison(headlines.get(policy, {}))}
    return [
        _tabulate(WHEN[policy].capitalize() if len(found) > 1 else "", methods, records, _pick(aggregates, policy))
        for policy, methods in found.items()
    ]


def _is_comparison(methods: Mapping[str, Mapping[Task, Result]]) -> bool:
    return len(methods) > 1 and len(_list_tasks(methods)) > 1


def _list_tasks(methods: Mapping[str, Mapping[Task, Result]]) -> list[Task]:
    return list(dict.fromkeys(task for results in methods.values() for task in results))


def _pick(aggregates: Sequence[Aggregate], policy: str) -> dict[str, Aggregate]:
    return {a.method: a for a in aggregates if a.policy == policy}


def _tabulate(
    title: str,
    methods: Mapping[str, Mapping[Task, Result]],
    records: Sequence[CellRecord],
    aggregates: Mapping[str, Aggregate],
) -> Table:
    tasks, labels = _list_tasks(methods), label_data(records)
    rows = [
        (
            *_describe_task(task, [results[task] for results in methods.values() if task in results], labels),
            *(_format(results.get(task)) for results in methods.values()),
            _list_seeds({name: results[task] for name, results in methods.items() if task in results}),
        )
        for task in tasks
    ]
    if aggregates:
        shared = len(find_common_tasks(methods))
        of = "" if shared == len(tasks) else f" of the {shared} rows that all have"
        known = [values[0] if len(set(values)) == 1 else "" for values in zip(*rows, strict=True)]
        ends = (f"interquartile mean [95 %]{of}", *known[1 : len(COLUMNS)])
        rows.append((*ends, *(str(aggregates[name].iqm) for name in methods), known[-1]))
    return Table("", (*COLUMNS, *methods, "seeds"), rows, f"**{title}**" if title else "")


def _describe_task(task: Task, results: Sequence[Result], labels: Labels) -> tuple[str, ...]:
    env, source, md5, preset = task
    score = results[0].dataset_score
    return env, name_source(labels[env, source, md5]), "-" if score is None else f"{score:.1f}", preset


def _format(result: Result | None) -> str:
    if result is None or result.score is None:
        return "-"
    return f"{result.score.mean:z.1f}" if result.score.over == "episodes" else str(result.score)


def _list_seeds(results: Mapping[str, Result]) -> str:
    """Return the seeds of a row, by method where they differ."""
    seeds = {name: f"{len(result.seeds)} ({', '.join(map(str, result.seeds))})" for name, result in results.items()}
    different = set(seeds.values())
    return next(iter(different)) if len(different) == 1 else "; ".join(f"{name} {own}" for name, own in seeds.items())
