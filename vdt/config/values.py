"""Single values of the configuration: brought to their type, kept in their range, or refused by name."""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any


def _name_again(**names: str) -> dict[str, tuple[str, ...]]:
    """Other name -> last parts of keys, from last part -> other names."""
    pairs = [(other, leaf) for leaf, others in names.items() for other in others.split()]
    return {other: tuple(leaf for name, leaf in pairs if name == other) for other, _ in pairs}


ALIASES = _name_again(  # what other code bases call the last part of a key
    learning_rate="lr",
    actor_learning_rate="lr",
    discount="gamma",
    target_update_rate="tau polyak soft_update ema",
    expectile="tau iql_tau quantile",
    inverse_temperature="eta beta temperature",
    initial_temperature="temperature alpha",
    q_coefficient="lambda alpha eta q_weight",
    conservative_coefficient="alpha cql_alpha cql_weight min_q_weight",
    context_length="k context window context_len seq_len max_len",
    embedding_size="hidden_dim hidden width d_model n_embd embed_dim embedding_dim dim",
    hidden_size="hidden_dim hidden width dim units",
    layers="n_layers n_layer num_layers depth n_blocks",
    hidden_layers="n_layers num_layers depth n_hidden",
    heads="n_heads n_head num_heads attention_heads",
    batch_size="batch bs batchsize mini_batch_size",
    gradient_steps="epochs n_epochs iterations updates num_steps n_steps max_steps train_steps num_updates max_iters",
    environment_steps="env_steps online_steps total_timesteps timesteps interactions",
    n_step="n nstep n_steps",
    warmup_steps="warmup warm_up",
    weight_decay="wd decay",
    gradient_clip="clip grad_clip clip_grad max_grad_norm grad_norm",
    max_advantage_weight="clip weight_clip w_max max_weight adv_clip",
    planning_horizon="e lookahead",
    lookahead_horizon="lookahead",
    candidates="m n_candidates num_candidates",
    candidate_returns="rtg target_return target_returns returns_to_go",
    exploration_noise="noise sigma",
    target_action_noise="noise policy_noise",
    buffer_trajectories="buffer buffer_size capacity replay_size",
    episodes="eval_episodes n_episodes num_episodes num_eval_episodes",
    device="gpu cuda cpu",
    threads="num_threads n_threads cores workers num_workers",
    precision="amp fp16 bf16 bfloat16 dtype mixed_precision",
    return_scale="scale rtg_scale",
    interval_steps="save_every checkpoint_every save_interval",
    interval_seconds="save_every save_interval",
    held_out_fraction="val_fraction test_fraction validation_fraction holdout",
)


LIST_KEYS = "params/vdt.yaml lists the keys"


class ConfigError(ValueError):
    """A configuration value is unknown, of the wrong type, or outside its range."""


def suggest(word: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'a' or 'b'?` for near words, else an empty string."""
    return _ask(difflib.get_close_matches(word, list(known), n=3, cutoff=0.5))


def list_known(word: str, known: typing.Iterable[str]) -> str:
    """Return the near words and all known ones, to stand behind an unknown word: `; did you mean 'a'? Known: a, b`."""
    words = list(known)
    return f"{suggest(word, words) or '.'} Known: {', '.join(words)}"


def suggest_key(key: str, known: typing.Iterable[str]) -> str:
    """Return `; did you mean ...?` for a dotted key: by its last part or another name for that, then by likeness."""
    keys = list(known)
    section, _, last = key.rpartition(".")
    wanted = {last, *ALIASES.get(last.lower().replace("-", "_"), ())}
    near = [name for name in keys if name.rpartition(".")[2] in wanted]
    near = [name for name in near if section and name.startswith(f"{section}.")] or near
    if near:
        return _ask(near[:4])
    for pool in ([name for name in keys if section and name.startswith(f"{section}.")], keys):
        leaves = difflib.get_close_matches(
            last, dict.fromkeys(name.rpartition(".")[2] for name in pool), n=2, cutoff=0.6
        )
        if leaves:
            return _ask([name for leaf in leaves for name in pool if name.rpartition(".")[2] == leaf][:4])
    return suggest(key, keys) or f"; {LIST_KEYS}"


def _ask(near: typing.Sequence[str]) -> str:
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def coerce(key: str, value: Any, hint: Any, where: str) -> Any:
    """Bring a YAML value to its declared type (PyYAML reads `3e-4` as a string), or raise ConfigError."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(coerce(key, item, inner, where) for item in items)
    if origin is types.UnionType:  # only `T | None` is used
        return None if value is None else coerce(key, value, typing.get_args(hint)[0], where)
    wrong = ConfigError(f"{where}: {key} must be {_type_name(hint)}, not {value!r} ({type(value).__name__})")
    if hint is bool or isinstance(value, bool):
        if hint is bool and isinstance(value, bool):
            return value
        raise wrong
    if hint is str:
        if isinstance(value, str):
            return value
        raise wrong
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise wrong from None
    if not math.isfinite(number) or (hint is int and number != int(number)):
        raise wrong
    return int(number) if hint is int else number


def _type_name(hint: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, str(hint))


def check_range(key: str, value: Any, metadata: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError if a value is outside its range or closed set of words."""
    low, high, choices = metadata.get("low"), metadata.get("high"), metadata.get("choices") or ()
    for word in value if isinstance(value, tuple) else (value,):
        if choices and word not in choices:
            raise ConfigError(
                f"{where}: {key} must be one of {', '.join(choices)}, not {word!r}{suggest(word, choices)}"
            )
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{where}: {key} must be {bounds}, not {value!r}")


def make_json_mapping(key: str, value: Any, where: str) -> str:
    """The text of a JSON mapping, given as such or as a YAML mapping."""
    try:
        mapping = json.loads(value) if isinstance(value, str) else value
        if isinstance(mapping, Mapping):
            return json.dumps(mapping, sort_keys=True)
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"{where}: {key} must be a mapping of plain values, not {value!r}")
