"""Files of earlier steps are found by content, also where the home folder was moved."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from metaflow.datastore import FlowDataStore
from metaflow.plugins.datastores.local_storage import LocalStorage

from flows import transfer
from flows.transfer import describe_file, download, fetch_file, upload
from vdt.config.errors import ConfigError


@pytest.fixture
def flow() -> Any:
    return SimpleNamespace(_datastore=SimpleNamespace(parent_datastore=SimpleNamespace(TYPE="local")))


def test_a_moved_home_folder(home: Path, flow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "checkpoints" / "7.pt"
    path.parent.mkdir(parents=True)
    path.write_text("weights")
    file = describe_file(flow, path)
    assert fetch_file(flow, file, home / "fetched") == path
    moved = home.rename(tmp_path / "moved")
    monkeypatch.setenv("VDT_HOME", str(moved))
    assert fetch_file(flow, file, moved / "fetched") == moved / "checkpoints" / "7.pt"
    (moved / "checkpoints" / "7.pt").write_text("others")
    with pytest.raises(ConfigError, match="is gone or changed"):
        fetch_file(flow, file, moved / "fetched")


@pytest.mark.parametrize(("size", "count"), [(0, 1), (9, 1), (10, 1), (25, 3)])
def test_a_file_travels_in_parts(size: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metaflow's datastore holds what it takes and gives in memory: a data set may be larger."""
    monkeypatch.setattr(transfer, "PART_BYTES", 10)
    datastore = FlowDataStore("VDTFlow", None, storage_impl=LocalStorage, ds_root=str(tmp_path / "datastore"))
    (tmp_path / "data").write_bytes(bytes(range(size)))
    keys = upload(datastore, tmp_path / "data")
    assert len(keys) == count
    download(datastore, keys, tmp_path / "elsewhere" / "data")
    assert (tmp_path / "elsewhere" / "data").read_bytes() == bytes(range(size))
