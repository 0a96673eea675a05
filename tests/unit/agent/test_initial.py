"""Which policies a training may begin from, said before any work, and what of them counts as identity."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vdt
from support.builders import make_config, make_lively_actor_critic
from vdt.agent.actor_critic import make_critic, make_policy
from vdt.agent.initial import CRITIC, POLICY, find_initial, keep_initial
from vdt.config.convergence import estimate_convergence
from vdt.config.errors import ConfigError
from vdt.config.layers import config_from_yaml
from vdt.config.schema import KEYS, Config
from vdt.experiments.cells import resolve_cells
from vdt.experiments.resolve import resolve_config
from vdt.experiments.results_store import compute_identity
from vdt.experiments.sharing import compute_actor_key, compute_critic_key
from vdt.system.files import compute_file_digest

MLP = {
    "policy.kind": "mlp",
    "planner.candidates": 1,
    "planner.planning_horizon": 1,
    "planner.env_model": "none",
    "actor.next_observation_coefficient": 0.0,
    "actor.reward_coefficient": 0.0,
}
NO_ACTOR = {"actor.gradient_steps": 0}
BLIND = {"actor.next_observation_coefficient": 0.0, "actor.reward_coefficient": 0.0}  # predicts no outcomes
SHORT = {"planner.planning_horizon": 1, "planner.env_model": "none", "evaluation.lookahead_horizon": 0}


def save(path: Path, settings: dict[str, Any] | None = None, number: float = 0.0) -> Path:
    """Save a policy; files of different numbers differ."""
    actor_critic = make_lively_actor_critic(settings)
    torch.save({"actor_critic": actor_critic.state_dict(), "number": number}, path)
    return path


def begin(parent: Path, settings: dict[str, Any] | None = None) -> Config:
    return make_config({**(settings or {}), "init.policy": parent})


def test_the_configuration_names_the_policy_and_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "policy.pt")
    monkeypatch.chdir(tmp_path)
    config = begin(Path("policy.pt"))
    assert config.init.policy == str(path), "tasks may change their folder"
    assert config.init.sha256 == compute_file_digest(path, "sha256")
    assert config.init.critic_steps == make_config().critic.gradient_steps
    assert config_from_yaml(config.to_yaml()) == config
    words = {"env": "walker2d-medium-v2", "preset": "smoke", "init_from": "policy.pt"}
    with pytest.raises(ConfigError, match="it has 2 observations and 1 actions, but walker2d-medium-v2 has 17 and 6"):
        resolve_cells(words)


@pytest.mark.parametrize(
    ("theirs", "mine", "said"),
    [
        (
            {"policy.embedding_size": 8},
            {},
            r"policy.embedding_size is 8 there and 16 here; .* --set \"policy.embed.*=8\"",
        ),
        ({"policy.layers": 2}, {}, "policy.layers is 2 there and 1 here"),
        ({"policy.heads": 4}, {}, "policy.heads is 4 there and 2 here"),
        ({"task.horizon": 9}, {}, "task.horizon is 9 there and 8 here"),
        (
            {"critic.hidden_size": 8, "critic.activation": "relu"},
            {},
            "hidden_size is 8 there and 16 here, critic.activ",
        ),
        ({"critic.hidden_layers": 1}, {}, "critic.hidden_layers is 1 there and 2 here"),
        (MLP, {}, "policy.kind is mlp there and transformer here"),
        ({}, MLP, "policy.kind is transformer there and mlp here"),
        (
            {"policy.head": "gaussian", "actor.q_normalization": "none"},
            {},
            "policy.head is gaussian there and deterministic here",
        ),
        ({}, {"task.action_low": [-2], "task.action_high": [1]}, r"task.action_low is \[\] there and \[-2.0\] here"),
        ({}, {"task.return_scale": 3}, "task.return_scale is 10.0 there and 3.0 here"),
        ({}, {"task.reward_shift": -1}, "task.reward_shift is 0.0 there and -1.0 here"),
        (
            {},
            {"critic.gradient_steps": 0, "critic.discount": 0.8},
            "critic.discount is 0.9 there and 0.8 here",  # its values are discounted so, and no step changes them
        ),
        ({}, {"task.observation_size": 3}, "it has 2 observations and 1 actions, but walker2d-medium-v2 has 3 and 1"),
        ({**BLIND, **SHORT}, NO_ACTOR, "it predicts no observations and rewards, and actor.gradient_steps is 0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value[:20],
)
def test_other_networks_are_refused_with_both_values(
    tmp_path: Path, theirs: dict[str, Any], mine: dict[str, Any], said: str
) -> None:
    parent = save(tmp_path / "policy.pt", theirs)
    with pytest.raises(ConfigError, match=rf"--init-from {parent}: .*{said}"):
        begin(parent, mine)
    begin(parent, theirs)


def test_settings_that_training_may_change_are_accepted(tmp_path: Path) -> None:
    parent = save(tmp_path / "policy.pt", {**BLIND, **SHORT})
    begin(parent)  # its heads for outcomes are trained now
    begin(parent, {"policy.context_length": 2, "critic.discount": 0.9, "policy.dropout": 0.1, "actor.batch_size": 3})
    ranged = {"task.action_low": [-1], "task.action_high": [1]}
    begin(parent, ranged)  # no range is this range
    mlp = save(tmp_path / "mlp.pt", MLP)
    begin(mlp, {**MLP, "task.horizon": 9, "policy.layers": 3, "policy.embedding_size": 32})  # none of it is the mlp's


def vary(key: str, config: Config) -> list[Any]:
    """Other values of a key than a configuration's."""
    value, known = config.flatten()[key], KEYS[key]
    if known.words:
        return [word for word in known.words if word != value]
    if isinstance(value, bool):
        return [not value]
    return [2 * value] if isinstance(value, int) else []


