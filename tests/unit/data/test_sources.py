"""D4RL files: conversion by hand, hostile files, and the choice of a source."""

import dataclasses
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
from data_for_tests import NOWHERE, find_real_file, make_data_config, make_small_config, make_steps, write_hdf5

from vdt.data.sources import choose_source, get_snapshot_path
from vdt.data.sources.d4rl import download, get_cache_file, make_d4rl_key, probe
from vdt.data.sources.hdf5 import read_recording
from vdt.data.sources.recording import DataError, Recording

TASK = make_small_config("d4rl").task  # S = 2, A = 1, horizon 5


def convert(tmp_path: Path, arrays: dict[str, Any]) -> Recording:
    return read_recording(write_hdf5(tmp_path / "file.hdf5", arrays), TASK, {"file": "file.hdf5"})


def list_episodes(recording: Recording) -> list[tuple[list[float], list[float], bool]]:
    """(first component of the observations, rewards, terminated) of each episode."""
    return [(e.observations[:, 0].tolist(), e.rewards.tolist(), e.terminated) for e in recording.dataset]


def test_ends_without_next_observations(tmp_path: Path) -> None:
    """Steps 0-2 really end, 3-6 hit the time limit, 7-8 are the rest of the recording."""
    recording = convert(tmp_path, make_steps(9, terminals=(2,), timeouts=(6,)))
    assert list_episodes(recording) == [
        ([0, 1, 2, 2], [0, 1, 2], True),  # the last observation stands twice: nothing is bootstrapped from it
        ([3, 4, 5, 6], [3, 4, 5], False),  # step 6 is lost: its observation is now the final one
        ([7, 8], [7], False),
    ]
    assert recording.notes == ["2 truncated episodes lost their last step, whose final observation is not in the file"]
    actions = recording.dataset[1].actions[:, 0].tolist()
    assert actions == [np.float32(3) / 100, np.float32(4) / 100, np.float32(5) / 100]


def test_ends_with_next_observations(tmp_path: Path) -> None:
    arrays = make_steps(9, terminals=(2,), timeouts=(6,))
    arrays["next_observations"] = arrays["observations"] + 0.5
    assert list_episodes(convert(tmp_path, arrays)) == [
        ([0, 1, 2, 2.5], [0, 1, 2], True),
        ([3, 4, 5, 6, 6.5], [3, 4, 5, 6], False),
        ([7, 8, 8.5], [7, 8], False),
    ]


@pytest.mark.parametrize("present", [True, False])
def test_horizon_cuts_where_no_timeout_is_set(tmp_path: Path, present: bool) -> None:
    arrays = make_steps(13, terminals=(6,))
    if not present:
        del arrays["timeouts"]
    recording = convert(tmp_path, arrays)
    assert list_episodes(recording) == [
        ([0, 1, 2, 3, 4], [0, 1, 2, 3], False),  # steps 0-4 are a horizon of 5
        ([5, 6, 6], [5, 6], True),
        ([7, 8, 9, 10, 11], [7, 8, 9, 10], False),  # 7-11; 12 alone has no final observation and is dropped
    ]
    assert "1 truncated episodes of one step were dropped with it" in recording.notes
    assert "the file sets no timeouts: episodes were cut after 5 steps" in recording.notes


def test_horizon_does_not_cut_where_timeouts_are_set(tmp_path: Path) -> None:
    recording = convert(tmp_path, make_steps(9, timeouts=(7,)))
    assert recording.dataset.lengths.tolist() == [7]  # 8 steps, beyond the horizon of 5, less the last; 8 alone is dropped


