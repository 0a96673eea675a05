"""Every error of the configuration: what was given, what is accepted, and where."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from vdt.config.errors import ALIASES, ConfigError
from vdt.config.schema import KEYS
from vdt.experiments.resolve import resolve_config

ENV = "walker2d-medium-v2"


def test_an_error_names_the_layer_whose_value_stands(params: Path) -> None:
    (params / "presets" / "laptop.yaml").write_text("critic: {n_step: 0}")
    with pytest.raises(ConfigError, match=r"^params/presets/laptop.yaml: critic.n_step must be between 1 and 1000"):
        resolve_config(ENV, method="plain")
    path = params / "tasks" / "gym.yaml"
    path.write_text(path.read_text().replace("horizon: 1000", "horizon: 0"))
    with pytest.raises(ConfigError, match=rf"^params/tasks/ \({ENV}\): task.horizon must be between 1 and 1000000"):
        resolve_config(ENV)


@pytest.mark.parametrize("key", ["env", "preset", "method", "seed", "data.source"])
def test_what_has_its_own_option_is_not_set(key: str) -> None:
    option = "--seeds" if key == "seed" else f"--{key.removeprefix('data.')}"
    with pytest.raises(ConfigError, match=rf"^--set: {key} is given by {option}, not by a change of settings$"):
        resolve_config(ENV, overrides=f"{key}=1")


@pytest.mark.parametrize("key", [key for key, accepted in KEYS.items() if accepted.low is not None])
def test_every_range_is_kept(key: str) -> None:
    low, high = KEYS[key].low, KEYS[key].high
    bounds = f"at least {low}" if high is None else f"between {low} and {high}"
    for wrong in (low - 1, None if high is None else high + 1):
        if wrong is not None and key != "seed":
            with pytest.raises(ConfigError, match=rf"^--set: {key} must be {bounds}, not {wrong}"):
                resolve_config(ENV, overrides=f"{key}={wrong}")


@pytest.mark.parametrize("key", [key for key, accepted in KEYS.items() if accepted.words])
def test_every_closed_set_of_words_is_kept(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--set: {key} must be one of {', '.join(KEYS[key].words)}, not 'zzz'$"):
        resolve_config(ENV, overrides=f"{key}=zzz")


def test_sections_check_what_they_are_made_of() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        dataclasses.replace(resolve_config(ENV).critic, n_step=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"env": "walker2d-medum-v2"},
            r"unknown env 'walker2d-medum-v2'; did you mean 'walker2d-medium-v2'.*params/tasks",
        ),
        ({"env": "hopper"}, r"unknown env 'hopper'; did you mean 'hopper-[a-z-]+-v2' or 'hopper-"),
        ({"env": "Ant-v4"}, r"unknown env 'Ant-v4'; did you mean 'antmaze-"),
        (
            {"env": "Pendulum-v1"},
            r"unknown env 'Pendulum-v1'\. Known: .*data:PATH; for your own environment: --env data:PATH "
            r"--set task\.environment_id=ID \(docs/data\.md\)$",
        ),
        ({"preset": "labtop"}, r"unknown preset 'labtop'; did you mean 'laptop'.*params/presets"),
        ({"method": "vdtt"}, r"unknown method 'vdtt'; did you mean 'vdt'.*Known: .*dt.*params/methods"),
        ({"method": "../vdt"}, r"unknown method '../vdt'"),
        (
            {"source": "colected"},
            r"--source must be auto, collected, d4rl, minari or path:FILE, not 'colected'; did you mean",
        ),
        ({"source": "path:"}, r"--source must be .* not 'path:'"),
        ({"overrides": "data.ladder=second"}, r"data.ladder second needs --source collected, not auto"),
        (
            {"env": "maze2d-umaze-v1", "source": "collected", "overrides": "data.ladder=second"},
            r"data.ladder is second, but maze2d-umaze-v1 has no second ladder .* accepted is first",
        ),
        ({"seed": -1}, r"command line: seed must be at least 0, not -1"),
        (
            {"overrides": "critic.expctile=0.8"},
            r"--set: unknown key 'critic.expctile'; did you mean 'critic.expectile'",
        ),
        ({"overrides": "critic=1"}, r"--set: unknown key 'critic'"),
        ({"overrides": "critic.expectile"}, r"--set: 'critic.expectile' is not of the form section.key=value"),
        ({"overrides": "'actor={gradient_steps: 3}' actor.gradient_steps=4"}, r"actor.gradient_steps comes twice"),
        ({"overrides": "actor={}"}, r"--set: 'actor={}' changes nothing; accepted is section.key=value"),
        ({"env": "data:"}, r"--env data: names no data; accepted is data:PATH"),
        ({"overrides": "=1"}, r"--set: '=1' is not of the form"),
        ({"overrides": "critic.expectile=1.5"}, r"--set: critic.expectile must be between 0.0 and 1.0, not 1.5"),
        ({"overrides": "critic.n_step=0"}, r"--set: critic.n_step must be between 1 and 1000, not 0"),
        ({"overrides": "actor.batch_size=0"}, r"--set: actor.batch_size must be at least 1, not 0"),
        ({"overrides": "critic.n_step=2.5"}, r"--set: critic.n_step must be a whole number, not 2.5 \(float\)"),
        ({"overrides": "critic.n_step=many"}, r"--set: critic.n_step must be a whole number, not 'many' \(str\)"),
        ({"overrides": "critic.n_step=true"}, r"--set: critic.n_step must be a whole number, not True \(bool\)"),
        ({"overrides": f"data.seed={2**53}"}, f"data.seed must be between -{2**53 - 1} and {2**53 - 1}, not {2**53}"),
        ({"overrides": "critic.n_step=null"}, r"--set: critic.n_step must be a whole number, not None"),
        ({"overrides": "critic.discount=[0.9]"}, r"--set: critic.discount must be a number, not \[0.9\] \(list\)"),
        ({"overrides": "critic.discount=.nan"}, r"--set: critic.discount must be a number, not nan"),
        ({"overrides": "actor.q_coefficient=.inf"}, r"--set: actor.q_coefficient must be a number, not inf"),
        ({"overrides": "policy.kind=1"}, r"--set: policy.kind must be text, not 1 \(int\)"),
        (
            {"overrides": "policy.kind=transfomer"},
            r"policy.kind must be one of transformer, mlp, not 'transfomer'; did you",
        ),
        ({"overrides": "critic.n_step=[1"}, r"--set: '\[1' is not plain YAML"),
        (
            {"overrides": "task.environment_kwargs={wind: 0.1}"},
            r"'{wind:' is not plain YAML: .*; a value with spaces is quoted: task.environment_kwargs='...'",
        ),
        ({"overrides": "policy.heads=3"}, r"policy.embedding_size \(128\) must be a multiple of policy.heads \(3\)"),
        (
            {"overrides": "planner.planning_horizon=2 planner.env_model=none"},
            r"planning_horizon > 1 needs planner.env_model",
        ),
        (
            {"overrides": "planner.context_length=11"},
            r"planner.context_length \(11\) must not exceed what the policy is trained on, policy.context_length \(10\)",
        ),
        (
            {"overrides": "planner.select=margin planner.candidates=3 critic.members=1"},
            r"planner.select is margin, .* but critic.members is 1; accepted is 2 or more",
        ),
        ({"overrides": "critic.gradient_steps=0"}, r"critic.gradient_steps is 0, but .* uses the critic"),
        (
            {"overrides": "planner.return_quantiles=[0.9,90]"},
            r"planner.return_quantiles must be one or more numbers from 0 to 1, not \[0.9, 90.0\]",
        ),
        ({"overrides": "task.candidate_returns=[]"}, r"task.candidate_returns must name at least one return"),
        (
            {"method": "bc", "overrides": "actor.reward_coefficient=1"},
            r"policy.kind mlp predicts no observations or rewards: set actor.next_observation_coefficient=0",
        ),
        (
            {
                "overrides": "planner.candidates=3 planner.planning_horizon=2 planner.env_model=learned "
                "actor.next_observation_coefficient=0"
            },
            r"learned env_model needs actor.next_observation_coefficient and actor.reward_coefficient above 0",
        ),
    ],
)
def test_errors_name_what_was_given_what_is_accepted_and_where(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config(**{"env": ENV, **arguments})


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", ["critic.learning_rate", "actor.learning_rate", "online.actor_learning_rate"]),
        ("critic.lr", ["critic.learning_rate"]),
        ("policy.n_layers", ["policy.layers", "policy.hidden_layers"]),
        ("expectile", ["critic.expectile"]),
        ("expectil", ["critic.expectile"]),
        ("actor.expectile", ["critic.expectile"]),
        ("gamma", ["critic.discount"]),
        ("grad_clip", ["actor.gradient_clip"]),
        ("critic.expctile", ["critic.expectile"]),
    ],
)
def test_unknown_keys_are_found_by_last_part_and_other_names(key: str, meant: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config(ENV, overrides=f"{key}=1")
    said = " or ".join(map(repr, meant))
    assert str(caught.value) == f"--set: unknown key {key!r}; did you mean {said}?"


def test_other_names_of_keys_lead_to_keys_that_exist() -> None:
    leaves = {key.rpartition(".")[2] for key in KEYS}
    assert {leaf for meant in ALIASES.values() for leaf in meant} <= leaves
    assert not set(ALIASES) & leaves, "the name of a key is not another's second name"


def test_a_missing_value_is_named(params: Path) -> None:
    path = params / "vdt.yaml"
    base = yaml.safe_load(path.read_text())
    del base["critic"]["expectile"]
    path.write_text(yaml.safe_dump(base))
    with pytest.raises(ConfigError, match=r"no value for critic.expectile: neither params/vdt.yaml nor"):
        resolve_config(ENV)


def test_an_unknown_key_in_a_file_names_the_file(params: Path) -> None:
    (params / "methods" / "vdt.yaml").write_text("critic: {nstep: 4}")
    with pytest.raises(ConfigError, match=r"params/methods/vdt.yaml: unknown key 'critic.nstep'; did you mean"):
        resolve_config(ENV)
