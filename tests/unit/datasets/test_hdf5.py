"""D4RL's HDF5 schema: conversion by hand, hostile files, real files."""

import dataclasses
import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from support.data import find_real_file, make_data_config, make_small_config, make_steps, write_hdf5
from vdt.config.errors import ConfigError
from vdt.data.errors import DataError
from vdt.datasets.choose import choose_source
from vdt.datasets.hdf5 import read_recording
from vdt.datasets.loaded_data import LoadedData
from vdt.experiments.resolve import resolve_config

TASK = make_small_config("d4rl").task  # S = 2, A = 1, horizon 5


def convert(tmp_path: Path, arrays: dict[str, Any]) -> LoadedData:
    return read_recording(write_hdf5(tmp_path / "file.hdf5", arrays), TASK, {"file": "file.hdf5"})


def list_episodes(recording: LoadedData) -> list[tuple[list[float], list[float], bool]]:
    """(first component of the observations, rewards, terminated) of each episode."""
    return [(e.observations[:, 0].tolist(), e.rewards.tolist(), e.terminated) for e in recording.dataset]


def test_ends_without_next_observations(tmp_path: Path) -> None:
    """Steps 0-2 really end, 3-6 hit the time limit, 7-8 are the rest of the recording. Every step and reward is kept."""
    recording = convert(tmp_path, make_steps(9, terminals=(2,), timeouts=(6,)))
    assert list_episodes(recording) == [
        ([0, 1, 2, 2], [0, 1, 2], True),  # the last observation stands twice: nothing is bootstrapped from it
        ([3, 4, 5, 6, 6], [3, 4, 5, 6], False),
        ([7, 8, 8], [7, 8], False),
    ]
    assert recording.dataset.final_missing.tolist() == [False, True, True], "what stands last there must not be used"
    assert recording.notes == []
    actions = recording.dataset[1].actions[:, 0].tolist()
    assert actions == [np.float32(k) / 100 for k in (3, 4, 5, 6)]


def test_ends_with_next_observations(tmp_path: Path) -> None:
    arrays = make_steps(9, terminals=(2,), timeouts=(6,))
    arrays["next_observations"] = arrays["observations"] + 0.5
    assert list_episodes(convert(tmp_path, arrays)) == [
        ([0, 1, 2, 2.5], [0, 1, 2], True),
        ([3, 4, 5, 6, 6.5], [3, 4, 5, 6], False),
        ([7, 8, 8.5], [7, 8], False),
    ]
    assert not convert(tmp_path, arrays).dataset.final_missing.any()


@pytest.mark.parametrize("present", [True, False])
def test_horizon_cuts_where_no_timeout_is_set(tmp_path: Path, present: bool) -> None:
    arrays = make_steps(13, terminals=(6,))
    if not present:
        del arrays["timeouts"]
    recording = convert(tmp_path, arrays)
    assert list_episodes(recording) == [
        ([0, 1, 2, 3, 4, 4], [0, 1, 2, 3, 4], False),  # steps 0-4 are a horizon of 5
        ([5, 6, 6], [5, 6], True),
        ([7, 8, 9, 10, 11, 11], [7, 8, 9, 10, 11], False),
        ([12, 12], [12], False),  # one step, whose reward is known
    ]
    assert recording.dataset.final_missing.tolist() == [True, False, True, True]
    assert "the file sets no timeouts: episodes were cut after 5 steps" in recording.notes


@pytest.mark.parametrize(("overrides", "added"), [("", 0), ("task.horizon=5", 2), ("task.horizon=7", 0)])
def test_cuts_of_own_data_are_counted_and_nothing_is_said_without_one(
    tmp_path: Path, overrides: str, added: int
) -> None:
    path = write_hdf5(tmp_path / "own.hdf5", make_steps(13, terminals=(6, 12)))
    recording = choose_source(resolve_config(f"data:{path}", overrides=overrides), tmp_path).load()
    said = [note for note in recording.notes if "timeouts" in note]
    assert said == ([f"the file sets no timeouts: {added} ends were added, after 5 steps each"] if added else [])


def test_horizon_does_not_cut_where_timeouts_are_set(tmp_path: Path) -> None:
    recording = convert(tmp_path, make_steps(9, timeouts=(7,)))
    assert recording.dataset.lengths.tolist() == [8, 1]  # 8 steps, beyond the horizon


