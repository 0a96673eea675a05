"""Fuzzes the readers of files from elsewhere: whatever the bytes, a file is read or refused by its reader's own error.

    python tests/faults/fuzz.py --inputs 2000 [--seed 0] [--reader checkpoint]

Inputs are valid files with bytes flipped, cut, repeated or replaced by extreme numbers; input i of a seed is always the
same. A crash prints reader, seed, number and traceback. At the end, files that claim 10^12 rows are read and the peak
memory is printed.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from support.builders import make_dataset  # noqa: E402
from support.data import make_small_config, make_steps  # noqa: E402
from vdt.behavior.policy import load_ladder  # noqa: E402
from vdt.checkpoint.names import CheckpointError  # noqa: E402
from vdt.checkpoint.store import load_state  # noqa: E402
from vdt.config.errors import ConfigError  # noqa: E402
from vdt.config.layers import load_yaml  # noqa: E402
from vdt.data.errors import DataError  # noqa: E402
from vdt.data.storage import load_snapshot, write_trajectories  # noqa: E402
from vdt.datasets.hdf5 import read_recording  # noqa: E402
from vdt.experiments.resolve import resolve_config  # noqa: E402

EXTREME = [b"\x00" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f", (10**12).to_bytes(8, "little"), b"\x00" * 7 + b"\x80"]
MEMORY = 6 * 2**30  # bytes of address space
SECONDS_PER_INPUT = 20
ROWS = 10**12


def read_d4rl(path: Path) -> object:
    return read_recording(path, make_small_config("d4rl").task, {})


Reader = tuple[str, Callable[[Path], object], tuple[type[Exception], ...]]
READERS: list[Reader] = [
    ("snapshot", load_snapshot, (DataError,)),
    ("d4rl", read_d4rl, (DataError,)),
    ("ladder", load_ladder, (ValueError,)),
    ("checkpoint", load_state, (CheckpointError,)),
    ("yaml", load_yaml, (ConfigError,)),
]


def make_valid(folder: Path) -> dict[str, bytes]:
    """One small valid file for each reader."""
    write_trajectories(folder / "snapshot", make_dataset())
    with h5py.File(folder / "d4rl", "w") as file:
        for name, values in make_steps(12, terminals=(4,), timeouts=(9,)).items():
            file.create_dataset(name, data=values, chunks=True, compression="gzip")
    layers = {"w0": (2, 3, 4), "b0": (2, 4), "w1": (2, 4, 1), "b1": (2, 1), "log_std": (2, 1)}
    others = {"observation_mean": (2, 3), "observation_std": (2, 3), "episode_returns": (2,)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in {**layers, **others}.items()}
    np.savez_compressed(folder / "ladder.npz", environment_steps=np.arange(2), **arrays)
    state = {"step": 3, "weights": {"a": torch.randn(4, 4)}, "list": [1.0, "x", None], "random": torch.get_rng_state()}
    torch.save(state, folder / "checkpoint")
    (folder / "yaml").write_text(resolve_config("walker2d-medium-v2").to_yaml())
    names = {"ladder": "ladder.npz"}
    return {name: (folder / names.get(name, name)).read_bytes() for name, *_ in READERS}


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file in one to four ways."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(0, max(1, len(data))))
        way = int(rng.integers(0, 6))
        if way == 0 and data:
            data[place % len(data)] ^= 1 << int(rng.integers(0, 8))
        elif way == 1:
            del data[place:]
        elif way == 2:
            data[place : place + 8] = EXTREME[int(rng.integers(0, len(EXTREME)))]
        elif way == 3:
            data[place:place] = data[place : place + int(rng.integers(1, 64))]
        elif way == 4:
            data[place : place + 4] = rng.bytes(4)
        else:
            del data[place : place + int(rng.integers(1, 64))]
    return bytes(data)


def repack(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage a member of a zip archive and pack it again with right checksums."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(packed, "w") as target:
        names = source.namelist()
        chosen = names[int(rng.integers(0, len(names)))]
        for name in names:
            target.writestr(name, mutate(source.read(name), rng) if name == chosen else source.read(name))
    return packed.getvalue()


def fuzz(reader: Reader, valid: bytes, seed: int, count: int, folder: Path) -> tuple[int, int]:
    """Returns how many inputs were refused, and how many crashed the reader or took too long."""
    name, read, expected = reader
    refused = crashes = 0
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        zipped = valid[:2] == b"PK" and rng.random() < 0.5
        path = folder / f"input-{name}"
        path.write_bytes(repack(valid, rng) if zipped else mutate(valid, rng))
        began = time.monotonic()
        try:
            read(path)
        except expected:
            refused += 1
        except Exception:
            crashes += 1
            print(f"CRASH reader {name} seed {seed} input {number}\n{traceback.format_exc()}", flush=True)
        if time.monotonic() - began > SECONDS_PER_INPUT:
            crashes += 1
            print(f"SLOW reader {name} seed {seed} input {number}", flush=True)
    return refused, crashes


def make_huge(folder: Path) -> dict[str, Path]:
    """Small files that claim 10^12 rows."""
    paths = {name: folder / f"huge-{name}" for name in ("snapshot", "d4rl", "ladder", "checkpoint", "yaml")}
    for name in ("snapshot", "d4rl"):
        with h5py.File(paths[name], "w") as file:
            for key, tail in {"observations": (2,), "actions": (1,), "rewards": (), "terminals": ()}.items():
                file.create_dataset(key, (ROWS, *tail), np.float32, chunks=(1024, *tail))
            if name == "snapshot":
                file["format"], file["card"] = np.bytes_("vdt-trajectories-1"), np.bytes_("{}")
                file.create_dataset("offsets", (ROWS,), np.int64, chunks=(1024,))
                file.create_dataset("terminated", (ROWS,), np.bool_, chunks=(1024,))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (ROWS, 17)})
    with zipfile.ZipFile(paths["ladder"], "w") as archive:
        archive.writestr("w0.npy", header.getvalue())
    torch.save({"weights": torch.zeros(1).expand(ROWS)}, paths["checkpoint"])
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]  # 10^12 values
    paths["yaml"].write_text("\n".join(lines))
    return paths


def main() -> int:
    """Fuzz all readers; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2000, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", default="")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        valid, huge = make_valid(folder), make_huge(folder)
        for reader in READERS:
            if options.reader in ("", reader[0]):
                refused, crashes = fuzz(reader, valid[reader[0]], options.seed, options.inputs, folder)
                failures += crashes
                print(f"{reader[0]:10} {options.inputs} inputs, {refused} refused, {crashes} crashes", flush=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for title, read, expected in READERS:
            try:
                read(huge[title])
                failures += 1
                print(f"{title} accepted a file that claims {ROWS} rows")
            except expected as error:
                print(f"{title}: {error}"[:150], flush=True)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"peak memory grew by {grown:.0f} MiB over all files that claim {ROWS} rows", flush=True)
        failures += grown > 100
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
