"""What is drawn beside the scores."""

from pathlib import Path

import pytest

from support.records import make_evaluation, make_record
from vdt.evaluation.records import CellRecord
from vdt.reporting.aggregates import find_headlines
from vdt.reporting.frame import collect_results, compute_changes, make_frame
from vdt.reporting.report import write_report
from vdt.reporting.score_figures import MOST_CHANGES, draw_scores, draws_mean, select_changes


@pytest.mark.parametrize("means", [(60.0, 60.0), (60.0, 40.0), (None, 40.0)])
def test_each_rows_data_has_its_own_mean(means: tuple[float | None, ...]) -> None:
    records = [
        make_record(
            0,
            {"offline": {"lookahead": make_evaluation([70.0, 72.0], (5000.0, 2500.0), 3)}},
            method=method,
            snapshot={"md5": f"md5-{number}", "card": {"normalized_score_mean": mean}},
        )
        for number, mean in enumerate(means)
        for method in ("vdt", "dt")
    ]
    results = collect_results(make_frame(records))
    axes = draw_scores(results, records, None).axes[0]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    expected = {row: means[int(row.partition("md5-")[2][0])] for row in rows}
    (lines,) = axes.collections
    drawn = {rows[round(float(ends[:, 1].mean()))]: float(ends[0, 0]) for ends in lines.get_segments()}
    assert drawn == {row: mean for row, mean in expected.items() if mean is not None} and draws_mean(results)
    assert all(float(ends[:, 1].max() - ends[:, 1].min()) == 1.0 for ends in lines.get_segments()), "no row's is longer"


def make_offline(count: int, candidates: int) -> list[CellRecord]:
    """Cells of as many settings that were not tuned, which act with so many candidates."""
    reports = {"single": make_evaluation([1.0, 2.0]), "candidates": make_evaluation([3.0, 2.0], (5000.0, 2500.0))}
    config = {"planner.candidates": candidates, "planner.planning_horizon": 1}
    return [make_record(0, {"offline": reports}, patch=f"p{number:02}", config=config) for number in range(count)]


@pytest.mark.parametrize(("candidates", "drawn"), [(2, MOST_CHANGES), (1, 0)])
def test_of_many_changes_without_tuning_the_first_of_the_acting_look_ahead_are_drawn(
    candidates: int, drawn: int, tmp_path: Path
) -> None:
    """With one candidate no change leads to the look-ahead that is acted with, and there is no figure."""
    records = make_offline(MOST_CHANGES + 1, candidates)
    changes = compute_changes(make_frame(records))
    assert len(changes) == MOST_CHANGES + 1
    assert select_changes(changes, find_headlines(records)) == changes[:drawn]
    report = write_report(records, tmp_path)
    assert [f.name for f in report.figures if f.name.startswith("changes")] == (
        ["changes-walker2d-medium-v2-collected.png"] if drawn else []
    )
    assert ("Drawn are 24 of 25; the table has all." in report.text) == bool(drawn)