def list_shapes(config: Config) -> list[Any]:
    networks = make_policy(config, torch.device("meta")), make_critic(config, torch.device("meta"))
    return [{name: tensor.shape for name, tensor in network.state_dict().items()} for network in networks]


def change(config: Config, key: str, value: Any) -> Config:
    """A configuration with one other value, whether or not the others allow it."""
    section, name = key.split(".")
    return replace(config, **{section: replace(getattr(config, section), **{name: value})})


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_every_setting_of_the_networks_is_compared(kind: str) -> None:
    """A new key that changes the networks belongs in vdt/agent/initial.py."""
    compared = {"policy.kind", "policy.head", *CRITIC, *POLICY[kind], "task.observation_size", "task.action_size"}
    config = make_config(MLP if kind == "mlp" else {})
    plain = list_shapes(config)
    tried = [key for key in KEYS if key.startswith(("policy.", "critic.", "task.horizon", "task.action_size"))]
    variants = ((key, change(config, key, value)) for key in tried for value in vary(key, config))
    changing = {key for key, other in variants if list_shapes(other) != plain}
    assert changing <= compared
    assert changing >= {"critic.hidden_size", "policy.kind", POLICY[kind][0]}


def test_a_critic_that_was_never_trained_is_not_used(tmp_path: Path) -> None:
    plain = {
        **{"critic.gradient_steps": 0, "actor.inverse_temperature": 0.0, "actor.q_coefficient": 0.0},
        **{"planner.candidates": 1},
    }
    parent = save(tmp_path / "policy.pt", plain)
    with pytest.raises(ConfigError, match=r"critic.gradient_steps is 0, .* that of init.policy is not trained either"):
        begin(parent, {"critic.gradient_steps": 0})
    assert begin(parent, {"critic.gradient_steps": 7}).has_trained_critic
    trained = save(tmp_path / "trained.pt")
    second = begin(trained, {"critic.gradient_steps": 0})
    torch.save({"actor_critic": {**make_lively_actor_critic().state_dict(), "config": second.to_yaml()}}, parent)
    third = begin(parent, {"critic.gradient_steps": 0})
    assert third.init.critic_steps == second.init.critic_steps > 0
    convergence = estimate_convergence(begin(parent, {"critic.gradient_steps": 5}).flatten())
    assert convergence is not None and convergence.steps == 5 + third.init.critic_steps


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"actor.gradient_steps": 0}, "no trained policy is given: accepted is at least 1, or --init-from POLICY"),
        ({"init.sha256": "ab"}, "init.sha256 is given by --init-from, not by a change of settings"),
        ({"init.critic_steps": 5}, "init.critic_steps is given by --init-from"),
        ({"init.policy": "/nowhere.pt"}, "--init-from: no policy at '/nowhere.pt': there is no such file"),
    ],
)
def test_what_is_no_beginning(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_config(settings)


def test_joint_training_is_all_or_nothing(tmp_path: Path) -> None:
    first = make_config({"critic.gradient_steps": 4}, method="td3bc")
    state = {**make_lively_actor_critic(MLP).state_dict(), "config": first.to_yaml()}
    torch.save({"actor_critic": state}, tmp_path / "policy.pt")
    begun = {"init.policy": tmp_path / "policy.pt", "actor.gradient_steps": 0}
    with pytest.raises(ConfigError, match=r"critic.gradient_steps is 4, but actor.gradient_steps is 0"):
        make_config({**begun, "critic.gradient_steps": 4}, method="td3bc")
    assert make_config({**begun, "critic.gradient_steps": 0}, method="td3bc").has_trained_critic
    with pytest.raises(ConfigError, match=r"critic.bootstrap is policy there and value here"):
        make_config({"init.policy": tmp_path / "policy.pt", **MLP})


def test_identity_is_the_content_not_the_place(tmp_path: Path) -> None:
    one, other = save(tmp_path / "one.pt"), save(tmp_path / "other.pt", number=1.0)
    copy = tmp_path / "copy.pt"
    copy.write_bytes(one.read_bytes())
    configs = [make_config(), begin(one), begin(copy), begin(other)]
    for compute in (compute_identity, compute_critic_key, compute_actor_key):
        keys = [compute(config, "data") for config in configs]
        assert keys[1] == keys[2] and len(set(keys)) == 3, compute.__name__


def test_a_kept_copy_outlives_the_original(tmp_path: Path) -> None:
    path = save(tmp_path / "policy.pt")
    config, content = begin(path), path.read_bytes()
    kept = keep_initial(config, tmp_path / "kept")
    path.unlink()
    assert keep_initial(config, tmp_path / "kept") == kept and kept.read_bytes() == content
    kept.write_bytes(b"damaged")
    save(path, number=2.0)
    with pytest.raises(ConfigError, match="the policy that this run began from is another now"):
        keep_initial(config, tmp_path / "kept")
    path.unlink()
    with pytest.raises(ConfigError, match="--init-from: no policy at"):
        keep_initial(config, tmp_path / "kept")


# Data without a task's file: units follow the policy


def write_logs(folder: Path, *, steps: int, largest: float, reward: float, seed: int = 0) -> Path:
    writer, rng = vdt.EpisodeWriter(folder), np.random.default_rng(seed)
    for _ in range(3):
        actions = rng.uniform(-largest, largest, (steps, 1))
        writer.write(rng.normal(size=(steps + 1, 2)), actions, rng.uniform(0, reward, steps), terminated=False)
    return folder


def save_trained_on(folder: Path, path: Path) -> Config:
    """Save a policy whose configuration is that of a training on a folder of logs."""
    config = resolve_config(f"data:{folder}", preset="smoke")
    from vdt.agent.actor_critic import ActorCritic, make_critic, make_policy
    from vdt.data.normalization import Normalizer
    from vdt.policy.losses import AdvantageWeighting

    device = torch.device("cpu")
    normalizer = Normalizer(torch.zeros(2), torch.ones(2))
    weighting = AdvantageWeighting(1.0, 100.0, 1.0)
    networks = make_policy(config, device), make_critic(config, device)
    torch.save({"actor_critic": ActorCritic(config, *networks, normalizer, 1.0, weighting).state_dict()}, path)
    return config


def test_own_data_takes_the_units_of_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.pt"
    first = save_trained_on(write_logs(tmp_path / "a", steps=12, largest=2.0, reward=1.0), path)
    later = write_logs(tmp_path / "b", steps=9, largest=0.7, reward=50.0)
    alone = resolve_config(f"data:{later}", preset="smoke")
    begun = resolve_config(f"data:{later}", preset="smoke", overrides=f"init.policy={path}")
    for key in ("action_low", "action_high", "return_scale", "horizon"):
        assert getattr(alone.task, key) != getattr(first.task, key) == getattr(begun.task, key), key
    assert begun.task.candidate_returns == alone.task.candidate_returns, "returns to ask for are the new data's"
    longer = write_logs(tmp_path / "c", steps=20, largest=0.7, reward=1.0)
    with pytest.raises(ConfigError, match=r'task.horizon is 12 there and 20 here; .* needs --set "task.horizon=12"'):
        resolve_config(f"data:{longer}", preset="smoke", overrides=f"init.policy={path}")
    cut = resolve_config(f"data:{longer}", preset="smoke", overrides=f"init.policy={path} task.horizon=12")
    assert cut.task.horizon == 12
    with pytest.raises(ConfigError, match=r"task.action_high is \[.*\] there and \[3.0\] here"):
        ranges = "task.action_low=[-3] task.action_high=[3]"
        resolve_config(f"data:{later}", preset="smoke", overrides=f"init.policy={path} {ranges}")


def test_a_study_names_it_by_its_key(tmp_path: Path) -> None:
    path = tmp_path / "policy.pt"
    folder = write_logs(tmp_path / "logs", steps=12, largest=1.0, reward=1.0)
    save_trained_on(folder, path)
    study = tmp_path / "begun.yaml"
    patches = f"{{scratch: {{}}, begun: {{init: {{policy: {path}}}}}}}"
    study.write_text(f"envs: ['data:{folder}']\npreset: smoke\nseeds: [0, 1]\npatches: {patches}\n")
    cells, _ = resolve_cells({"study": str(study)})
    assert [bool(cell.config.init.sha256) for cell in cells] == [False, False, True, True]
    with pytest.raises(ConfigError, match=r"begun.yaml: env .*: patches 'scratch' and 'begun' give|the same config"):
        resolve_cells({"study": str(study), "init_from": str(path)})
    assert find_initial(str(path)).where == str(path)
