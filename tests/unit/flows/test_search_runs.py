"""Which run of a search's cells is continued, and when another one is begun."""

from pathlib import Path

import pytest

from flows import search
from flows.options import Command
from vdt.config.errors import ConfigError

COMMAND = Command("flow.py", {"env": "walker2d-medium-v2"}, [], [])


@pytest.mark.parametrize(
    ("begun", "codes", "tried", "well"),
    [
        ("", [0], ["run"], True),
        ("", [1], ["run"], False),
        ("17", [0], ["resume 17"], True),
        ("17", [1, 0], ["resume 17", "run"], True),
        ("17", [1, 1], ["resume 17", "run"], False),
    ],
)
def test_a_run_that_cannot_be_continued_is_begun_anew(
    begun: str, codes: list[int], tried: list[str], well: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metaflow's records of the winner's run may be gone; its command must not fail for ever."""
    file, seen = tmp_path / "flows" / "reported.txt", []
    if begun:
        file.parent.mkdir()
        file.write_text(begun)

    def run_flow(words: list[str]) -> int:
        assert words[-2:] == ["--run-id-file", str(file)]
        seen.append("resume " + words[words.index("--origin-run-id") + 1] if "resume" in words else "run")
        return codes[len(seen) - 1]

    monkeypatch.setattr(search, "run_flow", run_flow)
    assert search.run_or_resume(file, COMMAND, "the winner") == well
    assert seen == tried


def test_a_worker_that_gives_up_says_error_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(worker: search.Worker) -> int:
        raise ConfigError("3 trials in a row have failed")

    monkeypatch.setattr(search.Worker, "run", run)
    monkeypatch.setattr(search, "interrupt_on_signals", lambda: None)
    assert search.main(["flows/vdt_flow.py", "run", "--study", "search-hopper-random"]) == 2
    assert capsys.readouterr().out.splitlines()[-1] == "error: 3 trials in a row have failed"
