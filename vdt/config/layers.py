"""Merging of YAML files and `--set` into the checked configuration. Its sections: `vdt/config/schema.py`.

Merge order: `params/vdt.yaml` <- task <- preset <- method <- patches <- `--set`. A task may list its changes of a preset
or a method, and a preset its changes of a method, which go over that layer. Each value keeps the layer that it comes
from, so that an error names it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from vdt.config.errors import ConfigError, list_known, suggest, suggest_key
from vdt.config.rules import check_rules
from vdt.config.schema import KEYS, Config, flatten, nest
from vdt.config.types import MAPPING, Key, describe
from vdt.system.home import find_params

PARAMS = find_params()
MAX_YAML_BYTES = 2**20
STORED = "stored configuration"
CHANGES = ("presets.", "methods.")  # keys of tasks and presets that hold under that preset or method alone


class Layers:
    """Values by dotted key, each with the layer that it comes from."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}

    def lay(self, patch: Mapping[str, Any], where: str) -> None:
        """Put a nested or dotted mapping over the present values.

        Raises:
            ConfigError: if a key is unknown; `where` names the layer.
        """
        for key, value in flatten(patch).items():
            if key not in KEYS:
                raise ConfigError(f"{where}: unknown key {key!r}{suggest_key(key, KEYS)}")
            is_off = value is False and "off" in KEYS[key].words  # YAML 1.1 reads a bare off as false
            self.values[key] = "off" if is_off else value
            self.origins[key] = where

    def build(self) -> Config:
        """Return the configuration of all values.

        Raises:
            ConfigError: naming key, value, what is accepted and the layer; or the key without a value.
        """
        try:
            return Config(**nest(self.values))
        except ValidationError as error:
            place = error.errors(include_url=False, include_input=False)[0]["loc"]
            key = ".".join(part for part in place if isinstance(part, str))
            if key in self.origins:
                raise ConfigError(f"{self.origins[key]}: {key} {_explain(KEYS[key], error)}") from None
        raise ConfigError(f"no value for {key}: neither params/vdt.yaml nor the task, preset or method gives one")


def read_value(name: str, annotation: Any, value: Any, where: str) -> Any:
    """Return a single value of a type of `vdt/config/types.py`.

    Raises:
        ConfigError: naming `where`, the value and the accepted ones.
    """
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"{where}: {name} {_explain(describe(annotation), error)}") from None


def _explain(key: Key, error: ValidationError) -> str:
    """Return the accepted values of the first wrong value."""
    first = error.errors(include_url=False)[0]
    value = first["input"]
    if key.words and isinstance(value, str):
        return f"must be one of {', '.join(key.words)}, not {value!r}{suggest(value, key.words)}"
    if first["type"] in ("greater_than_equal", "less_than_equal"):
        return f"must be {key.bounds}, not {value!r}"
    if first["type"] == "size":
        return f"must be {first['msg']}, not {value!r}"
    kind = "" if key.kind == MAPPING else f" ({type(value).__name__})"
    return f"must be {key.kind}, not {value!r}{kind}"


class _PlainLoader(yaml.SafeLoader):
    """YAML loader of plain values without object tags, aliases or repeated keys.

    A few lines of aliases can stand for billions of values. Of a key that comes twice one value would be lost.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not accepted")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"the key {key.value!r} comes twice in one mapping, again in line {line}")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, what: str) -> Any:
    """Return a plain YAML value; `what` names it in errors.

    Raises:
        ConfigError: if the text is too long, no YAML, or has object tags or aliases.
    """
    if len(text) > MAX_YAML_BYTES:
        raise ConfigError(f"{what} is larger than {MAX_YAML_BYTES} bytes")
    try:
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # ValueError: a date like 2026-13-45
        raise ConfigError(f"{what} is not plain YAML: {' '.join(str(error).split())}") from None


def format_yaml(content: Mapping[str, Any]) -> str:
    """Return plain values as YAML text, in their order; `parse_yaml` reads it back."""
    return str(yaml.safe_dump(dict(content), sort_keys=False, width=120))


def expect_mapping(loaded: Any, what: str) -> dict[str, Any]:
    """Return the value if it is a mapping; `what` names it in the error."""
    if not isinstance(loaded, dict):
        raise ConfigError(f"{what} must hold a mapping, not {type(loaded).__name__}")
    return loaded


def _read_text(path: Path) -> str:
    """Return the text of a YAML file of at most 1 MiB."""
    if path.stat().st_size > MAX_YAML_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_YAML_BYTES} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from None


def load_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping of plain values.

    Raises:
        ConfigError: if the file is larger than 1 MiB, holds no mapping, or has object tags or aliases.
    """
    return expect_mapping(parse_yaml(_read_text(path), str(path)) or {}, str(path))


