"""The lines `use` and `next` of a run's last screen do what their reader expects."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.next_steps import name_policy, suggest_next, suggest_use
from support.records import make_evaluation, make_record
from vdt.data.episode_writer import EpisodeWriter
from vdt.evaluation.records import CellRecord, Diagnostics, ParameterCounts
from vdt.experiments.cells import resolve_study

SINGLE = {"planner.candidates": 1}
SIMULATOR = {"planner.env_model": "simulator"}


def make_cell(env: str = "walker2d-medium-v2", seed: int = 0, **config: Any) -> CellRecord:
    measured = {"offline": {"single": make_evaluation([90.0])}}
    method = config.pop("method", "vdt")
    return make_record(
        seed, {} if env.startswith("data:") else measured, env=env, method=method, config={"preset": "laptop", **config}
    )


def write_episodes(folder: Path) -> None:
    """Write own data of two episodes."""
    writer = EpisodeWriter(folder)
    for _ in range(2):
        writer.begin([0.0, 1.0])
        for step in range(20):
            writer.add(
                [0.5 if step % 2 else -0.5], float(step), [step / 20, 1.0], terminated=False, truncated=step == 19
            )


@pytest.mark.parametrize(("config", "option"), [({}, " --lookahead"), (SINGLE, ""), (SIMULATOR, "")])
def test_use_evaluates_as_the_score_was_measured(config: dict[str, Any], option: str) -> None:
    cell = make_cell(**config)
    assert suggest_use(cell, "1234", "a/b.pt", choose=False).endswith(f"vdt evaluate 1234{option}")
    named = suggest_use(cell, "1234", "a/b.pt", choose=True)
    assert named.endswith(f"vdt evaluate 1234 --cell walker2d-medium-v2-vdt--s0{option}")


def test_use_has_no_choice_where_the_critic_failed_its_test() -> None:
    cell = make_cell(**{"actor.max_history_correlation": 0.25})
    for correlation, option in ((0.1, " --lookahead"), (0.3, "")):
        tested = Diagnostics(ParameterCounts(1, 1), 0, history_correlation=correlation)
        evaluation = replace(cell.evaluation, diagnostics={"offline": tested})
        use = suggest_use(replace(cell, evaluation=evaluation), "1234", "a/b.pt", choose=False)
        assert use.endswith(f"vdt evaluate 1234{option}")


def test_an_actor_of_another_cell_is_named_by_the_run() -> None:
    """Its file acts by the settings of the cell that trained it; tuned online, a cell has a file of its own."""
    shared = {"pretrain_critic": "", "train_actor": "0a1b"}
    taken = replace(make_cell("data:logs"), shared_from=shared)
    where = name_policy(taken, "1234", "a/b.pt", choose=True)
    assert where == f"'1234', cell={taken.key!r}" and name_policy(taken, "1234", "a/b.pt", choose=False) == "'1234'"
    assert suggest_use(taken, "1234", "a/b.pt", choose=True).startswith(f"import vdt; policy = vdt.load_policy({where}")
    tuned = replace(make_cell(), shared_from=shared)
    for name, expected in (("online", "'a/b.pt'"), ("offline", "'1234'")):
        policies = {name: next(iter(tuned.evaluation.policies.values()))}
        cell = replace(tuned, evaluation=replace(tuned.evaluation, policies=policies))
        assert name_policy(cell, "1234", "a/b.pt", choose=False) == expected


def test_use_of_a_policy_without_an_environment_is_to_load_it() -> None:
    cell = make_cell("data:logs")
    for choose in (False, True):
        used = suggest_use(cell, "1234", "a/b.pt", choose=choose)
        assert used == "import vdt; policy = vdt.load_policy('a/b.pt', lookahead=True)"


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
def test_next_goes_on_from_what_was_run(
    cells: list[CellRecord], options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my logs", "a", "b"):
        write_episodes(tmp_path / name)
    assert suggest_next(cells, {}).endswith(f"flows/vdt_flow.py run --env {options}")
    monkeypatch.setenv("VDT_HOME", "my runs")
    assert suggest_next(cells, {}).startswith("VDT_HOME='my runs' "), "the same home as of the other lines"


TRIAL, FULL = make_cell(preset="smoke"), make_cell(seed=2)
IQL = make_cell(seed=2, method="iql")
DT, ALONE = make_cell(method="dt"), "critic.gradient_steps=0"  # which vdt beside it would refuse
MINE = {"study": "mine.yaml", "cell": "", "reuse": "settings"}


@pytest.mark.parametrize(
    ("cell", "given", "options"),
    [
        (TRIAL, {"preset": "smoke", "set": "data.seed=1"}, "--env walker2d-medium-v2 --set data.seed=1"),
        (FULL, {"set": "data.seed=1"}, "--env walker2d-medium-v2 --method vdt,dt --seeds 0,1,2 --set data.seed=1"),
        (TRIAL, MINE, "--preset laptop --study mine.yaml"),
        (TRIAL, {**MINE, "preset": "smoke", "seeds": "3"}, "--preset laptop --seeds 3 --study mine.yaml"),
        (FULL, MINE, "--seeds 2-4 --study mine.yaml"),
        (FULL, {**MINE, "data_seeds": "5,6", "seeds": "2"}, "--seeds 2-4 --data-seeds 5,6 --study mine.yaml"),
        (FULL, {"sweep": "critic.n_step=1,5"}, "--env walker2d-medium-v2 --seeds 2-4 --sweep critic.n_step=1,5"),
        (make_cell(seed=20261129), MINE, "--seeds 20261129-20261131 --study mine.yaml"),
        (
            FULL,
            {"env": "walker2d-medium-v2", "method": "vdt,dt", "seeds": "0-2"},
            "--env walker2d-medium-v2 --seeds 2-4",
        ),
        (
            FULL,
            {"env": "walker2d-medium-v2", "set": "planner.candidates=3"},
            "--env walker2d-medium-v2 --seeds 2-4 --set planner.candidates=3",
        ),
        (IQL, {"method": "iql"}, "--env walker2d-medium-v2 --method iql,dt --seeds 0,1,2"),
        (
            IQL,
            {"env": IQL.env, "method": "dt, iql", "seeds": "0-2"},
            "--env walker2d-medium-v2 --method iql --seeds 2-4",
        ),
        (DT, {"method": "dt"}, "--env walker2d-medium-v2 --method vdt,dt --seeds 0,1,2"),
        (DT, {"method": "dt", "set": ALONE}, f"--env walker2d-medium-v2 --method dt --seeds 0-2 --set {ALONE}"),
    ],
)
def test_next_keeps_what_the_run_was_told(
    cell: CellRecord, given: dict[str, str], options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("source: collected\nenvs: [walker2d-medium-v2]\n")
    assert suggest_next([cell], given).endswith(f"flows/vdt_flow.py run {options}")


def test_a_search_has_no_next_run_of_more_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space = "space: {actor.q_coefficient: {low: 0.1, high: 1.0}}, trials: 2, seeds: [100], report: {seeds: [0]}"
    (tmp_path / "mine.yaml").write_text(f"envs: [walker2d-medium-v2]\nsearch: {{{space}}}\n")
    assert resolve_study({"study": "mine.yaml"}).search is not None
    assert suggest_next([FULL], MINE) == ""
