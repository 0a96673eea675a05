"""Records of cells: the same in memory and as JSON."""

import json
import math

import pytest

from support.records import make_evaluation, make_record
from vdt.evaluation.records import (
    Calibration,
    CellRecord,
    Diagnostics,
    HeldOutReport,
    Maze,
    ParameterCounts,
    RequestedReturn,
    Trace,
    WeightHistogram,
)


def make_full_record() -> CellRecord:
    trace = Trace(Maze([[0.0, 0.0]], 4.0, [0.0, 8.0], 0.5), [[[0.0, 4.0]], [[4.0, 4.0]]])
    single = make_evaluation([1.5, None], cut_at=50, successes=[True, False], trace=trace, success_interval=[0.1, 0.9])
    diagnostics = Diagnostics(
        ParameterCounts(3, 2),
        60,
        [RequestedReturn(5000.0, [1.0, 2.0], 50)],
        Calibration([1.0], [2.0], 4, -1.0, None),
        WeightHistogram([0.1, 1.0], [1.0], 2.0),
    )
    return make_record(
        3,
        {"offline": {"single": single}},
        patch="weak",
        held_out={"offline": HeldOutReport(2, 30, 0.25, 0.5, None, None, None, None)},
        diagnostics={"offline": diagnostics},
        memory={"evaluate": {"machine": 700.5}},
    )


def test_a_record_survives_json() -> None:
    record = CellRecord.from_json(make_full_record().to_json())  # lists where there were tuples
    text = json.dumps(record.to_json())
    assert CellRecord.from_json(json.loads(text)) == record
    assert record.to_json() == json.loads(text) == make_full_record().to_json()
    single, report = record.evaluation.policies["offline"]["single"], record.evaluation.diagnostics["offline"]
    assert single.normalized_scores == [1.5, None] and single.trace is not None and single.trace.maze.size == 4.0
    assert report.requested is not None and report.requested[0].cut_at == 50 and report.calibration is not None
    assert record.memory == {"evaluate": {"machine": 700.5}} and record.patch == "weak"
    assert (record.env, record.name, record.preset, record.seed) == ("walker2d-medium-v2", "vdt + weak", "smoke", 3)


def test_keys_that_no_field_is_called_by_are_left_out() -> None:
    plain = make_full_record().to_json()
    stored = {**plain, "code": "abc", "snapshot": {**plain["snapshot"], "path": "some/place"}}
    assert CellRecord.from_json(stored).to_json() == plain


@pytest.mark.parametrize("key", ["config", "snapshot", "evaluation", "mlflow_run_id"])
def test_what_is_missing_is_named(key: str) -> None:
    plain = make_full_record().to_json()
    del plain[key]
    with pytest.raises(ValueError, match=f"{key}\n *Field required"):
        CellRecord.from_json(plain)


def test_a_number_that_is_not_finite_stays() -> None:
    record = make_record(0, {"offline": {"single": make_evaluation([1.0], normalized_score_standard_error=math.nan)}})
    error = (
        CellRecord.from_json(record.to_json()).evaluation.policies["offline"]["single"].normalized_score_standard_error
    )
    assert error is not None and math.isnan(error)
