"""A study or a search on a Slurm cluster: submits its cells as jobs, and says how far they are.

    python flows/slurm.py submit --study FILE [--at-once N] [--sbatch "--partition=gpu --time=4:00:00"]
    python flows/slurm.py status --study FILE

The clone, its virtual environment and VDT_HOME lie where all nodes see them. Further options are those of
`flows/vdt_flow.py run` for a study. The same line again submits what is missing.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

if (Path(__file__).resolve().parents[1] / "vdt").is_dir():
    sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
from vdt.system.home import prepare

prepare()

from flows.command_line import FLOW, REPORT_FLOW  # noqa: E402  (reads what prepare() sets)
from flows.slurm_request import Request, parse_request  # noqa: E402
from vdt.config.errors import ConfigError  # noqa: E402
from vdt.experiments.cells import (  # noqa: E402
    get_reuse,
    list_words,
    resolve_cells,
    resolve_study,
    split_finished,
)
from vdt.experiments.cluster import (  # noqa: E402
    JOB_SCRIPT,
    Needs,
    drop_needs,
    estimate_needs,
    make_waves,
)
from vdt.experiments.cluster_status import describe_job, describe_states, describe_status  # noqa: E402
from vdt.experiments.preflight import check_cells  # noqa: E402
from vdt.experiments.search_trials import (  # noqa: E402
    check_search,
    find_first_rung,
    find_search_folder,
    get_search,
    load_trials,
    open_search,
)
from vdt.experiments.study import Cell, Study  # noqa: E402
from vdt.experiments.submissions import (  # noqa: E402
    REPORT_FOLDER,
    WORKERS,
    find_busy,
    find_ends,
    list_own,
    make_submission,
    name_cell,
    name_jobs,
    write_cells,
)
from vdt.system.files import check_folders  # noqa: E402
from vdt.system.home import FolderError, home  # noqa: E402
from vdt.system.locks import hold_lock  # noqa: E402
from vdt.system.slurm import Job, SlurmError, cancel_job, check_slurm, find_largest_array, list_jobs, submit_job  # noqa: E402
from vdt.tracking import StoreError  # noqa: E402

logger = logging.getLogger("flows.slurm")

REPORT_NEEDS = Needs(minutes=60, megabytes=4000, cores=1, gpus=0)


def list_resources() -> list[dict[str, Any]]:
    """Return what the DAG's steps ask for (`@resources`), without Metaflow's defaults."""
    from flows.vdt_flow import VDTFlow

    decorators = [
        d for step in vars(VDTFlow).values() for d in getattr(step, "decorators", ()) if d.name == "resources"
    ]
    return [{key: value for key, value in d.attributes.items() if value != d.defaults.get(key)} for d in decorators]


class Submission:
    """Jobs of one call, submitted one after another; each names its folder as its comment."""

    def __init__(self, request: Request, study: Study, needs: Needs) -> None:
        """Make the folder."""
        self.request, self.study = request, study
        self.folder, self.options = make_submission(study, request.options)
        self.needs = needs.make_options(request.sbatch)

    def submit_array(self, name: str, elements: str, after: Sequence[str], cells: Path | None) -> str:
        """Submit an array of jobs; return its number.

        Args:
            name: of its folder.
            elements: Slurm's words for its indices.
            after: jobs that must have ended before.
            cells: file with the cell of each element; none for workers of a search.
        """
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        words = [f"--array={elements}", f"--output={folder}/%A_%a.log", *self._list_common(folder, after)]
        flow = [sys.executable, str(Path(__file__).with_name(FLOW)), "run", *self._list_options()]
        script = [str(JOB_SCRIPT), str(home()), str(cells) if cells else "-", *flow]
        return submit_job([*words, *self.needs, *self.request.sbatch, *script])

    def submit_report(self, after: Sequence[str]) -> str:
        """Submit the job that delivers records and reports when all others have ended; return its number."""
        folder = self.folder / REPORT_FOLDER
        folder.mkdir(exist_ok=True)
        words = [f"--output={folder}/%j.log", "--ntasks=1", *self._list_common(folder, after)]
        given = [*drop_needs(self.request.sbatch), *self.request.sbatch_report]
        options = self._list_options(without=("reuse",) if self.options.get("reuse") == "none" else ())
        lines = [
            f"export VDT_HOME={shlex.quote(str(home()))} VDT_TRACKING=now",
            shlex.join([sys.executable, "-m", "vdt.cli", "deliver"]),
            shlex.join([sys.executable, str(REPORT_FLOW), "run", *options]),
        ]
        script = "\n".join(lines)
        return submit_job([*words, *REPORT_NEEDS.make_options(self.request.sbatch_report), *given, f"--wrap={script}"])

    def _list_common(self, folder: Path, after: Sequence[str]) -> list[str]:
        dependency = [f"--dependency=afterany:{':'.join(after)}"] if after else []
        return [f"--job-name={name_jobs(self.study)}", f"--comment={folder}", f"--chdir={Path.cwd()}", *dependency]

    def _list_options(self, without: Sequence[str] = ()) -> list[str]:
        return list_words({name: value for name, value in self.options.items() if name not in without})


def submit(request: Request) -> None:
    """Submit what is missing of a study, then its report.

    Raises:
        ConfigError: if a value is not accepted, or data or environment of a cell is unavailable.
        SlurmError: if Slurm refuses.
    """
    study = resolve_study(request.options)
    check_folders(home())
    with hold_lock(home() / ".vdt" / "locks" / f"slurm-{study.name}.lock", f"a submission of {study.name}"):
        if study.search:
            _submit_workers(request, study)
        else:
            _submit_cells(request, study)


def _submit_cells(request: Request, study: Study) -> None:
    cells, _ = resolve_cells(request.options)
    missing, finished = split_finished(cells, get_reuse(request.options))
    jobs, names = list_jobs(name_jobs(study)), {cell.key: name_cell(cell) for cell in cells}
    busy = {name: job for name, job in find_busy(jobs).items() if name in names.values()}
    left = [cell for cell in missing if names[cell.key] not in busy]
    logger.info(
        f"study {study.name}: {len(cells)} cells, {len(finished)} finished, {len(missing) - len(left)} in the queue, "
        f"{len(left)} to submit"
    )
    if not left:
        _say_nothing_is_missing(request, study, len(missing))
        return
    check_cells(left, device=False)
    keys = {record.key for record in finished}
    waves = make_waves(
        left,
        [cell for cell in cells if cell.key in keys],
        [cell for cell in missing if names[cell.key] in busy],
        shares=study.share_training,
    )
    submission = Submission(request, study, estimate_needs(left, finished, list_resources()))
    numbers = {cell.key: number for number, cell in enumerate(cells, start=1)}
    arrays = _submit_waves(submission, waves, numbers, sorted({job.job_id.split("_")[0] for job in busy.values()}))
    after = [*{job.job_id.split("_")[0]: None for job in busy.values()}, *arrays]
    _submit_report(submission, after, list_own(jobs, names.values()))


def _submit_waves(
    submission: Submission, waves: Sequence[Sequence[Cell]], numbers: dict[str, int], busy: Sequence[str]
) -> list[str]:
    """Submit an array per wave, or several where Slurm's arrays are smaller; return their numbers."""
    largest, limit = find_largest_array(), submission.request.at_once
    submitted, before = list[str](), list[str]()
    for turn, wave in enumerate(waves, start=1):
        after = [*before, *busy] if turn > 1 else []
        before = []
        for start in range(0, len(wave), largest):
            part = wave[start : start + largest]
            name = f"wave-{turn}-{start // largest + 1}"
            folder = submission.folder / name
            file = write_cells(folder, [(numbers[cell.key], name_cell(cell)) for cell in part])
            elements = f"1-{len(part)}" + (f"%{limit}" if limit else "")
            chained = before[-1:] if limit else []  # so that no more run at once
            job = submission.submit_array(name, elements, [*after, *chained], file)
            logger.info(
                f"job {job}: {len(part)} cells{', after ' + ', '.join([*after, *chained]) if after or chained else ''}"
            )
            before.append(job)
        submitted += before
    return submitted


