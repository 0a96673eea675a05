"""The best policy of the online phase, and the curve of scores beside it: whatever is killed when."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vdt.checkpoint.store
import vdt.training.online
from support.builders import (
    Interrupted,
    InterruptingTracker,
    RecordingTracker,
    assert_identical,
    clone_state,
    make_config,
    make_store,
)
from support.online import CONFIG, Inputs
from vdt.checkpoint.store import load_state
from vdt.tracking import NullTracker
from vdt.training.online import make_tuner, tune_online


def test_the_best_checkpoint_is_the_policy_that_did_it(
    paths: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the one that its updates made of it, not a lucky episode, and whenever checkpoints are due."""
    monkeypatch.setattr(vdt.training.online, "BEST_OVER", 3)
    rare, often = make_store(tmp_path / "rare"), make_store(tmp_path / "often", every=1)
    for store in (rare, often):
        tune_online(CONFIG, *paths, NullTracker(), store)
    tuner, returns, acted = make_tuner(CONFIG, *paths, None), list[float](), dict[float, Any]()
    while tuner.environment_steps < CONFIG.online.environment_steps:
        returns += [t.episode_return for t in tuner.collect()]
        if len(returns) >= 3:
            acted.setdefault(
                float(np.mean(returns[-3:])), (tuner.environment_steps, clone_state(tuner.actor_critic.policy))
            )
        tuner.update()
    assert len(acted) > 3 and max(acted) < max(returns)
    step, policy = acted[max(acted)]
    assert step < tuner.environment_steps, "else the last one would be the best, and this test would show nothing"
    for best in (rare.find_best(), often.find_best()):
        assert best is not None
        state = load_state(best)
        assert state["step"] == step
        assert_identical(dict(state["actor_critic"]["policy"]), policy)


def test_few_episodes_have_no_best(paths: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vdt.training.online, "BEST_OVER", 1000)
    store = make_store(tmp_path)
    tune_online(CONFIG, *paths, NullTracker(), store)
    assert store.find_best() is None


def test_resume_before_the_update_that_followed_the_best(
    paths: Inputs, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vdt.training.online, "BEST_OVER", 1)  # nearly every iteration is the best, and kept at once
    with pytest.raises(Interrupted):
        tune_online(CONFIG, *paths, InterruptingTracker(30), make_store(tmp_path))
    kept = make_store(tmp_path).load_latest()
    assert kept is not None and kept["pending_return"] is not None
    resumed = load_state(tune_online(CONFIG, *paths, NullTracker(), make_store(tmp_path)))
    assert_identical(resumed["actor_critic"], undisturbed["actor_critic"])
    assert_identical(resumed["buffer"], undisturbed["buffer"])


def test_the_best_policy_may_be_that_of_the_last_iteration(
    paths: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vdt.training.online, "BEST_OVER", 1)
    config, store = make_config({"online.buffer_trajectories": 6, "online.environment_steps": 1}), make_store(tmp_path)
    last = tune_online(config, *paths, NullTracker(), store)
    best = store.find_best()
    assert best is not None and best != last
    assert_identical(
        load_state(best)["actor_critic"]["policy"], load_state(paths[0])["actor_critic"]["policy"]
    )  # it acted before its first update


def test_a_buffer_too_small_for_the_mean_has_no_best(paths: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vdt.training.online, "BEST_OVER", 3)
    tuner = make_tuner(make_config({"online.buffer_trajectories": 2}), *paths, None)
    for _ in range(4):
        tuner.collect()
    assert tuner.episodes >= 4 and tuner.recent_return is None


def test_a_kill_before_an_update_costs_no_point_of_the_scores_curve(
    paths: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vdt.training.online, "BEST_OVER", 1)
    config = make_config({"online.buffer_trajectories": 6, "evaluation.curve_points": 9})

    class Killed(RecordingTracker):
        def log_checkpoint(self, name: str, *more: Any, **fields: Any) -> None:
            super().log_checkpoint(name, *more, **fields)
            if [kept for kept, *_ in self.checkpoints if kept.startswith("online-best")][1:] == [name]:
                raise Interrupted  # at the second, where a point of the curve is due

    def list_points(*trackers: RecordingTracker) -> list[int]:
        return [step for tracker in trackers for step, numbers in tracker.metrics if "online/score" in numbers]

    whole, before, after = RecordingTracker(), Killed(), RecordingTracker()
    tune_online(config, *paths, whole, make_store(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        tune_online(config, *paths, before, make_store(tmp_path / "cut"))
    tune_online(config, *paths, after, make_store(tmp_path / "cut"))
    assert list_points(before, after) == list_points(whole)


def test_a_kill_between_the_best_file_and_its_record_loses_no_best(
    paths: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vdt.training.online, "BEST_OVER", 1)
    config = make_config({"online.buffer_trajectories": 6, "online.environment_steps": 1})
    tune_online(config, *paths, NullTracker(), make_store(tmp_path / "undisturbed"))

    def stop(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as killed, pytest.raises(Interrupted):
        killed.setattr(vdt.checkpoint.store, "write_text", stop)
        tune_online(config, *paths, NullTracker(), make_store(tmp_path / "killed"))
    tune_online(config, *paths, NullTracker(), make_store(tmp_path / "killed"))
    (expected, found) = (make_store(tmp_path / name).find_best() for name in ("undisturbed", "killed"))
    assert expected is not None and found is not None
    assert_identical(load_state(found)["actor_critic"], load_state(expected)["actor_critic"])
