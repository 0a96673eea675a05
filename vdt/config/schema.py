"""Every section of the configuration: names, types, ranges and words of each key. Meanings and defaults: `params/`.

Each section is a frozen pydantic dataclass, so it checks what it is made of. `KEYS` lists every key with its range.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from vdt.config.types import (
    FLAG,
    MAPPING,
    NUMBER,
    TEXT,
    WHOLE,
    Flag,
    JsonMapping,
    Number,
    Numbers,
    Text,
    Texts,
    Whole,
    Wholes,
    read_items,
    read_json_mapping,
)
from vdt.system.files import make_file_name

CHECKED = ConfigDict(extra="forbid")

# Modules of vdt/environments/ with a function `bridge` and, where recordings pay or end otherwise, `relabel`.
Bridge = Literal["none", "adroit", "kitchen", "maze2d", "antmaze"]
BRIDGES: tuple[str, ...] = typing.get_args(Bridge)

Repair = Literal["timeouts_are_goals", "late_rewards", "goals_are_ends"]  # what vdt/datasets/repairs.py can put right
REPAIRS: tuple[str, ...] = typing.get_args(Repair)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class CollectedRecipe:
    """How the built-in data source stands in for a D4RL data set."""

    ladder: Text | None  # file of params/behavior/ without suffix; none where no behaviour policy exists
    snapshots: Wholes  # rungs of the ladder, each given an equal share of the steps, in this order
    # instead of a ladder: walks through a maze (vdt/behavior/waypoints.py)
    controller: Literal["none", "waypoints"]


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class TaskConfig:
    """Facts about one task (params/tasks/)."""

    family: Text
    environment_id: Text | None  # none: data without an environment
    environment_kwargs: JsonMapping  # of gymnasium.make, e.g. '{"ctrl_cost_weight": 0.1}'
    bridge: Bridge
    observation_size: Whole = Field(ge=1, le=100_000)
    action_size: Whole = Field(ge=1, le=10_000)
    action_low: Numbers  # of the environment; mapped to -1. Empty: the range is [-1, 1]
    action_high: Numbers
    horizon: Whole = Field(ge=1, le=1_000_000)
    reference_return_min: Number
    reference_return_max: Number
    reference: Text  # whose returns score 0 and 100 are
    return_scale: Number = Field(ge=1e-9)
    reward_scaling: Literal["return_range", "none"]
    reward_shift: Number
    candidate_returns: Numbers
    d4rl_url: Text
    d4rl_sha256: Text
    d4rl_repairs: Annotated[tuple[Repair, ...], BeforeValidator(read_items)]  # known faults of D4RL's file
    minari_ids: Texts
    licence: Text
    collected: CollectedRecipe


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class DataConfig:
    """Where the data comes from and how sub-trajectories are drawn."""

    source: Text
    steps: Whole = Field(ge=100, le=100_000_000)
    seed: Whole = Field(ge=0)
    held_out_fraction: Number = Field(ge=0.0, le=0.5)
    keep_best_fraction: Number = Field(ge=1e-6, le=1.0)
    min_observation_std: Number = Field(ge=0.0)
    trajectory_weighting: Literal["length", "uniform"]
    episode_ends: Literal["checked", "marked", "jumps", "horizon"]


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class CriticConfig:
    """Twin Q and V (M1, M2), or twin Q of the policy."""

    gradient_steps: Whole = Field(ge=0)
    batch_size: Whole = Field(ge=1)
    hidden_size: Whole = Field(ge=1)
    hidden_layers: Whole = Field(ge=1)
    activation: Literal["relu", "mish"]
    learning_rate: Number = Field(ge=0.0)
    discount: Number = Field(ge=0.0, le=1.0)
    n_step: Whole = Field(ge=1, le=1000)
    expectile: Number = Field(ge=0.0, le=1.0)
    target_update_rate: Number = Field(ge=0.0, le=1.0)
    bootstrap: Literal["value", "policy"]
    target_action_noise: Number = Field(ge=0.0)
    conservative_coefficient: Number = Field(ge=0.0)
    conservative_samples: Whole = Field(ge=1)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class PolicyConfig:
    """The network that proposes actions."""

    kind: Literal["transformer", "mlp"]
    context_length: Whole = Field(ge=1, le=1000)
    embedding_size: Whole = Field(ge=1)
    layers: Whole = Field(ge=1)
    heads: Whole = Field(ge=1)
    dropout: Number = Field(ge=0.0, le=0.9)
    head: Literal["deterministic", "gaussian"]
    initial_temperature: Number = Field(ge=1e-9)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class ActorConfig:
    """Policy training (M3)."""

    gradient_steps: Whole = Field(ge=1)
    batch_size: Whole = Field(ge=1)
    learning_rate: Number = Field(ge=0.0)
    warmup_steps: Whole = Field(ge=0)
    weight_decay: Number = Field(ge=0.0)
    gradient_clip: Number = Field(ge=0.0)
    behavior_coefficient: Number = Field(ge=0.0)
    inverse_temperature: Number = Field(ge=0.0)
    advantage_unit: Literal["deviation", "reward"]
    max_advantage_weight: Number = Field(ge=1.0)
    min_effective_sample_fraction: Number = Field(ge=0.0, le=1.0)
    q_coefficient: Number = Field(ge=0.0)
    q_normalization: Literal["gradient", "magnitude", "none"]
    next_observation_coefficient: Number = Field(ge=0.0)
    reward_coefficient: Number = Field(ge=0.0)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class PlannerConfig:
    """Choice between candidate returns while acting (M5, M6)."""

    candidates: Whole = Field(ge=1)
    planning_horizon: Whole = Field(ge=1, le=100)
    env_model: Literal["learned", "simulator", "none"]
    context_length: Whole = Field(ge=0, le=1000)
    forget_steps: Whole = Field(ge=1, le=1000)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class OnlineConfig:
    """Tuning with real interaction."""

    environment_steps: Whole = Field(ge=0)
    episodes_per_iteration: Whole = Field(ge=1)
    buffer_trajectories: Whole = Field(ge=1)
    critic_steps_per_iteration: Whole = Field(ge=0)
    actor_steps_per_iteration: Whole = Field(ge=0)
    actor_learning_rate: Number = Field(ge=0.0)
    exploration_noise: Number = Field(ge=0.0)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class EvaluationConfig:
    """Deterministic rollouts of a finished policy."""

    episodes: Whole = Field(ge=1)
    seed: Whole = Field(ge=0)
    max_episode_steps: Whole = Field(ge=0)
    lookahead_horizon: Whole = Field(ge=0, le=100)
    requested_episodes: Whole = Field(ge=0)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class CheckpointConfig:
    """How often training is made safe."""

    interval_seconds: Number = Field(ge=0.0)
    interval_steps: Whole = Field(ge=1)
    keep: Whole = Field(ge=1)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class RuntimeConfig:
    """The machine."""

    device: Literal["auto", "cpu", "cuda"]
    threads: Whole = Field(ge=0)
    precision: Literal["float32", "bfloat16"]
    compile: Flag
    acceleration: Literal["auto", "off"] = "auto"  # a default: what release 0.1 stored has no such key


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Config:
    """Everything a run needs to know, resolved."""

    env: Text
    preset: Text
    method: Text
    seed: Whole = Field(ge=0)
    task: TaskConfig
    data: DataConfig
    critic: CriticConfig
    policy: PolicyConfig
    actor: ActorConfig
    planner: PlannerConfig
    online: OnlineConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    runtime: RuntimeConfig

    @property
    def file_name(self) -> str:
        """`env` as part of a file's or folder's name."""
        return make_file_name(self.env)

    @property
    def has_environment(self) -> bool:
        """False for data without one: no rollouts, neither to tune online nor to measure returns."""
        return self.task.environment_id is not None

    def flatten(self) -> dict[str, Any]:
        """Return dotted key -> value, e.g. for MLflow's params."""
        return flatten(dataclasses.asdict(self))

    def to_mapping(self) -> dict[str, Any]:
        """Return nested plain values, as JSON has them; `config_from_mapping` reads them back."""
        plain: dict[str, Any] = _make_plain(dataclasses.asdict(self))
        return plain

    def to_yaml(self) -> str:
        """Return the resolved configuration as text; `config_from_yaml` reads it back."""
        return yaml.safe_dump(self.to_mapping(), sort_keys=False)

    def with_seed(self, seed: int) -> Config:
        """Return the same configuration for another seed."""
        return dataclasses.replace(self, seed=seed)


