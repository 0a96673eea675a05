"""Turn a log into data to train on: `.venv/bin/python examples/own_dataset.py LOG.csv FOLDER [--append]`.

The log has a row for each step, and these columns alone: episode, observation_0, observation_1, ..., action_0, ...,
reward, terminated. Rows of an episode stand together. `terminated` is true or false, in any case, or 1 or 0: whether the
task ended with that step. An episode whose last row says false was cut. All other values are finite numbers.

The whole log is read before anything is written, and nothing of it stays where it cannot be written whole. A folder that
holds episodes is refused, so that a log is not added twice; with `--append` they stay, and the log's come after them.
"""

import csv
import re
import shlex
import sys
from pathlib import Path

import numpy as np

import vdt

COLUMNS = "episode, observation_0, observation_1, ..., action_0, ..., reward, terminated"
FLAGS = {"true": 1.0, "false": 0.0}
LARGEST = float(np.finfo(np.float32).max)
LAST_EPISODE = 2.0**53  # beyond it a float no longer tells numbers apart
ACCEPTED = {"terminated": "true, false, 1 and 0", "episode": "numbers up to 2^53"}  # of the others finite numbers


def list_columns(names: list[str], kind: str) -> list[str]:
    """Return the columns of a kind, numbered from 0 without gaps."""
    numbered = [name for name in names if re.fullmatch(rf"{kind}_\d+", name)]
    return [f"{kind}_{number}" for number in range(max(1, len(numbered)))]


def check_names(names: list[str]) -> None:
    """Refuse columns that are missing, unknown or there twice."""
    wanted = ["episode", *list_columns(names, "observation"), *list_columns(names, "action"), "reward", "terminated"]
    missing, others = (
        [name for name in these if name not in those] for these, those in ((wanted, names), (names, wanted))
    )
    twice = sorted({name for name in names if names.count(name) > 1})
    if len(names) == 1:
        raise ValueError(f"line 1: one column, {names[0]!r}; columns are separated by commas, and are {COLUMNS}")
    unknown = "of no kind, or out of turn (remove them, or name them so)"
    for what, found in (("missing", missing), (unknown, others), ("there twice", twice)):
        if found:
            raise ValueError(f"line 1: {what}: {', '.join(map(repr, found))}; the columns are {COLUMNS}")


def read_value(name: str, text: str) -> float:
    """Return a finite number; 1 or 0 for a flag."""
    word = text.strip().lower()
    try:
        value = FLAGS[word] if name == "terminated" and word in FLAGS else float(word)
    except ValueError:
        value = np.nan
    largest = LAST_EPISODE if name == "episode" else LARGEST
    if not (value in (0, 1) if name == "terminated" else abs(value) <= largest):
        raise ValueError(f"column {name}: {text!r}; accepted are {ACCEPTED.get(name, 'finite numbers (float32)')}")
    return value


def read_log(path: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the columns' names, the values (rows, columns), and the line of each row."""
    lines, rows = [], []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        names = [name.strip() for name in next(reader, [])]
        check_names(names)
        for row in filter(None, reader):
            try:
                rows.append([read_value(name, text) for name, text in zip(names, row, strict=True)])
            except ValueError as error:
                found = str(error) if len(row) == len(names) else f"{len(row)} values for {len(names)} columns"
                raise ValueError(f"line {reader.line_num}, {found}") from None
            lines.append(reader.line_num)
    if not rows:
        raise ValueError("there are no rows below the line that names the columns")
    return names, np.array(rows), np.array(lines)


def write_episodes(path: str, folder: str) -> str:
    """Write a log's episodes into a folder; return what was written."""
    names, values, lines = read_log(path)
    kinds = [list_columns(names, "observation"), list_columns(names, "action"), ["reward"], ["terminated"], ["episode"]]
    observations, actions, reward, terminated, number = (
        values[:, [names.index(name) for name in kind]] for kind in kinds
    )
    episodes = np.split(np.arange(len(number)), np.flatnonzero(np.diff(number[:, 0])) + 1)
    known = set()
    for rows in episodes:
        if (episode := number[rows[0], 0]) in known:
            raise ValueError(
                f"line {lines[rows[0]]}, column episode: {episode:g} comes again after another; the rows of an episode "
                "stand together, and no two episodes have the same number"
            )
        known.add(episode)
        early = rows[:-1][terminated[rows[:-1], 0] == 1]
        if early.size:
            raise ValueError(f"line {lines[early[0]]}, column terminated: true, but its episode goes on after it")
    writer, written = vdt.EpisodeWriter(folder), []
    try:
        for rows in episodes:
            ended = bool(terminated[rows[-1], 0])
            written.append(writer.write(observations[rows], actions[rows], reward[rows, 0], terminated=ended))
    except BaseException:
        for file in written:  # else the same log could not be written again
            file.unlink()
        raise
    counts = (
        (len(kinds[0]), "observation"),
        (len(kinds[1]), "action"),
        (len(episodes), "episode"),
        (len(values), "step"),
    )
    summary = ", ".join(f"{count:,} {what}{'' if count == 1 else 's'}" for count, what in counts)
    return summary + warn_of_whole_actions(actions)


def warn_of_whole_actions(actions: np.ndarray) -> str:
    """Say so where all actions (steps, components) are whole numbers from 0 on, which training refuses."""
    if (actions < 0).any() or (actions != np.floor(actions)).any() or not (actions.shape[1] == 1 or actions.max() > 1):
        return ""
    low, high = (
        "[" + ",".join(f"{value:g}" for value in limits) + "]" for limits in (0 * actions.max(0), actions.max(0))
    )
    return (
        "\nwarning: all actions are whole numbers from 0 on, like those of discrete actions, which training refuses. If they "
        f'are continuous, add their range to the last line: --set "task.action_low={low} task.action_high={high}"'
    )


def describe_folder(folder: str) -> str:
    """Say how many episodes a folder holds; nothing if it holds none."""
    count = len(list(Path(folder).expanduser().glob("*.npz")))
    return f"{folder} holds {count:,} episode{'' if count == 1 else 's'}" if count else ""


if len(sys.argv) < 3 or sys.argv[3:] not in ([], ["--append"]):
    sys.exit(f"usage: {sys.argv[0]} LOG.csv FOLDER [--append]")
log, folder = sys.argv[1:3]
if "," in folder:
    sys.exit(f"error: {folder}: accepted is a name without a comma, by which --env tells data sets apart")
try:
    if (held := describe_folder(folder)) and len(sys.argv) == 3:
        sys.exit(f"error: {held}; accepted is a folder without any, or --append, which adds the log's to them")
    print(write_episodes(log, folder))
    print(describe_folder(folder))
except OSError as error:
    sys.exit(f"error: {error.filename or folder}: {error.strerror}")
except (ValueError, csv.Error) as error:
    sys.exit(f"error: {log}: {error}")
print(f".venv/bin/python flows/vdt_flow.py run --env {shlex.quote(f'data:{folder}')}")
