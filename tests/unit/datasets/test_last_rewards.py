"""No recorded reward is lost: data whose only reward comes with the last step of a truncated episode, end to end."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from support.data import make_small_config, make_steps, write_hdf5
from vdt.config.schema import Config
from vdt.data.errors import DataError
from vdt.data.normalization import Normalizer
from vdt.data.storage import FORMAT, FORMAT_WITH_MISSING, load_snapshot, read_snapshot, write_trajectories
from vdt.data.trajectory import TrajectoryDataset
from vdt.datasets.snapshot import make_snapshot
from vdt.experiments.resolve import resolve_config
from vdt.training.offline import make_offline_buffer, make_sampler

EPISODES, STEPS = 12, 20
RETURNS = [1.0, 0.0] * (EPISODES // 2)  # success with the last step of every second episode


def make_success(*, after: bool = False) -> dict[str, np.ndarray]:
    """Twelve truncated episodes in D4RL's schema; `after` adds next_observations."""
    walk = np.cumsum(np.random.default_rng(2).normal(size=(EPISODES, STEPS + 1, 3)), axis=1).astype(np.float32)
    rewards, ends = np.zeros((EPISODES, STEPS), np.float32), np.zeros((EPISODES, STEPS), np.bool_)
    rewards[::2, -1], ends[:, -1] = 1.0, True
    arrays = {
        "observations": walk[:, :-1].reshape(-1, 3),
        "actions": np.random.default_rng(3).uniform(-1, 1, (EPISODES * STEPS, 2)).astype(np.float32),
        "rewards": rewards.reshape(-1),
        "terminals": np.zeros(EPISODES * STEPS, np.bool_),
        "timeouts": ends.reshape(-1),
    }
    return {**arrays, "next_observations": walk[:, 1:].reshape(-1, 3)} if after else arrays


def write_as(kind: str, tmp_path: Path) -> Path:
    arrays = make_success(after=kind == "hdf5 with next observations")
    if kind.startswith("hdf5"):
        return write_hdf5(tmp_path / "success.hdf5", arrays)
    (folder := tmp_path / "success").mkdir()
    parts = {name: np.split(arrays[name], EPISODES) for name in ("observations", "actions", "rewards")}
    for k in range(EPISODES):
        np.savez(folder / f"{k:02}.npz", **{name: part[k] for name, part in parts.items()}, terminated=False)
    return folder


@pytest.mark.parametrize("kind", ["hdf5", "npz", "hdf5 with next observations"])
def test_sparse_success_reaches_the_policy(kind: str, tmp_path: Path) -> None:
    config = resolve_config(f"data:{write_as(kind, tmp_path)}", preset="smoke")
    assert config.task.candidate_returns == (1.0, 0.5, 0.0), "of 12 returns, as recorded"
    assert (config.task.reference_return_min, config.task.reference_return_max) == (0.0, 1.0)
    with contextlib.redirect_stdout(
        io.StringIO()
    ) as log:  # not capsys: DVC keeps the stream that it is first imported under
        snapshot = make_snapshot(config, tmp_path / "home")
    dataset = load_snapshot(Path(snapshot.path))
    assert dataset.episode_returns.tolist() == RETURNS and dataset.steps == EPISODES * STEPS == snapshot.card["steps"]
    buffer = make_offline_buffer(config, dataset, Normalizer.fit(dataset), 1.0)
    sampler = make_sampler(config, buffer, 1)
    sequences = sampler.gather_sequences(buffer.list_step_rows(), config.policy.context_length)
    assert float(sequences.rewards[:, 0].sum()) == sum(RETURNS) / config.task.return_scale
    assert (sequences.returns_to_go[::STEPS, 0] * config.task.return_scale).tolist() == RETURNS
    critic_sees = sampler.gather_transitions(buffer.list_step_rows(buffer.index_targets())).n_step_rewards
    said = log.getvalue() + str(snapshot.card["notes"])
    if "next" in kind:
        assert buffer.target_steps == buffer.steps and float(critic_sees.max()) == 1.0
        assert "leaves them out" not in said
    else:
        assert buffer.target_steps == buffer.steps - EPISODES
        assert torch.equal(critic_sees, torch.zeros(EPISODES * (STEPS - 1)))
        assert said.count("12 truncated episodes lack the observation after their last step") == 2, "log and card"
        assert said.count("their rewards (sum 6 of 6); the critic leaves them out") == 2
        assert said.count("it learns from zeros alone: mark real ends as such") == 2


def make_file_config(tmp_path: Path) -> Config:
    return make_small_config(f"path:{write_hdf5(tmp_path / 'hand.hdf5', make_steps(8, terminals=(3,), timeouts=(7,)))}")


def test_a_part_of_the_rewards_is_no_alarm(tmp_path: Path) -> None:
    notes = make_snapshot(make_file_config(tmp_path), tmp_path / "home").card["notes"]
    assert any("(sum 7 of 28)" in note for note in notes) and not any("zeros alone" in note for note in notes)


def test_formats_of_snapshots(tmp_path: Path) -> None:
    """Files without missing observations keep the first format, and are read as before."""
    dataset = load_snapshot(Path(make_snapshot(make_file_config(tmp_path), tmp_path / "home").path))
    known = TrajectoryDataset.from_trajectories([dataset[0]])
    for data, form in ((dataset, FORMAT_WITH_MISSING), (known, FORMAT)):
        write_trajectories(tmp_path / "x.hdf5", data)
        assert form.encode() in (tmp_path / "x.hdf5").read_bytes()
        assert read_snapshot(tmp_path / "x.hdf5")[0].final_missing.tolist() == data.final_missing.tolist()


def test_a_snapshot_that_lost_rewards_is_refused(tmp_path: Path) -> None:
    config = make_file_config(tmp_path)
    path = Path(make_snapshot(config, tmp_path / "home").path)
    dataset, card = read_snapshot(path)
    lost = "1 truncated episodes lost their last step, whose final observation is not in the file"  # as 0.1.0 wrote it
    write_trajectories(path, dataset, {**card, "notes": [lost]})
    with pytest.raises(
        DataError, match=rf"earlier version, which dropped recorded rewards \({lost}.*Delete .* run again"
    ):
        make_snapshot(config, tmp_path / "home")


def test_data_from_which_no_critic_can_learn_is_refused(tmp_path: Path) -> None:
    config = make_small_config(f"path:{write_hdf5(tmp_path / 'one.hdf5', make_steps(1))}")
    with pytest.raises(DataError, match="none of the 1 steps has an observation after it"):
        make_snapshot(config, tmp_path / "home")


def test_one_episode_cannot_be_held_out(tmp_path: Path) -> None:
    config = make_small_config(f"path:{write_hdf5(tmp_path / 'one.hdf5', make_steps(4))}")
    with pytest.raises(DataError, match=r"one episode, and data.held_out_fraction 0.1 takes whole episodes; accepted"):
        make_snapshot(replace(config, data=replace(config.data, held_out_fraction=0.1)), tmp_path / "home")
