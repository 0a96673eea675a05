"""Sources read, collected and exported with mapped arrays: the same snapshot, to the byte, as in memory."""

import dataclasses
import resource
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

from support.data import make_small_config, make_steps, write_hdf5
from support.minari import make_minari_set
from unit.datasets.test_relabel import ENV, load, make_episode
from vdt.behavior.waypoints import collect_walk
from vdt.config.schema import Config
from vdt.data.errors import DataError
from vdt.data.residence import Residence
from vdt.data.storage import load_snapshot
from vdt.data.trajectory import TrajectoryDataset
from vdt.datasets import hdf5
from vdt.datasets.choose import choose_source
from vdt.datasets.export import export_snapshot
from vdt.datasets.hdf5 import read_recording
from vdt.datasets.snapshot import make_snapshot
from vdt.environments import make_environment
from vdt.experiments.resolve import resolve_config
from vdt.system.home import FolderError

TASK = make_small_config("d4rl").task  # S = 2, A = 1, horizon 5
MARKED = hdf5.EndSettings("marked", 5)


def put(config: Config, residence: str) -> Config:
    """The configuration with another residence."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, residence=residence))


def assert_mapped_copy(mapped: TrajectoryDataset, held: TrajectoryDataset) -> None:
    """One data set lies in files and holds the numbers of the other, which does not."""
    for name in ("observations", "actions", "rewards"):
        assert not getattr(mapped, name).flags.owndata, f"{name} lie in a file"
    for name, values in held.get_arrays().items():
        assert np.array_equal(mapped.get_arrays()[name], values), name


@pytest.fixture
def _short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes see three rows at once."""
    for module in ("trajectory", "statistics"):
        monkeypatch.setattr(f"vdt.data.{module}.BLOCK_ROWS", 3)
    for module in ("hdf5", "hdf5_arrays", "repairs"):
        monkeypatch.setattr(f"vdt.datasets.{module}.BLOCK_ROWS", 3)


def make_walk(count: int) -> dict[str, Any]:
    """Steps with jumps, goals and rows that are there twice."""
    arrays = make_steps(count, terminals=(3, 4, 11), timeouts=(6, 8, 15, 19))
    arrays["observations"][7] = arrays["observations"][6]
    arrays["observations"][14:] += 5.0
    arrays["actions"] = arrays["actions"][::-1].copy()  # the largest is first
    arrays["rewards"] = (np.arange(count) % 5 == 2).astype(np.float32)
    return arrays


@pytest.mark.usefixtures("_short_blocks")
@pytest.mark.parametrize("repairs", [(), ("timeouts_are_goals", "late_rewards"), ("goals_are_ends",)])
def test_a_flat_file_is_read_by_blocks(
    repairs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_hdf5(tmp_path / "file.hdf5", make_walk(20))
    held = read_recording(path, TASK, {}, repairs, MARKED)
    mapped = read_recording(path, TASK, {}, repairs, MARKED, residence=Residence("mapped", tmp_path / "new"))
    assert_mapped_copy(mapped.dataset, held.dataset)
    assert (mapped.notes, mapped.clipped_actions) == (held.notes, held.clipped_actions)
    monkeypatch.undo()
    whole = read_recording(path, TASK, {}, repairs, MARKED)  # in one block
    for name, values in whole.dataset.get_arrays().items():
        assert np.array_equal(held.dataset.get_arrays()[name], values), name
    assert whole.notes == held.notes


@pytest.mark.usefixtures("_short_blocks")
def test_own_files_are_scanned_by_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, settings = write_hdf5(tmp_path / "file.hdf5", make_walk(20)), hdf5.EndSettings("marked", own=True)
    found = hdf5.scan_file(path, settings)
    monkeypatch.undo()
    hdf5._scan.cache_clear()
    for name, values in vars(hdf5.scan_file(path, settings)).items():
        assert np.array_equal(getattr(found, name), values), name


def test_larger_arrays_than_fit_into_memory_are_read_only_if_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_hdf5(tmp_path / "file.hdf5", make_walk(20))
    monkeypatch.setattr(hdf5, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="would need more than 100 bytes"):
        read_recording(path, TASK, {})
    assert read_recording(path, TASK, {}, (), MARKED, residence=Residence("mapped", tmp_path)).dataset.steps == 20
    monkeypatch.setattr(hdf5, "MAX_EXPANSION", 0)  # a file of few bytes that claims many
    with pytest.raises(DataError, match="would need more than 100 bytes"):
        read_recording(path, TASK, {}, (), MARKED, residence=Residence("mapped", tmp_path))


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_no_room_for_mapped_arrays_is_one_clear_line(kind: str, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    steps, given = make_steps(5000), tmp_path / "given.hdf5"
    if kind == "npz":
        given = tmp_path / "given"
        given.mkdir()
        np.savez(given / "0.npz", **{n: steps[n] for n in ("observations", "actions", "rewards")}, terminated=False)
    else:
        write_hdf5(given, steps)
    config = put(make_small_config(f"path:{given}"), "mapped")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(FolderError, match=r"cannot write to .*trajectories\.hdf5 \(.*\); set VDT_HOME"):
            make_snapshot(config, tmp_path / "home")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "home" / "data").rglob("*.hdf5"))
    assert make_snapshot(config, tmp_path / "home").card["steps"] == 5000


