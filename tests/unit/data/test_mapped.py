"""Data that is mapped instead of read: the same numbers everywhere, and clear errors where a file is damaged."""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from support.builders import SETTINGS, make_trajectory
from vdt.data import mapped_store, trajectory_store
from vdt.data import residence as residences
from vdt.data.errors import DataError
from vdt.data.gathering import gather_trajectories
from vdt.data.mapped_store import SPARE_ROWS, MappedTrajectoryStore, find_rows_file
from vdt.data.normalization import Normalizer, RewardStatistics
from vdt.data.replay_buffer import TrajectoryReplayBuffer
from vdt.data.residence import MEMORY, Residence, map_array
from vdt.data.sampling import Sampler
from vdt.data.statistics import measure_observations
from vdt.data.storage import ARRAYS, load_snapshot, write_trajectories
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.data.trajectory_store import StepRows, TrajectoryStore

MAPPED = Residence("mapped")
LENGTHS = (7, 1, 12, 3, 30, 2, 5, 9)


def make_episodes() -> Iterator[Trajectory]:
    for k, length in enumerate(LENGTHS):
        episode = make_trajectory(length, terminated=k % 3 == 0, seed=k)
        yield replace(episode, final_missing=k % 3 == 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A snapshot's file."""
    write_trajectories(tmp_path / "set" / "trajectories.hdf5", TrajectoryDataset.from_trajectories(make_episodes()))
    return tmp_path / "set" / "trajectories.hdf5"


def make_stores(path: Path) -> tuple[TrajectoryStore, TrajectoryStore]:
    held, mapped = load_snapshot(path), load_snapshot(path, MAPPED)
    normalizer = Normalizer.fit(held, clip=1.5)
    in_memory = TrajectoryReplayBuffer(normalizer, SETTINGS, action_size=held.action_size)
    in_memory.extend(held)
    return in_memory, MappedTrajectoryStore(mapped, normalizer, SETTINGS)


def assert_equal(one: object, other: object) -> None:
    """All fields of two batches are the same numbers."""
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(other, name)), name


def test_a_mapped_snapshot_has_the_same_numbers_and_takes_no_copy(path: Path) -> None:
    held, mapped = load_snapshot(path), load_snapshot(path, MAPPED)
    assert held.file is None and mapped.file is not None and mapped.file.path == path
    for name in ARRAYS:
        assert np.array_equal(getattr(held, name), getattr(mapped, name)), name
    for name in ("observations", "actions", "rewards"):
        assert not getattr(mapped, name).flags.owndata and not getattr(mapped, name).flags.writeable, name
    assert Normalizer.fit(held).mean.tolist() == Normalizer.fit(mapped).mean.tolist()
    assert RewardStatistics.fit(held, 3.0) == RewardStatistics.fit(mapped, 3.0)
    assert held.episode_returns.tolist() == mapped.episode_returns.tolist()


