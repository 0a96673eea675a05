"""Scores while a policy trains: at fixed points, and without a trace in what is trained."""

from pathlib import Path

import pytest

from support.builders import (
    Interrupted,
    InterruptingTracker,
    RecordingTracker,
    assert_identical,
    make_config,
    make_dataset,
    make_store,
)
from vdt.checkpoint.store import load_state
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor
from vdt.training.online import tune_online
from vdt.training.seeding import seed_buffer

DATASET = make_dataset((5, 1, 7, 3, 6, 2, 4, 4))
PLAIN = make_config({"online.buffer_trajectories": 6})
CURVE = make_config({"online.buffer_trajectories": 6, "evaluation.curve_points": 2})


def find_scores(tracker: RecordingTracker, name: str) -> dict[int, float]:
    return {step: metrics[name] for step, metrics in tracker.metrics if name in metrics}


def without_settings(path: Path) -> dict[str, object]:
    state = load_state(path)
    state["actor_critic"] = {key: value for key, value in state["actor_critic"].items() if key != "config"}
    return state


@pytest.fixture(scope="module")
def critic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain_critic(PLAIN, DATASET, NullTracker(), make_store(tmp_path_factory.mktemp("critic")))


def test_a_curve_changes_no_bit_of_what_is_trained(critic: Path, tmp_path: Path) -> None:
    trackers, agents, tuned = [RecordingTracker(), RecordingTracker()], [], []
    buffer = seed_buffer(PLAIN, DATASET, tmp_path / "buffer.hdf5")
    for config, tracker in zip((PLAIN, CURVE), trackers, strict=True):
        folder = tmp_path / str(config.evaluation.curve_points)
        agents.append(train_actor(config, DATASET, critic, tracker, make_store(folder / "actor")))
        tuned.append(tune_online(config, agents[0], buffer, DATASET, tracker, make_store(folder / "online")))
    assert_identical(without_settings(agents[0]), without_settings(agents[1]))
    assert_identical(without_settings(tuned[0]), without_settings(tuned[1]))
    assert list(find_scores(trackers[1], "actor/score")) == [10, 20], "two points within 30 steps"
    assert len(find_scores(trackers[1], "online/score")) == 2
    assert not find_scores(trackers[0], "actor/score") and not find_scores(trackers[0], "online/score")


def test_a_resumed_training_goes_on_with_the_points_that_are_left(critic: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train_actor(CURVE, DATASET, critic, InterruptingTracker(17), make_store(tmp_path, every=15))
    tracker, whole = RecordingTracker(), RecordingTracker()
    resumed = train_actor(CURVE, DATASET, critic, tracker, make_store(tmp_path, every=15))
    undisturbed = train_actor(CURVE, DATASET, critic, whole, make_store(tmp_path / "whole"))
    assert_identical(without_settings(resumed), without_settings(undisturbed))
    assert find_scores(tracker, "actor/score") == {20: find_scores(whole, "actor/score")[20]}


def test_there_is_no_curve_without_an_environment_or_of_episodes_that_are_cut(critic: Path, tmp_path: Path) -> None:
    cut = make_config({"evaluation.curve_points": 2, "evaluation.max_episode_steps": 1})
    tracker = RecordingTracker()
    train_actor(cut, DATASET, critic, tracker, make_store(tmp_path))
    assert not find_scores(tracker, "actor/score")
