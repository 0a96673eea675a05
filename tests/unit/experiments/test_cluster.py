"""Jobs of a study: what they ask for, the order in which they run, and how far they are."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.records import make_record
from vdt.config.layers import PARAMS, list_names, load_yaml
from vdt.experiments.cluster import JOB_SCRIPT, Needs, drop_needs, estimate_needs, make_waves, parse_minutes
from vdt.experiments.cluster_status import describe_states, describe_status, estimate_minutes
from vdt.experiments.resolve import resolve_config
from vdt.experiments.study import Cell, Study
from vdt.experiments.submissions import find_busy, find_ends, write_cells
from vdt.system.slurm import Job

ENV = "walker2d-medium-v2"
GPU = [{"gpu": 1}]
NOT_AGAIN = "Slurm does not queue it again; `submit` with the same options continues it"


def make_cell(patch: str = "", overrides: str = "", *, seed: int = 0, preset: str = "smoke") -> Cell:
    return Cell(resolve_config(ENV, preset=preset, source="collected", seed=seed, overrides=overrides), patch)


def make_job(job_id: str, state: str = "PENDING", comment: str = "", node: str = "") -> Job:
    index = job_id.partition("_")[2]
    return Job(job_id, int(index) if index else None, state, node, "4:00", "Resources", comment)


def test_every_preset_has_needs() -> None:
    known = load_yaml(PARAMS / "needs.yaml")
    assert set(known["minutes"]) == set(known["cores"]) == set(list_names("presets"))


def test_needs_come_from_preset_dag_and_data() -> None:
    needs = estimate_needs([make_cell()], [], GPU)
    data = 2000 * (17 + 6 + 2) * 4 * 4 / 1e6
    assert (needs.minutes, needs.cores, needs.gpus) == (15, 1, 1)
    assert needs.megabytes == round(2000 + 3000 + data)
    big = estimate_needs([make_cell(overrides="data.steps=10000000 runtime.device=cpu")], [], GPU)
    assert (big.gpus, big.megabytes) == (0, round(2000 + 1e7 * 25 * 16 / 1e6)), "no GPU for cells that take none"
    recorded = Cell(resolve_config(ENV, preset="smoke", source="d4rl"), "")
    assert estimate_needs([recorded], [], []).megabytes == round(2000 + 2e6 * 25 * 16 / 1e6), (
        "not data.steps, of collected"
    )
    asked = estimate_needs([make_cell()], [], [{"gpu": 2}, {"cpu": 8, "memory": 64000}])
    assert (asked.gpus, asked.cores, asked.megabytes) == (2, 8, 64000)


def test_finished_cells_raise_needs_and_never_lower_them() -> None:
    record: Any = make_record(0, {})
    slow = record.__class__(**{**vars(record), "seconds": {"a": 3000.0, "b": 600.0}, "memory": {"a": {"machine": 9e3}}})
    needs = estimate_needs([make_cell()], [slow], [])
    assert (needs.minutes, needs.megabytes) == (90, 13500)
    assert estimate_needs([make_cell()], [record], []) == estimate_needs([make_cell()], [], [])


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ([], ["--time=15", "--mem=2000M", "--cpus-per-task=1", "--gres=gpu:1"]),
        (["--time=5"], ["--mem=2000M", "--cpus-per-task=1", "--gres=gpu:1"]),
        (["-t", "5", "-c2"], ["--mem=2000M", "--gres=gpu:1"]),
        (["--gpus=a100:1", "--mem-per-cpu=1G"], ["--time=15", "--cpus-per-task=1"]),
        (["--gres=none", "--timeout"], ["--time=15", "--mem=2000M", "--cpus-per-task=1"]),
    ],
)
def test_options_that_are_given_win(given: list[str], left: list[str]) -> None:
    assert Needs(minutes=15, megabytes=2000, cores=1, gpus=1).make_options(given) == left


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        *(("30", 30.0), ("30:30", 30.5), ("1:30:00", 90.0), ("1-12", 2160.0), ("1-12:30", 2190.0), ("0-0:04:30", 4.5)),
        *(("0", None), ("UNLIMITED", None), ("", None), ("-5", None), ("1:2:3:4", None)),
    ],
)
def test_limits_are_read_as_slurm_writes_them(text: str, minutes: float | None) -> None:
    assert parse_minutes(text) == minutes


def test_the_report_keeps_what_is_no_need() -> None:
    words = ["--partition=gpu", "--time", "5", "-c", "4", "--account", "mine", "--gres=gpu:1", "--mem=9G", "-t5"]
    assert drop_needs(words) == ["--partition=gpu", "--account", "mine"]


def test_no_cell_waits_for_anothers_critic_on_a_node() -> None:
    """Two actors on one critic; two cells that differ in evaluation alone share an actor too."""
    first, weak = make_cell("first"), make_cell("weak", "actor.q_coefficient=0.1")
    again, other = make_cell("again", "actor.q_coefficient=0.1 evaluation.episodes=3"), make_cell("other", seed=1)
    cells = [first, weak, again, other]
    assert make_waves(cells, [], [], shares=True) == [[first, other], [weak], [again]]
    assert make_waves(cells[1:], [first], [], shares=True) == [[weak, other], [again]], "its critic is there"
    assert make_waves(cells[1:], [], [first], shares=True) == [[other], [weak], [again]], "its critic is being trained"
    assert make_waves(cells, [], [], shares=False) == [cells]
    assert make_waves([weak], [], [first], shares=True) == [[], [weak]]
    assert make_waves([], [], [], shares=True) == []


def test_states_come_from_results_queue_and_logs(home: Path) -> None:
    folder = home / "wave"
    write_cells(folder, [(1, "a"), (2, "b"), (5, "c")])
    jobs = [make_job("7_2", "RUNNING", str(folder), "n1"), make_job("7_3", comment=str(folder)), make_job("8")]
    busy = find_busy(jobs, "abcdef")
    assert {key: job.job_id for key, job in busy.items()} == {"b": "7_2", "c": "7_3"}
    states = describe_states("abcdef", "a", busy, {"b": "", "d": "ended with 1; log"})
    assert [state.state for state in states] == ["finished", "running", "pending", "failed", "missing", "missing"]
    record: Any = make_record(0, {})
    timed = record.__class__(**{**vars(record), "seconds": {"a": 600.0}})
    assert estimate_minutes(states, [timed]) == 15.0, "one waits, half of one is left"
    assert estimate_minutes(states, []) is None
    lines = describe_status(Study(name="mine", place="", envs=()), states, [timed], jobs)
    assert lines == [
        "study mine: 6 cells: 1 finished, 1 running, 1 pending, 1 failed, 2 missing",
        "running  b: job 7_2 on n1, 4:00 to its limit",
        "pending  c: job 7_3 (Resources)",
        "failed   d: ended with 1; log",
        "about 15 min left, as long as 1 run at once",
        "`submit` with the same options submits what is failed or missing",
    ]


def test_jobs_that_do_not_begin_by_themselves_are_named() -> None:
    """A limit above the partition's waits for ever."""
    reasons = {"1": "PartitionTimeLimit", "2": "Priority", "3": "JobHeldUser", "4": "QOSMaxWallDurationPerJobLimit"}
    jobs = {f"x {job}": Job(job, 1, "PENDING", "", "4:00", reason, "/wave") for job, reason in reasons.items()}
    states = describe_states(list(jobs), [], jobs, {})
    lines = describe_status(Study(name="mine", place="", envs=()), states, [], [])
    (line,) = (line for line in lines if "do not pass by themselves" in line)
    assert all(word in line for word in ("PartitionTimeLimit", "JobHeldUser", "QOSMaxWall", "scancel", "release"))
    assert "Priority" not in line
    assert not any("by themselves" in line for line in describe_status(Study(name="a", place="", envs=()), [], [], []))


