"""Rules on combinations of settings: one function per rule, which returns what is wrong or nothing."""

from __future__ import annotations

from collections.abc import Callable

from vdt.config.errors import ConfigError, suggest
from vdt.config.guidance import asks_critic, must_test_critic
from vdt.config.schema import Config

SOURCES = ("auto", "collected", "d4rl", "minari")
Rule = Callable[[Config], str | None]
RULES: list[Rule] = []


def rule(check: Rule) -> Rule:
    """Register a rule in `RULES`, in the order of this file."""
    RULES.append(check)
    return check


def check_rules(config: Config) -> None:
    """Apply all rules.

    Raises:
        ConfigError: naming the settings that contradict each other, and what is accepted.
    """
    for check in RULES:
        if said := check(config):
            raise ConfigError(said)


def predicts_outcomes(config: Config) -> bool:
    """Return whether the policy learns to predict observations and rewards, as a learned model needs."""
    return config.actor.next_observation_coefficient > 0 and config.actor.reward_coefficient > 0


def _name_turns(config: Config) -> str:
    """Return the setting by which critic and actor take turns."""
    return "critic.bootstrap policy" if config.critic.bootstrap == "policy" else "critic.order together"


@rule
def source_is_known(config: Config) -> str | None:
    """Check that the source is one of the accepted words, or a path."""
    source = config.data.source
    if source in SOURCES or (source.startswith("path:") and len(source) > len("path:")):
        return None
    accepted = (*SOURCES, "path:FILE")
    named = f"{', '.join(accepted[:-1])} or {accepted[-1]}"
    return f"--source must be {named}, not {source!r}{suggest(source, accepted)}"


@rule
def second_ladder_collects_data(config: Config) -> str | None:
    """Check that data of the second ladder is asked of the source that has it, for a robot that has one."""
    if config.data.ladder == "first":
        return None
    if config.data.source != "collected":
        return f"data.ladder second needs --source collected, not {config.data.source}"
    if config.task.collected.second_ladder is None:
        return f"data.ladder is second, but {config.env} has no second ladder (task.collected.second_ladder); accepted is first"
    return None


@rule
def action_range_fits_actions(config: Config) -> str | None:
    """Check that the range of actions has one pair of numbers for each component, or none."""
    task = config.task
    if len(task.action_low) == len(task.action_high) and len(task.action_low) in (0, task.action_size):
        return None
    return f"task.action_low and task.action_high need {task.action_size} numbers each, or none"


@rule
def action_range_is_not_empty(config: Config) -> str | None:
    """Check that each component's lowest action is below its highest."""
    if all(low < high for low, high in zip(config.task.action_low, config.task.action_high, strict=True)):
        return None
    return "task.action_low must be below task.action_high in every component"


@rule
def simulator_can_be_copied(config: Config) -> str | None:
    """Refuse the simulator with a bridge: bridges have state that a copy of the simulator lacks."""
    bridge = config.task.bridge
    if not config.has_environment or config.planner.env_model != "simulator" or bridge == "none":
        return None
    return (
        f"planner.env_model is simulator, but copies of its state lack what {config.env}'s bridge "
        f"({bridge}) remembers; accepted are learned, none"
    )


@rule
def margin_has_two_critics(config: Config) -> str | None:
    """Check that the critic's disagreement, by which a candidate is left, is that of two networks or more."""
    if config.planner.select != "margin" or config.planner.candidates == 1 or config.critic.members > 1:
        return None
    return "planner.select is margin, the disagreement of several Q, but critic.members is 1; accepted is 2 or more"


@rule
def online_phase_has_environment(config: Config) -> str | None:
    """Check that online tuning has an environment."""
    steps = config.online.environment_steps
    if config.has_environment or steps == 0:
        return None
    return (
        f"online.environment_steps is {steps}, but {config.env} has no environment: "
        f"online tuning is not available; accepted is 0, or name one: --set task.environment_id=ID"
    )


@rule
def simulator_has_environment(config: Config) -> str | None:
    """Check that the simulator model has an environment, which it is."""
    if config.has_environment or config.planner.env_model != "simulator":
        return None
    return f"planner.env_model is simulator, but {config.env} has no environment"


@rule
def something_is_evaluated(config: Config) -> str | None:
    """Check that held-out data measures the policy where there is no environment."""
    if config.has_environment or config.data.held_out_fraction > 0:
        return None
    return f"data.held_out_fraction is 0, but {config.env} has no environment: nothing would be evaluated"


