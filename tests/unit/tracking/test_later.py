"""`VDT_TRACKING=later`: records are kept in files, no store is contacted, and one command delivers them."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.entities import Run

from flows.hooks import on_error
from flows.stage import finish_cells
from support.builders import make_config
from support.policies import RUN, make_run
from vdt.agent.policy_files import PolicyFile, write_scores
from vdt.cli import run
from vdt.experiments.resolve import resolve_config
from vdt.experiments.results_store import find_result, save_result
from vdt.serving.model_files import make_model
from vdt.system.files import compute_file_digest
from vdt.tracking import (
    REPORT_OF,
    SHARED_FROM,
    MLflowTracker,
    Status,
    StoreError,
    Tags,
    create_named_run,
    create_run,
    finish_runs,
    make_continue_record,
    make_trial_tags,
    open_store,
    read_curves,
    resolve_run_ids,
    send_now,
)
from vdt.tracking.deliver import deliver
from vdt.tracking.mlflow_run import FORKED_FROM, LOCAL_ID, PARENT
from vdt.tracking.outbox import deliver_backlog, is_waiting
from vdt.tracking.waiting import backlog_of, find_undelivered

CONFIG = resolve_config("walker2d-medium-v2", preset="smoke")
STEPS = 450  # more than two batches of records


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDT_TRACKING", "later")
    monkeypatch.setattr("flows.stage.current", SimpleNamespace(origin_run_id=None))


def log_cell(home: Path, flow_run: str, seed: int = 0, steps: int = STEPS) -> str:
    """Track a cell whose step is killed after its checkpoint at 5 and computes 4 and 5 once more."""
    run_id = create_run(home, CONFIG.with_seed(seed), flow_run, "run")
    for first, last in ((1, 5), (4, steps)):
        tracker = MLflowTracker(home, run_id, opening=make_continue_record(flow_run))
        for step in range(first, last + 1):
            tracker.log(step, {"critic/q_loss": float(step)})
        tracker.flush()
        tracker.close()
    finish_runs(home, [run_id], "FINISHED")
    return run_id


def find_runs_by_local_id(home: Path) -> dict[str, Run]:
    client = open_store(home)
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert len({run.data.tags.get(LOCAL_ID) for run in found}) == len(found), "no run was made twice"
    return {run.data.tags[LOCAL_ID]: run for run in found}


def get_points(home: Path, stored: Run) -> list[tuple[int, float]]:
    history = open_store(home).get_metric_history(stored.info.run_id, "critic/q_loss")
    return sorted((point.step, point.value) for point in history)


EVERY_POINT = [(step, float(step)) for step in range(1, STEPS + 1)]


def test_a_cell_contacts_no_store_until_its_records_are_delivered(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = log_cell(home, "1")
    finish_cells([run_id])
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 1 and "records of 1 run(s) wait in" in lines[0] and "deliver" in lines[0], lines
    assert not (home / ".vdt" / "mlflow.db").exists()
    assert read_curves(home, [run_id])[run_id]["critic/q_loss"][-1] == (STEPS, float(STEPS))
    assert resolve_run_ids(home, [run_id]) == {run_id: run_id}
    save_result(home, "abc", {"mlflow_run_id": run_id, "shared_from": {"pretrain_critic": run_id}})
    for _ in range(2):
        assert run(["deliver"]) == 0
        stored = find_runs_by_local_id(home)[run_id]
        assert (stored.info.status, stored.data.params["env"]) == ("FINISHED", CONFIG.env)
        assert get_points(home, stored) == EVERY_POINT
    result = find_result(home, "abc")
    assert result is not None and result["mlflow_run_id"] == stored.info.run_id
    assert result["shared_from"] == {"pretrain_critic": stored.info.run_id}
    monkeypatch.delenv("VDT_TRACKING")
    assert set(read_curves(home, [stored.info.run_id])) == {stored.info.run_id}


def test_a_cell_does_not_import_mlflow(home: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom vdt.tracking import *\n"
        f"tracker = MLflowTracker(Path({str(home)!r}), 'local-1', opening=make_continue_record('1'))\n"
        "tracker.log(1, {'a/b': 1.0}); tracker.close(); assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert find_undelivered(home) == [backlog_of(home, "local-1")]


def test_another_word_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDT_TRACKING", "soon")
    with pytest.raises(
        StoreError, match=r"VDT_TRACKING=soon is not accepted; accepted are now \(the default\) and later"
    ):
        create_run(home, CONFIG, "1", "run")


KILLED = """
import os, signal, sys
from pathlib import Path
from vdt.tracking.mlflow_run import RunSender
from vdt.tracking.deliver import deliver
send, calls = RunSender.__call__, []
def send_and_die(self, records):
    send(self, records)
    calls.append(1)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