def test_a_finished_cell_that_is_to_run_again_is_shown_with_its_job() -> None:
    """`--reuse none` submits it."""
    (state,) = describe_states(["x a"], ["x a"], {"x a": make_job("7_1")}, {})
    assert (state.state, state.job) == ("finished", make_job("7_1"))


def test_many_cells_that_wait_alike_take_one_line() -> None:
    names = [f"x {number}" for number in range(100)]
    jobs = {name: make_job(f"7_{number}") for number, name in enumerate(names, start=1)}
    lines = describe_status(Study(name="a", place="", envs=()), describe_states(names, [], jobs, {}), [], [])
    assert lines[1:] == ["pending  100 cells, first 0: job 7 (Resources)"]


def test_an_end_without_a_result_is_explained(home: Path) -> None:
    study = Study(name="mine", place="", envs=())
    folder = home / ".vdt" / "slurm" / "mine" / "1" / "wave-1-1"
    write_cells(folder, [(1, "x a"), (2, "x b"), (3, "x c")])
    (folder / "7_1.log").write_text("start 1\nended with 0 at noon\n")
    (folder / "7_2.log").write_text("start 1\nended with 1 at noon\n")
    ends = find_ends(study)
    assert ends["x a"].startswith("ended with 0 at noon, without a result that counts now")
    assert ends["x b"] == f"ended with 1 at noon; {folder / '7_2.log'}"
    assert "has no log" in ends["x c"]