@rule
def heads_divide_embedding(config: Config) -> str | None:
    """Check that each attention head has the same share of the embedding."""
    policy = config.policy
    if policy.kind != "transformer" or policy.embedding_size % policy.heads == 0:
        return None
    return f"policy.embedding_size ({policy.embedding_size}) must be a multiple of policy.heads ({policy.heads})"


@rule
def acting_context_was_trained(config: Config) -> str | None:
    """Check that a policy acts upon no longer a history than it is trained on."""
    acted, trained = config.planner.context_length, config.policy.context_length
    if acted <= trained:
        return None
    return f"planner.context_length ({acted}) must not exceed what the policy is trained on, policy.context_length ({trained})"


@rule
def long_plan_has_model(config: Config) -> str | None:
    """Check that looking further ahead than one step has a model of the environment."""
    if config.planner.planning_horizon == 1 or config.planner.env_model != "none":
        return None
    return "planner.planning_horizon > 1 needs planner.env_model learned or simulator, not none"


@rule
def mlp_predicts_actions_alone(config: Config) -> str | None:
    """Refuse prediction losses for the memoryless network, which has no heads for observations and rewards."""
    actor = config.actor
    if config.policy.kind != "mlp" or actor.next_observation_coefficient == actor.reward_coefficient == 0:
        return None
    predicts = "actor.next_observation_coefficient=0 actor.reward_coefficient=0"
    return f"policy.kind mlp predicts no observations or rewards: set {predicts}"


@rule
def joint_training_has_critic_steps(config: Config) -> str | None:
    """Check that a critic that bootstraps from the policy is trained with it."""
    critic, actor = config.critic, config.actor
    if not config.trains_together:
        return None
    if not config.has_trained_critic:
        return f"{_name_turns(config)} trains critic and actor together: critic.gradient_steps must not be 0"
    if actor.gradient_steps == 0 and critic.gradient_steps > 0:
        return (
            f"{_name_turns(config)} trains critic and actor together: critic.gradient_steps is "
            f"{critic.gradient_steps}, but actor.gradient_steps is 0; set critic.gradient_steps=0 too"
        )
    return None


@rule
def actor_is_trained(config: Config) -> str | None:
    """Check that a policy that is not trained offline was trained before."""
    if config.actor.gradient_steps > 0 or config.init.policy:
        return None
    return "actor.gradient_steps is 0, but no trained policy is given: accepted is at least 1, or --init-from POLICY"


@rule
def targets_wait_for_policy(config: Config) -> str | None:
    """Check that targets which move at some steps alone are those of a critic of the policy, as TD3's."""
    every, bootstrap = config.critic.target_every, config.critic.bootstrap
    if every == 1 or bootstrap == "policy":
        return None
    return f"critic.target_every ({every}) needs critic.bootstrap policy, not {bootstrap}; accepted is 1"


@rule
def windows_fill_batch(config: Config) -> str | None:
    """Check that transitions which share a pass of the policy belong to a critic of the policy, and fill its batch."""
    critic, count = config.critic, config.critic_window
    if critic.window_steps == 1 or (critic.bootstrap == "policy" and critic.batch_size % count == 0):
        return None
    return (
        f"critic.window_steps ({critic.window_steps}) needs critic.bootstrap policy and critic.batch_size in whole windows "
        f"of {count}, not {critic.bootstrap} and {critic.batch_size}; accepted is 1"
    )


@rule
def warm_start_ends(config: Config) -> str | None:
    """Check that a warm start has a Q term to leave out, and steps after it."""
    actor = config.actor
    if actor.warm_start_steps == 0 or actor.gradient_steps == 0:
        return None
    if actor.q_coefficient == 0:
        return (
            "actor.warm_start_steps leaves the Q term out, but actor.q_coefficient is 0: set actor.warm_start_steps=0"
        )
    if actor.warm_start_steps >= actor.gradient_steps:
        return (
            f"actor.warm_start_steps ({actor.warm_start_steps:,}) must be fewer than actor.gradient_steps "
            f"({actor.gradient_steps:,})"
        )
    return None


@rule
def conservative_term_has_proposals(config: Config) -> str | None:
    """Check that CQL's term has a stochastic policy to draw actions from."""
    critic, head = config.critic, config.policy.head
    if critic.conservative_coefficient == 0 or (critic.bootstrap == "policy" and head == "gaussian"):
        return None
    return (
        f"critic.conservative_coefficient draws actions from the policy: it needs critic.bootstrap policy and "
        f"policy.head gaussian, not {critic.bootstrap} and {head}"
    )