@pytest.mark.parametrize("size", [1, 3, 17])
def test_statistics_by_blocks_equal_numpy_on_the_whole_to_the_bit(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdt.data.trajectory.BLOCK_ROWS", 4096)
    monkeypatch.setattr("vdt.data.statistics.BLOCK_ROWS", 4096)
    random = np.random.default_rng(size)
    offsets = np.concatenate([[0], np.cumsum(random.integers(2, 90, 700))])
    observations = (3 * random.standard_normal((offsets[-1], size)) + 1).astype(np.float32)
    rewards, actions = (
        (7 * random.standard_normal(offsets[-1])).astype(np.float32),
        np.zeros((offsets[-1], 1), np.float32),
    )
    missing = random.random(700) < 0.3
    dataset = TrajectoryDataset(observations, actions, rewards, offsets, np.zeros(700, np.bool_), missing)
    recorded = np.delete(observations, offsets[1:][missing] - 1, axis=0)
    mean, std = (part(axis=0, dtype=np.float64) for part in (recorded.mean, recorded.std))
    measured = measure_observations(dataset)
    assert [part.tolist() for part in measured] == [mean.tolist(), std.tolist()], "as double, too"
    normalizer, statistics = Normalizer.fit(dataset), RewardStatistics.fit(dataset, 10.0)
    assert normalizer.mean.tolist() == mean.astype(np.float32).tolist()
    assert normalizer.std.tolist() == std.astype(np.float32).tolist()
    steps = np.delete(rewards, offsets[1:] - 1).astype(np.float64) / 10.0
    assert (statistics.mean, statistics.std) == (float(steps.mean()), float(steps.std()))
    rewards[offsets[1:] - 1] = 0
    assert dataset.episode_returns.tolist() == np.add.reduceat(rewards.astype(np.float64), offsets[:-1]).tolist()


def test_chosen_episodes_are_those_of_a_copy(path: Path) -> None:
    whole = load_snapshot(path, MAPPED)
    for kept in ([0, 1, 2], [1, 2, 5, 7], [7], list(range(8))):
        chosen, copy = whole.choose(kept), TrajectoryDataset.from_trajectories(whole[k] for k in kept)
        assert chosen.observations is whole.observations, "nothing is copied"
        for name, values in copy.get_arrays().items():
            assert np.array_equal(chosen.get_arrays()[name], values), name
        assert chosen.episode_returns.tolist() == copy.episode_returns.tolist()
        assert Normalizer.fit(chosen).std.tolist() == Normalizer.fit(copy).std.tolist()
        assert RewardStatistics.fit(chosen, 2.0) == RewardStatistics.fit(copy, 2.0)
        assert (chosen.steps, chosen.target_steps, len(chosen)) == (copy.steps, copy.target_steps, len(copy))
        again = chosen.choose([0])
        assert np.array_equal(again[0].observations, whole[kept[0]].observations)


def cut(episode: Trajectory, steps: int) -> Trajectory:
    """Copy the first steps of an episode; one that goes on after them has neither ended nor lost its next observation."""
    if len(episode) <= steps:
        return episode
    return Trajectory(episode.observations[: steps + 1], episode.actions[:steps], episode.rewards[:steps], False)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 1000])
def test_first_steps_are_those_of_a_copy(path: Path, steps: int) -> None:
    whole = load_snapshot(path, MAPPED)
    for dataset in (whole, whole.choose([1, 2, 5, 7])):
        first = dataset.keep_first(steps)
        copy = TrajectoryDataset.from_trajectories(cut(episode, steps) for episode in dataset)
        assert first.observations is whole.observations, "nothing is copied"
        assert (first is dataset) == (steps >= dataset.lengths.max())
        for name, values in copy.get_arrays().items():
            assert np.array_equal(first.get_arrays()[name], values), name
        assert first.episode_returns.tolist() == copy.episode_returns.tolist()
        assert Normalizer.fit(first).std.tolist() == Normalizer.fit(copy).std.tolist()
        assert RewardStatistics.fit(first, 2.0) == RewardStatistics.fit(copy, 2.0)
        assert (first.steps, first.target_steps, len(first)) == (copy.steps, copy.target_steps, len(copy))


def test_rows_that_overlap_or_leave_the_arrays_are_refused(path: Path) -> None:
    chosen = load_snapshot(path).choose([0, 2])
    assert chosen.first_rows is not None
    for wrong in (chosen.first_rows + 100, chosen.first_rows[:1], np.array([0, 4]), np.array([-1, 20])):
        with pytest.raises(ValueError, match="offsets must rise from 0"):
            replace(chosen, first_rows=wrong)