def _submit_workers(request: Request, study: Study) -> None:
    """Submit workers of a search, as many as are wanted and not in the queue."""
    search, overrides = get_search(study), request.options.get("set", "")
    cells = check_search(study, overrides)
    check_cells(cells, device=False)
    folder = find_search_folder(study, overrides, get_reuse(request.options))
    if folder.is_dir():
        store = open_search(folder, search, find_first_rung(cells[0].config))
        if store.is_finished() and store.reports:
            logger.info(f"search {study.name}: all trials have ended, and its winner is reported; nothing is submitted")
            return
    jobs = list_own(list_jobs(name_jobs(study)), [folder.name])
    workers = [job for job in jobs if Path(job.comment).name == WORKERS]
    wanted = (request.at_once or 1) - len(workers)
    if wanted < 1:
        logger.info(f"search {study.name}: {len(workers)} workers are in the queue already; nothing is submitted")
        return
    submission = Submission(request, study, estimate_needs(cells, [], list_resources()))
    write_cells(submission.folder / WORKERS, [(number, folder.name) for number in range(1, wanted + 1)])
    job = submission.submit_array(WORKERS, f"1-{wanted}", [], None)
    logger.info(f"search {study.name}: job {job}, {wanted} workers")
    _submit_report(submission, [*{job.job_id.split("_")[0]: None for job in workers}, job], jobs)


