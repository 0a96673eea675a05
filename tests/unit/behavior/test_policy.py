"""Behaviour policies: their arithmetic, and the file they live in."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from vdt.behavior.policy import BehaviorLadder, BehaviorPolicy, load_ladder, save_ladder
from vdt.config.layers import PARAMS
from vdt.system.files import compute_file_digest


def make_policy(seed: int = 0) -> BehaviorPolicy:
    generator = np.random.default_rng(seed)
    return BehaviorPolicy(
        weights=tuple(generator.standard_normal(s).astype(np.float32) for s in ((3, 4), (4, 2))),
        biases=tuple(generator.standard_normal(s).astype(np.float32) for s in (4, 2)),
        log_std=generator.standard_normal(2).astype(np.float32),
        observation_mean=generator.standard_normal(3).astype(np.float32),
        observation_std=np.abs(generator.standard_normal(3)).astype(np.float32),
    )


def make_ladder(rungs: int = 3) -> BehaviorLadder:
    policies = tuple(make_policy(seed) for seed in range(rungs))
    return BehaviorLadder(policies, np.arange(rungs) * 10, np.arange(rungs, dtype=np.float32))


def test_action_by_hand() -> None:
    policy = BehaviorPolicy(
        weights=(np.array([[2.0]], np.float32), np.array([[3.0]], np.float32)),
        biases=(np.array([0.5], np.float32), np.array([-1.0], np.float32)),
        log_std=np.array([np.log(0.5)], np.float32),
        observation_mean=np.array([1.0], np.float32),
        observation_std=np.array([4.0], np.float32),
    )
    observation = np.array([[2.0]], np.float32)
    # (2 - 1) / 4 = 0.25;  tanh(0.25 * 2 + 0.5) = tanh(1) = 0.761594;  0.761594 * 3 - 1 = 1.284783, not clipped
    np.testing.assert_allclose(policy.sample_action(observation, np.float32(0)), [[1.284783]], atol=1e-5)
    # noise 2 at standard deviation 0.5: + 1
    noise = np.array([[2.0]], np.float32)
    np.testing.assert_allclose(policy.sample_action(observation, noise), [[2.284783]], atol=1e-5)


def test_squashed_action_by_hand() -> None:
    policy = BehaviorPolicy(
        weights=(np.array([[2.0, -1.0]], np.float32), np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)),
        biases=(np.array([0.5, 0.0], np.float32), np.array([-1.0, np.log(0.5)], np.float32)),
        observation_mean=np.zeros(1, np.float32),
        observation_std=np.ones(1, np.float32),
    )
    assert (policy.observation_size, policy.action_size) == (1, 1)
    observation = np.array([[0.5]], np.float32)
    # hidden: relu(0.5 * 2 + 0.5) = 1.5, relu(-0.5) = 0;  mean 1.5 - 1 = 0.5, standard deviation 0.5
    # tanh(0.5) = 0.462117;  tanh(0.5 + 0.5 * 2) = tanh(1.5) = 0.905148
    still, noise = np.zeros((1, 1), np.float32), np.array([[2.0]], np.float32)
    np.testing.assert_allclose(policy.sample_action(observation, still), [[0.462117]], atol=1e-5)
    np.testing.assert_allclose(policy.sample_action(observation, noise), [[0.905148]], atol=1e-5)


def test_normalised_observations_are_clipped_at_ten() -> None:
    mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
    policy = dataclasses.replace(make_policy(), observation_mean=mean, observation_std=std)
    far, limit = np.full((1, 3), 500.0, np.float32), np.full((1, 3), 10.0, np.float32)
    still = np.zeros((1, 2), np.float32)
    assert np.array_equal(policy.sample_action(far, still), policy.sample_action(limit, still))


@pytest.mark.parametrize("noise_is_a_parameter", [True, False])
def test_ladder_round_trip(tmp_path: Path, noise_is_a_parameter: bool) -> None:
    ladder = make_ladder()
    if not noise_is_a_parameter:
        policies = tuple(dataclasses.replace(policy, log_std=None) for policy in ladder.policies)
        ladder = dataclasses.replace(ladder, policies=policies)
    save_ladder(tmp_path / "ladder.npz", ladder)
    loaded = load_ladder(tmp_path / "ladder.npz")
    assert np.array_equal(loaded.environment_steps, ladder.environment_steps)
    assert np.array_equal(loaded.episode_returns, ladder.episode_returns)
    for saved, read in zip(ladder.policies, loaded.policies, strict=True):
        for field in dataclasses.fields(BehaviorPolicy):
            one, other = getattr(saved, field.name), getattr(read, field.name)
            pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
            assert all((a is b is None) or (np.array_equal(a, b) and a.dtype == b.dtype) for a, b in pairs), field.name


def test_file_without_an_array_is_refused(tmp_path: Path) -> None:
    save_ladder(tmp_path / "whole.npz", make_ladder())
    with np.load(tmp_path / "whole.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "b1"}
    np.savez(tmp_path / "part.npz", **arrays)
    with pytest.raises(ValueError, match=r"part\.npz is not a behaviour ladder: array .*b1"):
        load_ladder(tmp_path / "part.npz")


def test_file_with_nan_is_refused(tmp_path: Path) -> None:
    policy = dataclasses.replace(make_policy(), log_std=np.array([0.0, np.nan], np.float32))
    save_ladder(tmp_path / "nan.npz", BehaviorLadder((policy,), np.zeros(1, np.int64), np.zeros(1, np.float32)))
    with pytest.raises(ValueError, match="not finite"):
        load_ladder(tmp_path / "nan.npz")


@pytest.mark.parametrize("path", sorted((PARAMS / "behavior").glob("*.npz")), ids=lambda path: path.stem)
def test_committed_ladder_is_the_documented_one(path: Path) -> None:
    story = json.loads(path.with_suffix(".json").read_text())
    assert story["npz_sha256"] == compute_file_digest(path, "sha256")
    ladder = load_ladder(path)
    assert [rung["environment_steps"] for rung in story["rungs"]] == ladder.environment_steps.tolist()
    assert 8 <= len(ladder.policies) <= 12
    assert path.stat().st_size < 2_000_000


def test_a_ladder_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ladder.npz"
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match="is not a behaviour ladder: File is not a zip file"):
        load_ladder(path)


def test_a_ladder_that_unpacks_to_far_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ladder.npz"
    np.savez_compressed(path, environment_steps=np.zeros(9 * 2**20))  # 72 MiB of zeros in 70 kB
    with pytest.raises(ValueError, match="would unpack to 75497600 bytes"):
        load_ladder(path)
