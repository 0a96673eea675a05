"""Worker of a search: takes trials, runs their cells by the flow, records their scores, and reports the winner.

python flows/vdt_flow.py run --study SEARCH starts it. The same command again continues a search that was stopped, and
several at once, also on machines that share VDT_HOME, work on one search.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if (Path(__file__).resolve().parents[1] / "vdt").is_dir():
    sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
from vdt.system.home import prepare

prepare()

from flows.command_line import REPORT_FLOW, get_command  # noqa: E402  (reads what prepare() sets)
from flows.options import Command  # noqa: E402
from vdt.config.errors import ConfigError  # noqa: E402
from vdt.config.schema import Config  # noqa: E402
from vdt.evaluation.records import CellRecord  # noqa: E402
from vdt.evaluation.trials import find_best  # noqa: E402
from vdt.experiments.cells import (  # noqa: E402
    get_reuse,
    list_words,
    resolve_cells,
    resolve_study,
    split_finished,
    tag_finished_runs,
)
from vdt.experiments.found import write_winner  # noqa: E402
from vdt.experiments.search_log import SearchLog  # noqa: E402
from vdt.experiments.search_trials import (  # noqa: E402
    check_search,
    find_first_rung,
    find_search_folder,
    get_search,
    open_search,
    score_seeds,
)
from vdt.system.home import FolderError  # noqa: E402
from vdt.system.locks import hold_lock, try_lock  # noqa: E402
from vdt.system.processes import die_with_parent, interrupt_on_signals  # noqa: E402
from vdt.tracking import StoreError  # noqa: E402

if TYPE_CHECKING:
    from vdt.experiments.search_store import SearchStore, TakenTrial

logger = logging.getLogger("flows.search")

WAIT_SECONDS = 2.0  # between two looks at the trials of other workers
JOB = "SLURM_JOB_ID"  # environment variable: a job waits for no other, which Slurm queues again if it is lost
MOST_FAILURES = 3  # failed trials in a row, after which a worker stops


class Worker:
    """One of the processes that work on a search."""

    def __init__(self, command: Command) -> None:
        """Check the search and open its trials.

        Raises:
            ConfigError: if the study file or the command line is not accepted.
        """
        self.command, self.given = command, dict(command.given)
        self.study = resolve_study(self.given)
        self.search, self.overrides = get_search(self.study), self.given.get("set", "")
        first = check_search(self.study, self.overrides)[0].config
        self.folder = find_search_folder(self.study, self.overrides, get_reuse(self.given))
        self.store: SearchStore = open_search(self.folder, self.search, find_first_rung(first))
        self.log = SearchLog(self.study, self.store, get_command(), list_words(self.given))

    def run(self) -> int:
        """Run trials until all have ended, then report the winner; return the exit code."""
        self.log.open()
        try:
            return self._run()
        except KeyboardInterrupt:
            self.log.stop()
            raise

    def _run(self) -> int:
        budget, ended = self.store.budget, sum(trial.state != "running" for trial in self.store.list_trials())
        logger.info(f"search {self.study.name}: {ended} of {budget} trials have ended ({self.folder})")
        if self.store.winner is not None and ended < budget:
            logger.warning(
                f"search {self.study.name}: trial {self.store.winner} has won, so {budget - ended} more are not begun; "
                "other reported seeds begin another search"
            )
        failures = 0
        while True:
            with self.store.take() as trial:
                if trial is not None:
                    failures = 0 if self._run_trial(trial) else failures + 1
            if failures == MOST_FAILURES:
                raise ConfigError(f"{failures} trials in a row have failed; the last lines above them say why")
            if trial is not None:
                continue
            if self.store.is_finished() or self.store.winner is not None:
                return self._finish()
            if JOB in os.environ:
                logger.info(f"search {self.study.name}: other workers run what is left; this job ends")
                return 0
            time.sleep(WAIT_SECONDS)

    def _run_trial(self, trial: TakenTrial) -> bool:
        """Run a trial's cells and record its scores; return whether that went well."""
        number = trial.number
        logger.info(f"trial {number}: {', '.join(f'{key}={value}' for key, value in trial.settings.items())}")
        seeds = self.search.seeds
        for part in [seeds[:1], seeds] if self.search.pruner != "none" else [seeds]:
            if self.store.get_pruned_at(number) is not None:
                break
            try:
                missing = self._find_missing(number, part)
            except ConfigError as error:  # settings that do not go together
                return self._fail(number, str(error))
            if missing and not self._run_cells(number, part):
                return self._fail(number, "its flow has failed")
        if self.store.get_pruned_at(number) is not None:
            self.log.end(number, lambda: self.store.prune(number))
            return True
        records, configs = self._find_finished(number, seeds)
        scores = score_seeds(records, self.search, configs)
        self.log.end(number, lambda: self.store.complete(number, scores))
        return True

    def _fail(self, number: int, reason: str) -> bool:
        logger.error(f"trial {number} failed: {reason}")
        self.log.end(number, lambda: self.store.fail(number, reason))
        return False

    def _name_cells(self, number: int, seeds: Sequence[int]) -> dict[str, str]:
        return {"trial": str(number), "seeds": ",".join(map(str, seeds))}

    def _find_missing(self, number: int, seeds: Sequence[int]) -> bool:
        """Return whether a trial has cells left to run, after adding the others to the study in MLflow."""
        cells, study = resolve_cells({**self.given, **self._name_cells(number, seeds)})
        missing, finished = split_finished(cells, get_reuse(self.given))
        if study and not missing:
            tag_finished_runs(finished, study)
        return bool(missing)

    def _find_finished(self, number: int, seeds: Sequence[int]) -> tuple[list[CellRecord], list[Config]]:
        cells, _ = resolve_cells({**self.given, **self._name_cells(number, seeds)})
        missing, finished = split_finished(cells, get_reuse(self.given))
        if missing:
            raise ConfigError(
                f"trial {number}: {missing[0].key} has no result, though its flow ended well; if vdt/ was "
                "edited or a package updated meanwhile, start the search again"
            )
        return finished, [cell.config for cell in cells]

    def _run_cells(self, number: int, seeds: Sequence[int]) -> bool:
        """Run a trial's cells, or continue their run; return whether the flow ended well."""
        words = self._name_cells(number, seeds)
        file = self.folder / "flows" / f"trial-{number}-{words['seeds']}.txt"
        if run_or_resume(file, self.command, f"trial {number}", **words):
            return True
        begun = file.read_text().strip() if file.is_file() else ""
        logger.warning(f"trial {number}: its flow ended with an error; it is continued once")
        return bool(begun) and run_flow(self.command.make_resume(file, begun)) == 0

    def _finish(self) -> int:
        """Make the winner final, run it on the reported seeds, and write the report of the search."""
        reports, lock = self.store.reports, self.folder / "final.lock"
        if JOB in os.environ and not is_free(lock):
            logger.info(f"search {self.study.name}: another worker runs the winner; this job ends")
            return 0
        with hold_lock(lock, f"the end of {self.study.name}"):
            if self.store.reports > reports:
                logger.info(f"search {self.study.name}: another worker has reported the winner")
                return 0
            trials = self.store.list_trials()
            best = find_best(trials)
            if best is None:
                raise ConfigError(f"none of the {len(trials)} trials of {self.study.name} is complete, so none has won")
            if self.store.winner is None:
                self.store.set_winner(best.number)
            best = next(trial for trial in trials if trial.number == self.store.winner)
            records, _ = self._find_finished(best.number, self.search.seeds)
            complete = sum(trial.score is not None for trial in trials)
            path = write_winner(self.study, self.overrides, self.folder, best, complete, records)
            logger.info(f"search {self.study.name}: trial {best.number} has won, score {best.score:.4g}; {path}")
            return self._report(path)

    def _report(self, found: Path) -> int:
        """Run the winner where it was not run yet, then the search's report; return the exit code."""
        words = {"study": str(found), "reuse": get_reuse(self.given)}
        words |= {name: self.given[name] for name in ("init_from",) if name in self.given}
        cells, study = resolve_cells(words)
        missing, _ = split_finished(cells, words["reuse"])
        if missing and study:
            alone = Command(self.command.script, words, self.command.before, self.command.after)
            if not run_or_resume(self.folder / "flows" / "reported.txt", alone, "the winner"):
                raise ConfigError(f"the run of the winner failed; the same command continues it, {found} names it")
        self.log.finish(found)
        words = {name: value for name, value in self.given.items() if name not in ("trial", "seeds")}
        code = run_flow([sys.executable, str(REPORT_FLOW), *self.command.before, "run", *list_words(words)])
        if code == 0:
            self.store.count_report()
        return code


