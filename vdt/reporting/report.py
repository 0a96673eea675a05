"""Report over cells (env x method x seed): Markdown tables, strict JSON, CSV, metrics, figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vdt.evaluation.records import CellRecord
from vdt.reporting.aggregates import (
    Aggregate,
    Headlines,
    collect_headlines,
    collect_scores,
    compute_aggregates,
    compute_improvements,
    find_common_tasks,
    list_envs,
)
from vdt.reporting.answer import describe_answer, tabulate_answer
from vdt.reporting.comparison import tabulate_comparison
from vdt.reporting.diagnostic_tables import tabulate_diagnostics, tabulate_values
from vdt.reporting.document import CaptionedFigure, Section, Table, render_sections
from vdt.reporting.figure_files import Figures, write_figures
from vdt.reporting.figures import Curves
from vdt.reporting.frame import (
    Change,
    Result,
    collect_results,
    compute_changes,
    compute_config_differences,
    count_cut,
    fill_best,
    format_csv,
    make_frame,
    withhold_scores,
)
from vdt.reporting.html import make_page
from vdt.reporting.published import load_published
from vdt.reporting.score_figures import Profiles
from vdt.reporting.search_report import OBJECTS, is_ranked, write_search_report
from vdt.reporting.summary import make_metrics
from vdt.reporting.tables import (
    name_source,
    tabulate_aggregates,
    tabulate_cells,
    tabulate_changes,
    tabulate_config_differences,
    tabulate_cost,
    tabulate_held_out,
    tabulate_improvements,
    tabulate_published,
    tabulate_results,
    tabulate_seconds,
)
from vdt.system.files import write_text

NOT_D4RL = "**Results on data that is not D4RL's (collected, minari, own file) are not comparable with published D4RL numbers.**"
OFFLINE_ONLY = (
    "no environment: online tuning and returns are not available. Evaluated offline, on held-out episodes; the critic's "
    "values are its opinion, not measured returns."
)


@dataclass(frozen=True)
class Report:
    """Files of a written report.

    Attributes:
        path: of report.md; report.json, metrics.json and results.csv lie beside it.
        text: its Markdown.
        page: path of report.html: the same in one file, its figures inside.
        figures: paths of PNG files, in the order in which the report shows them.
    """

    path: Path
    text: str
    page: Path
    figures: tuple[Path, ...]


def write_report(
    records: Sequence[CellRecord],
    folder: Path,
    *,
    study: Mapping[str, Any] | None = None,
    curves: Curves | None = None,
    origin: str = "",
) -> Report:
    """Write report.md, report.html, report.json, metrics.json, results.csv and figures into `folder`.

    Args:
        records: finished cells.
        folder: made if it is not there; files of the same name are replaced.
        study: `name`, `title`, `note`, name of the `published` table, keys of `missing` cells, and if `ranked` those of
            `write_search_report`; none without a study.
        curves: learning curves by MLflow run and metric.
        origin: date, commit and command in words, empty where they are not known.

    Raises:
        ValueError: if there is no cell, or the same cell twice.
    """
    if not records:
        raise ValueError("a report needs at least one cell")
    measured = make_frame(records)
    frame = withhold_scores(fill_best(measured))
    results, changes = collect_results(frame), compute_changes(frame)
    headlines = collect_headlines(records, results)
    aggregates, improvements = compute_aggregates(headlines), compute_improvements(headlines)
    published = load_published(study["published"]) if study and study.get("published") else None
    ranked = study if study and is_ranked(study) else None  # settings of one method are no methods to be compared
    profiles = None if ranked else _collect_profiles(headlines)
    figures = write_figures(records, results, changes, curves or {}, profiles, published, folder)
    searched = write_search_report(records, ranked, folder) if ranked else None
    document, odd = to_strict_json(
        {
            "study": study and {key: value for key, value in study.items() if key not in OBJECTS},
            **(searched.document if searched else {}),
            **_build_document(records, results, changes),
            "aggregates": [asdict(a) for a in aggregates],
            "improvements": [asdict(i) for i in improvements],
            "curves": curves or {},
        }
    )
    _write_json(folder / "report.json", {**document, "not_finite": odd})
    _write_json(folder / "metrics.json", to_strict_json(make_metrics(records, results))[0])
    write_text(folder / "results.csv", format_csv(measured))
    over_tasks = (
        *([tabulate_published(records, headlines, published)] if published and published.rows_are_envs else []),
        *([tabulate_aggregates(aggregates, records)] if len(results) > 1 and study and not ranked else []),
        *([] if ranked else [tabulate_improvements(improvements)]),
    )
    answer = searched.answer if searched else describe_answer(records, results, aggregates)
    first = Section(_tabulate_first(records, results, aggregates), figures.get("scores", ()))
    sections = [
        Section(text=[*([" ".join(answer), ""] if answer else []), *_list_caveats(records, study or {})]),
        *(searched.sections if searched else (first,)),
        Section(text=list(_list_facts(records, study or {}, origin))),
        Section(over_tasks, figures.get("profiles", ())),
        Section((tabulate_results("Results", records, results),), figures.get("scores", ()) if searched else ()),
        Section((tabulate_changes(records, changes),), _pick(figures, "changes", "candidates")),
        Section((), _pick(figures, "curves", "buffer"), "Learning curves"),
        Section((tabulate_held_out(records),), _pick(figures, "held_out", "held_out_calibration")),
        Section((tabulate_values(records),), figures.get("values", ())),
        Section((tabulate_diagnostics(records),), _pick(figures, "requested", "calibration")),
        Section((), figures.get("weights", ()), "Advantage weights"),
        Section((), figures.get("maze", ()), "Episodes in their maze"),
        Section((tabulate_cost(records, published if published and not published.rows_are_envs else None),)),
        *_list_details(records, results, measured, differences=not ranked),
        Section(text=[f"**Not finite, written as null in report.json:** {', '.join(odd)}"] if odd else ()),
    ]
    return _write_documents(folder, _name_report(study or {}), sections)


def _tabulate_first(
    records: Sequence[CellRecord], results: Sequence[Result], aggregates: Sequence[Aggregate]
) -> list[Table]:
    """Return the tables below the answer: a column for each method where several are compared on several data sets."""
    compared = tabulate_comparison(records, results, aggregates)
    without = [record for record in records if not record.evaluation.policies]
    return [*compared, tabulate_answer(without, [])] if compared else [tabulate_answer(records, results)]


def _collect_profiles(headlines: Headlines) -> Profiles | None:
    """Return the scores of all methods over the tasks that all have offline; none without such a task, or one method."""
    offline = headlines.get("offline", {})
    tasks = find_common_tasks(offline) if len(offline) > 1 else []
    scores = {method: collect_scores(found, tasks) for method, found in offline.items()}
    return Profiles(scores, list_envs(tasks)) if tasks else None


def _pick(figures: Figures, *kinds: str) -> list[CaptionedFigure]:
    return [figure for kind in kinds for figure in figures.get(kind, ())]


def _list_details(
    records: Sequence[CellRecord], results: Sequence[Result], measured: Any, *, differences: bool
) -> list[Section]:
    """Return the sections that one looks things up in."""
    per_cell = collect_results(withhold_scores(measured), by_seed=True)
    return [
        Section((tabulate_results("Results per cell", records, per_cell if len(per_cell) > len(results) else []),)),
        *([Section((tabulate_config_differences(records),))] if differences else []),
        Section((tabulate_cells(records),)),
        Section((tabulate_seconds(records),)),
    ]


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _name_report(study: Mapping[str, Any]) -> str:
    return f"Value-Guided Decision Transformer: {study.get('title') or study.get('name') or 'report'}"


def _write_documents(folder: Path, title: str, sections: Sequence[Section]) -> Report:
    """Write the report as Markdown with links to its figures, and as one HTML file."""
    text = "\n".join([f"# {title}", "", *render_sections(sections)]).rstrip() + "\n"
    path, page = write_text(folder / "report.md", text), write_text(folder / "report.html", make_page(text, folder))
    return Report(path, text, page, tuple(figure.path for section in sections for figure in section.figures))


def to_strict_json(value: Any, place: str = "") -> tuple[Any, list[str]]:
    """Replace numbers that JSON cannot hold by null; return the value and the places of replacement."""
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


def _build_document(
    records: Sequence[CellRecord], results: Sequence[Result], changes: Sequence[Change]
) -> dict[str, Any]:
    """Return all results, unrounded."""
    return {
        "cells": [record.to_json() for record in records],
        "results": [
            {
                **asdict(result),
                "normalized_score": asdict(result.score) if result.score else None,
                "episode_return": asdict(result.episode_return),
            }
            for result in results
        ],
        "changes": [
            {
                "effect": change.effect,
                **{key: getattr(change.before, key) for key in ("env", "source", "md5", "preset", "method")},
                "before": [change.before.policy, change.before.setting],
                "after": [change.after.policy, change.after.setting],
                "normalized_score": asdict(change.estimate),
            }
            for change in changes
        ],
        "config_differences": compute_config_differences(records),
    }


def _list_caveats(records: Sequence[CellRecord], study: Mapping[str, Any]) -> Iterator[str]:
    """Yield what must be read with the answer."""
    if study.get("missing"):
        yield from (f"**Not finished yet, and not in this report:** {', '.join(study['missing'])}", "")
    if any(record.snapshot.source != "d4rl" for record in records):
        yield from (NOT_D4RL, "")
    if any(_list_cuts(records)):
        count, cut = count_cut(records), f"cut at {max(_list_cuts(records))} steps"
        of = "" if count == len(records) else f" of {count} of {len(records)} cells"
        rest = " The other cells of the same env have none either: they could not be compared." if of else ""
        yield from (f"**Episodes{of} were {cut}: {CUT}{rest}**", "")


def _list_facts(records: Sequence[CellRecord], study: Mapping[str, Any], origin: str) -> Iterator[str]:
    """Yield what the study is, what made the report, where the data came from, and what the words mean."""
    yield from (study["note"], "") if study.get("note") else ()
    yield from (f"Made on {origin}.", "") if origin else ()
    reasons = {  # of the first cell: later ones find the snapshot that it left
        (record.env, name_source(record.data_label)): record.snapshot.reason for record in reversed(records)
    }
    yield from (f"- {env}: data source {source}. {reason}" for (env, source), reason in sorted(reasons.items()))
    places = {record.env: record.config.get("task.environment_id") for record in records if ":" in record.env}
    yield from (f"- {env}: environment {name}" for env, name in sorted(places.items()) if name)
    without = sorted({record.env for record in records if not record.evaluation.policies})
    yield from (f"- {env}: {OFFLINE_ONLY}" for env in without)
    references = {record.env: record.config.get("task.reference", "the task's reference") for record in records}
    if len(set(references.values())) == 1:
        meaning = next(iter(references.values()))
    else:
        meaning = "; ".join(f"for {env}: {reference}" for env, reference in references.items())
    yield from (
        "",
        f"normalized_score: 0 and 100 are {meaning}. ± is the standard error over seeds; "
        "where there is one seed, over its episodes (marked *episodes*). m: candidate returns, E: planning horizon.",
    )


CUT = (
    "their returns, shown as they are, cannot be laid beside the references, which are of whole episodes, so they have no "
    "normalized_score. `--set evaluation.max_episode_steps=0` plays episodes to their end."
)


def _list_cuts(records: Sequence[CellRecord]) -> list[int]:
    """Return the numbers of steps after which episodes were cut short; empty if none was."""
    reports = (
        report for record in records for found in record.evaluation.policies.values() for report in found.values()
    )
    return [report.cut_at for report in reports if report.cut_at is not None]
