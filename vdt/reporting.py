"""One report over cells (env x method x seed): Markdown tables, strict JSON, figures."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vdt.data.sources.recording import LABELS
from vdt.files import atomic_write, make_file_name, write_text
from vdt.maze_figures import draw_mazes
from vdt.results import (
    Cell,
    Change,
    Result,
    collect_results,
    compute_changes,
    compute_config_differences,
    compute_estimate,
)
from vdt.scores import format_return, format_success

NOT_D4RL = "**Results on data that is not D4RL's (collected, minari, own file) are not comparable with published D4RL numbers.**"
SUCCESS_HEADER = "success rate (Wilson's 95% over all episodes)"
OFFLINE_ONLY = (
    "no environment: online tuning and returns are not available. Evaluated offline, on held-out episodes; the critic's "
    "values are its opinion, not measured returns."
)


def write_report(cells: Sequence[Cell], folder: Path) -> Path:
    """Write report.md, report.json and figures into `folder`.

    Args:
        cells: what each cell leaves behind: `config` (flat), `snapshot`, `evaluation`, `mlflow_run_id` and `seconds`
            per flow step.
        folder: made if it is not there; files of the same name are replaced.

    Returns:
        Path of report.md.

    Raises:
        ValueError: if there is no cell, or the same cell twice.
    """
    if not cells:
        raise ValueError("a report needs at least one cell")
    results = collect_results(cells)
    per_cell = [result for cell in cells for result in collect_results([cell])]
    changes = compute_changes(results)
    figures = [*_write_figures(results, folder), *(_save(figure, folder / name) for name, figure in draw_mazes(cells))]
    document, odd = to_strict_json(_build_document(cells, results, changes))
    write_text(folder / "report.json", json.dumps({**document, "not_finite": odd}, indent=1, allow_nan=False) + "\n")
    sections = [
        *_introduce(cells),
        *_tabulate_results("Results", results),
        *_tabulate_changes(changes),
        *_tabulate_held_out(cells),
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


def _name_source(source: str) -> str:
    name, _, rest = LABELS.get(source, f"{source} (not D4RL)").partition(" (")
    return f"**{name}** ({rest}" if rest else name


def _introduce(cells: Sequence[Cell]) -> Iterator[str]:
    yield from ("# Value-Guided Decision Transformer: report", "")
    reasons = {(cell["config"]["env"], cell["snapshot"]["source"], cell["snapshot"]["reason"]) for cell in cells}
    yield from (f"- {env}: data source {_name_source(source)}. {reason}" for env, source, reason in sorted(reasons))
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
            _name_source(result.source),
            "?" if result.dataset_score is None else f"{result.dataset_score:.1f}",
            result.method,
            result.policy,
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
            _name_source(change.before.source),
            change.before.method,
            change.effect,
            f"{change.before.policy} {change.before.planner}",
            f"{change.after.policy} {change.after.planner}",
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
            _name_source(cell["snapshot"]["source"]),
            cell["config"]["method"],
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
    methods = list(dict.fromkeys(cell["config"]["method"] for cell in cells))
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
            _name_source(cell["snapshot"]["source"]),
            cell["config"]["method"],
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


def _write_figures(results: Sequence[Result], folder: Path) -> list[Path]:
    """One figure of scores per env and data source; one of chosen candidates where there was a choice."""
    paths = []
    for env, source in dict.fromkeys((r.env, r.source) for r in results):
        shown = [r for r in results if (r.env, r.source) == (env, source)]
        paths.append(_save(_draw_scores(shown), folder / f"scores-{make_file_name(env)}-{source}.png"))
        choices = [r for r in shown if len(r.candidate_returns) > 1 and all(r.chosen_candidates)]
        if choices:
            paths.append(_save(_draw_choices(choices), folder / f"candidates-{make_file_name(env)}-{source}.png"))
    return paths


def _save(figure: Figure, path: Path) -> Path:
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)
    return path


def _draw_scores(results: Sequence[Result]) -> Figure:
    """Mean, standard error and one dot per seed for each method, policy and look-ahead setting."""
    figure = Figure(figsize=(8.0, 1.5 + 0.4 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    for row, result in enumerate(results):
        estimate = compute_estimate(result.scores)
        axes.barh(row, estimate.mean, xerr=estimate.standard_error, color="C0", alpha=0.4, capsize=3)
        dots = [math.fsum(scores) / len(scores) for scores in result.scores]
        axes.plot(dots, [row] * len(dots), "o", color="C0", markersize=4)
    if results[0].dataset_score is not None:
        axes.axvline(results[0].dataset_score, color="black", linestyle="--", label="mean of the data set")
        figure.legend(loc="outside lower left", frameon=False)
    axes.set_yticks(range(len(results)), [f"{r.method} {r.policy} {r.planner}" for r in results])
    axes.invert_yaxis()
    axes.set_xlabel("normalized_score (dots: seeds; bar: mean ± standard error)")
    axes.set_title(f"{results[0].env}, data: {_name_source(results[0].source).replace('*', '')}")
    return figure


def _draw_choices(results: Sequence[Result]) -> Figure:
    """Share of environment steps in which each candidate return had the highest look-ahead score."""
    figure = Figure(figsize=(8.0, 1.5 + 0.4 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    for row, result in enumerate(results):
        left = 0.0
        for column, candidate in enumerate(result.candidate_returns):
            share = math.fsum(shares[column] for shares in result.chosen_candidates) / len(result.chosen_candidates)
            axes.barh(row, share, left=left, color=f"C{column}")
            axes.text(left + share / 2, row, f"{candidate:g}", ha="center", va="center", fontsize=7)
            left += share
    axes.set_yticks(range(len(results)), [f"{r.method} {r.policy} {r.planner}" for r in results])
    axes.invert_yaxis()
    axes.set_xlabel("share of steps in which each candidate return was chosen")
    axes.set_title(f"{results[0].env}, data: {_name_source(results[0].source).replace('*', '')}")
    return figure
