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
from vdt.evaluation.records import CellRecord  # noqa: E402
from vdt.experiments.cells import (  # noqa: E402
    describe_other_code,
    get_reuse,
    list_words,
    resolve_cells,
    resolve_study,
    split_finished,
)
from vdt.experiments.cluster import JOB_SCRIPT, Needs, check_limit, drop_needs, estimate_needs, make_waves  # noqa: E402
from vdt.experiments.cluster_status import (  # noqa: E402
    describe_others,
    describe_search,
    describe_states,
    describe_status,
    is_reported,
    list_ends,
)
from vdt.experiments.preflight import check_cells  # noqa: E402
from vdt.experiments.search_trials import check_search, find_search_folder, load_trials  # noqa: E402
from vdt.experiments.study import Cell, Study  # noqa: E402
from vdt.experiments.submissions import (  # noqa: E402
    REPORT_FOLDER,
    WORKERS,
    discard_refused,
    find_busy,
    find_without_report,
    list_own,
    list_study_jobs,
    make_submission,
    name_cell,
    name_jobs,
    write_cells,
)
from vdt.system.files import check_folders  # noqa: E402
from vdt.system.home import FolderError, home, make_vdt_command, name_home  # noqa: E402
from vdt.system.locks import hold_lock  # noqa: E402
from vdt.system.slurm import (  # noqa: E402
    Job,
    SlurmError,
    cancel_job,
    check_slurm,
    escape_path,
    find_largest_array,
    list_arrays,
    submit_job,
)
from vdt.tracking import StoreError  # noqa: E402
from vdt.tracking.waiting import DELIVER, LOCAL  # noqa: E402

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

    def __init__(self, request: Request, study: Study, needs: Needs, folder: Path | None = None) -> None:
        """Make the folder, or add to that of an earlier call."""
        self.request, self.study = request, study
        self.folder, self.options = make_submission(study, request.options, folder)
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
        words = [f"--array={elements}", f"--output={escape_path(folder)}/%A_%a.log", *self._list_common(folder, after)]
        flow = [sys.executable, str(Path(__file__).with_name(FLOW)), "run", *self._list_options()]
        script = [str(JOB_SCRIPT), str(home()), str(cells) if cells else "-", *flow]
        asked = [*self.needs, *self.request.sbatch]
        try:
            return submit_job([*words, *asked, *script])
        except SlurmError as error:
            discard_refused(self.study, folder)
            raise SlurmError(f"{error}. The job asks for {' '.join(asked)}; --sbatch changes that") from None

    def submit_report(self, after: Sequence[str]) -> str:
        """Submit the job that delivers records and reports when all others have ended; return its number."""
        folder = self.folder / REPORT_FOLDER
        folder.mkdir(exist_ok=True)
        words = [f"--output={escape_path(folder)}/%j.log", "--ntasks=1", *self._list_common(folder, after)]
        given = self.request.sbatch_report
        asked = [*REPORT_NEEDS.make_options(given), *drop_needs(self.request.sbatch), *given]
        options = self._list_options(without=("reuse",) if self.options.get("reuse") == "none" else ())
        lines = [
            f"export VDT_HOME={shlex.quote(str(home()))} VDT_TRACKING=now",
            shlex.join([sys.executable, "-m", "vdt.cli", "deliver"]),
            shlex.join([sys.executable, str(REPORT_FLOW), "run", *options]),
        ]
        script = "\n".join(lines)
        try:
            return submit_job([*words, *asked, f"--wrap={script}"])
        except SlurmError as error:
            raise SlurmError(
                f"{error}. The report's job asks for {' '.join(asked)}. All others are submitted; the same line with other "
                "--sbatch-report submits the report"
            ) from None

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
    check_limit(request.sbatch)
    check_folders(home())
    with hold_lock(home() / ".vdt" / "locks" / f"slurm-{study.name}.lock", f"a submission of {study.name}"):
        if study.search:
            _submit_workers(request, study)
        else:
            _submit_cells(request, study)


