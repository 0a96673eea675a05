"""Every section of the configuration as a frozen dataclass: names, types and ranges. Meanings and defaults: `params/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def knob(
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    json_mapping: bool = False,
) -> Any:
    """A field with an inclusive range, a closed set of words, or a JSON mapping kept as text."""
    return field(metadata={"low": low, "high": high, "choices": choices, "json_mapping": json_mapping})


# Modules of vdt/environments/ with a function `bridge` and, where recordings pay or end otherwise, `relabel`.
BRIDGES = ("none", "adroit", "kitchen", "maze2d", "antmaze")

REPAIRS = ("timeouts_are_goals", "late_rewards", "goals_are_ends")  # what vdt/datasets/repairs.py can put right


@dataclass(frozen=True, kw_only=True)
class CollectedRecipe:
    """How the built-in data source stands in for a D4RL data set."""

    ladder: str | None  # file of params/behavior/ without suffix; none where no behaviour policy exists
    snapshots: tuple[int, ...]  # rungs of the ladder, each given an equal share of the steps, in this order
    # instead of a ladder: walks through a maze (vdt/behavior/waypoints.py)
    controller: str = knob(choices=("none", "waypoints"))


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Facts about one task (params/tasks/)."""

    family: str
    environment_id: str | None  # none: data without an environment
    environment_kwargs: str = knob(json_mapping=True)  # of gymnasium.make, e.g. '{"ctrl_cost_weight": 0.1}'
    bridge: str = knob(choices=BRIDGES)
    observation_size: int = knob(low=1, high=100_000)
    action_size: int = knob(low=1, high=10_000)
    action_low: tuple[float, ...]  # of the environment; mapped to -1. Empty: the range is [-1, 1]
    action_high: tuple[float, ...]
    horizon: int = knob(low=1, high=1_000_000)
    reference_return_min: float
    reference_return_max: float
    reference: str  # whose returns score 0 and 100 are
    return_scale: float = knob(low=1e-9)
    reward_scaling: str = knob(choices=("return_range", "none"))
    reward_shift: float
    candidate_returns: tuple[float, ...]
    d4rl_url: str
    d4rl_sha256: str
    d4rl_repairs: tuple[str, ...] = knob(choices=REPAIRS)  # known faults of D4RL's file
    minari_ids: tuple[str, ...]
    licence: str
    collected: CollectedRecipe


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data comes from and how sub-trajectories are drawn."""

    source: str
    steps: int = knob(low=100, high=100_000_000)
    seed: int = knob(low=0)
    held_out_fraction: float = knob(low=0.0, high=0.5)
    keep_best_fraction: float = knob(low=1e-6, high=1.0)
    min_observation_std: float = knob(low=0.0)
    trajectory_weighting: str = knob(choices=("length", "uniform"))


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """Twin Q and V (M1, M2), or twin Q of the policy."""

    gradient_steps: int = knob(low=0)
    batch_size: int = knob(low=1)
    hidden_size: int = knob(low=1)
    hidden_layers: int = knob(low=1)
    activation: str = knob(choices=("relu", "mish"))
    learning_rate: float = knob(low=0.0)
    discount: float = knob(low=0.0, high=1.0)
    n_step: int = knob(low=1, high=1000)
    expectile: float = knob(low=0.0, high=1.0)
    target_update_rate: float = knob(low=0.0, high=1.0)
    bootstrap: str = knob(choices=("value", "policy"))
    target_action_noise: float = knob(low=0.0)
    conservative_coefficient: float = knob(low=0.0)
    conservative_samples: int = knob(low=1)


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The network that proposes actions."""

    kind: str = knob(choices=("transformer", "mlp"))
    context_length: int = knob(low=1, high=1000)
    embedding_size: int = knob(low=1)
    layers: int = knob(low=1)
    heads: int = knob(low=1)
    dropout: float = knob(low=0.0, high=0.9)
    head: str = knob(choices=("deterministic", "gaussian"))
    initial_temperature: float = knob(low=1e-9)


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    """Policy training (M3)."""

    gradient_steps: int = knob(low=1)
    batch_size: int = knob(low=1)
    learning_rate: float = knob(low=0.0)
    warmup_steps: int = knob(low=0)
    weight_decay: float = knob(low=0.0)
    gradient_clip: float = knob(low=0.0)
    behavior_coefficient: float = knob(low=0.0)
    inverse_temperature: float = knob(low=0.0)
    advantage_unit: str = knob(choices=("deviation", "reward"))
    max_advantage_weight: float = knob(low=1.0)
    min_effective_sample_fraction: float = knob(low=0.0, high=1.0)
    q_coefficient: float = knob(low=0.0)
    q_normalization: str = knob(choices=("gradient", "magnitude", "none"))
    next_observation_coefficient: float = knob(low=0.0)
    reward_coefficient: float = knob(low=0.0)


@dataclass(frozen=True, kw_only=True)
class PlannerConfig:
    """Choice between candidate returns while acting (M5, M6)."""

    candidates: int = knob(low=1)
    planning_horizon: int = knob(low=1, high=100)
    env_model: str = knob(choices=("learned", "simulator", "none"))
    context_length: int = knob(low=0, high=1000)
    forget_steps: int = knob(low=1, high=1000)


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """Tuning with real interaction."""

    environment_steps: int = knob(low=0)
    episodes_per_iteration: int = knob(low=1)
    buffer_trajectories: int = knob(low=1)
    critic_steps_per_iteration: int = knob(low=0)
    actor_steps_per_iteration: int = knob(low=0)
    actor_learning_rate: float = knob(low=0.0)
    exploration_noise: float = knob(low=0.0)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Deterministic rollouts of a finished policy."""

    episodes: int = knob(low=1)
    seed: int = knob(low=0)
    max_episode_steps: int = knob(low=0)
    lookahead_horizon: int = knob(low=0, high=100)
    requested_episodes: int = knob(low=0)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often training is made safe."""

    interval_seconds: float = knob(low=0.0)
    interval_steps: int = knob(low=1)
    keep: int = knob(low=1)


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """The machine."""

    device: str = knob(choices=("auto", "cpu", "cuda"))
    threads: int = knob(low=0)
    precision: str = knob(choices=("float32", "bfloat16"))
    compile: bool
    acceleration: str = knob(choices=("auto", "off"))
