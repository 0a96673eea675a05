"""`vdt serve` and `vdt register` choose among the policies of a run, as the other commands do."""

import signal
from pathlib import Path
from typing import Any

import pytest

from support.builders import make_config
from support.policies import KEY, RUN, make_run
from vdt.cli import run
from vdt.serving.model_files import make_model
from vdt.system.files import compute_file_digest
from vdt.tracking import MLflowTracker, create_run, open_store

OTHER = "walker2d-medium-v2-vdt-s1"


def test_serve_takes_the_named_policy_of_the_named_cell(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[Path] = []

    def note(path: Path, *_: Any, **__: Any) -> None:
        served.append(path)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("vdt.serving.server.serve", note)
    made = {key: make_run(home, key=key, best=False) for key in (KEY, OTHER)}
    assert run(["serve", RUN]) == 2 and "choose one by cell=" in capsys.readouterr().err
    assert run(["serve", RUN, "--cell", OTHER]) == 0
    assert run(["serve", RUN, "--cell", KEY, "--name", "offline"]) == 0
    assert served == [made[OTHER]["online"], made[KEY]["offline"]]
    assert signal.getsignal(signal.SIGTERM) is before
    assert run(["serve", RUN, "--cell", KEY, "--name", "offlin"]) == 2
    assert "name must be one of online, offline, online_best, not 'offlin'" in capsys.readouterr().err


def test_register_takes_the_named_policy(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, made = make_config(), make_run(home, best=False)
    run_id = create_run(home, config, RUN, "command")
    tracker = MLflowTracker(home, run_id, interval=60)
    for name, path in made.items():
        tracker.log_evaluation(name, path, 30, {}, make_model(config, name))
    tracker.close()
    assert run(["register", run_id, "walker"]) == 0
    assert run(["register", run_id, "walker", "--name", "offline"]) == 0
    versions = {int(version.version): version for version in open_store(home).search_model_versions("name = 'walker'")}
    digests = [versions[number].tags["sha256"] for number in (1, 2)]
    assert digests == [compute_file_digest(made[name], "sha256") for name in ("online", "offline")]
    assert run(["register", run_id, "walker", "--cell", KEY]) == 2
    assert f"cell={KEY!r}: a run of MLflow has one cell" in capsys.readouterr().err
