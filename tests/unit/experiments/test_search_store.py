"""Trials in Optuna's journal: kept through kills, taken over, run by one worker each, pruned, within the budget."""

import contextlib
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vdt.evaluation.trials import COMPLETE, FAILED, PRUNED, RUNNING, find_best
from vdt.experiments.search import Search, read_search
from vdt.experiments.search_store import Journal, SearchStore, TakenTrial
from vdt.system.locks import try_lock

SPACE = {
    "actor.q_coefficient": {"low": 0.03, "high": 1, "log": True},
    "planner.candidates": {"low": 1, "high": 3},
    "actor.inverse_temperature": [0.3, 1, 3],
    "task.candidate_returns": [[3, 2], [4]],
}
GRID = {"actor.q_coefficient": {"low": 0.1, "high": 0.3, "step": 0.1}, "planner.candidates": {"low": 1, "high": 2}}


def make_search(**section: Any) -> Search:
    return read_search({"space": SPACE, "trials": 6, **section}, "x")


def compute_score(trial: TakenTrial) -> float:
    return float(trial.settings["actor.q_coefficient"]) * int(trial.settings["planner.candidates"])


def work(store: SearchStore, most: int = 100) -> list[TakenTrial]:
    """Complete trials until none is left."""
    taken = []
    while len(taken) < most:
        with store.take() as trial:
            if trial is None:
                break
            store.complete(trial.number, {100: compute_score(trial), 101: 0.0})
            taken.append(trial)
    return taken


def start_worker(folder: Path, lines: str) -> subprocess.Popen[str]:
    """Start a process that has a store of the folder; `lines` are what it does."""
    code = f"""
import pathlib, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_search_store import *
store = SearchStore(pathlib.Path({str(folder)!r}), make_search(trials=12))
{textwrap.dedent(lines)}
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_trials_are_kept_with_their_scores(tmp_path: Path) -> None:
    search = make_search()
    taken = work(SearchStore(tmp_path / "s", search))
    kept = SearchStore(tmp_path / "s", search)
    assert [trial.number for trial in taken] == list(range(6)) and kept.is_finished()
    for trial, one in zip(kept.list_trials(), taken, strict=True):
        assert trial.settings == one.settings and list(trial.settings) == list(SPACE)
        assert trial.settings["task.candidate_returns"] in ([3, 2], [4])
        assert (trial.state, trial.patch) == (COMPLETE, f"t00{trial.number}")
        assert trial.scores_by_seed == {100: compute_score(one), 101: 0.0}
        assert trial.score == pytest.approx(compute_score(one) / 2)
    best = find_best(kept.list_trials())
    assert best is not None and best.score == max(trial.score or 0.0 for trial in kept.list_trials())


def test_a_stopped_search_proposes_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    for sampler in ("random", "tpe", "cmaes"):
        search = make_search(sampler=sampler, trials=14)
        straight = [trial.settings for trial in work(SearchStore(tmp_path / f"{sampler}-1", search))]
        stopped = [
            trial.settings
            for most in (3, 1, 10)
            for trial in work(SearchStore(tmp_path / f"{sampler}-2", search), most)
        ]
        assert stopped == straight
        assert len({repr(settings) for settings in straight}) == len(straight), "no stream starts over"
        others = make_search(sampler=sampler, trials=1, sampler_seed=1)
        assert work(SearchStore(tmp_path / f"{sampler}-3", others))[0].settings != straight[0]


def test_a_larger_budget_goes_on(tmp_path: Path) -> None:
    work(SearchStore(tmp_path / "s", make_search(trials=2)))
    assert [trial.number for trial in work(SearchStore(tmp_path / "s", make_search(trials=5)))] == [2, 3, 4]


def test_a_grid_has_each_combination_once(tmp_path: Path) -> None:
    store = SearchStore(tmp_path / "s", make_search(space=GRID, sampler="grid", trials=100))
    taken = work(store)
    found = sorted((round(t.settings["actor.q_coefficient"], 6), t.settings["planner.candidates"]) for t in taken)
    assert found == [(q, count) for q in (0.1, 0.2, 0.3) for count in (1, 2)]
    assert store.budget == 6 and store.is_finished()


def test_a_killed_workers_trial_is_taken_over_under_its_number(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    worker = start_worker(
        folder, "with store.take() as trial:\n    print(trial.number, flush=True)\n    time.sleep(60)"
    )
    assert worker.stdout is not None and worker.stdout.readline() == "0\n"
    store = SearchStore(folder, make_search(trials=12))
    before = store.list_trials()[0]
    with store.take() as other:
        assert other is not None and other.number == 1, "0 has a living worker"
        worker.kill()
        worker.communicate()
        assert [trial.state for trial in store.list_trials()] == [RUNNING, RUNNING]
        with store.take() as taken:
            assert taken is not None and taken.number == 0, "1 has a living worker, this one"
            assert taken.settings == before.settings
            store.complete(0, {100: 1.0})
    assert [trial.state for trial in store.list_trials()] == [COMPLETE, RUNNING]
    assert store.list_trials()[0].score == 1.0


def test_a_kill_between_the_trial_and_its_settings_leaves_no_hole(tmp_path: Path) -> None:
    """The trial is there, with some of its settings: the next worker completes them."""
    search = make_search()
    with SearchStore(tmp_path / "a", search).take() as whole:
        assert whole is not None
    journal = (tmp_path / "a" / "journal.jsonl").read_text().splitlines(keepends=True)
    for kept in range(2, len(journal)):
        folder = tmp_path / f"b{kept}"
        folder.mkdir()
        (folder / "journal.jsonl").write_text("".join(journal[:kept]).replace('"a"', f'"{folder.name}"'))
        with SearchStore(folder, search).take() as trial:
            assert trial is not None and trial.number == 0
            kept_settings = dict(list(whole.settings.items())[: kept - 2])
            assert {**trial.settings, **kept_settings} == trial.settings and list(trial.settings) == list(SPACE)


def test_a_line_that_a_full_disk_cut_short_is_removed(tmp_path: Path) -> None:
    search = make_search(trials=3)
    before = SearchStore(tmp_path / "s", search)
    work(before, 2)
    journal = tmp_path / "s" / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"op_code":6,"worker_id":"cut')
    for store in (before, SearchStore(tmp_path / "s", search)):
        assert [trial.state for trial in store.list_trials()] == [COMPLETE, COMPLETE]
    assert len(work(before)) == 1
    assert [trial.state for trial in SearchStore(tmp_path / "s", search).list_trials()] == [COMPLETE] * 3


def test_workers_share_the_budget_and_no_trial_runs_twice(tmp_path: Path) -> None:
    loop = """
    while True:
        with store.take() as trial:
            if trial is None:
                break
            print(trial.number, flush=True)
            time.sleep(0.02)
            store.complete(trial.number, {100: compute_score(trial)})
    """
    workers = [start_worker(tmp_path / "s", loop) for _ in range(3)]
    printed = [int(line) for worker in workers for line in worker.communicate(timeout=120)[0].splitlines()]
    assert Counter(printed) == Counter(range(12))
    assert [trial.state for trial in SearchStore(tmp_path / "s", make_search(trials=12)).list_trials()] == [
        COMPLETE
    ] * 12


def test_a_trial_that_ends_while_another_worker_looks_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker ends it and lets go of its lock after the other has read that it runs."""
    mine, other = (SearchStore(tmp_path / "s", make_search()) for _ in range(2))
    held = contextlib.ExitStack()
    trial = held.enter_context(mine.take())
    assert trial is not None

    def end_first(lock: Path) -> Any:
        mine.complete(trial.number, {100: 1.0})
        held.close()
        monkeypatch.undo()
        return try_lock(lock)

    monkeypatch.setattr("vdt.experiments.search_store.try_lock", end_first)
    with other.take() as taken:
        assert taken is not None and taken.number == 1


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_pruners_stop_what_promises_too_little(tmp_path: Path, pruner: str) -> None:
    """A step of the flow reports from a process of its own; what it stops stays stopped."""
    search = make_search(pruner=pruner, trials=8)
    store = SearchStore(tmp_path / "s", search, 10)
    for number in range(8):
        with store.take() as trial:
            assert trial is not None
            journal = Journal(tmp_path / "s", pruner, 10)
            good = 100.0 if number < 6 else -1.0
            stopped = [step for step in (10, 20, 30) if journal.report(number, step, good)]
            if number < 6:
                assert stopped == [] and journal.get_pruned_at(number) is None
                store.complete(number, {100: good})
            else:
                assert stopped[:1] == [10] and journal.get_pruned_at(number) is not None
                store.prune(number)
    pruned = store.list_trials()[-1]
    assert (pruned.state, pruned.score, pruned.scores_by_seed) == (PRUNED, None, {})
    assert pruned.intermediate[10] == -1.0
    assert store.is_finished()


