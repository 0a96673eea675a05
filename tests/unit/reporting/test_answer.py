"""The sentence that a report begins with."""

from dataclasses import replace

import pytest

from support.records import make_evaluation, make_record
from vdt.evaluation.records import EvaluationReport, HeldOutReport, ValueEstimates
from vdt.reporting.aggregates import collect_headlines, compute_aggregates
from vdt.reporting.answer import describe_answer, tabulate_answer
from vdt.reporting.frame import collect_results, fill_best, make_frame
from vdt.reporting.summary import describe_end, make_metrics


def test_a_method_without_scores_is_not_compared() -> None:
    """As under preset `smoke`: one method falls and has scores, the other goes on and its episodes are cut short."""
    single = {"planner.candidates": 1, "planner.planning_horizon": 1}
    records = [
        make_record(0, {"offline": {"single": make_evaluation(scores, cut_at=cut)}}, config=single, method=method)
        for method, scores, cut in (("vdt", [1.0, 2.0], None), ("dt", [1.0, None], 50))
    ]
    results = collect_results(fill_best(make_frame(records)))
    aggregates = compute_aggregates(collect_headlines(records, results))
    assert describe_answer(records, results, aggregates) == [
        "On **walker2d-medium-v2**, 2 methods have run, and at most one has scores: none is compared."
    ]


def test_methods_on_different_data_are_not_compared() -> None:
    single = {"planner.candidates": 1, "planner.planning_horizon": 1}
    records = [
        make_record(
            0, {"offline": {"single": make_evaluation([1.0])}}, config=single, method=method, snapshot={"md5": md5}
        )
        for method, md5 in (("vdt", "a"), ("dt", "b"))
    ]
    results = collect_results(fill_best(make_frame(records)))
    assert describe_answer(records, results, compute_aggregates(collect_headlines(records, results))) == [
        "On 2 data sets, 2 methods have run, and no data set has scores of all of them: none is compared."
    ]


def test_a_mean_is_over_the_data_sets_that_have_it() -> None:
    """Of two, one has no whole episode; of two, one has been tuned."""
    single = {"planner.candidates": 1, "planner.planning_horizon": 1}
    cut, low, high = (make_evaluation([s], cut_at=c) for s, c in ((None, 200), (15.0, None), (55.0, None)))

    def answer(*policies: dict[str, dict[str, EvaluationReport]]) -> str:
        envs = ("walker2d-medium-v2", "hopper-medium-v2")
        records = [make_record(0, found, env=env, config=single) for env, found in zip(envs, policies, strict=True)]
        results = collect_results(fill_best(make_frame(records)))
        (sentence,) = describe_answer(records, results, compute_aggregates(collect_headlines(records, results)))
        return sentence

    one = answer({"offline": {"single": cut}}, {"offline": {"single": low}})
    assert one == "vdt has an interquartile mean of **15.0** offline, without interaction (1 of 2 data sets)."
    tuned = {"offline": {"single": low}, "online": {"single": high}}
    both = answer(tuned, {"offline": {"single": low}})
    assert "**15.0** offline, without interaction (2 data sets) and **55.0** after" in both
    assert both.endswith(" (1 of 2 data sets).")


def test_data_sets_without_an_environment_are_told_apart() -> None:
    records = [
        make_record(
            0,
            {},
            env="pen-human-v1",
            source="collected",
            held_out={"offline": HeldOutReport(2, 30, error, 1.2, None, None, None, None)},
            snapshot={"md5": f"md5-{seed}"},
            config={"data.seed": seed},
        )
        for seed, error in ((1, 0.1), (2, 0.9))
    ]
    first, second = describe_answer(records, [], [])
    assert first.startswith("**pen-human-v1**, collected (not D4RL), seed 1, has no environment: vdt misses")
    assert "by **0.1**, a constant by" in first and "by **0.9**, a constant by" in second
    assert [row[-5] for row in tabulate_answer(records, []).rows] == ["0.1", "0.9"]
    metrics = make_metrics(records, [])["pen-human-v1"]
    assert sorted(found["offline_action_error"] for found in metrics.values()) == [0.1, 0.9]


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


@pytest.mark.parametrize(("preset", "says"), [("smoke", True), ("laptop", False)])
def test_an_order_of_trials_is_called_none(preset: str, says: bool) -> None:
    single = {"planner.candidates": 1, "planner.planning_horizon": 1, "preset": preset}
    records = [
        make_record(seed, {"offline": {"single": make_evaluation([score])}}, config=single, method=method)
        for seed in (0, 1)
        for method, score in (("vdt", 1.0 + seed), ("dt", 5.0 + seed))
    ]
    results = collect_results(fill_best(make_frame(records)))
    (said,) = describe_answer(records, results, compute_aggregates(collect_headlines(records, results)))
    assert said.startswith("Preset smoke learns nothing, so this order says nothing of the methods. ") == says
    assert "**dt** scores highest of 2 methods" in said


def test_scores_that_are_equal_as_shown_are_no_win() -> None:
    single = {"planner.candidates": 1, "planner.planning_horizon": 1}
    records = [
        make_record(seed, {"offline": {"single": make_evaluation([score])}}, config=single, method=method)
        for seed in (0, 1)
        for method, score in (("vdt", 7.01), ("dt", 7.0), ("bc", 6.98), ("odt", 6.0))
    ]
    results = collect_results(fill_best(make_frame(records)))
    (said,) = describe_answer(records, results, compute_aggregates(collect_headlines(records, results)))
    assert "vdt, dt and bc score alike offline, without interaction: interquartile means 7.0, 7.0 and 7.0" in said
    assert "highest" not in said