def test_both_flags_mean_a_real_end_except_at_the_horizon(tmp_path: Path) -> None:
    arrays = make_steps(8, terminals=(4, 7), timeouts=(4, 7))
    recording = convert(tmp_path, arrays)
    assert list_episodes(recording) == [
        ([0, 1, 2, 3, 4, 4], [0, 1, 2, 3, 4], False),  # 5 steps = horizon: the time limit
        ([5, 6, 7, 7], [5, 6, 7], True),  # 3 steps: a real end
    ]
    assert "1 ends with both flags at the horizon were read as time limits" in recording.notes
    at_horizon = convert(tmp_path, make_steps(5, terminals=(4,)))
    assert at_horizon.dataset.terminated.tolist() == [True]  # terminals alone: a real end, wherever it is


@pytest.mark.parametrize(
    ("overrides", "terminated"),
    [
        ("", [True, True, True]),
        ("task.horizon=5", [False, False, True]),
        ("task.environment_id=Pendulum-v1", [False, False, True]),
    ],
)
def test_own_data_has_a_time_limit_only_where_one_is_given(
    tmp_path: Path, overrides: str, terminated: list[bool]
) -> None:
    path = write_hdf5(tmp_path / "own.hdf5", make_steps(13, terminals=(4, 9, 12), timeouts=(4, 9, 12)))
    config = resolve_config(f"data:{path}", preset="smoke", overrides=overrides)
    recording = choose_source(config, tmp_path).load()
    assert recording.dataset.lengths.tolist() == [5, 5, 3]
    assert recording.dataset.terminated.tolist() == terminated
    said = (
        "2 ends of the longest episodes have both flags and were read as real ends; if a time limit set both: "
        "--set task.horizon=5"
    )
    assert (said in recording.notes) == terminated[0]


def test_own_data_that_changed_after_its_facts_were_read_is_refused(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "own.hdf5", make_steps(8, terminals=(3, 7)))
    config = resolve_config(f"data:{path}", preset="smoke")
    write_hdf5(path, make_steps(9, terminals=(3, 8)))
    with pytest.raises(DataError, match=r"own\.hdf5: changed after the run had begun .* begin a new run"):
        choose_source(config, tmp_path).load()


def test_actions_are_clipped_and_counted(tmp_path: Path) -> None:
    arrays = make_steps(4, terminals=(3,))
    arrays["actions"] = np.array([[-1.5], [1.0], [-1.0], [1.0001]], np.float32)
    recording = convert(tmp_path, arrays)
    assert recording.dataset.actions[:4, 0].tolist() == [-1, 1, -1, 1]
    assert recording.clipped_actions == 2
    assert "2 of 4 action components were outside [-1, 1] and were clipped" in recording.notes


def test_other_number_types_are_converted(tmp_path: Path) -> None:
    arrays = make_steps(4, terminals=(3,))
    arrays["observations"] = arrays["observations"].astype(np.float64)
    arrays["rewards"] = arrays["rewards"].astype(np.int64)
    arrays["terminals"] = arrays["terminals"].astype(np.float32)
    arrays["infos"] = np.zeros(7)  # other data sets are ignored
    dataset = convert(tmp_path, arrays).dataset
    assert dataset.observations.dtype == dataset.rewards.dtype == np.float32
    assert list_episodes(convert(tmp_path, arrays)) == [([0, 1, 2, 3, 3], [0, 1, 2, 3], True)]


