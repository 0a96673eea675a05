import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vdt.experiments.resolve import resolve_config
from vdt.system import home as folders
from vdt.system import machine
from vdt.system.files import check_folders
from vdt.system.gpus import claim_gpu

ENV = "walker2d-medium-v2"


def test_home_is_the_variable_or_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VDT_HOME", str(tmp_path / "x" / ".." / "y"))
    assert folders.home() == tmp_path / "y"
    monkeypatch.setenv("VDT_HOME", "")
    assert folders.home() == folders.ROOT
    assert (folders.ROOT / "vdt" / "system" / "home.py").is_file()


def test_prepare_names_nameless_users_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("METAFLOW_USER", "SUDO_USER", "USERNAME", "USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", "root")
    folders.prepare()
    assert os.environ["METAFLOW_USER"] == "vdt"
    monkeypatch.delenv("METAFLOW_USER")
    monkeypatch.setenv("USER", "somebody")
    folders.prepare()
    assert "METAFLOW_USER" not in os.environ


def test_prepare_sets_what_is_missing_and_nothing_else(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.delenv("METAFLOW_DATASTORE_SYSROOT_LOCAL")
    monkeypatch.setenv("METAFLOW_RUN_MAX_WORKERS", "7")
    monkeypatch.delenv("METAFLOW_RESUME_MAX_WORKERS", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setattr(machine, "count_gpus", lambda: 3)
    folders.prepare()
    folders.prepare()
    assert os.environ["METAFLOW_DATASTORE_SYSROOT_LOCAL"] == str(home)
    assert os.environ["METAFLOW_RUN_MAX_WORKERS"] == "7"
    assert os.environ["METAFLOW_RESUME_MAX_WORKERS"] == "3"
    assert os.environ["PYTHONPATH"] == f"{folders.ROOT}{os.pathsep}/elsewhere"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_prepare_has_garbage_looked_for_rarely() -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        folders.prepare()
        assert gc.isenabled() and gc.get_threshold()[0] == folders.OBJECTS_PER_COLLECTION > 10_000
    finally:
        gc.set_threshold(*before)


def test_folders_are_made_and_tried(tmp_path: Path) -> None:
    check_folders(tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [".vdt", "data", "reports"]
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "data").write_text("a file stands where the folder should be")
    with pytest.raises(folders.FolderError, match=r"cannot write to .*/blocked/data .*VDT_HOME"):
        check_folders(tmp_path / "blocked")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the parent's death signal")
def test_a_step_dies_with_its_parent(tmp_path: Path) -> None:
    child = "import time, vdt.system.processes as r; r.die_with_parent(); print('ready', flush=True); time.sleep(60)"
    parent = (
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE);"
        "p.stdout.readline(); print(p.pid, flush=True); import time; time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(folders.ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        orphan = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_alive(orphan):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Running, and not a zombie that nobody has waited for."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_cores_are_divided_among_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "count_cores", lambda: 8)
    before = torch.get_num_threads()
    try:
        for cells, explicit, limit, threads in (
            (1, 0, "", 8),
            (3, 0, "", 2),
            (20, 0, "", 1),
            (4, 5, "", 5),
            (1, 0, "4", 4),
        ):
            monkeypatch.setenv("OMP_NUM_THREADS", limit)
            assert machine.set_threads(cells, explicit) == threads
            assert torch.get_num_threads() == threads
            assert os.environ["OMP_NUM_THREADS"] == str(threads)
    finally:
        torch.set_num_threads(before)


def test_acting_takes_one_thread_unless_told_otherwise() -> None:
    assert [machine.count_acting_threads(n) for n in (0, 1, 3)] == [1, 1, 3]


def test_cells_in_parallel_are_limited_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAFLOW_RUN_MAX_WORKERS", "2")
    assert [machine.count_cells_in_parallel(n) for n in (0, 1, 2, 5)] == [1, 1, 2, 2]


def test_steps_and_metaflow_have_one_default_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the steps would share the cores among more cells than run, or fewer."""
    monkeypatch.setattr(machine, "count_cores", lambda: 64)
    for gpus, memory, workers in ((0, 16 * 10**9, 13), (0, 10**9, 1), (4, 16 * 10**9, 4)):
        monkeypatch.setattr(machine, "count_gpus", lambda gpus=gpus: gpus)
        monkeypatch.setattr(machine, "measure_memory", lambda memory=memory: memory)
        monkeypatch.delenv("METAFLOW_RUN_MAX_WORKERS", raising=False)
        assert machine.count_cells_in_parallel(1000) == workers
        folders.prepare()
        assert os.environ["METAFLOW_RUN_MAX_WORKERS"] == str(workers)


def test_cells_that_train_at_once_see_a_gpu_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two flows begin with their cells number 0; a third process finds no free GPU and shares the one of its number."""

    def claim(cell: int, stack: contextlib.ExitStack) -> str:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-0a/1")
        claim_gpu(cell, tmp_path, stack)
        return os.environ["CUDA_VISIBLE_DEVICES"]

    with contextlib.ExitStack() as first, contextlib.ExitStack() as second, contextlib.ExitStack() as third:
        assert [claim(0, first), claim(0, second), claim(1, third)] == ["4", "GPU-0a/1", "GPU-0a/1"]
        first.close()
        assert claim(1, third) == "4", "it is free again"
    with contextlib.ExitStack() as alone:
        assert claim(3, alone) == "GPU-0a/1"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
        claim_gpu(1, tmp_path, alone)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


def test_each_job_of_slurm_has_gpus_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Slurm counts them from 0 in each job, number 0 of one is not that of another."""
    with contextlib.ExitStack() as stack:
        for job in ("17", "18"):
            monkeypatch.setenv("SLURM_JOB_ID", job)
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
            claim_gpu(0, tmp_path, stack)
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0")
    assert machine.count_gpus() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.count_gpus() == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")
    assert machine.count_gpus() == 0, "Slurm's word in a job that asked for none"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0+cpu")
    assert machine.count_gpus() == 0, "a build without CUDA trains on cores"


def test_a_gpu_that_is_left_idle_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    machine._tell_of_device.cache_clear()
    machine.choose_device("cpu")
    assert not caplog.messages, "it was asked for"
    for _ in range(2):
        machine.choose_device("auto")
    (said,) = caplog.messages
    assert "device: the CPU, though there is a GPU here (4, 6)" in said and "runtime.device=cpu" in said
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    machine.choose_device("auto")
    assert caplog.messages[-1] == "device: H200"
    machine._tell_of_device.cache_clear()


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    for available, wanted, device in ((False, "auto", "cpu"), (True, "auto", "cuda"), (True, "cpu", "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        config = resolve_config(ENV, overrides=f"runtime.device={wanted}")
        assert machine.choose_device(config.runtime.device).type == device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(machine.DeviceError, match=r"runtime\.device is cuda"):
        machine.choose_device("cuda")


def test_workers_fit_cores_and_memory() -> None:
    # 1.2 GB each: 16 GB hold 13, 2 GB hold one, and one runs in any case
    assert [machine.count_cells_that_fit(*sizes) for sizes in ((2, 16 * 10**9), (64, 16 * 10**9), (8, 10**9))] == [
        2,
        13,
        1,
    ]
    assert machine.measure_memory() > 10**8
    assert machine.measure_peak_memory()["machine"] > 10.0, "MB, of this very process"


def test_training_and_evaluating_import_no_more_than_they_use() -> None:
    code = (
        "import sys, torch; from vdt.training.online import tune_online; from vdt.evaluation.evaluate import evaluate_agents;"
        "from vdt.evaluation.diagnostics import diagnose; from vdt.critic.critic import Critic;"
        "from vdt.experiments.resolve import resolve_config; from vdt.acceleration.critic_update import FusedCriticUpdate;"
        "critic = Critic(3, 2, resolve_config('walker2d-medium-v2', preset='smoke').critic);"
        "optimizer = FusedCriticUpdate(critic, 1e-3); state = optimizer.state_dict();"
        "optimizer.load_state_dict(state); optimizer.descend(critic.value(torch.zeros(4, 3)).sum());"
        "print([name for name in ('torch._dynamo', 'scipy.stats', 'matplotlib', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folders.ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_data_and_reports_are_made_without_torch() -> None:
    code = (
        "import sys; from vdt.datasets.snapshot import make_snapshot; from vdt.experiments.policies import keep_policies;"
        "from vdt.reporting.report import write_report; from flows.report_step import make_report;"
        "print([name for name in ('torch', 'scipy.stats') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folders.ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_threads_spin_briefly_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_WAIT_POLICY", *machine.SPINNING)
    for given, expected in (
        ({}, machine.SPINNING),
        ({"GOMP_SPINCOUNT": "5"}, {**machine.SPINNING, "GOMP_SPINCOUNT": "5"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ):
        for name in names:
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        folders.prepare()
        assert {name: os.environ[name] for name in names if name in os.environ} == expected


@pytest.mark.parametrize(
    ("processor", "given", "expected"),
    [
        ("GenuineIntel", None, machine.STEADY),
        ("GenuineIntel", "COMPATIBLE", "COMPATIBLE"),
        ("AuthenticAMD", None, None),
        (None, None, None),
    ],
)
def test_sums_of_mkl_do_not_depend_on_threads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, processor: str | None, given: str | None, expected: str | None
) -> None:
    listed = tmp_path / "cpuinfo"
    if processor:
        listed.write_text(f"vendor_id\t: {processor}\n")
    monkeypatch.setattr(machine, "Path", lambda _: listed)
    monkeypatch.delenv("MKL_CBWR", raising=False)
    if given:
        monkeypatch.setenv("MKL_CBWR", given)
    machine.steady_sums()
    assert os.environ.get("MKL_CBWR") == expected


def test_a_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), machine.use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_a_user_without_a_name_gets_one_and_a_home() -> None:
    """As `docker run --user 12345` starts a process: no entry in passwd, no HOME, or one that cannot be written."""
    code = (
        "import os, pwd\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "from vdt.system.home import prepare; prepare()\n"
        "import getpass, pathlib; print(getpass.getuser(), pathlib.Path.home())"
    )
    for given in ({}, {"HOME": "/nowhere"}):
        variables = {"PATH": os.environ["PATH"], "VDT_HOME": os.environ["VDT_HOME"], **given}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folders.ROOT, env=variables, capture_output=True, text=True
        )
        assert done.stdout == f"uid{os.getuid()} {os.environ['VDT_HOME']}\n", done.stderr