@pytest.mark.parametrize("share", [0.0, 0.5])  # of the memory, from which on pages are announced
@pytest.mark.parametrize("weighting", ["length", "uniform", "return"])
def test_batches_are_the_same_from_memory_and_from_the_file(
    path: Path, weighting: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_store, "MEMORY_SHARE", share)
    announced: list[int] = []
    announce = MappedTrajectoryStore._announce
    monkeypatch.setattr(
        MappedTrajectoryStore, "_announce", lambda store, *given: announced.append(announce(store, *given))
    )
    stores = make_stores(path)
    samplers = [Sampler(store, weighting, torch.Generator().manual_seed(3), starts_before=True) for store in stores]
    for _ in range(5):
        in_memory, mapped = (sampler.sample_transitions(32) for sampler in samplers)
        assert_equal(in_memory, mapped)
        in_memory, mapped = (sampler.sample_sequences(16, 6) for sampler in samplers)
        assert_equal(in_memory, mapped)
        first, second = (sampler.sample_transitions_in_context(16, 5, present=True) for sampler in samplers)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    first, second = (store.find_return_range() for store in stores)
    assert torch.equal(first, second)
    to_go = stores[0].take(stores[0].list_step_rows(), stores[0].column.return_to_go)
    assert first.tolist() == [float(to_go.min()), float(to_go.max())]
    assert bool(sum(announced)) == (share == 0.0), "pages of a file that stays in memory are not announced"
    assert [len(store) for store in stores] == [len(LENGTHS)] * 2
    assert stores[0].steps == stores[1].steps and stores[0].target_steps == stores[1].target_steps


def test_a_second_process_maps_the_rows_that_the_first_wrote(path: Path) -> None:
    make_stores(path)
    (rows,) = (path.parent / "rows").glob("*.npy")
    written = rows.stat()
    make_stores(path)
    assert (rows.stat().st_ino, rows.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_other_settings_episodes_or_data_have_rows_of_their_own(path: Path) -> None:
    dataset, device = load_snapshot(path, MAPPED), torch.device("cpu")
    normalizer = Normalizer.fit(dataset)
    names = {find_rows_file(dataset, normalizer, SETTINGS, device)}
    for field, value in asdict(SETTINGS).items():
        names.add(find_rows_file(dataset, normalizer, replace(SETTINGS, **{field: value + 1}), device))
    names.add(find_rows_file(dataset, replace(normalizer, clip=1.0), SETTINGS, device))
    names.add(find_rows_file(dataset.choose([0, 1]), normalizer, SETTINGS, device))
    names.add(find_rows_file(dataset.choose([0, 2]), normalizer, SETTINGS, device))
    os.utime(path, ns=(0, 0))
    names.add(find_rows_file(load_snapshot(path, MAPPED), normalizer, SETTINGS, device))
    assert len(names) == 1 + 5 + 1 + 2 + 1


def test_rows_of_data_in_memory_have_no_place(path: Path) -> None:
    dataset = load_snapshot(path)
    with pytest.raises(ValueError, match="the data set is in memory"):
        MappedTrajectoryStore(dataset, Normalizer.fit(dataset), SETTINGS)


def test_windows_are_limited_by_the_rows_below_the_last(path: Path) -> None:
    _, mapped = make_stores(path)
    rows = torch.tensor([len(mapped.matrix) - SPARE_ROWS - 1])
    assert mapped.gather_windows(rows, SPARE_ROWS)[0, 1:].abs().sum() == 0
    with pytest.raises(ValueError, match="windows have 1025 rows"):
        mapped.gather_windows(rows, SPARE_ROWS + 1)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_snapshot_is_one_clear_error(path: Path, kept: float) -> None:
    os.truncate(path, int(kept * path.stat().st_size))
    with pytest.raises(DataError, match="not a whole snapshot"):
        load_snapshot(path, MAPPED)


def test_a_compressed_snapshot_cannot_be_mapped_and_says_so(path: Path) -> None:
    dataset = load_snapshot(path)
    with h5py.File(path, "r+") as file:
        del file["observations"]
        file.create_dataset("observations", data=dataset.observations, compression="gzip")
    assert load_snapshot(path).observations.shape == dataset.observations.shape
    with pytest.raises(DataError, match="/observations does not lie in one piece"):
        load_snapshot(path, MAPPED)


@pytest.mark.parametrize("size", [0, 20, 500, -1, -5000])
def test_damaged_rows_are_one_clear_error(path: Path, size: int) -> None:
    make_stores(path)
    (rows,) = (path.parent / "rows").glob("*.npy")
    os.truncate(rows, size if size >= 0 else rows.stat().st_size + size)
    with pytest.raises(DataError, match=r"rows/\w+\.npy is damaged .*delete it and run again"):
        make_stores(path)
    rows.unlink()
    make_stores(path)


def test_rows_of_another_shape_are_refused(path: Path) -> None:
    make_stores(path)
    (rows,) = (path.parent / "rows").glob("*.npy")
    np.save(rows, np.zeros((5, 5), np.float32))
    with pytest.raises(DataError, match="holds float32 of shape"):
        make_stores(path)


def test_nothing_is_mapped_beyond_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(40))
    assert map_array(file, (10,), np.float32).sum() == 0
    for shape, offset in (((11,), 0), ((10,), 4)):
        with pytest.raises(ValueError, match="it has 40 bytes, but an array of it ends at byte 44"):
            map_array(file, shape, np.float32, offset)