def is_free(lock: Path) -> bool:
    """Return whether no process holds a lock."""
    with try_lock(lock) as free:
        return free


def run_or_resume(file: Path, command: Command, name: str, **words: str) -> bool:
    """Continue the run that a file names, or begin one where there is none or it cannot be continued.

    Args:
        file: holds the id of the newest run.
        command: of the flow.
        name: of what is run, for the log.
        words: further words of a new run.

    Returns:
        Whether the flow ended well.
    """
    file.parent.mkdir(exist_ok=True)
    begun = file.read_text().strip() if file.is_file() else ""
    if begun and run_flow(command.make_resume(file, begun)) == 0:
        return True
    if begun:
        logger.warning(f"{name}: run {begun} cannot be continued; its cells begin another one")
    return run_flow(command.make_run(file, **words)) == 0


def run_flow(words: Sequence[str]) -> int:
    """Run a command to its end, at the latest to that of this process; return its exit code."""
    with subprocess.Popen(words, preexec_fn=die_with_parent) as process:
        return process.wait()


def main(argv: Sequence[str]) -> int:
    """Run the search that the arguments of the flow name; return the exit code."""
    interrupt_on_signals()
    try:
        return Worker(Command.parse(argv)).run()
    except (ConfigError, FolderError, StoreError) as error:
        logger.error(str(error))
        return 2
    except KeyboardInterrupt:
        logger.info("The search was stopped; no ended trial is lost. The same command continues it.")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
