"""The report of a grid or a search: tables, figures, JSON."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.records import make_evaluation, make_record
from vdt.evaluation.records import CellRecord, Evaluation, HeldOutReport, ValueEstimates
from vdt.evaluation.trials import COMPLETE, PRUNED, Trial
from vdt.reporting.report import Report, write_report
from vdt.reporting.search_figures import _Scale
from vdt.reporting.search_report import sort_by_rank

TASK = "walker2d-medium-v2-data-collected-vdt"


def make_cell(patch: str, seed: int, score: float, **config: Any) -> CellRecord:
    policies = {"offline": {"lookahead": make_evaluation([score - 1, score + 1], (5.0, 2.0), 3)}}
    held_out = HeldOutReport(2, 9, 1 / score, 1.0, None, None, None, None)
    record = make_record(seed, {}, patch=patch, config=config)
    values = {"offline": ValueEstimates(4, None, -score, -score, 9, 1.0)}
    evaluation = Evaluation(policies, {"offline": held_out}, {}, values)
    return CellRecord(**{**vars(record), "evaluation": evaluation})


GRID = {
    f"q-{q:g}-t-{t:g}": {"actor.q_coefficient": q, "actor.inverse_temperature": t}
    for q, t in itertools.product((0.1, 0.3, 1.0), (0.5, 2.0))
}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Report:
    cells = [
        make_cell(name, seed, 50 + 10 * number + seed, **values)
        for number, (name, values) in enumerate(GRID.items())
        for seed in (10, 11)
    ]
    reported = [make_cell("", seed, 90.0 + seed) for seed in (0, 1, 2)]
    study = {
        **{"name": "grid", "title": "A grid", "ranked": True, "settings": GRID, "reported": reported},
        "found": {
            "walker2d-medium-v2, data collected, vdt": {
                "file": "params/found/grid.yaml",
                "command": "vdt run --study params/found/grid.yaml",
            }
        },
    }
    return write_report(cells, tmp_path_factory.mktemp("report"), study=study)


def find_section(text: str, title: str) -> str:
    (section,) = (part for part in text.split("\n## ") if part.startswith(title))
    return section


def test_the_best_comes_first_and_its_score_is_called_biased(grid: Report) -> None:
    winner = find_section(grid.text, "Winner")
    assert "actor.q_coefficient = 1, actor.inverse_temperature = 2" in winner
    assert "| tuning score, seeds 10, 11, **biased upward** | 110.5 [" in winner
    assert "The best of 6 is chosen for its score, luck included" in winner
    assert "| **score on reported seeds 0, 1, 2** | 91.0 ± 0.6 |" in winner
    assert "`vdt run --study params/found/grid.yaml`" in winner and "have not been run" not in winner
    ranked = [
        line.split(" | ")[1:4] for line in find_section(grid.text, "Ranking").splitlines() if line[:3] in ("| 1", "| 6")
    ]
    assert ranked == [["q-1-t-2", "1", "2"], ["q-0.1-t-0.5", "0.1", "0.5"]]


def test_settings_are_not_compared_as_methods_are(grid: Report) -> None:
    for title in ("Over all envs", "Probability of improvement", "What the methods' configurations differ in"):
        assert title not in grid.text


def test_offline_scores_are_laid_beside_returns(grid: Report) -> None:
    section = find_section(grid.text, "How well offline scores predict returns here")
    lines = {line.split(" | ")[1]: line for line in section.splitlines() if line.startswith("| walker2d")}
    assert (
        "| 6 | +1.00 [+1.00, +1.00] | +1.00 [" in lines["action error"]
        and "| 110.5 | 110.5 | 85.5 |" in lines["action error"]
    )
    assert "| -1.00 [-1.00, -1.00] |" in lines["fitted-Q value"] and "| 60.5 | 110.5 |" in lines["fitted-Q value"]
    assert "Fewer than 20 settings say little" in section


def test_all_of_it_is_in_the_json_and_the_figures_are_linked(grid: Report) -> None:
    document = json.loads((grid.path.parent / "report.json").read_text())
    (ranking,) = document["rankings"]
    assert [s["name"] for s in ranking["settings"]][:2] == ["q-1-t-2", "q-1-t-0.5"]
    assert ranking["settings"][0]["scores"] == {"10": 110.0, "11": 111.0}
    assert set(ranking["importances"]["shares"]) == {"actor.q_coefficient", "actor.inverse_temperature"}
    assert {entry["score"] for entry in document["offline_scores"]} == {"action error", "fitted-Q value"}
    assert "reported" not in document["study"] and document["study"]["settings"] == GRID
    names = [figure.name for figure in grid.figures]
    assert names[:4] == [f"{kind}-{TASK}.png" for kind in ("map", "parallel", "best", "offline-scores")]
    assert all(f"]({name})" in grid.path.read_text() for name in names)
    assert all(figure.stat().st_size > 5000 for figure in grid.figures)


def make_trials(count: int, shift: float) -> list[Trial]:
    trials = []
    for number in range(count):
        values = {"actor.q_coefficient": 0.01 * 1.5**number, "critic.n_step": 1 + number % 5}
        score, patch = shift + number, f"t{number:03}"
        if number == 3:
            trials.append(Trial(number, values, PRUNED, None, {}, {100: 11.0, 200: 22.5}, 5.0, patch))
        else:
            trials.append(Trial(number, values, COMPLETE, score, {100: score - 1, 101: score + 1}, {}, 60.0, patch))
    return trials


def test_a_search_shows_how_far_stopped_trials_got_and_random_search_beside(tmp_path: Path) -> None:
    trials = make_trials(12, 50.0)
    cells = [make_cell(t.patch, seed, score) for t in trials for seed, score in t.scores_by_seed.items()]
    study = {
        **{"name": "tpe", "ranked": True, "settings": {t.patch: t.settings for t in trials}},
        **{"trials": trials, "beside": {"random": make_trials(12, 45.0)}},
    }
    report = write_report(cells, tmp_path, study=study)
    assert "| at gradient step 200, score 22.5 |" in find_section(report.text, "Ranking")
    winner = find_section(report.text, "Winner")
    assert "They have not been run yet." in winner and "score on reported seeds" not in winner
    assert {f"map-{TASK}.png", f"best-{TASK}.png"} <= {f.name for f in report.figures}
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["rankings"][0]["settings"][-1]["intermediate"] == {"100": 11.0, "200": 22.5}


def test_a_study_without_grid_is_reported_as_before(tmp_path: Path) -> None:
    cells = [make_cell(name, 0, 50.0 + i, **values) for i, (name, values) in enumerate(GRID.items())]
    report = write_report(cells, tmp_path, study={"name": "patches", "ranked": False, "settings": GRID})
    assert "Ranking" not in report.text and "Probability of improvement" in report.text


def test_axes_have_readable_ticks() -> None:
    assert _Scale([0.031, 0.9, 0.2, 0.5, 0.06, 0.1, 0.7]).tick()[1] == ["0.05", "0.1", "0.2", "0.5"]
    assert _Scale([1, 2, 4, 6, 7, 8, 9]).tick()[1] == ["2", "4", "6", "8"]
    assert _Scale(["relu", "mish", "relu"]).tick() == ([0.0, 1.0], ["relu", "mish"])
    assert _Scale([0.3, 0.1, 0.3]).tick()[1] == ["0.1", "0.3"]


PAIR: Mapping[str, Mapping[str, Any]] = {"a": {"actor.q_coefficient": 0.1}, "b": {"actor.q_coefficient": 0.3}}
SWEPT = {"name": "mine", "title": "Mine", "ranked": True, "settings": PAIR}


def cut_episodes(cell: CellRecord) -> CellRecord:
    cut = make_evaluation([None, None], (5.0, 2.0), 3, episode_returns=[30.0, 50.0], cut_at=50)
    return replace(cell, evaluation=Evaluation({"offline": {"lookahead": cut}}))


@pytest.mark.parametrize("whole", [0, 1])
def test_a_sweep_of_cut_episodes_says_why_nothing_is_ranked(whole: int, tmp_path: Path) -> None:
    cells = [make_cell("a", 0, 50.0), make_cell("b", 0, 60.0)]
    cells = [*cells[:whole], *map(cut_episodes, cells[whole:])]
    text = write_report(cells, tmp_path, study=SWEPT).text
    assert text.splitlines()[2] == (
        f"On **walker2d-medium-v2**, data collected, vdt, no setting is ranked, since episodes of {2 - whole} of 2 cells were "
        "cut at 50 steps and have no score: `--set evaluation.max_episode_steps=0` plays episodes to their end."
    )
    assert "Ranking" not in text and "Winner" not in text


def test_a_sweep_without_a_score_that_all_cells_have_says_so(tmp_path: Path) -> None:
    other = make_cell("b", 0, 60.0)
    alone = replace(other, evaluation=replace(other.evaluation, policies={}))
    without = replace(make_cell("a", 0, 50.0), evaluation=Evaluation({}))
    text = write_report([without, alone], tmp_path, study=SWEPT).text
    assert text.splitlines()[2] == (
        "On **walker2d-medium-v2**, data collected, vdt, no setting is ranked, since its 2 cells have no score in common."
    )


def strip_environment(cell: CellRecord, steps: int) -> CellRecord:
    """Return a cell without returns whose fitted-Q value is of a fit of so many steps."""
    evaluation = cell.evaluation
    values = {"offline": replace(evaluation.values["offline"], fitted_q_steps=steps)}
    return replace(cell, evaluation=replace(evaluation, policies={}, values=values))


@pytest.mark.parametrize("steps", [60, 10_000])
def test_a_search_by_fitted_values_says_that_a_fit_had_not_ended(steps: int, tmp_path: Path) -> None:
    cells = [strip_environment(make_cell("a", 0, 50.0), 10_000), strip_environment(make_cell("b", 0, 60.0), steps)]
    trials = [
        Trial(number, PAIR[name], COMPLETE, value, {0: value}, seconds=9.0, patch=name)
        for number, (name, value) in enumerate((("a", 5.0), ("b", 4.0)))
    ]
    study = {**SWEPT, "score": "fitted_q", "trials": trials}
    answer = write_report(cells, tmp_path, study=study).text.splitlines()[2]
    said = (
        "The settings are ranked by fitted-Q values whose fit had not ended: 60 steps of the fit leave 97 % of the way "
        "(`evaluation.fitted_q_steps`)."
    )
    assert (said in answer) == (steps == 60) and "`actor.q_coefficient` = 0.1" in answer


def test_cells_stand_in_the_order_of_their_ranking() -> None:
    cells = [make_cell(name, seed, score + seed) for name, score in (("a", 50.0), ("b", 60.0)) for seed in (10, 11)]
    ordered = sort_by_rank(cells, cells, SWEPT)
    assert [(cell.patch, cell.seed) for cell in ordered] == [("b", 10), ("b", 11), ("a", 10), ("a", 11)]
    assert sort_by_rank(cells[:3], cells, SWEPT) == [cells[2], *cells[:2]], "of this run's cells alone"
    assert sort_by_rank(cells, cells, {**SWEPT, "ranked": False}) == []
    assert sort_by_rank(cells, cells, None) == []
    other = [make_record(0, cells[0].evaluation.policies, patch="a", env="hopper-medium-v2")]
    assert sort_by_rank(cells, [*cells, *other], SWEPT) == [], "two tasks have two winners"
    assert sort_by_rank([cut_episodes(cell) for cell in cells], [cut_episodes(cell) for cell in cells], SWEPT) == []
