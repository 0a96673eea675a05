"""Table of a comparison: data sets down, methods across, the interquartile mean below."""

from pathlib import Path

import pytest

from support.records import make_evaluation, make_record
from vdt.evaluation.records import CellRecord
from vdt.reporting.report import write_report

WALKER, HOPPER = "walker2d-medium-v2", "hopper-medium-v2"
ONE_RETURN = {"planner.candidates": 1, "planner.planning_horizon": 1, "task.candidate_returns": [5000.0]}


def make_cells(scores: dict[tuple[str, str], list[float]], *, tuned: bool = False) -> list[CellRecord]:
    """Cells of (env, method) with one score a seed, each of two episodes one beside it; 10 more where tuned."""
    return [
        make_record(
            seed,
            {
                name: {"single": make_evaluation([score + more - 1, score + more + 1])}
                for name, more in (("offline", 0), ("online", 10))[: 1 + tuned]
            },
            env=env,
            method=method,
            config={"preset": "laptop", **ONE_RETURN},
            snapshot={"md5": env},
        )
        for (env, method), values in scores.items()
        for seed, score in enumerate(values)
    ]


def read_rows(records: list[CellRecord], folder: Path) -> list[str]:
    """Return the rows of all tables above the first figure."""
    text = write_report(records, folder).text.partition("![")[0]
    return [line for line in text.splitlines() if line.startswith(("|", "**Off", "**After", "All rows"))]


def test_a_column_for_each_method_and_the_interquartile_mean_below(tmp_path: Path) -> None:
    scores = {(WALKER, "vdt"): [10.0, 20.0], (WALKER, "dt"): [5.0, 15.0]}
    scores |= {(HOPPER, "vdt"): [50.0, 90.0], (HOPPER, "dt"): [40.0, 50.0]}
    once, *rows = read_rows(make_cells(scores), tmp_path)
    assert "data's mean score" in once and once.endswith("seeds 2 (0, 1).")
    # seeds 10 and 20: 15 ± 5; of 10, 20, 50, 90 the lowest and the highest are left out: 35
    assert rows[0] == "| env | vdt | dt |"
    assert rows[2:4] == [f"| {WALKER} | 15.0 ± 5.0 | 10.0 ± 5.0 |", f"| {HOPPER} | 70.0 ± 20.0 | 45.0 ± 5.0 |"]
    assert rows[4].startswith("| interquartile mean [95 %] | 35.0 [") and "| 27.5 [" in rows[4]
    assert len(rows) == 5


def test_a_missing_cell_is_a_dash_and_its_row_is_not_in_the_mean(tmp_path: Path) -> None:
    scores = {(WALKER, "vdt"): [10.0], (WALKER, "dt"): [5.0, 15.0], (HOPPER, "vdt"): [50.0]}
    rows = read_rows(make_cells(scores), tmp_path)
    assert f"| {WALKER} | 10.0 | 10.0 ± 5.0 | vdt 1 (0); dt 2 (0, 1) |" in rows, "of one seed no error is shown"
    assert f"| {HOPPER} | 50.0 | - | 1 (0) |" in rows
    assert rows[-1].startswith("| interquartile mean [95 %] of the 1 rows that all have | 10.0 | 10.0 [")


def test_offline_and_tuned_scores_have_a_table_each(tmp_path: Path) -> None:
    scores = {(env, method): [10.0] for env in (WALKER, HOPPER) for method in ("vdt", "dt")}
    rows = read_rows(make_cells(scores, tuned=True), tmp_path)
    titles = [row for row in rows if row.startswith("**")]
    assert titles == ["**Offline, without interaction**", "**After online tuning**"]
    assert rows.count(f"| {WALKER} | 10.0 | 10.0 |") == 1 and rows.count(f"| {WALKER} | 20.0 | 20.0 |") == 1


@pytest.mark.parametrize("alone", [[(WALKER, "vdt"), (WALKER, "dt")], [(WALKER, "vdt"), (HOPPER, "vdt")]])
def test_one_method_or_one_data_set_is_no_comparison(tmp_path: Path, alone: list[tuple[str, str]]) -> None:
    rows = read_rows(make_cells({key: [10.0] for key in alone}), tmp_path)
    assert not any("interquartile" in row for row in rows)
    assert sum(row.endswith("| 10.0 |") for row in rows) == 2, rows
