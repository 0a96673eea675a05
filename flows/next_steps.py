"""What a finished run can be used for: the lines `use` and `next` of its last screen."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from flows.command_line import get_training_command
from vdt.evaluation.records import CellRecord
from vdt.experiments.cells import DEFAULTS
from vdt.experiments.resolve import DERIVED
from vdt.system.home import make_vdt_command, name_home

TRIAL = "smoke"  # preset that learns nothing
COMPARISON = "--method vdt,dt --seeds 0,1,2"


def suggest_use(cell: CellRecord, run_id: str, *, choose: bool) -> str:
    """Return how to use a cell's policy: the command that reproduces its score, or Python that loads it where none can.

    Args:
        cell: finished.
        run_id: Metaflow's.
        choose: whether the run has several cells, so that the line must name one.
    """
    from vdt.reporting.aggregates import find_headline

    lookahead = find_headline(cell.config) != "single" and cell.config.get("planner.env_model") != "simulator"
    if cell.evaluation.policies:
        words = [f"--cell {shlex.quote(cell.key)}"] if choose else []
        return make_vdt_command(" ".join(["evaluate", run_id, *words, *(["--lookahead"] if lookahead else [])]))
    arguments = [repr(run_id), *([f"cell={cell.key!r}"] if choose else []), *(["lookahead=True"] if lookahead else [])]
    return f"import vdt; policy = vdt.load_policy({', '.join(arguments)})"


def suggest_next(cells: Sequence[CellRecord]) -> str:
    """Return the command of the next run: after a trial the same envs at full budgets, else a comparison over seeds."""
    first = cells[0]
    named = first.env.partition(":")[0] not in DERIVED
    source, preset = (str(first.config.get(key)) for key in ("data.source", "preset"))
    words = [
        f"--env {shlex.quote(','.join(dict.fromkeys(cell.env for cell in cells)))}",
        *([f"--source {shlex.quote(source)}"] if named and source not in ("None", DEFAULTS["source"]) else []),
        *([f"--preset {preset}"] if preset not in (TRIAL, DEFAULTS["preset"]) else []),
        *(_name_trained(cells) if preset == TRIAL else [COMPARISON]),
    ]
    return f"{name_home()}{get_training_command()} run {' '.join(words)}"


def _name_trained(cells: Sequence[CellRecord]) -> list[str]:
    """Return the options that name the cells' methods and seeds, where they are not the defaults."""
    given = {
        "method": ",".join(dict.fromkeys(cell.method for cell in cells)),
        "seeds": ",".join(dict.fromkeys(str(cell.seed) for cell in cells)),
    }
    return [f"--{name} {text}" for name, text in given.items() if text != DEFAULTS[name]]