def test_a_trial_that_was_stopped_says_so_when_it_is_taken_over(tmp_path: Path) -> None:
    search = make_search(pruner="median")
    store = SearchStore(tmp_path / "s", search, 10)
    with store.take() as trial:
        assert trial is not None and store.get_pruned_at(trial.number) is None
    for _ in range(6):
        with store.take() as trial:
            assert trial is not None
            store.report(trial.number, 10, 100.0)
            store.complete(trial.number, {100: 100.0})
    longer = SearchStore(tmp_path / "s", make_search(pruner="median", trials=7), 10)
    with longer.take() as trial:
        assert trial is not None and longer.report(trial.number, 10, 0.0)
    with longer.take() as trial:
        assert trial is not None and trial.number == 6
        assert longer.get_pruned_at(trial.number) == 10


def test_a_failed_trial_counts_and_is_never_the_best(tmp_path: Path) -> None:
    store = SearchStore(tmp_path / "s", make_search(trials=1))
    with store.take() as trial:
        assert trial is not None
        store.fail(0, "its numbers were not finite")
    assert [one.state for one in store.list_trials()] == [FAILED] and store.is_finished()
    assert find_best(store.list_trials()) is None


def test_after_the_winner_is_frozen_no_trial_begins(tmp_path: Path) -> None:
    store = SearchStore(tmp_path / "s", make_search(trials=2))
    work(store, 2)
    store.set_winner(1)
    again = SearchStore(tmp_path / "s", make_search(trials=9))
    assert again.winner == 1 and work(again) == []


def test_an_end_is_recorded_once(tmp_path: Path) -> None:
    store = SearchStore(tmp_path / "s", make_search())
    with store.take():
        store.complete(0, {100: 1.0})
        with pytest.raises(Exception, match="finished"):
            store.complete(0, {100: 2.0})
    assert store.list_trials()[0].score == 1.0
