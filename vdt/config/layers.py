"""The whole configuration, merged from YAML and validated before any work. Its sections: `vdt/config/schema.py`.

Merge order: `params/vdt.yaml` <- task <- preset <- method <- `--set`. A task may say what it changes of a preset or a method,
which goes over that layer. Every value is checked where it enters, so that an error names the file or option it came from.
"""

from __future__ import annotations

import dataclasses
import shlex
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vdt.config.plain_yaml import expect_mapping, load_yaml, parse_yaml
from vdt.config.rules import check_objective
from vdt.config.schema import (
    ActorConfig,
    CheckpointConfig,
    CriticConfig,
    DataConfig,
    EvaluationConfig,
    OnlineConfig,
    PlannerConfig,
    PolicyConfig,
    RuntimeConfig,
    TaskConfig,
    knob,
)
from vdt.config.values import ConfigError, check_range, coerce, list_known, make_json_mapping, suggest, suggest_key
from vdt.system.files import make_file_name
from vdt.system.home import find_params

__all__ = ["Config", "ConfigError", "config_from_mapping", "config_from_yaml", "load_tasks", "load_yaml", "suggest"]

PARAMS = find_params()
STORED = "stored configuration"
SOURCES = ("auto", "collected", "d4rl", "minari")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run needs to know, resolved."""

    env: str
    preset: str
    method: str
    seed: int = knob(low=0)
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
        """Dotted key -> value, e.g. for MLflow's params."""
        return _flatten(dataclasses.asdict(self))

    def to_yaml(self) -> str:
        """The resolved configuration; `config_from_yaml` reads it back."""
        return yaml.safe_dump(self.to_mapping(), sort_keys=False)

    def to_mapping(self) -> dict[str, Any]:
        """Return the resolved configuration as plain values; `config_from_mapping` reads it back."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    def with_seed(self, seed: int) -> Config:
        """The same configuration for another seed."""
        return dataclasses.replace(self, seed=seed)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in KNOBS:
            flat.update(_flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


@dataclass(frozen=True)
class _Knob:
    type: Any
    metadata: Mapping[str, Any]


def _knobs(cls: type, prefix: str = "") -> dict[str, _Knob]:
    """Dotted key -> type and range of every leaf below a dataclass."""
    hints = typing.get_type_hints(cls)
    leaves: dict[str, _Knob] = {}
    for item in dataclasses.fields(cls):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            leaves.update(_knobs(typing.cast(type, hint), f"{prefix}{item.name}."))
        else:
            leaves[f"{prefix}{item.name}"] = _Knob(hint, item.metadata)
    return leaves


KNOBS = _knobs(Config)


def apply_layer(values: dict[str, Any], patch: Mapping[str, Any], where: str) -> None:
    """Lay a nested mapping over `values` (dotted), checking each key and value."""
    for key, value in _flatten(patch).items():
        if key not in KNOBS:
            raise ConfigError(f"{where}: unknown key {key!r}{suggest_key(key, KNOBS)}")
        if KNOBS[key].metadata.get("json_mapping"):
            value = make_json_mapping(key, value, where)
        if value is False and "off" in (KNOBS[key].metadata.get("choices") or ()):
            value = "off"  # YAML 1.1 reads a bare off as false
        coerced = coerce(key, value, KNOBS[key].type, where)
        check_range(key, coerced, KNOBS[key].metadata, where)
        values[key] = coerced


def _build(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    hints = typing.get_type_hints(cls)
    arguments = {}
    for item in dataclasses.fields(cls):
        key, hint = f"{prefix}{item.name}", hints[item.name]
        if dataclasses.is_dataclass(hint):
            arguments[item.name] = _build(typing.cast(type, hint), values, f"{key}.")
        elif key in values:
            arguments[item.name] = values[key]
        else:
            raise ConfigError(f"no value for {key}: neither params/vdt.yaml nor the task, preset or method gives one")
    return cls(**arguments)


def build_config(values: Mapping[str, Any]) -> Config:
    """The configuration of merged values (dotted key -> value); raises ConfigError if one is missing."""
    config: Config = _build(Config, values)
    return config


def find_named_file(folder: str, name: str, what: str) -> Path:
    known = sorted(p.stem for p in (PARAMS / folder).glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"unknown {what} {name!r}{list_known(name, known)} (params/{folder}/)")
    return PARAMS / folder / f"{name}.yaml"


def load_tasks() -> dict[str, dict[str, Any]]:
    """Every task by name: dotted key -> value. Keys below `presets.NAME` and `methods.NAME` hold under these alone."""
    tasks: dict[str, dict[str, Any]] = {}
    for path in sorted((PARAMS / "tasks").glob("*.yaml")):
        family = load_yaml(path)
        shared, environments = family.get("shared", {}), family["environments"]
        for name, facts in family["tasks"].items():
            facts = dict(facts)
            layers = (shared, environments[facts.pop("environment")], facts)
            merged: dict[str, Any] = {}
            for layer in layers:
                merged.update(_flatten(layer))
            tasks[name] = merged
    return tasks


def parse_overrides(text: str) -> dict[str, Any]:
    """`"critic.expectile=0.8 online.environment_steps=20000"` -> dotted key -> value.

    Raises:
        ConfigError: if an item is not of the form key=value.
    """
    overrides: dict[str, Any] = {}
    try:
        items = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--set: {text!r} cannot be split into words: {error}") from None
    for item in items:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set: {item!r} is not of the form section.key=value")
        overrides[key] = parse_yaml(value, f"--set: {value!r}")
    return overrides


def _check_environment(config: Config) -> None:
    """What cannot be done on data without an environment, and the range of actions."""
    task = config.task
    if len(task.action_low) != len(task.action_high) or len(task.action_low) not in (0, task.action_size):
        raise ConfigError(f"task.action_low and task.action_high need {task.action_size} numbers each, or none")
    if any(low >= high for low, high in zip(task.action_low, task.action_high, strict=True)):
        raise ConfigError("task.action_low must be below task.action_high in every component")
    if config.has_environment:
        if config.planner.env_model == "simulator" and task.bridge != "none":
            raise ConfigError(
                f"planner.env_model is simulator, but copies of its state lack what {config.env}'s bridge "
                f"({task.bridge}) remembers; accepted are learned, none"
            )
        return
    if config.online.environment_steps > 0:
        raise ConfigError(
            f"online.environment_steps is {config.online.environment_steps}, but {config.env} has no environment: "
            f"online tuning is not available; accepted is 0"
        )
    if config.planner.env_model == "simulator":
        raise ConfigError(f"planner.env_model is simulator, but {config.env} has no environment")
    if config.data.held_out_fraction == 0:
        raise ConfigError(
            f"data.held_out_fraction is 0, but {config.env} has no environment: nothing would be evaluated"
        )


def check_together(config: Config) -> None:
    """Rules that span several keys."""
    source = config.data.source
    if source not in SOURCES and not (source.startswith("path:") and len(source) > 5):
        accepted = (*SOURCES, "path:FILE")
        raise ConfigError(
            f"--source must be {', '.join(accepted[:-1])} or {accepted[-1]}, not {source!r}{suggest(source, accepted)}"
        )
    _check_environment(config)
    policy = config.policy
    if policy.kind == "transformer" and policy.embedding_size % policy.heads:
        raise ConfigError(
            f"policy.embedding_size ({policy.embedding_size}) must be a multiple of policy.heads ({policy.heads})"
        )
    if config.planner.context_length > policy.context_length:
        raise ConfigError(
            f"planner.context_length ({config.planner.context_length}) must not exceed what the policy is trained on, "
            f"policy.context_length ({policy.context_length})"
        )
    if config.planner.planning_horizon > 1 and config.planner.env_model == "none":
        raise ConfigError("planner.planning_horizon > 1 needs planner.env_model learned or simulator, not none")
    actor = config.actor
    predicts = actor.next_observation_coefficient > 0 and actor.reward_coefficient > 0
    if policy.kind == "mlp" and (actor.next_observation_coefficient > 0 or actor.reward_coefficient > 0):
        raise ConfigError(
            "policy.kind mlp predicts no observations or rewards: "
            "set actor.next_observation_coefficient=0 actor.reward_coefficient=0"
        )
    check_objective(config.critic, policy, actor)
    imagines = config.planner.planning_horizon > 1 or config.evaluation.lookahead_horizon > 1
    if config.planner.candidates > 1 and imagines and config.planner.env_model != "simulator" and not predicts:
        raise ConfigError(
            "a look-ahead with the learned env_model needs "
            "actor.next_observation_coefficient and actor.reward_coefficient above 0"
        )
    needs_critic = (
        config.actor.inverse_temperature > 0 or config.actor.q_coefficient > 0 or config.planner.candidates > 1
    )
    if needs_critic and config.critic.gradient_steps == 0:
        raise ConfigError(
            "critic.gradient_steps is 0, but actor.inverse_temperature, actor.q_coefficient or planner.candidates uses the critic"
        )
    if not config.task.candidate_returns:
        raise ConfigError("task.candidate_returns must name at least one return")


def config_from_yaml(text: str) -> Config:
    """Read what `Config.to_yaml` wrote; raises as `config_from_mapping`."""
    return config_from_mapping(expect_mapping(parse_yaml(text, STORED), STORED))


def config_from_mapping(given: Mapping[str, Any]) -> Config:
    """Read what `Config.to_mapping` gave, with the same checks.

    Raises:
        ConfigError: if another version wrote it, with more or fewer keys.
    """
    values: dict[str, Any] = {}
    try:
        apply_layer(values, given, STORED)
        config = build_config(values)
    except ConfigError as error:
        advice = "continue with the version that wrote it, or start a new run"
        raise ConfigError(f"the {STORED} is not of this version ({error}); {advice}") from None
    check_together(config)
    return config
