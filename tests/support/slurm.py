"""A real Slurm cluster on this machine: some nodes in one folder, on 127.0.0.1, without accounting or cgroups.

As root, each node has a host name and a process table of its own, so that killing it is a power loss to all that runs on
it. Disk, kernel and cores are shared. GPUs are pretended: one per node, a device that is no GPU.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PRIVATE = ["unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/spool/%n/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=10
SlurmdTimeout=10
MinJobAge=3600
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""  # cred_expire: seconds before a job that is queued again may start; SlurmdTimeout: until a lost node is noticed


class Cluster:
    """Cluster of some nodes, named n1, n2, ..."""

    def __init__(self, folder: Path, nodes: int = 2, cores: int = 1, megabytes: int = 8000) -> None:
        """Start it in a new folder and wait until all nodes are idle."""
        self.folder, self.names = folder, [f"n{number}" for number in range(1, nodes + 1)]
        self.private = subprocess.run([*PRIVATE, "true"], capture_output=True, check=False).returncode == 0
        for name in ("munge", "state", "log", *(f"spool/{node}" for node in self.names)):
            (folder / name).mkdir(parents=True)
        (folder / "munge").chmod(0o700)
        folder.chmod(0o755)
        self._configure(cores, megabytes)
        self.variables = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        munge = folder / "munge"
        files = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
        self._call("munged", "--force", *files, f"--socket={munge / 'socket'}", "--num-threads=2")
        self._call("slurmctld", "-c", "-i", "-f", str(folder / "slurm.conf"))
        for name in self.names:
            self.start_node(name)
        self.wait_for_nodes()

    def _configure(self, cores: int, megabytes: int) -> None:
        host, user = socket.gethostname().split(".")[0], subprocess.check_output(["id", "-un"], text=True).strip()
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(len(self.names) + 1)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            port, *ports = [one.getsockname()[1] for one in sockets]
        lines = [CONFIGURATION.format(folder=self.folder, host=host, user=user, port=port)]
        for name, its_port in zip(self.names, ports, strict=True):
            lines.append(
                f"NodeName={name} NodeHostname={name if self.private else host} NodeAddr=127.0.0.1 Port={its_port} "
                f"CPUs={cores} RealMemory={megabytes} Gres=gpu:1 State=UNKNOWN"
            )
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        gpus = [f"NodeName={name} Name=gpu File=/dev/null\n" for name in self.names]
        (self.folder / "gres.conf").write_text("".join(gpus))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        hosts = "".join(f"127.0.0.1 {name}\n" for name in self.names)
        (self.folder / "hosts").write_text(Path("/etc/hosts").read_text() + hosts)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)

    def _call(self, *words: str) -> str:
        answer = subprocess.run(words, env=self.variables, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, f"{words}: {answer.stderr}"
        return answer.stdout

    def start_node(self, name: str) -> None:
        """Start a node, also one that was lost."""
        configuration = str(self.folder / "slurm.conf")
        command = ["slurmd", "-D", "-N", name, "-f", configuration]
        if self.private:
            script = 'hostname "$1" && mount --bind "$0/hosts" /etc/hosts && exec slurmd -D -N "$1" -f "$0/slurm.conf"'
            command = [*PRIVATE, "bash", "-c", script, str(self.folder), name]
        with open(self.folder / "log" / "start", "ab") as log:
            self.nodes[name] = subprocess.Popen(
                command, env=self.variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def lose_node(self, name: str) -> None:
        """Kill a node, and with it all that runs on it (as root)."""
        self.nodes[name].kill()
        self.nodes[name].wait()

    def wait_for_nodes(self, seconds: float = 30.0) -> None:
        """Wait until all nodes answer and are idle."""
        deadline = time.monotonic() + seconds
        while sorted(set(self._call("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split())) != self.names:
            assert time.monotonic() < deadline, (self.folder / "log" / "slurmctld").read_text()[-3000:]
            time.sleep(0.05)

    def list_queue(self) -> dict[str, tuple[str, str, str]]:
        """Return job (an array's elements apart) -> state, node, comment."""
        lines = self._call("squeue", "-h", "-r", "-o", "%i|%T|%N|%k").splitlines()
        fields = [line.strip().split("|", 3) for line in lines]
        return {job: (state, node, comment) for job, state, node, comment in fields}

    def describe_job(self, job: str) -> str:
        """Return what `scontrol show job` says."""
        return self._call("scontrol", "show", "job", job)

    def cancel(self, *words: str) -> None:
        """Call `scancel` once: it would send a signal again for minutes to a job that is changing its state."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["scancel", *words], env=self.variables, capture_output=True, check=False, timeout=3)

    def stop(self) -> None:
        """End all of it."""
        if not self.private:  # elsewhere jobs end with their node
            self.cancel(f"--user={os.getuid()}")
            deadline = time.monotonic() + 15
            while self.list_queue() and time.monotonic() < deadline:
                time.sleep(0.1)
        for node in self.nodes.values():
            node.kill()
            node.wait()
        for file in (self.folder / "slurmctld.pid", self.folder / "munge" / "pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(file.read_text()), signal.SIGKILL)


@contextlib.contextmanager
def run_cluster(folder: Path, **sizes: int) -> Iterator[Cluster]:
    """Run a cluster; skip the test where Slurm is not installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"there is no {missing[0]}: Slurm is not installed (Debian: apt-get install slurm-wlm munge)")
    before = os.environ["PATH"]
    os.environ["PATH"] = path
    try:
        cluster = Cluster(folder, **sizes)
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        os.environ["PATH"] = before