@rule
def target_noise_has_policy_action(config: Config) -> str | None:
    """Check that TD3's noise has a policy's single action to be added to."""
    critic, head = config.critic, config.policy.head
    if critic.target_action_noise == 0 or (critic.bootstrap == "policy" and head == "deterministic"):
        return None
    return (
        f"critic.target_action_noise blurs the policy's action: it needs critic.bootstrap policy and "
        f"policy.head deterministic, not {critic.bootstrap} and {head}"
    )


@rule
def something_trains_policy(config: Config) -> str | None:
    """Check that the behaviour term or the Q term trains the policy."""
    if config.actor.behavior_coefficient > 0 or config.actor.q_coefficient > 0:
        return None
    return "actor.behavior_coefficient and actor.q_coefficient are both 0: nothing trains the policy"


@rule
def weights_have_behavior_loss(config: Config) -> str | None:
    """Check that advantage weights have a behaviour loss to multiply."""
    if config.actor.behavior_coefficient > 0 or config.actor.inverse_temperature == 0:
        return None
    return (
        "actor.inverse_temperature weights the behaviour loss, but actor.behavior_coefficient is 0: "
        "set actor.inverse_temperature=0"
    )


@rule
def reward_unit_keeps_temperature(config: Config) -> str | None:
    """Check that an advantage in units of reward is not fitted to a share of the data."""
    actor = config.actor
    weighted = actor.inverse_temperature > 0 and actor.advantage_unit == "reward"
    if not weighted or actor.min_effective_sample_fraction == 0:
        return None
    return "actor.advantage_unit reward takes actor.inverse_temperature as it is: set actor.min_effective_sample_fraction=0"


@rule
def deviation_unit_has_finished_critic(config: Config) -> str | None:
    """Check that the advantage's standard deviation can be measured before the actor trains."""
    actor = config.actor
    weighted = actor.inverse_temperature > 0 and actor.advantage_unit == "deviation"
    if not weighted or not config.trains_together:
        return None
    return (
        f"actor.advantage_unit deviation is fitted to a finished critic, but {_name_turns(config)} trains both "
        "together: set actor.advantage_unit=reward actor.min_effective_sample_fraction=0"
    )


@rule
def trust_has_finished_critic(config: Config) -> str | None:
    """Check that a critic whose errors are tested is finished before the actor trains, and that the actor can do without it."""
    if not must_test_critic(config):
        return None
    if config.trains_together:
        return (
            f"actor.max_history_correlation is compared with the errors of a finished critic, but {_name_turns(config)} "
            "trains both together: set actor.max_history_correlation=1"
        )
    if config.actor.behavior_coefficient == 0:
        return (
            "actor.max_history_correlation below 1 may leave the critic out, but actor.behavior_coefficient is 0 and "
            "nothing else trains the policy: set actor.max_history_correlation=1"
        )
    return None


@rule
def learned_model_is_trained(config: Config) -> str | None:
    """Check that a learned model has the heads that predict observations and rewards."""
    planner = config.planner
    imagines = planner.planning_horizon > 1 or config.evaluation.lookahead_horizon > 1
    if planner.candidates == 1 or not imagines or planner.env_model == "simulator" or predicts_outcomes(config):
        return None
    return (
        "a look-ahead with the learned env_model needs "
        "actor.next_observation_coefficient and actor.reward_coefficient above 0"
    )


@rule
def critic_in_use_is_trained(config: Config) -> str | None:
    """Check that weights, the Q term and the choice of a candidate have a trained critic."""
    if not asks_critic(config) or config.has_trained_critic:
        return None
    return (
        "critic.gradient_steps is 0, but actor.inverse_temperature, actor.q_coefficient or planner.candidates "
        f"uses the critic{', and that of init.policy is not trained either' if config.init.policy else ''}"
    )


@rule
def some_return_is_requested(config: Config) -> str | None:
    """Check that at least one return is requested of a policy."""
    return None if config.task.candidate_returns else "task.candidate_returns must name at least one return"


@rule
def quantiles_are_shares(config: Config) -> str | None:
    """Check that the quantiles of the data's returns are shares, and at least one."""
    shares = config.planner.return_quantiles
    if shares and all(0 <= share <= 1 for share in shares):
        return None
    return f"planner.return_quantiles must be one or more numbers from 0 to 1, not {list(shares)}"
