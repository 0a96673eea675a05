"""Whether a configuration asks its critic, whether that critic must pass a test first, and what follows for look-ahead."""

from __future__ import annotations

from collections.abc import Iterable

from vdt.config.schema import Config


def asks_critic(config: Config) -> bool:
    """Return whether weights, the Q term or the choice of a return ask the critic."""
    return config.actor.inverse_temperature > 0 or config.actor.q_coefficient > 0 or config.planner.candidates > 1


def must_test_critic(config: Config) -> bool:
    """Return whether the critic may be found unfit to guide: asked, and by a policy that sees more than one state."""
    sees_more = config.policy.kind == "transformer" and config.policy.context_length > 1
    return config.actor.max_history_correlation < 1 and sees_more and asks_critic(config)


def tries_second_critic(config: Config) -> bool:
    """Return whether a critic that fails its test is followed by one of other draws (`critic.second_weighting`).

    That one guides online tuning and the choice of a return. Where there is neither, it would serve nothing.
    """
    second = config.critic.second_weighting
    alone = config.critic.gradient_steps > 0 and not config.trains_together
    serves = config.online.environment_steps > 0 or config.planner.candidates > 1
    return second not in ("none", config.data.trajectory_weighting) and alone and serves and must_test_critic(config)


def may_guide(history_correlation: float | None, limit: float) -> bool:
    """Return whether a critic may guide: its errors' correlation is at most the limit, or was not measured."""
    return history_correlation is None or history_correlation <= limit


def compute_guidance_strength(history_correlation: float | None, limit: float, scaling: str) -> float:
    """Compute by what lambda and eta are multiplied: 0 where the critic may not guide, at most 1.

    Args:
        history_correlation: of the critic's errors before and after a step; none where it was not measured, then 1.
        limit: `actor.max_history_correlation`.
        scaling: `actor.guidance_scaling`. linear: 1 - correlation / limit, so that nothing jumps at the limit.
    """
    if not may_guide(history_correlation, limit):
        return 0.0
    if history_correlation is None or history_correlation <= 0 or scaling == "constant":
        return 1.0
    return 1.0 - history_correlation / limit


def can_choose(setting: str, env_model: object, *, guided: bool) -> bool:
    """Return whether look-ahead makes a loaded policy choose among returns.

    Args:
        setting: that it acts with (`vdt.evaluation.records.name_setting`); "single" has one return.
        env_model: `planner.env_model`; a loaded policy has no simulator.
        guided: whether its critic may guide.
    """
    return setting != "single" and env_model != "simulator" and guided


def describe_idle_plans(configs: Iterable[Config]) -> list[str]:
    """Return one sentence for each horizon that is looked ahead to no end, since one return leaves nothing to choose."""
    idle: dict[int, dict[str, None]] = {}
    for config in configs:
        if config.planner.candidates == 1 and config.planner.planning_horizon > 1:
            idle.setdefault(config.planner.planning_horizon, {})[f"{config.method} on {config.env}"] = None
    return [
        f"{', '.join(who)}: planner.planning_horizon {horizon} does nothing while planner.candidates is 1, as one return "
        "leaves nothing to choose; 2 or more would"
        for horizon, who in idle.items()
    ]
