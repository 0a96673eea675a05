"""The sentence that a report begins with."""

from dataclasses import replace

import pytest

from support.records import make_evaluation, make_record
from vdt.evaluation.records import HeldOutReport, ValueEstimates
from vdt.reporting.aggregates import collect_headlines, compute_aggregates
from vdt.reporting.answer import describe_answer, tabulate_answer
from vdt.reporting.frame import collect_results, fill_best, make_frame
from vdt.reporting.summary import describe_end


def test_a_method_without_scores_is_not_compared() -> None:
    """As under preset `smoke`: one method falls and has scores, the other goes on and its episodes are cut short."""
    single = {"planner.candidates": 1, "planner.planning_horizon": 1}
    records = [
        make_record(0, {"offline": {"single": make_evaluation([1.0, 2.0])}}, config=single, method=method)
        for method in ("vdt", "dt")
    ]
    results = collect_results(fill_best(make_frame(records)))
    aggregates = compute_aggregates(collect_headlines(records, results))
    scored = [aggregate for aggregate in aggregates if aggregate.method == "vdt"]
    assert describe_answer(records, results, scored) == [
        "On **walker2d-medium-v2**, 2 methods have run, and at most one has scores: none is compared."
    ]


@pytest.mark.parametrize(
    ("steps", "value", "cell"),
    [
        (10_000, "estimated at **-1.781**, the data earned -599.3. Such values are guesses", "-1.781"),
        (60, "not given: 60 steps of the fit leave 97 % of the way (`evaluation.fitted_q_steps`).", "unfinished"),
    ],
)
def test_a_value_is_given_if_its_fit_can_have_ended_and_errors_have_a_scale(steps: int, value: str, cell: str) -> None:
    held_out = {"offline": HeldOutReport(2, 30, 0.899, 1.2, None, None, None, None)}
    config = {"task.action_low": [-1.5, -1.0], "task.action_high": [1.5, 1.0]}
    record = make_record(0, {}, env="data:logs", source="path", config=config, held_out=held_out)
    values = {"offline": ValueEstimates(4, 7.0, -1.781, -1.0, steps, 1.0, -599.3)}
    records = [replace(record, evaluation=replace(record.evaluation, values=values))]
    (said,) = describe_answer(records, [], [])
    assert (
        "vdt misses held-out actions by **0.899**, a constant by 1.2, of a range from -1.5 to 1.5; its value is "
        in said
    )
    assert value in said
    ((*_, shown, _),) = tabulate_answer(records, []).rows
    assert shown == cell
    assert describe_end(records, {})[:2] == [
        "data:logs, vdt, seed 0: offline action error 0.899 (a constant's 1.2)",
        "  actions of a range from -1.5 to 1.5",
    ], "on a line of its own: a path may fill the first"
