"""Cells: what tells them apart in log lines, and MLflow runs of finished ones that are put right."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.builders import make_config
from support.records import WALKER, make_record
from vdt.datasets.choose import choose_source
from vdt.experiments.cells import describe_other_code, keep_result, make_data_key, split_finished, tag_finished_runs
from vdt.experiments.opened import make_labels
from vdt.experiments.resolve import resolve_config
from vdt.experiments.results_store import compute_code_digest, compute_identity, save_result
from vdt.experiments.study import Cell, Study
from vdt.tracking import create_run, finish_runs, open_store


def test_labels_hold_what_differs() -> None:
    cells = [Cell(make_config(method=method, seed=seed)) for method in ("vdt", "dt") for seed in (0, 1)]
    assert make_labels(cells) == ["1/4 vdt s0", "2/4 vdt s1", "3/4 dt s0", "4/4 dt s1"]
    assert make_labels([Cell(make_config(), patch) for patch in ("", "weak")]) == ["1/2", "2/2 weak"]
    assert make_labels(cells[:1]) == [""]


def test_a_finished_cell_whose_flow_was_stopped_is_finished_in_mlflow(home: Path) -> None:
    """It was killed between `evaluate` and `report`, which left its run FAILED; a study then finds its result."""
    run_id = create_run(home, make_config(), "flow", "command")
    finish_runs(home, [run_id], "FAILED")
    cell: Any = SimpleNamespace(mlflow_run_id=run_id)
    tag_finished_runs([cell], Study(name="mine", place="", envs=()))
    run = open_store(home).get_run(run_id)
    assert (run.info.status, run.data.tags["study"]) == ("FINISHED", "mine")


def test_a_result_of_another_release_is_run_again(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`--reuse settings` finds results of any code; one in another form is no reason to stop."""
    cell = Cell(resolve_config("walker2d-medium-v2", preset="smoke", source="collected"))
    choice = choose_source(cell.config, home)
    identity = compute_identity(cell.config, make_data_key(choice.source, choice.key))
    save_result(home, identity, {"evaluation": "as it was"})
    assert split_finished([cell], "settings") == ([cell], [])
    assert f"{cell.key}: its result is of another release" in caplog.text
    assert split_finished([cell], "none") == ([cell], [])


@pytest.mark.parametrize("content", [b"", b'{"key": ', b"[1]", b"\xff\xfe"])
@pytest.mark.parametrize("reuse", ["exact", "settings"])
def test_a_damaged_result_is_named_and_run_again(
    content: bytes, reuse: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cell = Cell(resolve_config("walker2d-medium-v2", preset="smoke", source="collected"))
    choice = choose_source(cell.config, home)
    path = save_result(home, compute_identity(cell.config, make_data_key(choice.source, choice.key)), {})
    path.write_bytes(content)
    assert split_finished([cell], reuse) == ([cell], [])
    assert f"{path} is damaged" in caplog.text and "run again" in caplog.text


def test_results_of_other_code_are_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        Cell(resolve_config(env, preset="smoke", source="collected"))
        for env in ("walker2d-medium-v2", "hopper-medium-v2")
    ]
    assert describe_other_code(cells, "exact") == ""
    choice = choose_source(cells[0].config, home)
    with monkeypatch.context() as patched:
        patched.setattr("vdt.experiments.results_store.compute_code_digest", lambda: "another")
        save_result(home, compute_identity(cells[0].config, make_data_key(choice.source, choice.key)), {})
    assert (
        describe_other_code(cells, "exact") == "; 1 of these have results of other code, which --reuse settings takes"
    )
    assert describe_other_code(cells, "none") == ""


def test_a_result_is_kept_unless_the_code_was_edited_while_it_came(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, data = resolve_config(WALKER, preset="smoke"), home / "data" / "collected-1" / "data.hdf5"
    results = home / ".vdt" / "results"
    keep_result(make_record(0, {}), config, data, {"code": "edited since"})
    assert not results.exists() and "vdt/ has changed since" in caplog.text
    keep_result(make_record(0, {}), config, data, {"code": compute_code_digest()})
    assert len(list(results.glob("*.json"))) == 1
    keep_result(make_record(1, {}), dataclasses.replace(config, seed=1), data, {})
    assert len(list(results.glob("*.json"))) == 2, "a run of an earlier release does not say"
