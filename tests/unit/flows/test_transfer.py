"""Files of earlier steps are found by content, also where the home folder was moved."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.transfer import describe_file, fetch_file
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
