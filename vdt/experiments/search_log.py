"""MLflow run of a search: parent of its trials' runs, with the scores in the order in which trials ended."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vdt.evaluation.trials import COMPLETE, PRUNED, RUNNING, Trial, find_best
from vdt.experiments.study import Study
from vdt.system.home import home
from vdt.system.processes import describe_process
from vdt.tracking import (
    BY_USER,
    CONTINUES,
    Continue,
    Metrics,
    Record,
    Status,
    StoreError,
    Tags,
    create_named_run,
    delivers_later,
    describe_failure,
    finish_runs,
    get_store_errors,
    is_finished,
    make_artifact_records,
    send_now,
)

if TYPE_CHECKING:
    from vdt.experiments.search_store import SearchStore

logger = logging.getLogger(__name__)

SEARCH_TAG = "search"  # tag: folder of the search whose trials are below this run


class SearchLog:
    """Log of a search in its MLflow run and on the screen."""

    def __init__(self, study: Study, store: SearchStore, command: str, options: Sequence[str] = ()) -> None:
        """Log the trials of a store; `command` started the search, with these words as options."""
        self.study, self.store, self.command = study, store, command
        self.line = f"{command} run {shlex.join(options)}"
        self.flow_run = f"search/{store.folder.name}"

    def open(self) -> None:
        """Make the run, or mark it as running in this process."""
        with self.store.hold():
            if self.store.run_id:
                opening = [self._make_opening(), Tags(tags={CONTINUES: self.line})]
                send_now(home(), self.store.run_id, opening)
                return
            search = self.store.search
            params = {
                **{f"space.{key}": str(values) for key, values in search.space.items()},
                **{
                    name: getattr(search, name)
                    for name in ("trials", "sampler", "pruner", "sampler_seed", "evaluation_seed")
                },
                "seeds": ",".join(map(str, search.seeds)),
            }
            tags = {"study": self.study.name, SEARCH_TAG: self.store.folder.name, CONTINUES: self.line}
            name, process = f"search-{self.study.name}", describe_process(os.getpid())
            run_id = create_named_run(home(), name, tags, params, self.flow_run, self.command, process=process)
            self.store.set_run_id(run_id)

    def _make_opening(self) -> Record:
        return Continue(flow_run=self.flow_run, process=describe_process(os.getpid()), fork=False)

    def end(self, number: int, record: Callable[[], None]) -> None:
        """Record the end of a trial, then log it; the steps of the curves are the numbers of trials that have ended.

        Workers take turns until the point is sent: one that came after another's later step would be dropped.
        """
        with self.store.hold():
            record()
            trials = self.store.list_trials()
            ended = [trial for trial in trials if trial.state != RUNNING]
            best, trial = find_best(trials), trials[number]
            metrics = {f"search/{state}": sum(other.state == state for other in ended) for state in (COMPLETE, PRUNED)}
            scores = {"search/score": trial.score, "search/best_score": best.score if best else None}
            values = {**metrics, **{name: value for name, value in scores.items() if value is not None}}
            point = Metrics(step=len(ended), time=int(time.time() * 1000), metrics=values)
            send_now(home(), self.store.run_id, [self._make_opening(), point])
        leader = f"best: trial {best.number}, {best.score:.4g}" if best else "none is complete yet"
        logger.info(f"{_describe(trial)} ({leader}); {len(ended)} of {self.store.budget} trials have ended")

    def stop(self) -> None:
        """Mark the run as stopped by its user, until another worker ends a trial or the search is continued.

        A store that is away is named and stops nothing: the run then stays open until the search goes on.
        """
        if delivers_later():
            self._mark_stopped()
            return
        expected: tuple[type[Exception], ...] = (StoreError, *get_store_errors())
        try:
            if not is_finished(home(), self.store.run_id):  # by another worker
                self._mark_stopped()
        except expected as error:
            logger.warning(f"tracking: {describe_failure(error)}; the search's run stays open until the search goes on")

    def _mark_stopped(self) -> None:
        finish_runs(home(), [self.store.run_id], "FAILED", ended=BY_USER)

    def finish(self, found: Path) -> None:
        """Keep the winner's file with the run, and mark the run as finished."""
        files = make_artifact_records([found], "found")
        send_now(home(), self.store.run_id, [self._make_opening(), *files, Status(status="FINISHED")])


def _describe(trial: Trial) -> str:
    """Return the end of a trial in words."""
    words = [f"trial {trial.number}: {trial.state}"]
    if trial.score is not None:
        words.append(f"score {trial.score:.4g}")
    if trial.intermediate and trial.state == PRUNED:
        words.append(
            f"stopped at step {max(trial.intermediate):,} with {trial.intermediate[max(trial.intermediate)]:.4g}"
        )
    return ", ".join(words)
