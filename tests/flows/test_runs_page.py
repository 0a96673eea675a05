"""MLflow's pages of the runs behind `vdt ui`: they answer, and Ctrl-C ends them without a traceback."""

import os
import signal
import urllib.request
from pathlib import Path

import pytest

from support.server import find_free_port, serve
from vdt.system.home import ROOT


def test_ctrl_c_ends_the_pages_without_a_traceback(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    port = find_free_port()
    address = f"http://127.0.0.1:{port}"
    with serve(tmp_path, "ui", "-m", "vdt.cli", "ui", "--port", str(port), health=f"{address}/health") as server:
        assert b"<html" in urllib.request.urlopen(address, timeout=30).read()
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait(60) == 0
    said = (tmp_path / "ui.log").read_text()
    assert f"runs: {address}/#/experiments/" in said
    assert "Traceback" not in said and "ERROR" not in said, said
