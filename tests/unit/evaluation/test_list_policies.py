"""`benchmarks/list_policies.py`: the policies of several homes in one table, with the settings in which they differ."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.list_policies import list_policies, main, make_table
from support.builders import make_config
from support.policies import RUN
from support.records import make_evaluation, make_record
from vdt.experiments.results_store import save_result
from vdt.tracking import MLflowTracker, create_run


def keep(home: Path, seed: int, score: float, curve: list[float], **config: object) -> None:
    """Keep the result of a cell with one offline policy, its curve in the real MLflow store."""
    tracker = MLflowTracker(home, create_run(home, make_config(seed=seed), RUN, "command"))
    for number, value in enumerate(curve, start=1):
        tracker.log(100 * number, {"actor/score": value})
    tracker.close()
    record = make_record(
        seed,
        {"offline": {"single": make_evaluation([score])}},
        config={"data.seed": 5, **config},
        mlflow_run_id=tracker.run_id,
    )
    save_result(home, f"{seed}{config}", record.to_json())


def test_policies_of_homes_are_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    keep(first, 1, 71.234, [30.4, 71.2], **{"actor.learning_rate": 0.0003, "task.horizon": 1000})
    keep(first, 0, 50.0, [], **{"actor.learning_rate": 0.001, "task.horizon": 200})
    keep(second, 0, 50.0, [], **{"actor.learning_rate": 0.001, "task.horizon": 200})
    output = tmp_path / "policies.csv"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["", "one", "two", "--output", str(output)])
    main()
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert capsys.readouterr().out.startswith("2 policies, ")
    assert [row["seed"] for row in rows] == ["0", "1"], "sorted, and the cell that both homes hold is listed once"
    assert [row["actor.learning_rate"] for row in rows] == ["0.001", "0.0003"]
    assert [row["normalized_score"] for row in rows] == ["50.0", "71.23"] and rows[1]["curve"] == "100:30 200:71"
    assert rows[0]["data.seed"] == "5", "what tells a cell is there although all share it"
    assert not {"task.horizon", "actor.q_coefficient", "identity"} & set(rows[0]), "shared by all, or the task's"
    assert rows[0]["offline_seconds"] == "63"


def test_homes_without_results_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), "--output", str(tmp_path / "policies.csv")])
    with pytest.raises(SystemExit):
        main()
    assert not (tmp_path / "policies.csv").exists()


def make_row(seed: int, score: float, **settings: object) -> dict[str, Any]:
    """Make a row of `list_policies`, in its order."""
    return {
        **{"env": "a", "method": "vdt", "preset": "laptop", "seed": seed, "data.seed": 0, **settings, "patch": ""},
        **{"policy": "offline", "acts": "single", "normalized_score": score, "standard_error": 0.0, "episodes": 1},
        **{"offline_seconds": 1, "shared": "", "curve": "", "code": "c", "identity": str(seed)},
    }


def test_a_key_that_only_some_homes_know_is_a_column_of_settings_in_either_order() -> None:
    """A release adds a key: cells of an earlier one lack it."""
    old = [make_row(0, 1.0, **{"critic.discount": 0.9, "actor.batch_size": 1})]
    new = [make_row(1, 2.0, **{"critic.discount": 0.99, "critic.window_steps": 4, "actor.batch_size": 1})]
    tables = [make_table([*old, *new]), make_table([*new, *old])]
    for table in tables:
        columns = list(table.columns)
        assert columns[6:9] == ["critic.discount", "critic.window_steps", "policy"], "as the configuration orders them"
        assert columns[-1] == "code" and "actor.batch_size" not in columns
        assert list(table["normalized_score"]) == [1.0, 2.0]
    assert tables[0].to_csv(index=False) == tables[1].to_csv(index=False)


@pytest.mark.parametrize(
    ("shared_from", "expected"),
    [
        ({}, ""),
        ({"pretrain_critic": "", "train_actor": ""}, ""),
        ({"pretrain_critic": "run-1", "train_actor": ""}, "critic"),
        ({"pretrain_critic": "run-1", "train_actor": "run-2"}, "critic actor"),
    ],
)
def test_what_a_cell_took_from_another_is_marked(home: Path, shared_from: dict[str, str], expected: str) -> None:
    record = make_record(0, {"offline": {"single": make_evaluation([50.0])}}, shared_from=shared_from)
    save_result(home, "cell", record.to_json())
    (row,) = list_policies(home)
    assert row["shared"] == expected


def test_cells_without_an_environment_are_not_called_missing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_result(home, "cell", make_record(0, {}).to_json())
    monkeypatch.setattr(sys, "argv", ["", str(home), "--output", "policies.csv"])
    with pytest.raises(SystemExit):
        main()
    assert f"the finished cells in {home} have no environment, so no scores" in capsys.readouterr().err
