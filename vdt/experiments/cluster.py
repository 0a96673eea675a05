"""A study's cells as jobs of a cluster: what they need, and in which order they run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdt.config.errors import ConfigError
from vdt.config.layers import PARAMS, load_yaml
from vdt.config.schema import Config
from vdt.evaluation.records import CellRecord
from vdt.experiments.sharing import compute_actor_key, compute_critic_key
from vdt.experiments.study import Cell

JOB_SCRIPT = Path(__file__).with_name("slurm_job.sh")
MARGIN = 1.5  # over what finished cells have taken
NUMBER_BYTES = 4
LEAST_MINUTES = 5  # of a job: it is stopped two minutes ahead of its limit (`--signal` in the script), or one more
FAMILIES = (  # options of sbatch that replace each other
    ("--time", "-t"),
    ("--mem", "--mem-per-cpu", "--mem-per-gpu"),
    ("--cpus-per-task", "-c", "--cpus-per-gpu"),
    ("--gres", "--gpus", "-G", "--gpus-per-node", "--gpus-per-task"),
)


@dataclass(frozen=True)
class Needs:
    """What a job of one cell asks for."""

    minutes: int
    megabytes: int
    cores: int
    gpus: int

    def make_options(self, given: Sequence[str]) -> list[str]:
        """Return options of sbatch, without those that the given words replace."""
        own = (
            f"--time={self.minutes}",
            f"--mem={self.megabytes}M",
            f"--cpus-per-task={self.cores}",
            f"--gres=gpu:{self.gpus}" if self.gpus else "",
        )
        return [
            word
            for word, family in zip(own, FAMILIES, strict=True)
            if word and not any(_is_one(w, family) for w in given)
        ]


def _is_one(word: str, family: Iterable[str]) -> bool:
    """Return whether a word is an option of a family: `--time=5`, `--time`, `-t5`."""
    name = word.partition("=")[0]
    return any(name == option or (len(option) == 2 and word.startswith(option)) for option in family)


def estimate_needs(cells: Sequence[Cell], finished: Sequence[CellRecord], steps: Sequence[Mapping[str, Any]]) -> Needs:
    """Return what one job needs that may run any of the cells.

    Args:
        cells: to be run.
        finished: of the same study, whose measured time and memory count where they are larger.
        steps: attributes of the DAG's `@resources`, those that are given: `gpu`, `cpu`, `memory` in MB.
    """
    known, configs = load_yaml(PARAMS / "needs.yaml"), [cell.config for cell in cells]
    asked = {
        name: max((int(step[name] or 0) for step in steps if name in step), default=0)
        for name in ("gpu", "cpu", "memory")
    }
    gpus = asked["gpu"] if any(config.runtime.device != "cpu" for config in configs) else 0
    memory = known["memory"]
    data = max(_count_data_bytes(config, known["recorded_steps"]) for config in configs) / 1e6
    megabytes = memory["process"] + (memory["gpu"] if gpus else 0) + memory["data_copies"] * data
    longest = max((sum(record.seconds.values()) for record in finished), default=0.0) / 60
    largest = max((peak["machine"] for record in finished for peak in record.memory.values()), default=0.0)
    return Needs(
        minutes=round(max(*(_read_preset(known["minutes"], config.preset) for config in configs), MARGIN * longest)),
        megabytes=round(max(megabytes, asked["memory"], MARGIN * largest)),
        cores=max(asked["cpu"], *(_read_preset(known["cores"], config.preset) for config in configs)),
        gpus=gpus,
    )


def _read_preset(figures: Mapping[str, int], preset: str) -> int:
    """Return a preset's figure; of one that is not listed, the largest."""
    return int(figures.get(preset, max(figures.values())))