def test_what_a_killed_writer_left_is_removed(path: Path) -> None:
    make_stores(path)
    (rows,) = (path.parent / "rows").glob("*.npy")
    rows.unlink()
    left = rows.with_name(f".{rows.name}.0123456789ab.part")
    left.write_bytes(bytes(8))
    other = rows.with_name(".other.npy.0123456789ab.part")
    other.write_bytes(bytes(8))
    make_stores(path)
    assert not left.exists() and other.exists()


@pytest.mark.parametrize("setting", ["memory", "mapped", "auto"])
def test_gathered_trajectories_are_the_same_wherever_they_lie(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residences, "measure_memory", lambda: 8 * 300)  # "auto" begins in memory and goes on in files
    expected = TrajectoryDataset.from_trajectories(make_episodes())
    found = gather_trajectories(make_episodes(), Residence(setting, tmp_path / "new"))
    assert found.observations.flags.writeable == (setting == "memory")
    for name, values in expected.get_arrays().items():
        assert np.array_equal(found.get_arrays()[name], values), name
    assert not list(tmp_path.rglob("*.*")), "its files have no names"
    with pytest.raises(ValueError, match="at least one trajectory"):
        gather_trajectories([], Residence(setting))


def test_trajectories_of_other_sizes_are_refused_in_files_too() -> None:
    with pytest.raises(ValueError, match="of one trajectory have shape"):
        gather_trajectories(
            [make_trajectory(3), Trajectory(np.zeros((3, 9)), np.zeros((2, 1)), np.zeros(2), False)], MAPPED
        )


def test_auto_maps_what_exceeds_an_eighth_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residences, "measure_memory", lambda: 800)
    auto = Residence("auto")
    assert not auto.maps(100) and auto.maps(101)
    assert (auto.settle(100).setting, auto.settle(101).setting) == ("memory", "mapped")
    assert not MEMORY.maps(10**15) and MAPPED.maps(1)
    zeros = MAPPED.make_zeros((3, 2))
    zeros[1] = 5.0
    assert zeros.tolist() == [[0, 0], [5, 5], [0, 0]] and not zeros.flags.owndata


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process() -> None:
    with pytest.raises(OSError, match=r"No space left|File too large|Invalid argument"):
        MAPPED.make_zeros((2**50,))


def test_the_streamed_file_has_the_bytes_of_one_made_in_memory(path: Path, tmp_path: Path) -> None:
    dataset, memory = load_snapshot(path), io.BytesIO()
    with h5py.File(memory, "w") as file:
        for name, values in dataset.get_arrays().items():
            file.create_dataset(name, data=values, track_times=False)
        file.create_dataset("format", data=np.bytes_("vdt-trajectories-2"), track_times=False)
        file.create_dataset("card", data=np.bytes_(json.dumps({"a": 1}, sort_keys=True)), track_times=False)
    write_trajectories(tmp_path / "again.hdf5", load_snapshot(path, MAPPED), {"a": 1})
    digests = [
        hashlib.md5(content).hexdigest() for content in (memory.getvalue(), (tmp_path / "again.hdf5").read_bytes())
    ]
    assert digests[0] == digests[1]


def test_rows_of_many_steps_are_computed_and_equal_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    starts, lengths = torch.tensor([0, 5, 20, 22]), torch.tensor([4, 1, 2, 60])
    listed = StepRows(starts, lengths)
    monkeypatch.setattr(trajectory_store, "LISTED_STEPS", 10)
    computed = StepRows(starts, lengths)
    numbers = torch.arange(67)
    assert computed._listed is None and torch.equal(listed.select(numbers), computed.select(numbers))
