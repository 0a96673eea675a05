"""The lines `use` and `next` of a run's last screen do what their reader expects."""

from typing import Any

import pytest

from flows.next_steps import suggest_next, suggest_use
from support.records import make_evaluation, make_record
from vdt.evaluation.records import CellRecord

SINGLE = {"planner.candidates": 1}
SIMULATOR = {"planner.env_model": "simulator"}


def make_cell(env: str = "walker2d-medium-v2", seed: int = 0, **config: Any) -> CellRecord:
    measured = {"offline": {"single": make_evaluation([90.0])}}
    return make_record(
        seed, {} if env.startswith("data:") else measured, env=env, config={"preset": "laptop", **config}
    )


@pytest.mark.parametrize(("config", "option"), [({}, " --lookahead"), (SINGLE, ""), (SIMULATOR, "")])
def test_use_evaluates_as_the_score_was_measured(config: dict[str, Any], option: str) -> None:
    cell = make_cell(**config)
    assert suggest_use(cell, "1234", choose=False).endswith(f"vdt evaluate 1234{option}")
    named = suggest_use(cell, "1234", choose=True)
    assert named.endswith(f"vdt evaluate 1234 --cell walker2d-medium-v2-vdt--s0{option}")


def test_use_of_a_policy_without_an_environment_is_to_load_it() -> None:
    cell = make_cell("data:logs")
    assert suggest_use(cell, "1234", choose=False) == ("import vdt; policy = vdt.load_policy('1234', lookahead=True)")
    assert "load_policy('1234', cell='data:logs-vdt--s0', " in suggest_use(cell, "1234", choose=True)


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        ([make_cell()], "walker2d-medium-v2 --method vdt,dt --seeds 0,1,2"),
        ([make_cell(preset="smoke")], "walker2d-medium-v2"),
        (
            [make_cell(preset="smoke"), make_cell(seed=1, method="dt", preset="smoke")],
            "walker2d-medium-v2 --method vdt,dt --seeds 0,1",
        ),
        ([make_cell(preset="smoke", **{"data.source": "collected"})], "walker2d-medium-v2 --source collected"),
        ([make_cell(preset="paper")], "walker2d-medium-v2 --preset paper --method vdt,dt --seeds 0,1,2"),
        ([make_cell("data:my logs", preset="smoke", **{"data.source": "data"})], "'data:my logs'"),
        ([make_cell("data:a", preset="smoke"), make_cell("data:b", preset="smoke")], "data:a,data:b"),
    ],
)
def test_next_goes_on_from_what_was_run(cells: list[CellRecord], options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert suggest_next(cells, {}).endswith(f"flows/vdt_flow.py run --env {options}")
    monkeypatch.setenv("VDT_HOME", "my runs")
    assert suggest_next(cells, {}).startswith("VDT_HOME='my runs' "), "the same home as of the other lines"


TRIAL, FULL = make_cell(preset="smoke"), make_cell(seed=2)
MINE = {"study": "mine.yaml", "cell": "", "reuse": "settings"}


@pytest.mark.parametrize(
    ("cell", "given", "options"),
    [
        (TRIAL, {"preset": "smoke", "set": "data.seed=1"}, "--env walker2d-medium-v2 --set data.seed=1"),
        (FULL, {"set": "data.seed=1"}, "--env walker2d-medium-v2 --method vdt,dt --seeds 0,1,2 --set data.seed=1"),
        (TRIAL, MINE, "--preset laptop --study mine.yaml"),
        (TRIAL, {**MINE, "preset": "smoke", "seeds": "3"}, "--preset laptop --seeds 3 --study mine.yaml"),
        (FULL, MINE, "--seeds 0-4 --study mine.yaml"),
        (FULL, {**MINE, "data_seeds": "5,6", "seeds": "2"}, "--seeds 0-4 --data-seeds 5,6 --study mine.yaml"),
        (FULL, {"sweep": "critic.n_step=1,5"}, "--env walker2d-medium-v2 --seeds 0-4 --sweep critic.n_step=1,5"),
    ],
)
def test_next_keeps_what_the_run_was_told(cell: CellRecord, given: dict[str, str], options: str) -> None:
    assert suggest_next([cell], given).endswith(f"flows/vdt_flow.py run {options}")
