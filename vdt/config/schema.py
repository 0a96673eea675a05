"""Every section of the configuration: names, types, ranges and words of each key.

Each section is a frozen pydantic dataclass, so it validates its values. `KEYS` lists every key with its range.
Defaults and meanings stand in `params/vdt.yaml`. A key that has none there (facts of a task, options of the command line) has
its meaning here, as `description`. The few defaults here are for stored configurations of earlier releases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from vdt.config.errors import ConfigError
from vdt.config.task import TaskConfig
from vdt.config.types import CHECKED, Flag, Key, Number, Numbers, Text, Whole, describe
from vdt.system.files import make_file_name


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class DataConfig:
    """Origin of the data, and how sub-trajectories are drawn."""

    source: Text = Field(description="`--source`: auto, collected, d4rl, minari, or path:FILE")
    steps: Whole = Field(ge=100, le=100_000_000)
    seed: Whole = Field(ge=0)
    held_out_fraction: Number = Field(ge=0.0, le=0.5)
    keep_best_fraction: Number = Field(ge=1e-6, le=1.0)
    min_observation_std: Number = Field(ge=0.0)
    trajectory_weighting: Literal["length", "uniform", "return"]
    episode_ends: Literal["checked", "marked", "jumps", "horizon"] = "checked"  # new since release 0.1
    return_temperature: Number = Field(default=1.0, ge=1e-3)  # this and the following: new since release 0.2
    window_start: Literal["inside", "before"] = "inside"
    observation_clip: Number = Field(default=0.0, ge=0.0)
    residence: Literal["auto", "memory", "mapped"] = "auto"
    ladder: Literal["first", "second"] = "first"
    beyond_horizon: Literal["keep", "drop"] = "keep"


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class InitConfig:
    """Trained policy whose networks training begins from; all new since release 0.2."""

    policy: Text = ""
    sha256: Text = ""
    critic_steps: Whole = 0


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
    order: Literal["first", "together"] = "first"  # from here on new since release 0.2
    target_every: Whole = Field(default=1, ge=1)
    members: Whole = Field(default=2, ge=1, le=100)
    layer_norm: Flag = False
    second_weighting: Literal["none", "return"] = "none"
    window_steps: Whole = Field(default=1, ge=1, le=1000)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class PolicyConfig:
    """The network that proposes actions."""

    kind: Literal["transformer", "mlp"]
    context_length: Whole = Field(ge=1, le=1000)
    embedding_size: Whole = Field(ge=1)
    layers: Whole = Field(ge=1)
    heads: Whole = Field(ge=1)
    dropout: Number = Field(ge=0.0, le=0.9)
    head: Literal["deterministic", "gaussian", "normal"]
    initial_temperature: Number = Field(ge=1e-9)
    hidden_size: Whole = Field(default=256, ge=1)  # these three new since release 0.2
    hidden_layers: Whole = Field(default=2, ge=1)
    return_embedding: Literal["linear", "fourier"] = "linear"

    def get_acting_context(self, wanted: int) -> int:
        """Return the number of steps of history that the policy acts upon where `wanted` are asked for; 0 means K."""
        return 1 if self.kind == "mlp" else wanted or self.context_length


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class ActorConfig:
    """Policy training (M3)."""

    gradient_steps: Whole = Field(ge=0)
    batch_size: Whole = Field(ge=1)
    learning_rate: Number = Field(ge=0.0)
    warmup_steps: Whole = Field(ge=0)
    weight_decay: Number = Field(ge=0.0)
    gradient_clip: Number = Field(ge=0.0)
    behavior_coefficient: Number = Field(ge=0.0)
    inverse_temperature: Number = Field(ge=0.0)
    advantage_unit: Literal["deviation", "reward"]
    advantage_scale: Literal["std", "iqr"] = "std"  # new since release 0.2
    max_advantage_weight: Number = Field(ge=1.0)
    min_effective_sample_fraction: Number = Field(ge=0.0, le=1.0)
    q_coefficient: Number = Field(ge=0.0)
    q_normalization: Literal["gradient", "magnitude", "none"]
    next_observation_coefficient: Number = Field(ge=0.0)
    reward_coefficient: Number = Field(ge=0.0)
    learning_rate_schedule: Literal["cosine", "constant"] = "cosine"  # this and the following: new since release 0.2
    q_source: Literal["min_target", "q1"] = "min_target"
    warm_start_steps: Whole = Field(default=0, ge=0)
    max_history_correlation: Number = Field(default=1.0, ge=0.0, le=1.0)
    trajectory_weighting: Literal["same", "length", "uniform", "return"] = "same"
    start_fraction: Number = Field(default=0.0, ge=0.0, le=1.0)
    guidance_scaling: Literal["constant", "linear"] = "constant"


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class PlannerConfig:
    """Choice between candidate returns while acting (M5, M6)."""

    candidates: Whole = Field(ge=1)
    planning_horizon: Whole = Field(ge=1, le=100)
    env_model: Literal["learned", "simulator", "none"]
    context_length: Whole = Field(ge=0, le=1000)
    forget_steps: Whole = Field(ge=1, le=1000)
    returns: Literal["task", "data"] = "task"  # this and the following: new since release 0.2
    return_quantiles: Numbers = (0.9, 0.99, 0.75, 0.5)
    select: Literal["per_step", "per_episode", "margin"] = "per_step"
    select_steps: Whole = Field(default=20, ge=1, le=100_000)


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
    offline_share: Number = Field(default=0.0, ge=0.0, le=1.0)  # new since release 0.2


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class EvaluationConfig:
    """Deterministic rollouts of a finished policy; `max_episode_steps` cuts the episodes of online tuning too."""

    episodes: Whole = Field(ge=1)
    seed: Whole = Field(ge=0)
    max_episode_steps: Whole = Field(ge=0)
    lookahead_horizon: Whole = Field(ge=0, le=100)
    requested_episodes: Whole = Field(ge=0)
    curve_points: Whole = Field(ge=0, le=100)
    fitted_q_steps: Whole = Field(ge=0, le=10_000_000, default=0)  # new since release 0.2


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class CheckpointConfig:
    """Frequency of checkpoints."""

    interval_seconds: Number = Field(ge=0.0)
    interval_steps: Whole = Field(ge=1)
    keep: Whole = Field(ge=1)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class RuntimeConfig:
    """Settings of the machine."""

    device: Literal["auto", "cpu", "cuda"]
    threads: Whole = Field(ge=0)
    precision: Literal["float32", "bfloat16"]
    compile: Flag
    acceleration: Literal["auto", "off"] = "auto"  # new since release 0.1


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Config:
    """Resolved configuration of a run."""

    env: Text = Field(description="`--env`: a task of params/tasks/, minari:NAMESPACE/NAME-vN, or data:PATH")
    preset: Text = Field(description="`--preset`: a file of params/presets/, sizes and budgets")
    method: Text = Field(description="`--method`: a file of params/methods/")
    seed: Whole = Field(ge=0, description="`--seeds`: of networks, sampling and online rollouts")
    task: TaskConfig
    data: DataConfig
    init: InitConfig
    critic: CriticConfig
    policy: PolicyConfig
    actor: ActorConfig
    planner: PlannerConfig
    online: OnlineConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    runtime: RuntimeConfig

    @property
    def trains_together(self) -> bool:
        """Return whether critic and actor take turns, instead of the critic first."""
        return self.critic.bootstrap == "policy" or self.critic.order == "together"

    @property
    def acting_context(self) -> int:
        """Return the number of steps of history that the acting policy reads."""
        return self.policy.get_acting_context(self.planner.context_length)

    @property
    def critic_window(self) -> int:
        """Return the number of successive transitions that share a pass of the policy: no more than it acts upon."""
        return min(self.critic.window_steps, self.acting_context)

    @property
    def file_name(self) -> str:
        """Return `env` as part of a file's or folder's name."""
        return make_file_name(self.env)

    @property
    def data_name(self) -> str:
        """Return the word of a cell's name for ladder and seed of its data; empty for the defaults, first and 0."""
        second = "second" if self.data.ladder == "second" else ""
        return "-".join(filter(None, (second, f"d{self.data.seed}" if self.data.seed else "")))

    @property
    def ladder(self) -> str | None:
        """Return the name of the behaviour ladder whose policies collect the data; none where there is none."""
        recipe = self.task.collected
        return recipe.second_ladder if self.data.ladder == "second" else recipe.ladder

    @property
    def has_environment(self) -> bool:
        """Return false for data without an environment: no rollouts, neither to tune online nor to measure returns."""
        return self.task.environment_id is not None

    @property
    def has_trained_critic(self) -> bool:
        """Return whether the critic is trained offline, here or where this training begins from."""
        return self.critic.gradient_steps > 0 or self.init.critic_steps > 0

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