@pytest.mark.parametrize(
    ("address", "mode"), [("sqlite:////shared/mlflow.db", "later"), ("/shared/mlruns", "later"), ("https://a.b", "")]
)
def test_a_database_in_a_file_gets_its_records_later(tmp_path: Path, address: str, mode: str) -> None:
    """Several nodes must not write to one on a shared file system."""
    words = ["bash", str(JOB_SCRIPT), "/shared", "-", "bash", "-c", 'echo "mode:$VDT_TRACKING"']
    variables = {"PATH": os.environ["PATH"], "MLFLOW_TRACKING_URI": address}
    answer = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    assert f"mode:{mode}\n" in answer.stdout


def test_a_job_has_the_cores_that_slurm_gives(tmp_path: Path) -> None:
    """`--cpus-per-gpu` sets no SLURM_CPUS_PER_TASK."""
    words = ["bash", str(JOB_SCRIPT), "/shared", "-", "bash", "-c", 'echo "cores:$OMP_NUM_THREADS"']
    for given, cores in (
        ({"SLURM_CPUS_ON_NODE": "4"}, 4),
        ({"SLURM_CPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "2"}, 2),
    ):
        variables = {"PATH": os.environ["PATH"], **given}
        answer = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
        assert f"cores:{cores}\n" in answer.stdout


def test_the_job_script_takes_its_cell_from_its_line(tmp_path: Path) -> None:
    cells = write_cells(tmp_path, [(4, "a"), (9, "b")])
    variables = {"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": "2", "SLURM_CPUS_PER_TASK": "3"}
    command = [
        "bash",
        "-c",
        'echo "$VDT_HOME $VDT_TRACKING $OMP_NUM_THREADS $*"; exit 7',
        "flow",
        "run",
        "--study",
        "f",
    ]

    def run(file: str, **more: str) -> tuple[int, list[str]]:
        words = ["bash", str(JOB_SCRIPT), "/shared", file, *command]
        answer = subprocess.run(words, env={**variables, **more}, capture_output=True, text=True, check=False)
        return answer.returncode, answer.stdout.splitlines()

    code, lines = run(str(cells))
    assert (code, lines[1]) == (7, "/shared later 3 run --study f --cell 9") and lines[2].startswith("ended with 7 at ")
    assert run("-", MLFLOW_TRACKING_URI="http://127.0.0.1:9")[1][1] == "/shared  3 run --study f"
    code, lines = run(str(cells), SLURM_ARRAY_TASK_ID="3")
    assert (code, lines) == (2, [f"{cells} has no line 3"])


def test_a_job_without_time_saves_stops_and_is_queued_again(tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "scontrol $*"; exit 1\n')
    scontrol.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "12", "VDT_SAVING_SECONDS": "2"}
    flow = 'trap "echo saves" USR1; trap "echo stops; exit 1" TERM; echo begun; while :; do sleep 0.05; done'
    words = ["bash", str(JOB_SCRIPT), "/shared", "-", "bash", "-c", flow]
    for number, told in (
        (signal.SIGUSR1, ["saves", "stops", "queued again", "scontrol requeue 12", NOT_AGAIN]),
        (signal.SIGTERM, ["stops"]),
    ):
        with subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, text=True) as job:
            assert job.stdout is not None
            lines = iter(job.stdout.readline, "")
            assert any(line == "begun\n" for line in lines)
            job.send_signal(number)
            said = [line.strip() for line in lines if not line.startswith(("told ", "ended "))]
        assert (said, job.returncode) == (told, 1)
