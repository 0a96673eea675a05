"""Episodes of Minari's data sets: equal in all formats, and read with care."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from support.environments import DICT
from support.minari import PENDULUM, make_minari_set
from vdt.config.errors import ConfigError
from vdt.data.errors import DataError
from vdt.data.storage import load_snapshot
from vdt.datasets.choose import choose_source
from vdt.datasets.minari_folder import get_root
from vdt.datasets.snapshot import make_snapshot
from vdt.experiments.resolve import resolve_config

ID = "vdttest/episodes/random-v0"
ENV = f"minari:{ID}"


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
@pytest.mark.parametrize("environment", [PENDULUM, DICT])
def test_other_formats_hold_the_same_episodes(home: Path, data_format: str, environment: str) -> None:
    snapshots = []
    for form in ("hdf5", data_format):
        make_minari_set(f"vdttest/{form}/random-v0", environment, data_format=form)
        snapshots.append(make_snapshot(resolve_config(f"minari:vdttest/{form}/random-v0", preset="smoke"), home))
    first, second = (load_snapshot(Path(snapshot.path)) for snapshot in snapshots)
    for name, values in first.get_arrays().items():
        assert np.array_equal(values, second.get_arrays()[name]), name


def test_columns_are_read_with_care(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_minari_set(ID, data_format="arrow")
    folder = get_root() / ID / "data"
    config = resolve_config(ENV, preset="smoke")
    with (
        monkeypatch.context() as patch,
        pytest.raises(DataError, match=r"holds \d+ rows of 5 numbers; .* 2 to 100 bytes"),
    ):
        patch.setattr("vdt.datasets.minari_episodes.MAX_BYTES", 100)
        choose_source(config, home).load()
    next((folder / "3").glob("*.arrow")).write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="Minari cannot read its arrow files"):
        choose_source(config, home).load()
    shutil.rmtree(folder / "3")
    (folder / "3").symlink_to(folder / "2")
    with pytest.raises(DataError, match="accepted is one without links"):
        choose_source(config, home).load()


@pytest.mark.parametrize("kind", ["external link", "shape", "text", "not finite", "no file"])
def test_episodes_are_read_with_care(home: Path, kind: str) -> None:
    make_minari_set(ID)
    path = get_root() / ID / "data" / "main_data.hdf5"
    messages = {
        "external link": "observations is not a data set stored in this file",
        "shape": "has shape .* accepted is",
        "text": "accepted are real numbers",
        "not finite": "not finite",
        "no file": "not a whole HDF5 file",
    }
    config = resolve_config(ENV, preset="smoke")
    with h5py.File(path, "a") as file:
        group = file["episode_1"]
        values = group["observations"][()]
        del group["observations"]
        if kind == "external link":
            group["observations"] = h5py.ExternalLink("other.hdf5", "/x")
        elif kind == "shape":
            group["observations"] = values[:-1]
        elif kind == "text":
            group["observations"] = np.full(values.shape, b"x")
        else:
            group["observations"] = np.full_like(values, np.nan)
    if kind == "no file":
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=messages[kind]):
        make_snapshot(config, home)
    assert not list((home / "data").rglob("*.hdf5"))


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("flag", ["terminations", "truncations"])
def test_ends_inside_an_episode_are_refused(home: Path, data_format: str, flag: str) -> None:
    """Minari itself takes such a buffer, of three recordings laid end to end."""

    def mark(buffer: EpisodeBuffer) -> None:
        getattr(buffer, flag)[2] = True

    make_minari_set(ID, data_format=data_format, change=mark)
    with pytest.raises(ConfigError, match=rf"{flag} are set at step 2 of \d+, .* an end at the last step alone"):
        resolve_config(ENV, preset="smoke")


def test_flags_are_0_or_1(home: Path) -> None:
    make_minari_set(ID)
    with h5py.File(get_root() / ID / "data" / "main_data.hdf5", "a") as file:
        steps = len(file["episode_2/terminations"])
        del file["episode_2/terminations"]
        file["episode_2/terminations"] = np.full(steps, 2.5)
    with pytest.raises(ConfigError, match=r"episode_2 terminations hold 2\.5 at step 0; accepted are 0 and 1"):
        resolve_config(ENV, preset="smoke")
