"""The only rollout: ends, noise, clipping, and independence of what runs beside."""

import math
from typing import Any

import numpy as np
import pytest
from gymnasium.wrappers import TransformObservation, TransformReward

from support.builders import LinearActor, make_config
from support.environments import CONSTANT, CONSTANT_ENDING, COUNTDOWN, SUCCESS
from vdt.data.trajectory import Trajectory
from vdt.environments import make_environment, make_gymnasium_environment
from vdt.environments.rollout import collect_trajectories, find_success, make_trajectory


def collect(
    environment_id: str, seeds: list[int], horizon: int = 50, gain: float = 0.3, **settings: Any
) -> list[Trajectory]:
    environments = [make_gymnasium_environment(environment_id, horizon) for _ in seeds]
    return collect_trajectories(LinearActor(gain), environments, seeds, **settings)


def assert_same(first: Trajectory, second: Trajectory) -> None:
    assert (first.observations == second.observations).all()
    assert (first.actions == second.actions).all()
    assert (first.rewards == second.rewards).all()
    assert first.terminated == second.terminated


def test_golden_episode() -> None:
    # seed 0: 2 steps from y = 1 with a = 0.3 y: y' = 0.9 y + 0.15 y = 1.05 y; rewards 1 + y'
    (trajectory,) = collect(COUNTDOWN, [0])
    np.testing.assert_allclose(trajectory.observations, [[2, 1], [1, 1.05], [0, 1.1025]], rtol=1e-6)
    np.testing.assert_allclose(trajectory.actions, [[0.3], [0.315]], rtol=1e-6)
    np.testing.assert_allclose(trajectory.rewards, [2.05, 2.1025], rtol=1e-6)
    assert trajectory.terminated


def test_a_real_end_and_a_time_limit_are_told_apart() -> None:
    (ended,) = collect(CONSTANT_ENDING, [0], horizon=50)
    (limited,) = collect(CONSTANT_ENDING, [0], horizon=6)
    (cut,) = collect(CONSTANT_ENDING, [0], horizon=50, max_steps=4)
    (both,) = collect(CONSTANT_ENDING, [0], horizon=10)  # the end falls on the limit: it is a real end
    assert (len(ended), ended.terminated) == (10, True)
    assert (len(limited), limited.terminated) == (6, False)
    assert (len(cut), cut.terminated) == (4, False)
    assert (len(both), both.terminated) == (10, True)


def test_the_final_observation_is_kept() -> None:
    (limited,) = collect(CONSTANT, [0], horizon=3)
    np.testing.assert_allclose(limited.observations[:, 0], [0, 0.1, 0.2, 0.3], rtol=1e-6)


def test_an_episode_in_a_batch_equals_the_episode_alone() -> None:
    seeds = [4, 0, 3, 1, 2]  # 6, 2, 5, 3, 4 steps
    together = collect(COUNTDOWN, seeds, noise=0.2)
    assert [len(t) for t in together] == [6, 2, 5, 3, 4]
    for seed, trajectory in zip(seeds, together, strict=True):
        (alone,) = collect(COUNTDOWN, [seed], noise=0.2)
        assert_same(trajectory, alone)


def test_finished_episodes_drop_out() -> None:
    actor = LinearActor()
    environments = [make_gymnasium_environment(COUNTDOWN, 50) for _ in range(3)]
    collect_trajectories(actor, environments, [0, 4, 2])  # 2, 6, 4 steps
    assert actor.batch_sizes == [3, 3, 2, 2, 1, 1]


def test_same_seed_same_episode_even_in_a_used_environment() -> None:
    environment = make_gymnasium_environment(COUNTDOWN, 50)
    first, other, second = (collect_trajectories(LinearActor(), [environment], [s], noise=0.5)[0] for s in (3, 8, 3))
    assert_same(first, second)
    assert (first.actions != other.actions).any()  # 3 and 8 start alike (mod 5); the noise differs


def test_without_noise_actions_are_the_actors() -> None:
    (trajectory,) = collect(COUNTDOWN, [4], noise=0.0)
    np.testing.assert_allclose(trajectory.actions, 0.3 * trajectory.observations[:-1, 1:], rtol=1e-6)


def test_noise_is_a_share_of_half_the_action_range() -> None:
    trajectories = collect(COUNTDOWN, list(range(400)), noise=0.1, gain=0.0)
    noise = np.concatenate([t.actions for t in trajectories])
    assert abs(noise.mean()) < 0.03
    assert noise.std() == pytest.approx(0.1 * 2, rel=0.07)  # half the range [-2, 2] is 2


def test_actions_are_stored_as_executed() -> None:
    (trajectory,) = collect(COUNTDOWN, [4], gain=10.0)  # wants 10 y, is allowed 2
    assert (trajectory.actions == 2.0).all()
    np.testing.assert_allclose(trajectory.rewards[0], 1 + 0.9 + 0.5 * 2, rtol=1e-6)


