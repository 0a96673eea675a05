"""The sentence that a report begins with."""

from support.records import make_evaluation, make_record
from vdt.reporting.aggregates import collect_headlines, compute_aggregates
from vdt.reporting.answer import describe_answer
from vdt.reporting.frame import collect_results, fill_best, make_frame


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