def _submit_cells(request: Request, study: Study) -> None:
    cells, _ = resolve_cells(request.options)
    missing, finished = split_finished(cells, get_reuse(request.options))
    jobs, names = list_study_jobs(study), {cell.key: name_cell(cell) for cell in cells}
    own = list_own(jobs, names.values())
    busy = find_busy(jobs, names.values())
    left = [cell for cell in missing if names[cell.key] not in busy]
    logger.info(
        f"study {study.name}: {len(cells)} cells, {len(finished)} finished, {len(missing) - len(left)} in the queue, "
        f"{len(left)} to submit{describe_other_code(left, get_reuse(request.options))}"
    )
    if not left:
        _say_nothing_is_missing(request, study, len(missing), finished)
        _submit_lost_report(request, study, [busy[names[cell.key]] for cell in missing], own, jobs)
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
    arrays = _submit_waves(submission, waves, numbers, sorted(list_arrays(busy.values())))
    _submit_report(submission, [*list_arrays(busy.values()), *arrays], own)


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
    overrides = request.options.get("set", "")
    cells = check_search(study, overrides)
    check_cells(cells, device=False)
    folder = find_search_folder(study, overrides, get_reuse(request.options))
    if is_reported(study, cells[0].config, folder):
        logger.info(f"search {study.name}: all trials have ended, and its winner is reported; nothing is submitted")
        return
    jobs = list_study_jobs(study)
    own = list_own(jobs, [folder.name])
    workers = [job for job in own if Path(job.comment).name == WORKERS]
    wanted = (request.at_once or 1) - len(workers)
    if wanted < 1:
        logger.info(f"search {study.name}: {len(workers)} workers are in the queue already; nothing is submitted")
        _submit_lost_report(request, study, workers, own, jobs)
        return
    submission = Submission(request, study, estimate_needs(cells, [], list_resources()))
    write_cells(submission.folder / WORKERS, [(number, folder.name) for number in range(1, wanted + 1)])
    job = submission.submit_array(WORKERS, f"1-{wanted}", [], None)
    logger.info(f"search {study.name}: job {job}, {wanted} workers")
    _submit_report(submission, [*list_arrays(workers), job], own)


def _say_nothing_is_missing(request: Request, study: Study, queued: int, finished: Sequence[CellRecord]) -> None:
    them = f"all {queued} missing cells of {study.name} are in the queue already" if queued else ""
    logger.info(f"{them or f'all cells of {study.name} are finished'}; nothing is submitted")
    if not queued:
        _describe_end(request, study, finished)


def _describe_end(request: Request, study: Study, finished: Sequence[CellRecord] = ()) -> None:
    """Log what the report's job has made, and the commands that make it where it has not."""
    if waiting := sum(record.mlflow_run_id.startswith(LOCAL) for record in finished):
        logger.info(f"records of {waiting} cells wait; to deliver them to MLflow: {make_vdt_command(DELIVER)}")
    words = list_words({name: value for name, value in request.options.items() if (name, value) != ("reuse", "none")})
    command = f"{name_home()}{shlex.join([sys.executable, str(REPORT_FLOW), 'run', *words])}"
    file = home() / "reports" / study.describe(request.options.get("set", ""))["folder"] / "report.html"
    logger.info(f"{f'report: {file}; to make it again' if file.is_file() else 'no report yet; to make it'}: {command}")


def _submit_lost_report(
    request: Request, study: Study, busy: Sequence[Job], own: Sequence[Job], jobs: Sequence[Job]
) -> None:
    """Submit the report of jobs in the queue that have none: Slurm has refused it, or the shell ended before."""
    if folder := find_without_report(busy, own, jobs):
        job = Submission(request, study, REPORT_NEEDS, folder).submit_report(list_arrays(busy))
        logger.info(f"report: job {job}, when the others have ended; there was none")


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
    jobs, reuse = list_study_jobs(study), get_reuse(request.options).replace("none", "exact")
    if study.search:
        overrides = request.options.get("set", "")
        folder = find_search_folder(study, overrides, reuse)
        config = check_search(study, overrides)[0].config
        trials, reported = load_trials(study, overrides, reuse), is_reported(study, config, folder)
        for line in describe_search(study, trials, folder.name, jobs, reported=reported):
            logger.info(line)
        if reported and not list_own(jobs, [folder.name]):
            _describe_end(request, study)
        return
    cells, _ = resolve_cells(request.options)
    names = {cell.key: name_cell(cell) for cell in cells}
    missing, finished = split_finished(cells, reuse)
    ended = [names[record.key] for record in finished]
    busy = find_busy(jobs, names.values())
    ends, own = list_ends(study, missing, reuse), list_own(jobs, names.values())
    states = describe_states(list(names.values()), ended, busy, ends)
    others = describe_others(study, {*jobs} - {*own, *busy.values()})
    for line in (*describe_status(study, states, finished, own), *others):
        logger.info(line)
    if other := describe_other_code(missing, reuse):
        logger.info(f"{len(missing)} cells are without a result{other}")
    if not missing and not busy and not own:
        _describe_end(request, study, finished)


def main(argv: Sequence[str]) -> int:
    """Run the command of the arguments; return the exit code."""
    if any(word in ("-h", "--help") for word in argv[1:]):
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
