"""A report in few words."""

import math
from dataclasses import replace

import pytest

from support.records import make_evaluation, make_record
from unit.reporting.test_frame import make_policies
from vdt.evaluation.records import Calibration, CellRecord, Diagnostics, HeldOutReport, ParameterCounts
from vdt.reporting.frame import collect_results, fill_best, make_frame
from vdt.reporting.summary import SCREEN, describe_end, make_metrics

POLICY = "/srv/me/.vdt/checkpoints/VDTFlow/1795883436140285/tune_online/walker2d-medium-v2-vdt-s0/online-20000.pt"
REPORT = "/srv/me/reports/1795883436140285/report.md"
CARD = "python flows/vdt_flow.py card view 1795883436140285/report/8"
PAGE = "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"
NEXT = "python flows/vdt_flow.py run --env walker2d-medium-v2 --seeds 0,1,2"
PLACES = {"policy": [POLICY], "report": [REPORT], "card": [CARD], "runs": [PAGE], "served by": [""], "next": [NEXT]}


def make_cell(seed: int, env: str = "walker2d-medium-v2", method: str = "vdt") -> CellRecord:
    policies = make_policies(2.0 * seed)
    policies["online"]["lookahead"] = make_evaluation([91.0 + seed, 93.0 + seed], (5000.0, 2500.0), 3)
    return make_record(seed, policies, env=env, method=method)


def test_end_of_a_run_by_hand() -> None:
    first, scores, empty, *below = describe_end([make_cell(0), make_cell(1)], PLACES)
    assert first == "walker2d-medium-v2, collected (not D4RL), data's mean 62.5"
    # the look-ahead that is acted with: seeds 71 and 73, then 92 and 93; returns 46 times the mean
    assert scores == "  vdt  offline 72.0 ± 1.0 (return 3312) -> online 92.5 ± 0.5 (return 4255)"
    assert empty == ""
    assert below == [
        *("policy", f"  {POLICY}", f"report   {REPORT}", f"card     {CARD}", f"runs     {PAGE}", f"next     {NEXT}")
    ], "a value is never broken: it is there to be copied"
    policies = {
        name: {"lookahead": make_evaluation([1000.25, 999.75])} for name in ("offline", "online", "online_best")
    }
    assert describe_end([make_record(0, policies, method="a-method-of-your-own")], {})[1] == (
        "  a-method-of-your-own  offline 1000.0 ± 0.2 -> online 1000.0 ± 0.2 -> best checkpoint 1000.0 ± 0.2"
    ), "where there is no room, returns are left out"
    two = {"policy": [POLICY, "another"]}
    assert describe_end([make_cell(0)], two)[-2] == "policy (first of 2)"
    assert describe_end([make_cell(0)], two, first="best-ranked")[-2:] == ["policy (best-ranked of 2)", f"  {POLICY}"]


def test_end_of_a_study_fits_a_screen() -> None:
    lines, columns = SCREEN
    envs = [f"halfcheetah-medium-expert-v{number}" for number in range(30)]
    shown = describe_end([make_cell(0, env, method="iql") for env in envs], PLACES)
    assert len(shown) == lines - 1, "the path above takes two lines of a terminal"
    assert max(len(line) for line in shown if not line.startswith("  /")) <= columns
    scores = shown[: shown.index("")]
    assert scores[-1] == f"... and {2 * len(envs) - len(scores) + 1} more lines, in the report"


def test_end_of_a_run_says_what_was_cut_and_what_had_no_environment() -> None:
    cut = {key: make_evaluation([None, None], episode_returns=[30.0, 50.0], cut_at=50) for key in ("lookahead",)}
    assert describe_end([make_record(0, {"offline": cut})], {}) == [
        "walker2d-medium-v2, collected (not D4RL), data's mean 62.5; ± over episodes",
        "  episodes cut at 50 steps: no score",
        "  vdt  offline return 40.00 ± 10.00",
        "",
    ]
    held_out = HeldOutReport(2, 30, 0.25, 0.5, None, None, None, None)
    alone = make_record(0, {}, env="data:mine.npz", source="path", held_out={"offline": held_out})
    assert describe_end([alone], {}) == ["data:mine.npz, vdt, seed 0: offline action error 0.25 (a constant's 0.5)", ""]


