"""What is drawn beside the scores."""

import pytest

from support.records import make_evaluation, make_record
from vdt.reporting.frame import collect_results, make_frame
from vdt.reporting.score_figures import draw_scores, draws_mean


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