RunSender.__call__ = send_and_die
deliver(Path(sys.argv[1]))
"""


def test_delivery_may_be_killed_and_two_may_deliver_at_once(home: Path) -> None:
    run_ids = [log_cell(home, str(seed), seed) for seed in range(3)]
    for calls in ("1", "3"):
        killed = subprocess.run([sys.executable, "-c", KILLED, str(home), calls], capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    command = [sys.executable, "-m", "vdt.cli", "deliver"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    for process in both:
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
    stored = find_runs_by_local_id(home)
    assert sorted(stored) == sorted(run_ids) and not find_undelivered(home)
    for run_id in run_ids:
        assert stored[run_id].info.status == "FINISHED"
        assert get_points(home, stored[run_id]) == EVERY_POINT


def test_what_is_written_during_a_delivery_is_not_lost(tmp_path: Path) -> None:
    backlog, count = tmp_path / "local-1.jsonl", 100
    code = (  # it takes its time between opening the file and writing to it
        "import json, sys, time\nfrom pathlib import Path\nfrom vdt.tracking.outbox import append_records\n"
        "dumps = json.dumps\njson.dumps = lambda record: (time.sleep(0.003), dumps(record))[1]\n"
        f"for n in range({count}): append_records(Path(sys.argv[1]), [{{'n': n}}])"
    )
    taken: list[int] = []
    with subprocess.Popen([sys.executable, "-c", code, str(backlog)]) as writer:
        while writer.poll() is None or is_waiting(backlog):
            deliver_backlog(backlog, lambda records: taken.extend(record["n"] for record in records))
    assert taken == list(range(count))


def test_a_failed_flow_marks_its_cells_without_a_store(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = create_run(home, CONFIG, "9", "run")
    data = SimpleNamespace(cells=[{"mlflow_run_id": run_id}])

    class FailedRun(dict):  # as Metaflow's client gives it
        id = "9"

    monkeypatch.setenv("VDT_STOPPED", "1")  # by Ctrl-C
    on_error(FailedRun(start=SimpleNamespace(task=SimpleNamespace(data=data))))
    on_error(FailedRun())  # it ended before its first step
    assert "records of 1 run(s) wait" in capsys.readouterr().out
    assert run(["deliver"]) == 0
    assert find_runs_by_local_id(home)[run_id].info.status == "FAILED"
    assert find_runs_by_local_id(home)[run_id].data.tags["vdt.ended"] == "stopped"


def test_runs_that_name_each_other_get_their_ids_whichever_comes_first(home: Path) -> None:
    search = create_named_run(home, "search-a", {}, {}, "search/1", "run")
    cells = [
        create_run(home, CONFIG.with_seed(seed), str(seed), "run", more_tags=make_trial_tags(seed, search))
        for seed in range(2)
    ]
    for cell, other in (cells, cells[::-1]):
        send_now(home, cell, [Tags(tags={SHARED_FROM.format("critic"): other}), Status(status="FINISHED")])
    assert run(["deliver"]) == 0
    stored = find_runs_by_local_id(home)
    ids = {local: found.info.run_id for local, found in stored.items()}
    for cell, other in (cells, cells[::-1]):
        tags = stored[cell].data.tags
        assert (tags[PARENT], tags["critic_shared_from"]) == (ids[search], ids[other])


def test_no_run_is_settled_while_records_wait(home: Path, gone: str) -> None:
    first, second = (create_named_run(home, name, {}, {}, "1", "run", process=gone) for name in "ab")
    assert deliver(home, [backlog_of(home, first)]) == 0
    assert find_runs_by_local_id(home)[first].info.status == "RUNNING"
    assert deliver(home) == 0
    stored = find_runs_by_local_id(home)
    assert [stored[run_id].info.status for run_id in (first, second)] == ["FAILED", "FAILED"]


def test_a_checkpoint_can_be_registered_after_its_delivery(home: Path) -> None:
    config, path = make_config(), make_run(home, best=False)["online"]
    run_id = create_run(home, config, RUN, "run")
    tracker = MLflowTracker(home, run_id)
    tracker.log_evaluation("online", path, 12, {}, make_model(config, "online"))
    tracker.close()
    write_scores(PolicyFile(path, "online", compute_file_digest(path, "sha256"), {}, run_id))
    assert run(["deliver"]) == 0
    assert run(["register", str(path), "walker"]) == 0
    (version,) = open_store(home).search_model_versions("name = 'walker'")
    assert version.run_id == find_runs_by_local_id(home)[run_id].info.run_id


def test_the_reports_of_a_study_share_a_run(home: Path) -> None:
    for flow_run in ("1", "2"):
        create_named_run(home, "report-a", {REPORT_OF: "a"}, {}, flow_run, "run", records=[Status(status="FINISHED")])
    assert run(["deliver"]) == 0
    assert [found.data.tags[REPORT_OF] for found in find_runs_by_local_id(home).values()] == ["a"]


def test_a_deliberate_repeat_keeps_all_its_steps_in_one_run(home: Path, log: Callable[..., None]) -> None:
    """A step that was finished is repeated; the step behind it goes to the same new run, as it would at once."""
    run_id = create_run(home, CONFIG, "1", "run")
    for flow_run, metric, repeats in (
        ("1", "critic/q_loss", False),
        ("2", "critic/q_loss", True),
        ("2", "actor/behavior_loss", False),
    ):
        log(home, run_id, flow_run, metric, repeats=repeats)
        assert run(["deliver"]) == 0
    client = open_store(home)
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    first, second = sorted(
        client.search_runs([experiment.experiment_id]), key=lambda found: FORKED_FROM in found.data.tags
    )
    assert set(first.data.metrics) == {"critic/q_loss"}
    assert set(second.data.metrics) == {"critic/q_loss", "actor/behavior_loss"}


@pytest.fixture
def log() -> Callable[..., None]:
    def track(home: Path, run_id: str, flow_run: str, metric: str, *, repeats: bool) -> None:
        tracker = MLflowTracker(home, run_id, opening=make_continue_record(flow_run, repeats=repeats))
        tracker.log(1, {metric: 1.0})
        tracker.close()

    return track


@pytest.mark.parametrize("place", ["copy/{name}.jsonl", "home/.vdt/undelivered/{name}.txt"])
def test_a_file_that_no_delivery_would_read_is_refused_by_name(
    place: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = create_run(home, CONFIG, "1", "run")
    path = home.parent / place.format(name=run_id)
    path.parent.mkdir(exist_ok=True)
    path.write_text(backlog_of(home, run_id).read_text())
    assert run(["deliver", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path} is no file of waiting records: they lie in {backlog_of(home, '').parent}")
    assert path.is_file() and is_waiting(backlog_of(home, run_id))


def test_a_file_is_delivered_by_its_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (create_run(home, CONFIG.with_seed(seed), str(seed), "run") for seed in range(2))
    monkeypatch.chdir(backlog_of(home, first).parent)
    assert run(["deliver", f"./{first}.jsonl"]) == 0
    assert find_undelivered(home) == [backlog_of(home, second)]
