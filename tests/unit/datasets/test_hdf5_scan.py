"""Own HDF5 data is looked at whole before a run begins: a run that fails on its data cannot be resumed."""

from pathlib import Path

import numpy as np
import pytest

from support.data import make_steps, write_hdf5
from vdt.data.errors import DataError
from vdt.datasets.ends import EndSettings
from vdt.datasets.hdf5 import scan_file

OWN = EndSettings("marked", own=True)


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "timeouts", "next_observations"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])  # the last overflows in single precision
@pytest.mark.parametrize("with_next", [False, True])
def test_what_is_not_finite_is_refused(tmp_path: Path, name: str, value: float, with_next: bool) -> None:
    steps = make_steps(4, terminals=(3,))
    if with_next or name == "next_observations":
        steps["next_observations"] = np.roll(steps["observations"], -1, axis=0)
    steps[name] = steps[name].astype(np.float64)
    steps[name][2] = value
    path = write_hdf5(tmp_path / "file.hdf5", steps)
    what = "too large for float32" if value == 1e300 else "not finite"
    with pytest.raises(DataError, match=rf"'{name}' has \d values that are {what}, the first in row 2 \("):
        scan_file(path, OWN)


def test_data_without_any_following_observation_is_refused(tmp_path: Path) -> None:
    steps = make_steps(4)
    steps["timeouts"][:] = True
    path = write_hdf5(tmp_path / "file.hdf5", steps)
    with pytest.raises(DataError, match=r"file\.hdf5: none of the 4 steps has an observation after it"):
        scan_file(path, OWN)
    steps["terminals"][1], steps["timeouts"][1] = True, False
    assert len(scan_file(write_hdf5(tmp_path / "ended.hdf5", steps), OWN).lengths) == 4
    steps["next_observations"] = 7 + steps["observations"]
    steps["terminals"][1], steps["timeouts"][1] = False, True
    assert len(scan_file(write_hdf5(tmp_path / "next.hdf5", steps), OWN).lengths) == 4