def _count_data_bytes(config: Config, recorded_steps: int) -> int:
    """Return the bytes of the data's arrays: observations, actions, reward, return-to-go.

    `data.steps` says how many steps are collected; those of recorded data are not known before it is read.
    """
    numbers = config.task.observation_size + config.task.action_size + 2
    steps = config.data.steps if config.data.source == "collected" else max(config.data.steps, recorded_steps)
    return steps * numbers * NUMBER_BYTES


def make_waves(
    missing: Sequence[Cell], there: Sequence[Cell], busy: Sequence[Cell], *, shares: bool
) -> list[list[Cell]]:
    """Divide cells into waves, each of which is to begin when the one before it has ended.

    In the first is, of all cells that share a critic or an actor, the one that trains it. No other cell then waits for that
    on a node. The second is empty where nothing is shared, and the third nearly always.

    Args:
        missing: cells to be run, in the study's order.
        there: finished cells: what they have trained need not be waited for.
        busy: cells that a job runs or is to run already: they are ahead of the second wave.
        shares: whether cells share trainings at all.
    """
    turns: dict[str, int] = {}
    if not shares:
        return [list(missing)] if missing else []
    for cells, turn in ((there, 0), (busy, 1)):
        for cell in cells:
            for key in _list_keys(cell.config):
                turns.setdefault(key, turn)
    waves: list[list[Cell]] = []
    for cell in missing:
        keys = _list_keys(cell.config)
        turn = 1 + max((turns.get(key, 0) for key in keys), default=0)
        for key in keys:
            turns.setdefault(key, turn)
        while len(waves) < turn:
            waves.append([])
        waves[turn - 1].append(cell)
    return waves


def _list_keys(config: Config) -> tuple[str, ...]:
    """Return names of the trainings that a cell shares with others of the same settings."""
    if config.critic.gradient_steps == 0 or config.trains_together:
        return (f"actor {config.env} {compute_actor_key(config, '')}",)
    return (
        f"critic {config.env} {compute_critic_key(config, '')}",
        f"actor {config.env} {compute_actor_key(config, '')}",
    )


def drop_needs(words: Sequence[str]) -> list[str]:
    """Return options of sbatch without those on time, memory, cores and GPUs, and without their values."""
    kept: list[str] = []
    value_follows = False
    for word in words:
        if value_follows and not word.startswith("-"):
            value_follows = False
            continue
        value_follows = False
        if any(_is_one(word, family) for family in FAMILIES):
            value_follows = word in {option for family in FAMILIES for option in family}
        else:
            kept.append(word)
    return kept


def check_limit(words: Sequence[str]) -> None:
    """Refuse a time limit at which a job would be stopped as it begins, and queued again without end.

    Args:
        words: options of sbatch; with a `--signal` of its own any limit is accepted.

    Raises:
        ConfigError: naming the limit.
    """
    if any(word.startswith("--signal") for word in words):
        return
    for place, word in enumerate(words):
        if not _is_one(word, FAMILIES[0]):
            continue
        following = "".join(words[place + 1 : place + 2])
        text = following if word in FAMILIES[0] else word.partition("=")[2] or word.removeprefix("-t")
        minutes = parse_minutes(text)
        if minutes is not None and minutes < LEAST_MINUTES:
            raise ConfigError(
                f"--sbatch: a time limit of {text} is too short: a job is stopped two to three minutes ahead of it, to write "
                f"a checkpoint. Accepted are at least {LEAST_MINUTES} minutes, or a --signal of your own beside it"
            )


def parse_minutes(text: str) -> float | None:
    """Return the minutes of a limit as Slurm writes it, "30", "30:00", "1:30:00", "1-12" or "1-12:30"; none for no limit."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in ([days] if dash else []) + parts) or len(parts) > 3:
        return None
    figures = [int(part) for part in parts]
    if not dash and len(figures) < 3:  # behind days the first figure is hours, alone it is minutes
        figures = [0, *figures]
    hours, minutes, seconds = [*figures, 0, 0][:3]
    return (int(days or 0) * 24 + hours) * 60 + minutes + seconds / 60 or None