def _make_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _make_plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """What is accepted for one dotted key.

    Attributes:
        kind: `a whole number`, `a number`, `text`, `true or false`, or `a mapping of plain values`.
        low: smallest value, none if there is no bound.
        high: largest value, none if there is no bound.
        words: the accepted words, empty if any are.
        many: whether it is a list.
        optional: whether null is accepted.
    """

    kind: str
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()
    many: bool = False
    optional: bool = False


KINDS = {int: WHOLE, float: NUMBER, bool: FLAG, str: TEXT}


def describe(annotation: Any, metadata: typing.Sequence[Any] = ()) -> Key:
    """Return what an annotated type accepts."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return describe(inner[0], [*inner[1:], *metadata])
    if origin is tuple:
        return dataclasses.replace(describe(inner[0]), many=True)
    if origin is Literal:
        return Key(kind=TEXT, words=inner)
    if origin is not None:  # only `T | None` is used
        return dataclasses.replace(describe(inner[0]), optional=True)
    found = {name: getattr(item, name) for item in metadata for name in ("ge", "le", "func") if hasattr(item, name)}
    kind = MAPPING if found.get("func") is read_json_mapping else KINDS[annotation]
    return Key(kind=kind, low=found.get("ge"), high=found.get("le"))


def _list_keys(section: Any, prefix: str = "") -> Iterator[tuple[str, Key]]:
    """Yield every dotted key below a section, with what it accepts."""
    for name, item in section.__pydantic_fields__.items():
        if dataclasses.is_dataclass(item.annotation):
            yield from _list_keys(item.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", describe(item.annotation, item.metadata)


KEYS: Mapping[str, Key] = MappingProxyType(dict(_list_keys(Config)))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of a nested mapping; a key whose value is a mapping keeps it."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in KEYS:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested mapping of dotted keys, with every section, empty or not."""
    tree: dict[str, Any] = {}
    for key in (*KEYS, *flat):
        node = tree
        *sections, leaf = key.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        if key in flat:
            node[leaf] = flat[key]
    return tree
