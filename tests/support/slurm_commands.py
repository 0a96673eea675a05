"""Slurm's commands, replaced by scripts that write down their words: for what no cluster is needed."""

import re
from pathlib import Path

from flows.slurm import main
from support.flow import ENV

STUDY = f"""
preset: smoke
source: collected
envs: [{ENV}]
methods: [vdt]
patches:
  strong: {{}}
  weak: {{actor: {{q_coefficient: 0.1}}}}
"""


SEARCH = f"""
preset: smoke
source: collected
envs: [{ENV}]
set: {{evaluation: {{max_episode_steps: 0}}}}
search: {{space: {{actor.q_coefficient: [0.1, 0.3]}}, trials: 2}}
"""


def call(said: Path, *words: str) -> list[str]:
    """Call the script, with all jobs so far in the queue; return what the call did."""
    known = said.read_text().splitlines() if said.is_file() else []
    queue = []
    for number, line in enumerate((line for line in known if line.startswith("sbatch")), start=1):
        folder, array = re.search(r"--comment=(\S+)", line), re.search(r"--array=1-(\d+)", line)
        assert folder
        indices = range(1, int(array[1]) + 1) if array else ["N/A"]
        queue += [f"{number}_{index}|{index}|PENDING||5:00|Priority|{folder[1]}" for index in indices]
    said.with_name("queue").write_text("".join(f"{line}\n" for line in queue))
    (said.parent / "bin" / "squeue").write_text(f"#!/bin/sh\ncat {said.with_name('queue')}\n")
    main(["slurm.py", *words])
    return (said.read_text() if said.is_file() else "").splitlines()[len(known) :]


def list_done(lines: list[str]) -> list[str]:
    """Return the kinds of what a call did: array, report, or the end of a job."""
    kinds = {r"sbatch .*--array=": "array", r"sbatch .*--wrap=": "report", "scancel": "cancelled"}
    return [kind for line in lines for words, kind in kinds.items() if re.match(words, line)]


def answer_with(said: Path, name: str, body: str) -> None:
    """Change what one of Slurm's commands does, beside keeping its words."""
    file = said.parent / "bin" / name
    file.write_text(f'#!/bin/sh\necho "{name} $*" | tr "\\n" " " >> "$SAID"; echo >> "$SAID"\n{body}\n')
