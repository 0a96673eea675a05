"""One report over cells (env x method x seed): Markdown tables, strict JSON, figures."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vdt.environments.scores import format_return, format_success
from vdt.reporting.comparison import (
    collect_headlines,
    collect_scores,
    compute_aggregates,
    compute_improvements,
    find_common_tasks,
)
from vdt.reporting.figures import Curves, name_policy, write_figures
from vdt.reporting.published import load_published
from vdt.reporting.results import (
    Cell,
    Change,
    Result,
    collect_results,
    compute_changes,
    compute_config_differences,
    compute_estimate,
    name_method,
)
from vdt.reporting.tables import (
    Table,
    name_source,
    tabulate_aggregates,
    tabulate_cost,
    tabulate_diagnostics,
    tabulate_improvements,
    tabulate_published,
)
from vdt.system.files import write_text

NOT_D4RL = "**Results on data that is not D4RL's (collected, minari, own file) are not comparable with published D4RL numbers.**"
SUCCESS_HEADER = "success rate (Wilson's 95% over all episodes)"
OFFLINE_ONLY = (
    "no environment: online tuning and returns are not available. Evaluated offline, on held-out episodes; the critic's "
    "values are its opinion, not measured returns."
)


def write_report(
    cells: Sequence[Cell], folder: Path, *, study: Mapping[str, Any] | None = None, curves: Curves | None = None
) -> Path:
    """Write report.md, report.json and figures into `folder`.

    Args:
        cells: what each cell leaves behind: `config` (flat), `patch`, `snapshot`, `evaluation`, `mlflow_run_id`, `seconds`
            and `memory` per flow step.
        folder: made if it is not there; files of the same name are replaced.
        study: `name`, `title`, `note`, name of the `published` table, keys of `missing` cells; none without a study.
        curves: learning curves by MLflow run and metric.

    Returns:
        Path of report.md.

    Raises:
        ValueError: if there is no cell, or the same cell twice.
    """
    if not cells:
        raise ValueError("a report needs at least one cell")
    results = collect_results(cells)
    per_cell = [result for cell in cells for result in collect_results([cell])]
    changes, headlines = compute_changes(results), collect_headlines(cells, results)
    aggregates, improvements = compute_aggregates(headlines), compute_improvements(headlines)
    published = load_published(study["published"]) if study and study.get("published") else None
    offline = headlines.get("offline", {})
    tasks = find_common_tasks(offline) if offline else []
    profiles = {method: collect_scores(found, tasks) for method, found in offline.items()} if tasks else {}
    figures = write_figures(cells, results, curves or {}, profiles, published, folder)
    document, odd = to_strict_json(
        {
            "study": study,
            **_build_document(cells, results, changes),
            "aggregates": [dataclasses.asdict(a) for a in aggregates],
            "improvements": [dataclasses.asdict(i) for i in improvements],
            "curves": curves or {},
        }
    )
    write_text(folder / "report.json", json.dumps({**document, "not_finite": odd}, indent=1, allow_nan=False) + "\n")
    sections = [
        *_introduce(cells, study or {}),
        *(_show(tabulate_published(cells, headlines, published)) if published and published.rows_are_envs else ()),
        *(_show(tabulate_aggregates(aggregates)) if len(results) > 1 and study else ()),
        *_show(tabulate_improvements(improvements)),
        *_tabulate_results("Results", results),
        *_tabulate_changes(changes),
        *_tabulate_held_out(cells),
        *_show(tabulate_diagnostics(cells)),
        *_show(tabulate_cost(cells, published if published and not published.rows_are_envs else None)),
        *_tabulate_results("Results per cell", per_cell if len(per_cell) > len(results) else []),
        *_tabulate_config_differences(cells),
        *_tabulate_cells(cells),
        *([f"**Not finite, written as null in report.json:** {', '.join(odd)}", ""] if odd else []),
        *(f"![{path.stem}]({path.name})\n" for path in figures),
    ]
    return write_text(folder / "report.md", "\n".join(sections).rstrip() + "\n")


def to_strict_json(value: Any, place: str = "") -> tuple[Any, list[str]]:
    """Replace numbers that JSON cannot hold by null; return the value and the places where that happened."""
    if isinstance(value, float) and not math.isfinite(value):
        return None, [place]
    odd: list[str] = []
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return value, odd
    converted = {}
    for key, item in items:
        converted[str(key)], inner = to_strict_json(item, f"{place}.{key}" if place else str(key))
        odd += inner
    return (converted if isinstance(value, Mapping) else list(converted.values())), odd


def _build_document(cells: Sequence[Cell], results: Sequence[Result], changes: Sequence[Change]) -> dict[str, Any]:
    """Everything, unrounded. A snapshot is known by its md5; its path on this machine is left out."""
    return {
        "cells": [{**cell, "snapshot": {k: v for k, v in cell["snapshot"].items() if k != "path"}} for cell in cells],
        "results": [
            {
                **dataclasses.asdict(result),
                "normalized_score": dataclasses.asdict(compute_estimate(result.scores)),
                "episode_return": dataclasses.asdict(compute_estimate(result.returns)),
            }
            for result in results
        ],
        "changes": [
            {
                "effect": change.effect,
                **{key: getattr(change.before, key) for key in ("env", "source", "md5", "preset", "method")},
                "before": [change.before.policy, change.before.setting],
                "after": [change.after.policy, change.after.setting],
                "normalized_score": dataclasses.asdict(change.estimate),
            }
            for change in changes
        ],
        "config_differences": compute_config_differences(cells),
    }


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> Iterator[str]:
    """Lines of one Markdown section; nothing if there are no rows."""
    lines = ["| " + " | ".join(str(entry).replace("|", "\\|") for entry in row) + " |" for row in rows]
    if lines:
        yield from (f"## {title}", "", *([note, ""] if note else []))
        yield from ("| " + " | ".join(header) + " |", "|" + "---|" * len(header), *lines, "")


def _show(table: Table) -> Iterator[str]:
    return _table(table.title, table.header, table.rows, table.note)


def _introduce(cells: Sequence[Cell], study: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"# Value-Guided Decision Transformer: {study.get('title') or study.get('name') or 'report'}", "")
    yield from (study["note"], "") if study.get("note") else ()
    if study.get("missing"):
        yield from (f"**Not finished yet, and not in this report:** {', '.join(study['missing'])}", "")
    reasons = {(cell["config"]["env"], cell["snapshot"]["source"], cell["snapshot"]["reason"]) for cell in cells}
    yield from (f"- {env}: data source {name_source(source)}. {reason}" for env, source, reason in sorted(reasons))
    without = sorted({str(cell["config"]["env"]) for cell in cells if not cell["evaluation"]["policies"]})
    yield from (f"- {env}: {OFFLINE_ONLY}" for env in without)
    if any(cell["snapshot"]["source"] != "d4rl" for cell in cells):
        yield from ("", NOT_D4RL)
    references = {cell["config"]["env"]: cell["config"].get("task.reference", "the task's reference") for cell in cells}
    if len(set(references.values())) == 1:
        meaning = next(iter(references.values()))
    else:
        meaning = "; ".join(f"for {env}: {reference}" for env, reference in references.items())
    yield from (
        "",
        f"normalized_score: 0 and 100 are {meaning}. ± is the standard error over seeds; "
        "where there is one seed, over its episodes (marked *episodes*). m: candidate returns, E: planning horizon.",
        "",
    )


def _format_score(values: Sequence[Sequence[float]]) -> str:
    estimate = compute_estimate(values)
    unsure = estimate.standard_error is not None and estimate.over == "episodes"
    return f"{estimate}{' *episodes*' if unsure else ''}"


def _tabulate_results(title: str, results: Sequence[Result]) -> Iterator[str]:
    header = (
        "env|data|data's mean score|method|policy|look-ahead|normalized_score|episode return|seeds|episodes|ms per step"
    )
    told = any(any(result.successes) for result in results)
    rows = [
        (
            result.env,
            name_source(result.source),
            "?" if result.dataset_score is None else f"{result.dataset_score:.1f}",
            result.method,
            name_policy(result.policy),
            result.planner,
            _format_score(result.scores),
            format_return(compute_estimate(result.returns).mean),
            f"{len(result.seeds)} ({', '.join(map(str, result.seeds))})",
            sum(map(len, result.scores)),
            f"{math.fsum(result.milliseconds_per_step) / len(result.seeds):.2f}",
            *([_format_successes(result)] if told else []),
        )
        for result in results
    ]
    return _table(title, [*header.split("|"), *([SUCCESS_HEADER] if told else [])], rows)


def _format_successes(result: Result) -> str:
    pooled = [success for successes in result.successes for success in successes]
    return format_success(pooled) if pooled else "-"


def _tabulate_changes(changes: Sequence[Change]) -> Iterator[str]:
    header = ("env", "data", "method", "what", "from", "to", "change of normalized_score", "seeds")
    rows = [
        (
            change.before.env,
            name_source(change.before.source),
            change.before.method,
            change.effect,
            f"{name_policy(change.before.policy)} {change.before.planner}",
            f"{name_policy(change.after.policy)} {change.after.planner}",
            f"{change.estimate.mean:+.1f}"
            + ("" if change.estimate.standard_error is None else f" ± {change.estimate.standard_error:.1f}")
            + (" *episodes*" if change.estimate.over == "episodes" else ""),
            change.estimate.seeds,
        )
        for change in changes
    ]
    return _table("Look-ahead and online tuning", header, rows, "Paired by seed and episode.")


def _tabulate_held_out(cells: Sequence[Cell]) -> Iterator[str]:
    header = (
        "env|data|method|seed|policy|episodes|steps|action error (RMSE)|std of actions|value of policy's actions|"
        "value of data's actions|discounted return of data|correlation"
    )
    keys = ("action_rmse", "action_std", "policy_value", "data_value", "monte_carlo_value", "value_correlation")
    rows = [
        (
            cell["config"]["env"],
            name_source(cell["snapshot"]["source"]),
            name_method(cell),
            cell["config"]["seed"],
            policy,
            report["episodes"],
            report["steps"],
            *("-" if report[key] is None else f"{report[key]:.4g}" for key in keys),
        )
        for cell in cells
        for policy, report in cell["evaluation"].get("held_out", {}).items()
    ]
    note = (
        "Episodes that were not trained on. Values are the critic's smaller target Q, discounted, in environment units; beside "
        "them what the data's steps really earned, bootstrapped where an episode was cut."
    )
    return _table("Held-out episodes", header.split("|"), rows, note)


def _tabulate_config_differences(cells: Sequence[Cell]) -> Iterator[str]:
    differences = compute_config_differences(cells)
    methods = list(dict.fromkeys(map(name_method, cells)))
    rows = [
        (f"`{key}`", *(", ".join(map(str, row.get(method, ["-"]))) for method in methods))
        for key, row in differences.items()
    ]
    return _table("What the methods' configurations differ in", ("key", *methods), rows)


def _tabulate_cells(cells: Sequence[Cell]) -> Iterator[str]:
    steps = list(dict.fromkeys(step for cell in cells for step in cell["seconds"]))
    rows = [
        (
            cell["config"]["env"],
            name_source(cell["snapshot"]["source"]),
            name_method(cell),
            cell["config"]["preset"],
            cell["config"]["seed"],
            f"`{cell['snapshot']['md5']}`",
            f"`{cell['mlflow_run_id']}`",
            *(f"{cell['seconds'][step]:.1f}" if step in cell["seconds"] else "-" for step in steps),
        )
        for cell in cells
    ]
    return _table(
        "Cells",
        ("env", "data", "method", "preset", "seed", "data md5", "MLflow run", *(f"{s}, s" for s in steps)),
        rows,
    )