def test_no_cell_of_an_env_has_a_score_where_some_were_cut() -> None:
    """As under preset `smoke`: one method falls within its few steps, the other goes on and is cut."""
    cut = {"lookahead": make_evaluation([None, 1.0], episode_returns=[30.0, 50.0], cut_at=50)}
    records = [
        make_record(0, {"offline": {"lookahead": make_evaluation([1.0, 2.0])}}),
        make_record(0, {"offline": cut}, method="dt"),
        make_cell(0, "hopper-medium-v2"),
    ]
    assert describe_end(records, {}) == [
        "walker2d-medium-v2, collected (not D4RL), data's mean 62.5; ± over episodes",
        "  episodes of 1 of 2 cells were cut at 50 steps: no scores; returns are in the report",
        "  vdt  offline return 69.00 ± 23.00",
        "  dt   offline return 40.00 ± 10.00",
        "hopper-medium-v2, collected (not D4RL), data's mean 62.5; ± over episodes",
        "  vdt  offline 71.0 ± 0.0 (return 3266) -> online 92.0 ± 1.0 (return 4232)",
        "",
    ]


def test_the_screen_says_which_critics_do_not_guide() -> None:
    def make(seed: int, correlation: float, *, second: bool) -> CellRecord:
        cell = make_cell(seed)
        test = Diagnostics(ParameterCounts(1, 1), 0, history_correlation=correlation, second_critic=second)
        config = {**cell.config, "actor.max_history_correlation": 0.25}
        return replace(cell, config=config, evaluation=replace(cell.evaluation, diagnostics={"offline": test}))

    failed = "  vdt's critic failed its test: trained and acts as dt (docs/method.md)"
    followed = "  vdt trained offline as dt{}: its critic failed its test, a second guides tuning (docs/method.md)"
    said = {
        (second, correlation): describe_end([make(0, correlation, second=second)], {})
        for second in (False, True)
        for correlation in (0.1, 0.3)
    }
    assert [failed in lines for lines in said.values()] == [False, True, False, True]
    assert [followed.format("") in lines for lines in said.values()] == [False, False, True, False]
    both = describe_end([make(0, 0.1, second=True), make(1, 0.1, second=False)], {})
    assert followed.format(" in 1 of 2").strip() in " ".join(" ".join(both).split())


def test_unfinished_critics_are_named_on_the_last_screen_and_in_the_metrics() -> None:
    critic = {"critic.gradient_steps": 20_000, "critic.n_step": 1, "critic.discount": 0.99}
    critic |= {"critic.target_update_rate": 0.005, "actor.inverse_temperature": 1, "actor.q_coefficient": 0}
    calibration = Calibration([1.0, 2.0], [1.5, 2.5], steps=4, bias=-0.5, correlation=None)
    found = {"offline": Diagnostics(ParameterCounts(1, 1), 0, None, calibration)}
    plain = make_cell(0).config
    records = [
        replace(
            make_cell(0), config={**plain, **critic}, evaluation=replace(make_cell(0).evaluation, diagnostics=found)
        )
    ]
    assert "  unfinished critics: vdt 37% of the gap left" in describe_end(records, {})
    (numbers,) = make_metrics(records, collect_results(make_frame(records)))["walker2d-medium-v2"].values()
    assert numbers["critic_expected_gap"] == pytest.approx(math.exp(-1))
    assert numbers["offline_critic_bias"] == -0.5
    finished = [replace(records[0], config={**plain, **critic, "critic.gradient_steps": 100_000})]
    assert not any("unfinished" in line for line in describe_end(finished, {}))


def test_metrics_are_numbers_in_mappings() -> None:
    dt = make_record(  # acts with its candidates, without a longer look-ahead
        0, {"offline": make_policies(0.0)["offline"]}, method="dt", config={"planner.planning_horizon": 1}
    )
    records = [make_cell(0), make_cell(1), dt]
    metrics = make_metrics(records, collect_results(fill_best(make_frame(records))))
    assert metrics == {
        "walker2d-medium-v2": {
            "vdt": {
                **{"offline_score": 72.0, "offline_score_standard_error": 1.0, "offline_return": 3312.0},
                **{"online_score": 92.5, "online_score_standard_error": 0.5, "online_return": 4255.0},
            },
            "dt": {"offline_score": 76.0, "offline_score_standard_error": 1.0, "offline_return": 3496.0},
        }
    }
    both = [make_record(0, make_policies(0.0)), make_record(0, make_policies(0.0), source="d4rl")]
    named = make_metrics(both, collect_results(make_frame(both)))["walker2d-medium-v2"]
    assert set(named) == {"vdt, collected 0123abcd smoke", "vdt, d4rl 0123abcd smoke"}


def test_a_long_line_goes_on_below_and_no_word_is_cut() -> None:
    cut = {"single": make_evaluation([None, None], cut_at=50, episode_returns=[-300.0, -200.0])}
    env = f"data:{'a' * 70}"
    first, second, *_ = describe_end([make_record(0, {"offline": cut}, env=env, config={"planner.candidates": 1})], {})
    assert first.startswith(f"{env}, collected") and second.endswith("data's mean 62.5; ± over episodes")
    assert max(len(first), len(second)) <= SCREEN[1]
