"""What a finished run can be used for: the lines `use` and `next` of its last screen."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from flows.command_line import get_training_command
from vdt.config.errors import ConfigError
from vdt.config.guidance import can_choose
from vdt.config.presets import TRIAL
from vdt.evaluation.records import CellRecord
from vdt.experiments.cells import DEFAULTS, list_words, resolve_cells
from vdt.experiments.ranges import format_numbers, parse_numbers
from vdt.experiments.resolve import DERIVED
from vdt.system.home import make_vdt_command, name_home

BASELINE, GUIDED = "dt", "vdt"  # methods of a comparison: the former beside others, the latter beside it alone
COMPARED_SEEDS = "0,1,2"
MORE_SEEDS = 2
TRAINED = ("method", "seeds")
KEPT = ("study", "sweep", "env", "source", "data_seeds", "set", "init_from")  # options that the next run has too


def is_taken(cell: CellRecord) -> bool:
    """Return whether a cell's policy lies in a file of another cell, which acts by that cell's settings."""
    return bool(cell.shared_from.get("train_actor")) and "online" not in cell.evaluation.policies


def name_policy(cell: CellRecord, run_id: str, path: str, *, choose: bool) -> str:
    """Return the words by which `vdt.load_policy` finds a cell's policy: its file, or the run where the file is another's.

    Args:
        cell: finished.
        run_id: Metaflow's.
        path: of the policy's file.
        choose: whether the run has several cells, so that one must be named.
    """
    if not is_taken(cell):
        return repr(path)
    return f"{run_id!r}, cell={cell.key!r}" if choose else repr(run_id)


def suggest_use(cell: CellRecord, run_id: str, path: str, *, choose: bool) -> str:
    """Return how to use a cell's policy: the command that reproduces its score, or Python that loads it where none can.

    Args:
        cell: finished.
        run_id: Metaflow's.
        path: of the policy's file, which is found from any program, whatever its home folder.
        choose: whether the run has several cells, so that the line must name one.
    """
    from vdt.reporting.aggregates import find_headline
    from vdt.reporting.calibration import is_unguided

    env_model = cell.config.get("planner.env_model")
    lookahead = can_choose(find_headline(cell.config), env_model, guided=not is_unguided(cell))
    if cell.evaluation.policies:
        words = [f"--cell {shlex.quote(cell.key)}"] if choose else []
        return make_vdt_command(" ".join(["evaluate", run_id, *words, *(["--lookahead"] if lookahead else [])]))
    where = name_policy(cell, run_id, path, choose=choose)
    return f"import vdt; policy = vdt.load_policy({where}{', lookahead=True' if lookahead else ''})"


def suggest_next(cells: Sequence[CellRecord], given: Mapping[str, str]) -> str:
    """Return the command of the next run: after a trial the same at full budgets, else a comparison, or more seeds.

    It is empty where no such command is accepted, as for a search, whose report names the winner's.

    Args:
        cells: of the report.
        given: options of the run's command line by name (`OPTIONS`), empty where not given.
    """
    options = _choose_next(cells, given)
    rest = {name: text for name, text in options.items() if name not in TRAINED}
    more = {**rest, **_name_trained(cells), "seeds": _add_seeds(cells)}
    for choice in (options, more):
        if not _repeats(choice, given) and _is_accepted(choice):
            return f"{name_home()}{get_training_command()} run {shlex.join(list_words(choice))}"
    return ""


def _repeats(options: Mapping[str, str], given: Mapping[str, str]) -> bool:
    """Return whether options mean the run whose command line had those given."""
    defaults = {} if given.get("study") else DEFAULTS  # a study has its own
    names = (*KEPT, *TRAINED, "preset")
    runs = [{name: words.get(name) or defaults.get(name, "") for name in names} for words in (options, given)]
    for run in runs:
        run["seeds"] = format_numbers(parse_numbers(run["seeds"], "--seeds")) if run["seeds"] else ""
        run["method"] = ",".join(sorted(run["method"].replace(" ", "").split(",")))
    return runs[0] == runs[1]


def _is_accepted(options: Mapping[str, str]) -> bool:
    """Return whether a command line's options are accepted, and name no search."""
    try:
        _, study = resolve_cells(options)
    except ConfigError:
        return False
    return study is None or study.search is None


def _choose_next(cells: Sequence[CellRecord], given: Mapping[str, str]) -> dict[str, str]:
    """Return the options of the next run by name."""
    was = str(cells[0].config.get("preset"))
    preset = DEFAULTS["preset"] if was == TRIAL else was
    options = {name: given[name] for name in KEPT if given.get(name)}
    if given.get("study"):
        options |= {"preset": preset} if was == TRIAL or given.get("preset") else {}
    else:
        options |= {**_name_data(cells), **({"preset": preset} if preset != DEFAULTS["preset"] else {})}
    if given.get("study") or given.get("sweep"):
        options |= {name: given[name] for name in TRAINED if given.get(name)}
        options |= {} if was == TRIAL else {"seeds": _add_seeds(cells)}
    else:
        options |= _name_trained(cells) if was == TRIAL else _make_comparison(cells)
    return options


def _make_comparison(cells: Sequence[CellRecord]) -> dict[str, str]:
    """Return the options by which the cells' methods are compared with the baseline; with the guided one if it ran alone."""
    own = list(dict.fromkeys(cell.method for cell in cells))
    methods = [GUIDED, BASELINE] if own == [BASELINE] else list(dict.fromkeys([*own, BASELINE]))
    return {"method": ",".join(methods), "seeds": COMPARED_SEEDS}


def _add_seeds(cells: Sequence[CellRecord]) -> str:
    """Return the cells' seeds and two more."""
    used = {cell.seed for cell in cells}
    return format_numbers(used | {max(used) + 1 + more for more in range(MORE_SEEDS)})


def _name_data(cells: Sequence[CellRecord]) -> dict[str, str]:
    """Return the options that name the cells' envs and where their data comes from, where that is not the default."""
    source = str(cells[0].config.get("data.source"))
    named = cells[0].env.partition(":")[0] not in DERIVED
    envs = {"env": ",".join(dict.fromkeys(cell.env for cell in cells))}
    return {**envs, "source": source} if named and source not in ("None", DEFAULTS["source"]) else envs


def _name_trained(cells: Sequence[CellRecord]) -> dict[str, str]:
    """Return the options that name the cells' methods and seeds, where they are not the defaults."""
    given = {
        "method": ",".join(dict.fromkeys(cell.method for cell in cells)),
        "seeds": ",".join(dict.fromkeys(str(cell.seed) for cell in cells)),
    }
    return {name: text for name, text in given.items() if text != DEFAULTS[name]}
