"""A search's scores, its report's facts, and its winner as a study of its own."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import vdt.experiments
from support.records import make_evaluation, make_record
from vdt.config.errors import ConfigError
from vdt.evaluation.records import HeldOutReport, ValueEstimates
from vdt.evaluation.trials import COMPLETE, FAILED, PRUNED, RUNNING, Trial, find_best
from vdt.experiments.cells import compute_identities, resolve_cells, resolve_study
from vdt.experiments.found import add_winners, describe_search, find_winner_file, make_winner_file, write_winner
from vdt.experiments.results_store import save_result
from vdt.experiments.search_trials import (
    check_search,
    describe_journal,
    find_search_folder,
    get_search,
    open_search,
    score_cell,
    score_seeds,
)
from vdt.experiments.study import expand, make_reported
from vdt.system.files import write_text
from vdt.system.home import home as get_home

STUDY: dict[str, Any] = {
    "title": "Mine",
    "preset": "smoke",
    "source": "collected",
    "envs": ["walker2d-medium-v2"],
    "set": {"evaluation": {"max_episode_steps": 0, "curve_points": 3}, "actor.gradient_steps": 40},
    "search": {
        "space": {
            "actor.q_coefficient": {"low": 0.03, "high": 1, "log": True},
            "task.candidate_returns": [[3, 2], [4, 2]],
        },
        "trials": 3,
        "pruner": "halving",
        "report": {"seeds": [0, 1], "data_seed": 7},
    },
}
SETTINGS = {"actor.q_coefficient": 0.3, "task.candidate_returns": [4, 2]}


@pytest.fixture
def given(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return str(path)


def test_the_winner_is_a_study_of_the_reported_cells(given: str, home: Path) -> None:
    study = resolve_study({"study": given})
    best = Trial(17, SETTINGS, COMPLETE, 50.0, {100: 40.0, 101: 60.0}, patch="t017")
    path = write_text(
        home / find_winner_file(study.name),
        make_winner_file(study.describe("actor.batch_size=17"), best, 12, study.envs, study.methods[0]),
    )
    assert path == home / "params" / "found" / "mine.yaml"
    cells, found = resolve_cells({"study": str(path)})
    assert found is not None and found.search is None and found.seeds == (0, 1)
    assert found.note == "Trial 17, the best of 12 complete ones, chosen on tuning seeds 100, 101."
    wanted = expand(make_reported(study, SETTINGS), "actor.batch_size=17")
    assert [cell.config for cell in cells] == [cell.config for cell in wanted]
    assert {(c.config.data.seed, c.config.evaluation.seed, c.config.actor.batch_size) for c in cells} == {(7, 1000, 17)}


def test_a_trial_is_cells_on_the_tuning_seeds(given: str) -> None:
    study = resolve_study({"study": given})
    store = open_search(find_search_folder(study), get_search(study), 10)
    with store.take() as taken:
        assert taken is not None
        cells, trial = resolve_cells({"study": given, "trial": "0"})
        assert trial is not None and trial.trial is not None
        assert [cell.key for cell in cells] == [f"walker2d-medium-v2-vdt-t000-s{seed}" for seed in (100, 101)]
        assert {cell.config.actor.q_coefficient for cell in cells} == {taken.settings["actor.q_coefficient"]}
        assert [bool(describe_journal(trial, cell.config)) for cell in cells] == [True, False], (
            "pruned by the first seed"
        )
        assert describe_journal(trial, cells[0].config)["first_rung"] == 10, "40 steps, three points"
        first, _ = resolve_cells({"study": given, "trial": "0", "seeds": "100"})
        assert [cell.config for cell in first] == [cells[0].config]
        store.complete(0, {100: 1.0, 101: 3.0})
    facts = describe_search(study, {"study": given})
    assert [(trial.number, trial.score) for trial in facts["trials"]] == [(0, 2.0)]
    assert facts["score"] == "return" and facts["beside"] == {} and "found" not in facts
    cells, reported = resolve_cells({"study": given})
    assert reported is not None and {cell.patch for cell in cells} == {"t000"}
    described = reported.describe()
    assert (described["folder"], described["ranked"]) == ("search-mine", True)
    assert described["settings"]["t000"] == taken.settings


def end_search(given: str, overrides: str) -> dict[str, Any]:
    """End a search whose trials are of one setting, run its winner, and return the arguments of its report."""
    study = resolve_study({"study": given})
    folder = find_search_folder(study, overrides)
    store = open_search(folder, get_search(study), 10)
    with store.take() as taken:
        assert taken is not None
        store.complete(taken.number, {100: 1.0, 101: 3.0})
    (best,) = store.list_trials()
    path = write_winner(study, overrides, folder, best, 1, [])
    cells, _ = resolve_cells({"study": str(path)})
    for cell, identity in zip(cells, compute_identities(cells), strict=True):
        save_result(get_home(), identity, make_record(cell.config.seed, {}).to_json())
    return {"study": given, "set": overrides}


def report_winner(arguments: dict[str, Any]) -> tuple[list[str], int]:
    """Return the files that a search's report names, and how many reported cells it has."""
    study = resolve_study(arguments)
    facts = {**study.describe(arguments["set"]), **describe_search(study, arguments)}
    records = [make_record(100, {}, patch="t000")]
    found = add_winners(records, facts, "exact", "flow")
    return [entry["file"] for entry in found["found"].values()], len(found["reported"])