def test_both_flags_mean_a_real_end_except_at_the_horizon(tmp_path: Path) -> None:
    arrays = make_steps(8, terminals=(4, 7), timeouts=(4, 7))
    recording = convert(tmp_path, arrays)
    assert list_episodes(recording) == [
        ([0, 1, 2, 3, 4], [0, 1, 2, 3], False),  # 5 steps = horizon: the time limit
        ([5, 6, 7, 7], [5, 6, 7], True),  # 3 steps: a real end
    ]
    assert "1 ends with both flags at the horizon were read as time limits" in recording.notes
    at_horizon = convert(tmp_path, make_steps(5, terminals=(4,)))
    assert at_horizon.dataset.terminated.tolist() == [True]  # terminals alone: a real end, wherever it is


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
    "no rewards": (change(rewards=None), "'rewards' is missing; found: 'actions', 'observations', 'terminals', 'timeouts'"),
    "nothing": (lambda _: {}, "'observations' is missing; found: nothing"),
    "flat observations": (change(observations=np.zeros(4)), r"'observations' has shape \(4,\); this task accepts \(N, 2\)"),
    "rewards in 2-d": (change(rewards=np.zeros((4, 1))), r"'rewards' has shape \(4, 1\); this task accepts \(N,\)"),
    "action size": (change(actions=np.zeros((4, 3))), r"'actions' has shape \(4, 3\); this task accepts \(N, 1\)"),
    "observation size": (change(observations=np.zeros((4, 9))), r"has shape \(4, 9\); this task accepts \(N, 2\)"),
    "scalar": (change(rewards=np.float32(1)), r"'rewards' has shape \(\); this task accepts \(N,\)"),
    "text": (change(rewards=np.array([b"x"] * 4)), r"'rewards' has dtype \|S1; accepted are real numbers"),
    "complex": (change(actions=np.zeros((4, 1), complex)), "'actions' has dtype complex128; accepted are real"),
    "lengths": (change(rewards=np.zeros(3)), "lengths are observations 4, actions 4, rewards 3, .* accepted is the same"),
    "empty": (lambda _: make_steps(0), "lengths are observations 0, .* at least 1"),
    "NaN": (spoil("observations", np.nan), "'observations' has 2 values that are not finite, the first in row 2"),
    "infinite": (spoil("rewards", np.inf), "'rewards' has 1 values that are not finite, the first in row 2"),
    "overflow": (spoil("actions", 1e300), "'actions' has 1 values that are not finite, the first in row 2"),
    "odd flag": (spoil("terminals", 0.5), "'terminals' holds 0.5; accepted are 0 and 1"),
    "NaN flag": (spoil("timeouts", np.nan), "'timeouts' has 1 values that are not finite"),
    "bad next": (change(next_observations=np.full((4, 2), np.nan)), "'next_observations' has 8 values that are not finite"),
    "one step": (lambda _: make_steps(1), "no episode is left of 1 steps"),
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
    """25 demonstrations longer than the task's horizon, 6729 steps, actions up to 1.37; no next observations."""
    path = find_real_file("d4rl/door-human-v1.hdf5")
    task = dataclasses.replace(TASK, observation_size=39, action_size=28, horizon=200)
    recording = read_recording(path, task, {})
    with h5py.File(path) as file:
        actions, timeouts = file["actions"][()], file["timeouts"][()]
    assert len(recording.dataset) == 25
    assert recording.dataset.steps == 6729 - int(timeouts.sum())
    assert recording.clipped_actions == int((np.abs(actions) > 1).sum()) > 0
    assert np.abs(recording.dataset.actions).max() == 1.0


