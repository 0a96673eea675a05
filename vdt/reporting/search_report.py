"""Part of a study's report that ranks what a grid, a sweep or a search has tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vdt.evaluation.records import CellRecord
from vdt.reporting.document import CaptionedFigure, Section
from vdt.reporting.importance import compute_importances
from vdt.reporting.offline_ranks import RankAgreement, compute_agreements
from vdt.reporting.plotting import save_figure
from vdt.reporting.ranking import RETURN, Ranking, list_unranked, rank_grid, rank_trials
from vdt.reporting.search_figures import draw_search
from vdt.reporting.search_tables import (
    describe_score,
    describe_unranked,
    describe_winner,
    make_document,
    tabulate_agreements,
    tabulate_importances,
    tabulate_ranking,
    tabulate_winner,
)
from vdt.system.files import make_file_name

# Keys of a study's facts that are no plain values; `report.json` has what is made of them.
OBJECTS = ("trials", "beside", "reported")
CAPTIONS = {  # name of a figure -> its caption
    "map": "Mean score over two keys, {task}. Tuning seeds; red: the best.",
    "parallel": "Settings and their score on tuning seeds, {task}. A line per setting; the best is drawn thicker.",
    "best": "Best score so far, on tuning seeds, {task}. Biased upward; dots: each setting; crosses: stopped early.",
    "offline-scores": "Offline scores against returns, {task}. A dot per setting.",
}


@dataclass(frozen=True)
class SearchReport:
    """Rankings of a study, one per task.

    Attributes:
        document: rankings and agreements as plain values.
        answer: what is said of each task, in sentences.
        sections: of all tasks.
    """

    document: Mapping[str, Any]
    answer: Sequence[str]
    sections: Sequence[Section]


def is_ranked(study: Mapping[str, Any]) -> bool:
    """Return whether a study's patches are a grid's, a sweep's or a search's."""
    return bool(study.get("ranked"))


def list_rankings(records: Sequence[CellRecord], study: Mapping[str, Any]) -> list[Ranking]:
    """Return the rankings of a study: one per task and method of a grid, one of a search. See `write_search_report`."""
    if "trials" not in study:
        return rank_grid(records, study["settings"])
    return _rank_searches(records, study, {study["name"]: study["trials"]})


def _rank_searches(
    records: Sequence[CellRecord], study: Mapping[str, Any], searches: Mapping[str, Sequence[Any]]
) -> list[Ranking]:
    """Return the ranking of each search that has a complete trial."""
    kind = study.get("score") or RETURN
    rankings = (rank_trials(records, trials, kind) for trials in searches.values())
    return [ranking for ranking in rankings if ranking.complete]


def sort_by_rank(
    own: Sequence[CellRecord], records: Sequence[CellRecord], study: Mapping[str, Any] | None
) -> list[CellRecord]:
    """Return a run's own cells, those of the best-ranked settings first; empty without one ranking of all of them.

    Args:
        own: cells of the run.
        records: finished cells of its study, these included.
        study: as of `write_search_report`; none without a study.
    """
    rankings = list_rankings(records, study) if study and is_ranked(study) else []
    places = {setting.name: place for ranking in rankings[:1] for place, setting in enumerate(ranking.complete)}
    if len(rankings) != 1 or not all(cell.patch in places and rankings[0].holds(cell) for cell in own):
        return []
    return sorted(own, key=lambda cell: places[cell.patch])


def write_search_report(records: Sequence[CellRecord], study: Mapping[str, Any], folder: Path) -> SearchReport:
    """Write the figures, and return sections and document.

    Args:
        records: finished cells.
        study: facts of the study. `settings`: name of a patch -> dotted key -> value. Of a search also `trials`
            (`Trial`s), `score` (its kind) and `beside` (other searches of the same task: name -> `Trial`s). `reported`:
            cells of the winners on the reported seeds. `found`: task -> the winner's `file` and the `command` that runs
            it.
        folder: takes the figures.
    """
    rankings = list_rankings(records, study)
    beside = {
        name: ranking
        for name, trials in study.get("beside", {}).items()
        for ranking in _rank_searches(records, study, {name: trials})
    }
    sections: list[Section] = []
    answer: list[str] = []
    documents, agreements, shown = [], [], []
    for ranking in rankings:
        importances, found = compute_importances(ranking), compute_agreements(ranking)
        reported = [record for record in study.get("reported", ()) if ranking.holds(record)]
        where = make_file_name(ranking.task.replace(", ", "-").replace(" ", "-"))
        drawn = {
            name: CaptionedFigure(
                save_figure(figure, folder / f"{name}-{where}.png"), CAPTIONS[name].format(task=ranking.task)
            )
            for name, figure in draw_search(ranking, importances, found, beside, study["name"]).items()
        }
        shown += [drawn.pop("offline-scores")] if "offline-scores" in drawn else []
        own = [r for r in records if ranking.holds(r) and r.snapshot.source == ranking.data]
        answer += filter(None, (describe_winner(ranking, reported), describe_score(ranking, own)))
        sections += [
            Section((tabulate_winner(ranking, reported, study.get("found", {}).get(ranking.task, {})),)),
            Section((tabulate_ranking(ranking),), list(drawn.values())),
            Section((tabulate_importances(ranking, importances),)),
        ]
        documents.append(make_document(ranking, importances))
        agreements += found
    if "trials" not in study:
        answer += [describe_unranked(cells) for cells in list_unranked(records, study["settings"])]
    sections.append(Section((tabulate_agreements(agreements),), shown))
    return SearchReport(_describe(documents, agreements), answer, sections)


def _describe(rankings: Sequence[Mapping[str, Any]], agreements: Sequence[RankAgreement]) -> dict[str, Any]:
    return {"rankings": list(rankings), "offline_scores": [asdict(agreement) for agreement in agreements]}