def test_a_report_takes_the_winner_of_its_own_search_alone(given: str, home: Path) -> None:
    """Another `--set` is another search, whose winner's file has the same name."""
    first = end_search(given, "actor.batch_size=17")
    assert report_winner(first) == (["params/found/mine.yaml"], 2)
    second = end_search(given, "actor.batch_size=33")
    assert report_winner(second) == (["params/found/mine.yaml"], 2)
    assert report_winner(first) == ([], 0)
    write_text(home / "params" / "found" / "mine.yaml", "envs: [walker2d-medium-v2]\n")  # of an earlier release
    assert report_winner(second) == ([], 0)


def test_searches_beside_are_those_of_the_same_options(given: str, tmp_path: Path, home: Path) -> None:
    end_search(given, "actor.batch_size=17")
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**STUDY, "search": {**STUDY["search"], "beside": [given]}}))
    for overrides, count in (("actor.batch_size=17", 1), ("", 0)):
        arguments = {"study": str(other), "set": overrides}
        beside = describe_search(resolve_study(arguments), arguments)["beside"]
        assert [len(trials) for trials in beside.values()] == [count]


def test_searches_beside_may_be_of_other_code(
    given: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("vdt.experiments.search_trials.compute_code_digest", lambda: "0" * 16)
        end_search(given, "")
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**STUDY, "search": {**STUDY["search"], "beside": [given]}}))
    for reuse, count in (("settings", 1), ("exact", 0)):
        arguments = {"study": str(other), "reuse": reuse}
        beside = describe_search(resolve_study(arguments), arguments)["beside"]
        assert [len(trials) for trials in beside.values()] == [count]


def test_scores_are_those_of_the_last_policy() -> None:
    offline, online = make_evaluation([10.0], (5000.0, 4000.0), 3), make_evaluation([30.0], (5000.0, 4000.0), 3)
    held_out = HeldOutReport(1, 10, 0.25, 1.0, None, None, None, None)
    record = make_record(100, {"offline": {"lookahead": offline}}, held_out={"offline": held_out})
    tuned = make_record(100, {"offline": {"lookahead": offline}, "online": {"lookahead": online}})
    assert (score_cell(record, "return"), score_cell(tuned, "return")) == (10.0, 30.0)
    assert score_cell(record, "held_out") == -0.25
    cut = make_record(100, {"offline": {"lookahead": make_evaluation([None], (5000.0, 4000.0), 3)}})
    for one, kind in ((cut, "return"), (tuned, "held_out"), (record, "fitted_q")):
        with pytest.raises(ConfigError, match=f"has no score of kind {kind}"):
            score_cell(one, kind)


def test_a_score_is_the_mean_over_envs_for_each_seed(given: str) -> None:
    study = resolve_study({"study": given})
    config = expand(study)[0].config
    envs = ("walker2d-medium-v2", "hopper-medium-v2")
    records = [
        make_record(seed, {"offline": {"lookahead": make_evaluation([score], (5000.0, 4000.0), 3)}}, env=env)
        for env, scores in zip(envs, ((10.0, 20.0), (30.0, 60.0)), strict=True)
        for seed, score in zip((100, 101), scores, strict=True)
    ]
    assert score_seeds(records, get_search(study), [config] * 4) == {100: 20.0, 101: 40.0}


def test_the_best_is_complete_and_the_earlier_of_two_equals() -> None:
    trials = [
        Trial(0, {}, PRUNED, None),
        Trial(1, {}, COMPLETE, 5.0),
        Trial(2, {}, COMPLETE, 5.0),
        Trial(3, {}, FAILED, None),
        Trial(4, {}, RUNNING, None),
        Trial(5, {}, COMPLETE, -1.0),
    ]
    best = find_best(trials)
    assert best is not None and best.number == 1


def test_without_optuna_one_line_says_what_to_install(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "vdt.experiments.search_store", raising=False)
    monkeypatch.delattr(vdt.experiments, "search_store", raising=False)
    with pytest.raises(ConfigError, match=r"a search needs Optuna: .*pip install -c constraints.txt -e '\.\[search\]'"):
        check_search(resolve_study({"study": given}))


def test_fitted_q_is_a_score() -> None:
    values = ValueEstimates(episodes=3, critic=1.0, fitted_q=2.5, fitted_q_halfway=2.0, fitted_q_steps=10, seconds=1.0)
    record = make_record(100, {})
    one = type(record)(**{**vars(record), "evaluation": type(record.evaluation)({}, values={"offline": values})})
    assert score_cell(one, "fitted_q") == 2.5
