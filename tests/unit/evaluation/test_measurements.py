"""A policy's measurements as its checkpoint holds them."""

from support.records import make_evaluation
from vdt.evaluation.measurements import measure_policy


def test_episodes_that_were_cut_have_names_that_say_so() -> None:
    whole = make_evaluation([1.0, 3.0], episode_returns=[30.0, 50.0], successes=[True, False], success_rate=0.5)
    cut = make_evaluation(
        [None, None], episode_returns=[30.0, 50.0], cut_at=50, successes=[True, False], success_rate=0.5
    )
    assert measure_policy({"single": whole, "candidates": cut}) == {
        "single": {"normalized_score": 2.0, "episode_return": 40.0, "success_rate": 0.5},
        "candidates": {"episode_return_of_50_steps": 40.0, "success_rate_of_50_steps": 0.5},
    }
