"""`benchmarks/larger_than_memory.py` works in a folder of its own, and leaves alone what is beside it."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarks import larger_than_memory
from benchmarks.larger_than_memory import measure


@pytest.mark.parametrize("broken", [False, True])
def test_what_was_in_the_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    folder, worked = tmp_path / "data", set()
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")

    def start_stage(stage: str, options: argparse.Namespace, *_: Any) -> dict[str, Any]:
        (options.folder / stage).write_text("rows")
        worked.add(options.folder)
        if broken and stage == "train":
            raise KeyboardInterrupt
        return {"seconds": 1.0, "anonymous": 1.0, "peak": 1.0, "bytes": 1, "microseconds": {}}

    monkeypatch.setattr(larger_than_memory, "start_stage", start_stage)
    options = argparse.Namespace(folder=folder, steps=10, limit_gb=0.0)
    for steps in (5, 10):
        try:
            measure(options, steps, [])
        except KeyboardInterrupt:
            assert broken
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"], "only its own files are removed"
    assert len(worked) == 2 and {path.parent for path in worked} == {folder}