def _say_nothing_is_missing(request: Request, study: Study, queued: int) -> None:
    if queued:
        logger.info(f"all {queued} missing cells of {study.name} are in the queue already; nothing is submitted")
    else:
        report = shlex.join([sys.executable, str(REPORT_FLOW), "run", *list_words(request.options)])
        logger.info(f"all cells of {study.name} are finished; nothing is submitted. A report: {report}")


def _submit_report(submission: Submission, after: Sequence[str], jobs: Sequence[Job]) -> None:
    """Submit the report, in place of those among the jobs that an earlier call has left in the queue."""
    logger.info(f"report: job {submission.submit_report(after)}, when the others have ended")
    for job in jobs:
        if Path(job.comment).name == REPORT_FOLDER and job.state == "PENDING":
            cancel_job(job.job_id)
    logger.info(f"each job asks for {' '.join([*submission.needs, *submission.request.sbatch])}")
    logger.info(f"logs: {submission.folder}")


def show_status(request: Request) -> None:
    """Print how far a study's cells, or a search's trials, are; raises as `submit`."""
    study = resolve_study(request.options)
    jobs, reuse = list_jobs(name_jobs(study)), get_reuse(request.options)
    if study.search:
        overrides = request.options.get("set", "")
        trials = load_trials(study, overrides, reuse)
        counts = {state: sum(trial.state == state for trial in trials) for state in sorted({t.state for t in trials})}
        said = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none begun"
        logger.info(f"search {study.name}: {get_search(study).trials} trials: {said}")
        for job in list_own(jobs, [find_search_folder(study, overrides, reuse).name]):
            logger.info(describe_job(job, Path(job.comment).name))
        return
    cells, _ = resolve_cells(request.options)
    names = {cell.key: name_cell(cell) for cell in cells}
    _, finished = split_finished(cells, "exact" if reuse == "none" else reuse)
    ended = [names[record.key] for record in finished]
    states = describe_states(list(names.values()), ended, find_busy(jobs), find_ends(study))
    for line in describe_status(study, states, finished, list_own(jobs, names.values())):
        logger.info(line)


def main(argv: Sequence[str]) -> int:
    """Run the command of the arguments; return the exit code."""
    if len(argv) > 1 and argv[1] in ("-h", "--help"):
        print(__doc__)  # noqa: T201
        return 0
    try:
        request = parse_request(argv)
        check_slurm()
        (submit if request.command == "submit" else show_status)(request)
    except (ConfigError, SlurmError, FolderError, StoreError) as error:
        _refuse(str(error))
    except argparse.ArgumentError as error:
        _refuse(f"{error.argument_name} needs a value")
    return 0


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