@lru_cache(maxsize=64)
def _parse_layer(text: str, what: str) -> Mapping[str, Any]:
    return MappingProxyType(flatten(_freeze(expect_mapping(parse_yaml(text, what) or {}, what))))


def load_layer(path: Path) -> Mapping[str, Any]:
    """Return a YAML file as dotted key -> value, read-only; the same text is parsed once."""
    return _parse_layer(_read_text(path), str(path))


def _freeze(value: Any) -> Any:
    """Return a copy that cannot be changed."""
    if isinstance(value, dict):
        return MappingProxyType({key: _freeze(item) for key, item in value.items()})
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def select_changes(layer: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what a task or a preset changes under a name alone, e.g. "methods.iql"; its own values for an empty name."""
    if not name:
        return {key: value for key, value in layer.items() if not key.startswith(CHANGES)}
    return {key.removeprefix(f"{name}."): value for key, value in layer.items() if key.startswith(f"{name}.")}


def find_named_file(folder: str, name: str, what: str) -> Path:
    """Return the file of params/ that a preset or a method is named by.

    Raises:
        ConfigError: if there is none.
    """
    known = list_names(folder)
    if name not in known:
        raise ConfigError(f"unknown {what} {name!r}{list_known(name, known)} (params/{folder}/)")
    return PARAMS / folder / f"{name}.yaml"


def list_names(folder: str) -> list[str]:
    """Return the names of the YAML files in a folder of params/."""
    return sorted(path.stem for path in (PARAMS / folder).glob("*.yaml"))


def load_tasks() -> Mapping[str, Mapping[str, Any]]:
    """Return every task by name: dotted key -> value, read-only; the same texts are parsed once.

    Keys below `presets.NAME` and `methods.NAME` hold under these alone.
    """
    paths = sorted((PARAMS / "tasks").glob("*.yaml"))
    return _merge_tasks(tuple((_read_text(path), str(path)) for path in paths))


@lru_cache(maxsize=4)
def _merge_tasks(families: tuple[tuple[str, str], ...]) -> Mapping[str, Mapping[str, Any]]:
    tasks: dict[str, Mapping[str, Any]] = {}
    for text, path in families:
        family = expect_mapping(parse_yaml(text, path), path)
        shared, environments = family.get("shared", {}), family["environments"]
        for name, facts in family["tasks"].items():
            own = {key: value for key, value in facts.items() if key != "environment"}
            layers = (shared, environments[facts["environment"]], own)
            merged = {key: value for layer in layers for key, value in flatten(layer).items()}
            tasks[name] = _freeze(merged)
    return MappingProxyType(tasks)


def parse_overrides(text: str) -> dict[str, Any]:
    """Return `"critic.expectile=0.8 online.environment_steps=20000"` as dotted key -> value.

    Raises:
        ConfigError: if an item is not of the form key=value or changes nothing, or a key comes twice.
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
        if key in overrides:
            raise ConfigError(f"--set gives {key} twice: {text!r}; leave one out")
        try:
            overrides[key] = parse_yaml(value, f"--set: {value!r}")
        except ConfigError as error:
            quoted = f"; a value with spaces is quoted: {key}='...'" if value.startswith(("{", "[")) else ""
            raise ConfigError(f"{error}{quoted}") from None
        if overrides[key] == {} and key not in KEYS:
            raise ConfigError(f"--set: {item!r} changes nothing; accepted is section.key=value, as vdt keys lists them")
    return overrides


def config_from_yaml(text: str) -> Config:
    """Read the text of `Config.to_yaml`, with the same checks.

    Raises:
        ConfigError: if another version wrote it, with more or fewer keys.
    """
    return config_from_mapping(expect_mapping(parse_yaml(text, STORED), STORED))


def config_from_mapping(mapping: Mapping[str, Any]) -> Config:
    """Read the mapping of `Config.to_mapping`, with the same checks; a key with a default may be absent.

    Raises:
        ConfigError: if another version wrote it, with more or fewer keys.
    """
    layers = Layers()
    try:
        layers.lay(mapping, STORED)
        config = layers.build()
    except ConfigError as error:
        advice = "continue with the version that wrote it, or start a new run"
        raise ConfigError(f"the {STORED} is not of this version ({error}); {advice}") from None
    check_rules(config)
    return config