def _list_fields(section: Any, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every dotted key below a section with its field."""
    for name, item in section.__pydantic_fields__.items():
        if dataclasses.is_dataclass(item.annotation):
            yield from _list_fields(item.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


def _describe_field(item: FieldInfo) -> Key:
    return dataclasses.replace(describe(item.annotation, item.metadata), meaning=item.description or "")


_FIELDS = dict(_list_fields(Config))
KEYS: Mapping[str, Key] = MappingProxyType({key: _describe_field(item) for key, item in _FIELDS.items()})
# What was done before a key existed.
KEY_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {key: item.default for key, item in _FIELDS.items() if not item.is_required() and item.default_factory is None}
)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of a nested mapping; a key whose value is a mapping keeps it.

    Raises:
        ConfigError: if a key comes twice, inside its section and dotted.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found = flatten(value, f"{name}.") if isinstance(value, Mapping) and name not in KEYS else {name: value}
        if twice := flat.keys() & found.keys():
            raise ConfigError(f"{min(twice)} comes twice, inside its section and dotted; leave one out")
        flat.update(found)
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


def shorten_keys(keys: Iterable[str]) -> list[str]:
    """Return the last part of each dotted key; the whole key where two of them end alike."""
    whole = list(keys)
    leaves = [key.rpartition(".")[2] for key in whole]
    return [key if leaves.count(leaf) > 1 else leaf for key, leaf in zip(whole, leaves, strict=True)]
