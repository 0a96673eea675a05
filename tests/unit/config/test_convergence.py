"""Critics that cannot have converged: the audit's table, and who is warned of."""

import math

import pytest

from support.builders import make_config
from vdt.config.convergence import Convergence, describe_unfinished, estimate_convergence
from vdt.config.guidance import describe_idle_plans
from vdt.experiments.resolve import resolve_config

HOPPER = "hopper-medium-v2"
WALKER = "walker2d-medium-v2"


def estimate(steps: int, n: int, discount: float, every: int = 1) -> Convergence:
    settings = make_config({"critic.gradient_steps": steps, "critic.n_step": n, "critic.discount": discount}).flatten()
    found = estimate_convergence({**settings, "critic.target_update_rate": 0.005, "critic.target_every": every})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("steps", "n", "discount", "gap", "reach"),
    [  # method_audit's table: steps, n, discount, rest of the gap, a reward's way back
        (20_000, 5, 0.99, 0.007, 500),
        (20_000, 5, 0.995, 0.08, 500),
        (20_000, 5, 0.997, 0.22, 500),
        (20_000, 5, 0.999, 0.61, 500),
        (5_000, 5, 0.99, 0.29, 125),
        (20_000, 1, 0.99, 0.37, 100),
        (5_000, 1, 0.99, 0.78, 25),
        (1_000_000, 1, 0.99, 0.0, 5000),
    ],
)
def test_rest_of_the_gap_golden(steps: int, n: int, discount: float, gap: float, reach: float) -> None:
    found = estimate(steps, n, discount)
    assert found.gap == pytest.approx(gap, abs=0.0055 if gap > 0.01 else 0.0005)
    assert found.reach == pytest.approx(reach)
    assert estimate(math.ceil(found.enough), n, discount).gap == pytest.approx(math.exp(-5), rel=1e-3)


def test_targets_that_move_every_second_step_need_twice_as_many() -> None:
    assert estimate(20_000, 1, 0.99, every=2).gap == pytest.approx(math.exp(-0.5))
    assert estimate(20_000, 1, 0.99, every=2).enough == pytest.approx(200_000)


def test_nothing_is_estimated_without_a_critic_or_a_question() -> None:
    assert estimate_convergence(resolve_config(WALKER, method="dt").flatten()) is None
    nobody = "actor.inverse_temperature=0 actor.q_coefficient=0 planner.candidates=1"
    assert estimate_convergence(resolve_config(WALKER, overrides=nobody).flatten()) is None
    endless = estimate_convergence(resolve_config(WALKER, overrides="critic.discount=1").flatten())
    assert endless is not None and endless.gap == 1 and math.isinf(endless.enough)


def test_a_kind_of_critic_is_warned_of_once_whatever_the_seeds() -> None:
    configs = [
        resolve_config(env, method=method, seed=seed)
        for env in (WALKER, HOPPER)
        for method in ("vdt", "iql", "dt")
        for seed in range(3)
    ]
    iql, vdt = sorted(describe_unfinished(configs))
    assert iql == (
        "critic of iql on walker2d-medium-v2, hopper-medium-v2: 20,000 steps leave about 37% of the gap to its fixed point (n 1, "
        "discount 0.99, target rate 0.005) and carry a reward back 100 steps; 100,000 steps would leave 0.7 % "
        "(critic.gradient_steps, or --preset fair)"
    )
    assert (
        vdt.startswith("critic of vdt on hopper-medium-v2: 20,000 steps leave about 8% of the gap") and "40,402" in vdt
    )
    assert describe_unfinished([resolve_config(WALKER)]) == []  # 0.7 %


def test_a_critic_of_a_trial_run_is_named_in_few_words() -> None:
    (said,) = describe_unfinished([resolve_config(WALKER, preset="smoke")])
    assert said.endswith(
        "60 steps leave about 99% of the gap to its fixed point: enough to try things out, not for results"
    )


def test_a_look_ahead_without_a_choice_is_named() -> None:
    ahead = "planner.planning_horizon=3 planner.env_model=learned planner.candidates="
    configs = [resolve_config(env, overrides=f"{ahead}1") for env in (WALKER, HOPPER)]
    chosen = resolve_config(WALKER, overrides=f"{ahead}2")
    assert describe_idle_plans([chosen, resolve_config(WALKER, preset="laptop")]) == []
    assert describe_idle_plans(configs) == [
        f"vdt on {WALKER}, vdt on {HOPPER}: planner.planning_horizon 3 does nothing while planner.candidates is 1, as one "
        "return leaves nothing to choose; 2 or more would"
    ]
