"""`benchmarks/list_policies.py`: the policies of several homes in one table, with the settings in which they differ."""

import csv
import sys
from pathlib import Path

import pytest

from benchmarks.list_policies import main
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
