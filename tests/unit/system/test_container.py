"""Limits of control groups, as Docker, Kubernetes and Slurm write them."""

from pathlib import Path

import pytest

from vdt.system.container import read_cpu_limit, read_memory_limit


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("membership", "files", "cores", "memory"),
    [
        ("0::/", {"cpu.max": "150000 100000", "memory.max": "2147483648"}, 1.5, 2**31),  # inside a container, version 2
        ("0::/", {"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        # a job below a slice: the least of all levels counts
        ("0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000", "a/memory.max": "1000"}, 2.0, 1000),
        # version 1: a folder for each controller, -1 and a huge number for "no limit"
        (
            "3:cpu,cpuacct:/x\n2:memory:/x",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000",
                "memory/x/memory.limit_in_bytes": "3000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            0.5,
            3000,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        ("", {}, None, None),
    ],
)
def test_limits(tmp_path: Path, membership: str, files: dict[str, str], cores: float, memory: int) -> None:
    groups, member = tmp_path / "groups", tmp_path / "membership"
    member.write_text(membership)
    groups.mkdir()
    write(groups, files)
    assert read_cpu_limit(groups, member) == cores
    assert read_memory_limit(groups, member) == memory


def test_no_control_groups(tmp_path: Path) -> None:
    """Other systems have no such files: there is no limit."""
    assert read_cpu_limit(tmp_path, tmp_path / "absent") is None
    assert read_memory_limit(tmp_path, tmp_path / "absent") is None