# --- D4RL's cache and address -------------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `content`; paths choose how it misbehaves."""

    content: ClassVar[bytes] = b""

    def do_HEAD(self) -> None:
        """Headers only."""
        if self.path.startswith("/slow"):
            time.sleep(5)
        self.send_response(404 if self.path.startswith("/gone") else 200)
        if not self.path.startswith("/unsized"):
            self.send_header("Content-Length", str(len(self.content) + (1000 if self.path.startswith("/short") else 0)))
        self.end_headers()

    def do_GET(self) -> None:
        """Headers and content."""
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """A server on the loopback interface."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_cache_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_cache_file("http://host/a/b/x-v2.hdf5") == tmp_path / "d4rl" / "x-v2.hdf5"
    monkeypatch.delenv("D4RL_DATASET_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get_cache_file("http://host/a/b/x-v2.hdf5") == tmp_path / ".d4rl" / "datasets" / "x-v2.hdf5"


def test_probe(address: str) -> None:
    assert probe(f"{address}/file.hdf5") is None
    assert "refused" in str(probe(NOWHERE))
    assert "Not Found" in str(probe(f"{address}/gone.hdf5"))
    started = time.monotonic()
    assert probe(f"{address}/slow.hdf5", seconds=0.3) is not None
    assert time.monotonic() - started < 2


def test_download(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "content", b"x" * 3_000_000)
    target = tmp_path / "cache" / "file.hdf5"
    download(f"{address}/file.hdf5", target)
    assert target.read_bytes() == Handler.content
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("short", "3000 bytes came, 4000 were announced; nothing was kept"),
        ("unsized", "announces a size of None"),
        ("gone", r"download to .* failed \(HTTP Error 404"),
    ],
)
def test_failed_download_leaves_nothing(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.setattr(Handler, "content", b"x" * 3000)
    with pytest.raises(DataError, match=message):
        download(f"{address}/{path}.hdf5", tmp_path / "cache" / "file.hdf5")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


# --- the choice ---------------------------------------------------------------------------------------------------------


def put_into_cache(url: str) -> Path:
    path = get_cache_file(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_hdf5(path, make_steps(8, terminals=(3,), timeouts=(7,)))


def test_auto_prefers_snapshot_then_cache_then_network_then_collected(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{address}/file.hdf5"
    reachable, offline = make_data_config("auto", url=url), make_data_config("auto")
    choice = choose_source(offline, tmp_path)
    assert choice.source == "collected"
    assert "refused" in choice.reason and str(get_cache_file(NOWHERE)) in choice.reason
    assert choose_source(reachable, tmp_path).reason == f"auto: no snapshot, not in the cache, and {url} answers"
    cached = put_into_cache(url)
    choice = choose_source(reachable, tmp_path)
    assert choice.source == "d4rl" and str(cached) in choice.reason
    for expected, key in (("collected", choose_source(make_data_config("collected"), tmp_path).key), ("d4rl", choice.key)):
        snapshot = get_snapshot_path(tmp_path, reachable.env, key)
        snapshot.parent.mkdir(parents=True)
        snapshot.touch()
        again = choose_source(reachable, tmp_path)
        assert again.source == expected and "here already" in again.reason


def test_d4rl_by_network_is_cached(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_hdf5(tmp_path / "made.hdf5", make_steps(8, terminals=(3,), timeouts=(7,)))
    monkeypatch.setattr(Handler, "content", made.read_bytes())
    config = make_small_config("d4rl", url=f"{address}/file.hdf5")
    recording = choose_source(config, tmp_path).load()
    assert recording.dataset.lengths.tolist() == [4, 3]
    assert recording.recipe["url"] == config.task.d4rl_url
    assert get_cache_file(config.task.d4rl_url).read_bytes() == made.read_bytes()
    assert "cache" in choose_source(config, tmp_path).reason


def test_no_source_within_reach_says_what_remains(tmp_path: Path) -> None:
    put_here = str(tmp_path / "d4rl" / "file.hdf5")
    with pytest.raises(DataError) as caught:
        choose_source(make_data_config("auto", env="hopper-medium-v2"), tmp_path)
    for part in ("hopper-medium-v2: no data", put_here, "refused", "Hopper-v4", "--source path:FILE"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="--source collected: there is no behaviour policy for Hopper-v4") as caught:
        choose_source(make_data_config("collected", env="hopper-medium-v2"), tmp_path)
    assert put_here in str(caught.value)
    with pytest.raises(DataError, match="--source d4rl: no file at .*refused.*--source collected"):
        choose_source(make_data_config("d4rl"), tmp_path)


def test_keys_separate_sources_and_contents(tmp_path: Path) -> None:
    one = write_hdf5(tmp_path / "my data!.hdf5", make_steps(4, terminals=(3,)))
    first = choose_source(make_small_config(f"path:{one}"), tmp_path)
    write_hdf5(one, make_steps(5, terminals=(4,)))
    second = choose_source(make_small_config(f"path:{one}"), tmp_path)
    assert first.source == "path" and first.key != second.key
    assert first.key.startswith("path-my_data-")
    assert make_d4rl_key(make_small_config("d4rl")) != make_d4rl_key(make_small_config("d4rl", horizon=6))
    with pytest.raises(DataError, match=r"--source path:/nowhere/x\.hdf5: no such file"):
        choose_source(make_small_config("path:/nowhere/x.hdf5"), tmp_path)
