"""How soon does a stored policy act, and how often? Prints seconds and memory of a fresh process, and decisions a second.

    python benchmarks/load_policy.py ADDRESS [--processes 5] [--decisions 2000]

PyTorch's import is timed apart: it is most of the time, and any program that acts with it pays it. Processor time says
how much work there is, wall time what it took beside whatever else ran.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

CHILD = """
import resource, sys, time
where, lookahead, decisions = sys.argv[1], sys.argv[2] == "True", int(sys.argv[3])
marks = [(time.perf_counter(), time.process_time())]
import torch
marks.append((time.perf_counter(), time.process_time()))
import vdt
policy = vdt.load_policy(where, lookahead=lookahead)
marks.append((time.perf_counter(), time.process_time()))
loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
import numpy as np
observation = np.zeros(policy.spaces.observation_size, np.float32)
policy.reset()
policy.act(observation)
for _ in range(50):
    policy.act(observation, 1.0)
marks.append((time.perf_counter(), time.process_time()))
for _ in range(decisions):
    policy.act(observation, 1.0)
marks.append((time.perf_counter(), time.process_time()))
spans = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(marks, marks[1:])]
print(*spans[0], *spans[1], loaded, decisions / spans[3][0], decisions / spans[3][1])
"""
COLUMNS = ("torch s", "torch CPU s", "ours s", "ours CPU s", "peak MiB", "decisions/s", "decisions/CPU s")


def main() -> None:
    """Print a row for acting without and with look-ahead: medians over processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="of a policy, as vdt.load_policy takes it")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--decisions", type=int, default=2000)
    arguments = parser.parse_args()
    print("| look-ahead | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for lookahead in (False, True):
        command = [sys.executable, "-c", CHILD, arguments.address, str(lookahead), str(arguments.decisions)]
        rows = [
            list(map(float, subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()))
            for _ in range(arguments.processes)
        ]
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        print(
            f"| {lookahead} | "
            + " | ".join(f"{value:.2f}" if value < 100 else f"{value:.0f}" for value in medians)
            + " |"
        )


if __name__ == "__main__":
    main()
