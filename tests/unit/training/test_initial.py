"""A training that begins from a trained policy: what is taken over to the bit, and what starts anew."""

from pathlib import Path
from typing import Any

import pytest
import torch

from support.builders import (
    Interrupted,
    InterruptingTracker,
    assert_identical,
    make_config,
    make_dataset,
    make_store,
)
from vdt.agent.initial import keep_initial
from vdt.checkpoint.store import State, load_state
from vdt.config.errors import ConfigError
from vdt.config.schema import Config
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor
from vdt.training.online import tune_online
from vdt.training.seeding import seed_buffer

DATASET, OTHER = make_dataset(), make_dataset((9, 4, 8, 8), action_size=1)
SCALED = {"task.reward_scaling": "return_range"}
NO_STEPS = {"critic.gradient_steps": 0, "actor.gradient_steps": 0}
JOINT = {"critic.gradient_steps": 6, "actor.gradient_steps": 3}


def train(config: Config, folder: Path, dataset: Any = DATASET, initial: Path | None = None) -> Path:
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(folder / "critic"), initial)
    return train_actor(config, dataset, critic, NullTracker(), make_store(folder / "actor"), initial=initial)


def continue_from(parent: Path, folder: Path, settings: dict[str, Any], **given: Any) -> tuple[Config, Path]:
    """Configuration and offline agent of a training that begins from `parent`, on other data."""
    config = make_config({**SCALED, **settings, "init.policy": parent}, **given)
    return config, train(config, folder, OTHER, keep_initial(config, folder / "kept"))


def load(path: Path) -> State:
    return dict(load_state(path)["actor_critic"])


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(make_config(SCALED), tmp_path_factory.mktemp("parent"))


def test_without_steps_it_is_the_policy_to_the_bit(parent: Path, tmp_path: Path) -> None:
    config, path = continue_from(parent, tmp_path, NO_STEPS, seed=5)
    before, after = load(parent), load(path)
    for name in ("policy", "critic", "normalizer", "reward_scale", "reward_statistics", "gradient_steps"):
        assert_identical(after[name], before[name], name)
    assert after["config"] == config.to_yaml() and before["config"] != after["config"]
    assert after["weighting"] != before["weighting"], "fitted to this data"
    assert load_state(path)["optimizer"]["state"] == {}


def test_a_finished_critic_keeps_the_draws_that_made_it(tmp_path: Path) -> None:
    drawn = {**SCALED, "data.trajectory_weighting": "return"}
    parent = train(make_config(drawn), tmp_path / "parent")
    _, path = continue_from(parent, tmp_path, NO_STEPS)
    assert load(path)["critic_weighting"] == "return"
    _, more = continue_from(parent, tmp_path / "more", {"critic.gradient_steps": 2})
    assert load(more)["critic_weighting"] == "length", "trained on with the draws of this run"


def test_steps_go_on_from_its_weights_and_count_on(parent: Path, tmp_path: Path) -> None:
    still = {"critic.learning_rate": 0.0, "actor.learning_rate": 0.0, "actor.gradient_steps": 4}
    before, after = load(parent), load(continue_from(parent, tmp_path / "still", still)[1])
    own = [name for name in before["critic"] if not name.startswith("target_q")]
    assert_identical({k: after["critic"][k] for k in own}, {k: before["critic"][k] for k in own})
    assert_identical(after["policy"], before["policy"])
    assert after["gradient_steps"] == before["gradient_steps"] + 4
    moved = load(continue_from(parent, tmp_path / "moved", {"actor.gradient_steps": 4})[1])
    weights = {key: [state["policy"][key] for state in (before, moved)] for key in before["policy"]}
    changes = {key: float((a - b).abs().max()) for key, (a, b) in weights.items() if a.is_floating_point()}
    assert 0 < max(changes.values()) < 0.05, "other weights, and near those that it began from"
    assert_identical(moved["normalizer"], before["normalizer"])
    assert moved["reward_scale"] == before["reward_scale"]


def test_online_steps_are_added_to_an_offline_policy(parent: Path, tmp_path: Path) -> None:
    config, offline = continue_from(parent, tmp_path, {**NO_STEPS, "online.environment_steps": 10})
    buffer = seed_buffer(config, OTHER, tmp_path / "buffer.hdf5")
    tuned = load_state(tune_online(config, offline, buffer, OTHER, NullTracker(), make_store(tmp_path / "online")))
    assert tuned["environment_steps"] >= 10
    assert tuned["actor_critic"]["gradient_steps"] > load(parent)["gradient_steps"]
    assert_identical(tuned["actor_critic"]["normalizer"], load(parent)["normalizer"])


def test_a_critic_of_the_policy_goes_on_with_its_follower(tmp_path: Path) -> None:
    first = train(make_config({**SCALED, **JOINT}, method="td3bc"), tmp_path / "first")
    _, path = continue_from(first, tmp_path, NO_STEPS, method="td3bc")
    before, after = load(first), load(path)
    assert before["target_policy"].keys() == before["policy"].keys()
    for name in ("policy", "critic", "target_policy"):
        assert_identical(after[name], before[name], name)
    assert not all(torch.equal(before["policy"][key], before["target_policy"][key]) for key in before["policy"])
    _, more = continue_from(first, tmp_path / "more", JOINT, method="td3bc")
    assert load(more)["gradient_steps"] == before["gradient_steps"] + 3


@pytest.mark.parametrize("step", ["critic", "actor"])
def test_a_resumed_step_ends_with_the_same_bits_and_refuses_another_policy(
    parent: Path, tmp_path: Path, step: str
) -> None:
    config = make_config({**SCALED, "init.policy": parent, "critic.gradient_steps": 8, "actor.gradient_steps": 8})
    initial = keep_initial(config, tmp_path / "kept")
    whole = train(config, tmp_path / "whole", OTHER, initial)
    critic = pretrain_critic(config, OTHER, NullTracker(), make_store(tmp_path / "done"), initial)

    def run(tracker: NullTracker) -> Path:
        store = make_store(tmp_path / "cut", every=2)
        if step == "critic":
            return pretrain_critic(config, OTHER, tracker, store, initial)
        return train_actor(config, OTHER, critic, tracker, store, initial=initial)

    with pytest.raises(Interrupted):
        run(InterruptingTracker(5))
    kept = initial.read_bytes()
    initial.write_bytes(kept[:-1] + b"x")
    with pytest.raises(ConfigError, match=r"--init-from .*\.pt: the policy that this run began from is another now"):
        run(NullTracker())
    initial.unlink()
    with pytest.raises(ConfigError, match="the policy that this run began from is gone"):
        run(NullTracker())
    initial.write_bytes(kept)
    end = run(NullTracker())
    expected = critic if step == "critic" else whole
    for name in ("critic", "normalizer") if step == "critic" else ("actor_critic", "optimizer"):
        assert_identical(load_state(end)[name], load_state(expected)[name], name)


def test_the_file_must_be_given(parent: Path, tmp_path: Path) -> None:
    config = make_config({**SCALED, "init.policy": parent})
    with pytest.raises(ConfigError, match="the file of this policy is not given"):
        pretrain_critic(config, OTHER, NullTracker(), make_store(tmp_path))