def change(**arrays: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda steps: {name: values for name, values in {**steps, **arrays}.items() if values is not None}


def spoil(name: str, value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def apply(steps: dict[str, Any]) -> dict[str, Any]:
        spoilt = steps[name].astype(np.float64)
        spoilt[2] = value
        return {**steps, name: spoilt}

    return apply


HOSTILE = {
    "no rewards": (
        change(rewards=None),
        "'rewards' is missing; found: 'actions', 'observations', 'terminals', 'timeouts'",
    ),
    "nothing": (lambda _: {}, "'observations' is missing; found: nothing"),
    "flat observations": (
        change(observations=np.zeros(4)),
        r"'observations' has shape \(4,\); this task accepts \(N, 2\)",
    ),
    "rewards in 2-d": (change(rewards=np.zeros((4, 1))), r"'rewards' has shape \(4, 1\); this task accepts \(N,\)"),
    "action size": (change(actions=np.zeros((4, 3))), r"'actions' has shape \(4, 3\); this task accepts \(N, 1\)"),
    "observation size": (change(observations=np.zeros((4, 9))), r"has shape \(4, 9\); this task accepts \(N, 2\)"),
    "scalar": (change(rewards=np.float32(1)), r"'rewards' has shape \(\); this task accepts \(N,\)"),
    "text": (change(rewards=np.array([b"x"] * 4)), r"'rewards' has dtype \|S1; accepted are real numbers"),
    "complex": (change(actions=np.zeros((4, 1), complex)), "'actions' has dtype complex128; accepted are real"),
    "lengths": (
        change(rewards=np.zeros(3)),
        "lengths are observations 4, actions 4, rewards 3, .* accepted is the same",
    ),
    "empty": (lambda _: make_steps(0), "lengths are observations 0, .* at least 1"),
    "NaN": (spoil("observations", np.nan), "'observations' has 2 values that are not finite, the first in row 2"),
    "infinite": (spoil("rewards", np.inf), "'rewards' has 1 values that are not finite, the first in row 2"),
    "overflow": (
        spoil("actions", 1e300),
        r"'actions' has 1 values that are too large for float32, the first in row 2 \(1e\+300\)",
    ),
    "odd flag": (spoil("terminals", 0.5), "'terminals' holds 0.5; accepted are 0 and 1"),
    "NaN flag": (spoil("timeouts", np.nan), "'timeouts' has 1 values that are not finite"),
    "bad next": (
        change(next_observations=np.full((4, 2), np.nan)),
        "'next_observations' has 8 values that are not finite",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrays(tmp_path: Path, name: str) -> None:
    spoiler, message = HOSTILE[name]
    with pytest.raises(DataError, match=message) as caught:
        convert(tmp_path, spoiler(make_steps(4, terminals=(3,))))
    assert str(tmp_path / "file.hdf5") in str(caught.value)


def test_text_instead_of_hdf5(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"a\.hdf5: not a whole HDF5 file"):
        read_recording(tmp_path / "a.hdf5", TASK, {})


@pytest.mark.parametrize("kept", [0.3, 0.95])
def test_truncated_hdf5(tmp_path: Path, kept: float) -> None:
    whole = write_hdf5(tmp_path / "whole.hdf5", make_steps(2000)).read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(DataError, match=r"cut\.hdf5: not a whole HDF5 file .* truncated"):
        read_recording(tmp_path / "cut.hdf5", TASK, {})


@pytest.mark.parametrize("suffix", [".npz", ".pkl", ".csv"])
def test_files_of_other_formats_are_told_what_is_accepted(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"PK")
    with pytest.raises(
        DataError, match=rf"one {suffix} file; accepted is an HDF5 file in D4RL's schema, or a folder of npz"
    ) as refused:
        read_recording(tmp_path / f"a{suffix}", TASK, {})
    assert ("own_dataset.py" in str(refused.value)) == (suffix == ".csv")


def test_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "file.hdf5", make_steps(4, terminals=(3,)))
    with open(path, "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(DataError, match=r"file\.hdf5: is open for writing, .* h5clear -s file\.hdf5") as caught:
            read_recording(path, TASK, {})
    assert "truncated" not in str(caught.value)


def test_a_compression_that_is_not_installed(tmp_path: Path) -> None:
    """Raw chunks that claim to be Blosc."""
    arrays = make_steps(4, terminals=(3,))
    path = write_hdf5(tmp_path / "file.hdf5", {name: values for name, values in arrays.items() if name != "rewards"})
    with h5py.File(path, "a") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((4,))
        plan.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (0, 0, 0, 0))
        node = h5py.h5d.create(file.id, b"rewards", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)), plan)
        node.write_direct_chunk((0,), arrays["rewards"].tobytes(), 0)
    with pytest.raises(
        DataError, match=r"'rewards' is compressed by HDF5 filter 32001 .* not installed here"
    ) as caught:
        read_recording(path, TASK, {})
    assert "truncated" not in str(caught.value)


@pytest.mark.parametrize("shape", [(4, 1), (4,)])
def test_numbers_of_discrete_actions_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_hdf5(
        tmp_path / "f.hdf5", {**make_steps(4, terminals=(1,)), "actions": np.array([0, 4, 2, 1]).reshape(shape)}
    )
    with pytest.raises(ConfigError, match="discrete actions"):
        resolve_config(f"data:{path}")


def test_damaged_chunks(tmp_path: Path) -> None:
    arrays = make_steps(2000)
    with h5py.File(tmp_path / "file.hdf5", "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip")
        offset = file["rewards"].id.get_chunk_info(0).byte_offset
    data = bytearray((tmp_path / "file.hdf5").read_bytes())
    data[offset : offset + 40] = b"\xff" * 40
    (tmp_path / "file.hdf5").write_bytes(data)
    with pytest.raises(DataError, match="not a whole HDF5 file"):
        read_recording(tmp_path / "file.hdf5", TASK, {})


def test_absurd_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "huge.hdf5", {n: v for n, v in make_steps(4).items() if n != "observations"})
    with h5py.File(tmp_path / "huge.hdf5", "a") as file:  # a terabyte that takes no room on disk
        file.create_dataset("observations", shape=(2**37, 2), dtype="f4", chunks=(2**10, 2))
    started = time.monotonic()
    with pytest.raises(DataError, match=r"'observations' of shape \(137438953472, 2\) would need more than"):
        read_recording(tmp_path / "huge.hdf5", TASK, {})
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual", "group"])
def test_arrays_must_be_in_the_file(tmp_path: Path, kind: str) -> None:
    """A file must not make us read another one."""
    write_hdf5(tmp_path / "other.hdf5", make_steps(4))
    (tmp_path / "secret").write_bytes(b"0123456789abcdef")
    path = write_hdf5(tmp_path / "file.hdf5", {n: v for n, v in make_steps(4).items() if n != "rewards"})
    with h5py.File(path, "a") as file:
        if kind == "external link":
            file["rewards"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/rewards")
        elif kind == "soft link":
            file["rewards"] = h5py.SoftLink("/nowhere")
        elif kind == "external storage":
            file.create_dataset("rewards", (4,), "f4", external=[(str(tmp_path / "secret"), 0, 16)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "rewards", shape=(4,))
            file.create_virtual_dataset("rewards", layout)
        else:
            file.create_group("rewards")
    with pytest.raises(DataError, match="'rewards' is not a data set stored in this file"):
        read_recording(path, TASK, {})


def test_real_walker_episodes() -> None:
    """Two episodes of 1000 steps that hit the time limit, with next observations."""
    path = find_real_file("episodes/walker2d-v4-expert.hdf5")
    recording = read_recording(path, make_data_config("d4rl").task, {})
    assert recording.dataset.lengths.tolist() == [1000, 1000]
    assert not recording.dataset.terminated.any()
    with h5py.File(path) as file:
        assert np.array_equal(recording.dataset[0].observations[-1], file["next_observations"][999])
        assert np.array_equal(recording.dataset[1].observations[0], file["observations"][1000])
        assert recording.dataset[1].episode_return == pytest.approx(float(file["rewards"][1000:].sum()), rel=1e-5)


def test_real_door_demonstrations() -> None:
    """25 demonstrations longer than the task's horizon, 6729 steps, actions up to 1.37; no next observations.

    Every reward that the file holds is read, those of the 25 last steps too.
    """
    path = find_real_file("d4rl/door-human-v1.hdf5")
    task = dataclasses.replace(TASK, observation_size=39, action_size=28, horizon=200)
    recording = read_recording(path, task, {})
    with h5py.File(path) as file:
        actions, timeouts, rewards = file["actions"][()], file["timeouts"][()], file["rewards"][()]
    assert len(recording.dataset) == 25
    assert recording.dataset.steps == 6729
    assert recording.dataset.target_steps == 6729 - int(timeouts.sum())
    assert recording.dataset.episode_returns.sum() == pytest.approx(float(rewards.sum(dtype=np.float64)), rel=1e-6)
    assert recording.clipped_actions == int((np.abs(actions) > 1).sum()) > 0
    assert np.abs(recording.dataset.actions).max() == 1.0