@pytest.mark.parametrize("kind", ["hdf5", "npz", "minari"])
def test_snapshots_have_the_same_bytes(kind: str, tmp_path: Path) -> None:
    if kind == "minari":
        make_minari_set("vdttest/pendulum/random-v0")
        config = resolve_config("minari:vdttest/pendulum/random-v0", preset="smoke")
    elif kind == "npz":
        (tmp_path / "mine").mkdir()
        for number, steps in enumerate((3, 9, 4)):
            arrays = {name: values for name, values in make_steps(steps).items() if not name.startswith("ti")}
            np.savez(tmp_path / "mine" / f"{number}.npz", **arrays, terminated=False)
        config = make_small_config(f"path:{tmp_path / 'mine'}")
    else:
        config = make_small_config(
            f"path:{write_hdf5(tmp_path / 'file.hdf5', make_steps(12, terminals=(3,), timeouts=(7,)))}"
        )
    held, mapped = (choose_source(put(config, r), tmp_path / "new").load().dataset for r in ("memory", "mapped"))
    assert_mapped_copy(mapped, held)
    made = [make_snapshot(put(config, residence), tmp_path / residence) for residence in ("memory", "mapped")]
    assert made[0].md5 == made[1].md5 and made[0].card == made[1].card
    assert_mapped_copy(load_snapshot(Path(made[1].path), Residence("mapped")), load_snapshot(Path(made[0].path)))
    assert (
        choose_source(put(config, "mapped"), tmp_path / "mapped").key == choose_source(config, tmp_path / "memory").key
    )
    assert sorted(path.name for path in Path(made[1].path).parent.iterdir() if not path.name.startswith(".")) == [
        "trajectories.hdf5",
        "trajectories.hdf5.dvc",
    ]


def test_collected_data_is_the_same_and_so_is_its_export(tmp_path: Path) -> None:
    overrides = "data.steps=200 task.horizon=60 task.collected.snapshots=[2,3]"
    config = resolve_config("walker2d-medium-v2", preset="smoke", source="collected", overrides=overrides)
    exported = []
    for residence in ("memory", "mapped"):
        snapshot = make_snapshot(put(config, residence), tmp_path / residence)
        name = export_snapshot(put(config, residence), snapshot)
        episodes = [(e.observations, e.actions, e.rewards) for e in minari.load_dataset(name).iterate_episodes()]
        exported.append((snapshot.md5, [[values.tolist() for values in episode] for episode in episodes]))
        minari.delete_dataset(name)
    assert exported[0] == exported[1] and len(exported[0][1]) >= 2


@pytest.mark.parametrize(
    ("env", "algorithm"),
    [
        ("walker2d-medium-v2", "rungs [8] of behaviour ladder walker2d"),
        ("maze2d-umaze-v1", "controller waypoints"),
    ],
)
def test_an_export_names_what_has_collected_it(tmp_path: Path, env: str, algorithm: str) -> None:
    config = resolve_config(env, preset="smoke", source="collected", overrides="data.steps=200 task.horizon=60")
    name = export_snapshot(config, make_snapshot(config, tmp_path / "home"))
    exported = minari.load_dataset(name)
    assert exported.storage.metadata["algorithm_name"] == algorithm
    assert (exported.env_spec is None) == (config.task.bridge != "none"), "no wrapper of ours is one of Minari's"
    assert exported.total_steps >= 200 and exported.observation_space.shape == (config.task.observation_size,)


def test_relabelled_episodes_lie_in_files(tmp_path: Path) -> None:
    file = tmp_path / "file.hdf5"
    load(file, make_episode(7, [2, 3, 3, 5]), make_episode(5, [2]), make_episode(1, []))
    config = resolve_config(ENV, source=f"path:{file}")
    held, mapped = (choose_source(put(config, residence), tmp_path).load() for residence in ("memory", "mapped"))
    assert_mapped_copy(mapped.dataset, held.dataset)
    assert mapped.notes == held.notes


def test_a_walk_leaves_its_episodes_in_files(tmp_path: Path) -> None:
    task = dataclasses.replace(resolve_config("maze2d-umaze-v1").task, horizon=10_000)
    walks = []
    for setting in ("memory", "mapped"):
        environment = make_environment(task)
        walks.append(collect_walk(environment, steps=250, horizon=100, seed=3, residence=Residence(setting, tmp_path)))
        environment.close()
    assert walks[0].lengths.tolist() == [100, 100, 100]
    for before, after in zip(list(walks[0])[:-1], list(walks[0])[1:], strict=True):
        assert np.array_equal(before.observations[-1], after.observations[0]), "one walk, cut"
    assert_mapped_copy(walks[1], walks[0])
