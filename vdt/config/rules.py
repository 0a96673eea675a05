"""Which settings of critic, policy and actor make sense together."""

from __future__ import annotations

from vdt.config.schema import ActorConfig, CriticConfig, PolicyConfig
from vdt.config.values import ConfigError


def check_objective(critic: CriticConfig, policy: PolicyConfig, actor: ActorConfig) -> None:
    """What the networks are trained on.

    Raises:
        ConfigError: naming the settings that contradict each other, and what is accepted.
    """
    _check_critic(critic, policy)
    _check_actor(critic, policy, actor)


def _check_critic(critic: CriticConfig, policy: PolicyConfig) -> None:
    if critic.bootstrap == "policy" and critic.gradient_steps == 0:
        raise ConfigError(
            "critic.bootstrap policy trains critic and actor together: critic.gradient_steps must not be 0"
        )
    if critic.conservative_coefficient > 0 and (critic.bootstrap != "policy" or policy.head != "gaussian"):
        raise ConfigError(
            f"critic.conservative_coefficient draws actions from the policy: it needs critic.bootstrap policy and "
            f"policy.head gaussian, not {critic.bootstrap} and {policy.head}"
        )
    if critic.target_action_noise > 0 and (critic.bootstrap != "policy" or policy.head != "deterministic"):
        raise ConfigError(
            f"critic.target_action_noise blurs the policy's action: it needs critic.bootstrap policy and "
            f"policy.head deterministic, not {critic.bootstrap} and {policy.head}"
        )


def _check_actor(critic: CriticConfig, policy: PolicyConfig, actor: ActorConfig) -> None:
    if actor.behavior_coefficient == 0 and actor.q_coefficient == 0:
        raise ConfigError("actor.behavior_coefficient and actor.q_coefficient are both 0: nothing trains the policy")
    if actor.behavior_coefficient == 0 and actor.inverse_temperature > 0:
        raise ConfigError(
            "actor.inverse_temperature weights the behaviour loss, but actor.behavior_coefficient is 0: "
            "set actor.inverse_temperature=0"
        )
    if actor.inverse_temperature > 0 and actor.advantage_unit == "reward" and actor.min_effective_sample_fraction > 0:
        raise ConfigError(
            "actor.advantage_unit reward takes actor.inverse_temperature as it is: "
            "set actor.min_effective_sample_fraction=0"
        )
    if actor.inverse_temperature > 0 and actor.advantage_unit == "deviation" and critic.bootstrap == "policy":
        raise ConfigError(
            "actor.advantage_unit deviation is fitted to a finished critic, but critic.bootstrap policy trains both "
            "together: set actor.advantage_unit=reward actor.min_effective_sample_fraction=0"
        )
    if policy.head == "gaussian" and actor.q_coefficient > 0 and actor.q_normalization == "gradient":
        raise ConfigError(
            "actor.q_normalization gradient is a displacement of one action, which policy.head gaussian does not have: "
            "accepted are magnitude and none"
        )