@pytest.mark.parametrize("reward", [math.nan, math.inf, 1e39])
def test_a_reward_that_is_not_finite_ends_the_rollout_with_the_place(reward: float) -> None:
    environment = TransformReward(make_gymnasium_environment(CONSTANT, 3), lambda _: reward)
    with pytest.raises(FloatingPointError, match=r"step 1 of the episode with seed 7 gave reward .*; mend the environ"):
        collect_trajectories(LinearActor(0.3), [environment], [7])


def test_an_observation_that_is_not_finite_ends_the_rollout_unless_the_episode_ends_with_it() -> None:
    def spoil(observation: Any) -> Any:
        return np.full_like(observation, np.nan) if observation[0] > 0.15 else observation

    def make(horizon: int) -> Any:
        plain = make_gymnasium_environment(CONSTANT_ENDING, horizon)
        return TransformObservation(plain, spoil, plain.observation_space)

    (trajectory,) = collect_trajectories(LinearActor(0.3), [make(2)], [0])
    assert len(trajectory) == 2 and trajectory.final_missing, "cut by its time limit: what followed was not observed"
    np.testing.assert_array_equal(trajectory.observations[-1], trajectory.observations[-2])
    with pytest.raises(FloatingPointError, match=r"step 2 of the episode with seed 0 gave reward 1 and an observation"):
        collect_trajectories(LinearActor(0.3), [make(5)], [0])


def test_success_once_is_success_and_silence_is_no_failure() -> None:
    assert [t.success for t in collect(SUCCESS, [5, 6, 9])] == [False, True, True]
    assert [t.success for t in collect(COUNTDOWN, [5, 6])] == [None, None]
    assert find_success({"is_success": 1.0}, None) is True
    assert find_success({}, True) is True and find_success({"success": False}, True) is True


def test_what_the_actor_is_told() -> None:
    class Listener(LinearActor):
        told: list[tuple[list[float], list[float], list[bool]]] = []  # noqa: RUF012

        def observe(self, actions: Any, rewards: Any, active: Any) -> None:
            self.told.append((actions[:, 0].tolist(), rewards.tolist(), active.tolist()))

    actor = Listener()
    trajectories = collect_trajectories(actor, [make_gymnasium_environment(COUNTDOWN, 50) for _ in range(2)], [0, 1])
    assert [active for _, _, active in actor.told] == [[True, True], [False, True], [False]]
    assert [rewards for _, rewards, _ in actor.told] == [
        [float(t.rewards[k]) for t in trajectories if len(t) > k] for k in range(3)
    ]
    assert [actions for actions, _, _ in actor.told] == [
        [float(t.actions[k, 0]) for t in trajectories if len(t) > k] for k in range(3)
    ]


def test_environment_of_a_task_gets_its_arguments() -> None:
    for weight in (0.0, 5.0):
        settings = {"task.environment_id": "Hopper-v4", "task.environment_kwargs": f'{{"ctrl_cost_weight": {weight}}}'}
        environment = make_environment(make_config(settings).task)
        assert environment.unwrapped._ctrl_cost_weight == weight  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"Gymnasium cannot make 'Hopper-v4': .*no_such_argument"):
        make_environment(make_config({**settings, "task.environment_kwargs": '{"no_such_argument": 1}'}).task)
    with pytest.raises(
        ValueError, match=r"Gymnasium cannot make 'absent_module:Arm-v0': No module named 'absent_module'"
    ):
        make_environment(make_config({"task.environment_id": "absent_module:Arm-v0"}).task)


def test_progress_says_share_done_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdt.system.progress.REPORT_EVERY_SECONDS", 0.0)
    collect(CONSTANT, [0, 1], horizon=3, label="evaluate offline/single")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == [
        "evaluate offline/single: step 1/3",
        "evaluate offline/single: step 2/3",
    ]
    assert all(" s left" in line and line.endswith("episodes running of 2: 2") for line in lines)


def test_what_is_not_finite_after_a_real_end_is_the_observation_before_it() -> None:
    observations = [np.float32([1.0]), np.float32([2.0]), np.float32([np.nan])]
    ended = make_trajectory(observations, [np.float32([0.5])] * 2, [1.0, 2.0], True, None)
    assert ended.observations.tolist() == [[1.0], [2.0], [2.0]] and ended.terminated and not ended.final_missing
    whole = make_trajectory([*observations[:2], np.float32([3.0])], [np.float32([0.5])] * 2, [1.0, 2.0], False, True)
    assert whole.observations.tolist() == [[1.0], [2.0], [3.0]] and not whole.final_missing and whole.success
