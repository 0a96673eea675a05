"""Tables of a study: methods over all envs, published numbers beside ours, and what a cell costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vdt.datasets.loaded_data import LABELS
from vdt.reporting.comparison import Aggregate, Headlines, Improvement
from vdt.reporting.figures import name_policy
from vdt.reporting.published import Published
from vdt.reporting.results import Cell, Result, compute_estimate, name_method

KINDS = ("machine", "gpu")  # of memory
NO_WIDTH = "With one run per env an interval has no width: it does not say how another run would do."
PHASES = ("pretrain_critic", "train_actor", "tune_online", "evaluate")


@dataclass(frozen=True)
class Table:
    """One section of a report."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""


def grey(text: str) -> str:
    """Text that is shown in grey where a viewer knows how."""
    return f'<span style="color:grey">{text}</span>' if text else ""


def name_source(source: str) -> str:
    """Where data comes from, in bold unless it is D4RL's."""
    name, _, rest = LABELS.get(source, f"{source} (not D4RL)").partition(" (")
    return f"**{name}** ({rest}" if rest else name


def tabulate_aggregates(aggregates: Sequence[Aggregate]) -> Table:
    """Mean and interquartile mean over envs."""
    rows = [
        (a.method, name_policy(a.policy), a.tasks, a.runs, "-" if a.mean is None else a.mean, a.iqm) for a in aggregates
    ]
    header = ("method", "policy", "envs", "runs", "mean ± SE over seeds", "IQM [95 % interval]")
    note = (
        "normalized_score with the look-ahead that each method acts with, over the envs that all methods have. IQM: mean of "
        "all runs without the lowest and highest quarter; its interval is a bootstrap of runs within each env, rough for "
        f"few seeds. {NO_WIDTH}"
    )
    return Table("Over all envs", header, rows, note)


def tabulate_improvements(improvements: Sequence[Improvement]) -> Table:
    """Probability of improvement against each other method."""
    rows = []
    for i in improvements:
        p = i.probability
        interval = f"{p.value:.2f} [{p.low:.2f}, {p.high:.2f}]"
        rows.append((name_policy(i.policy), i.method, i.baseline, i.tasks, interval))
    header = ("policy", "method", "against", "envs", "P(improvement) [95 % interval]")
    note = (
        "Probability that a run of the method scores above a run of the other, a tie counting one half; mean over envs. "
        f"{NO_WIDTH}"
    )
    return Table("Probability of improvement", header, rows, note)


def tabulate_published(cells: Sequence[Cell], headlines: Headlines, published: Published) -> Table:
    """Ours beside theirs, env by env, with what differs."""
    rows = []
    labels = {(c["config"]["env"], c["snapshot"]["md5"], c["config"]["preset"], name_method(c)): c for c in cells}
    for (env, md5, preset, method), cell in labels.items():
        task = (env, cell["snapshot"]["source"], md5, preset)
        ours = [
            _format(headlines.get(policy, {}).get(method, {}).get(task))
            for policy in ("offline", "online", "online_best")
        ]
        value = published.find(env, cell["config"]["method"], cell.get("patch", ""))
        rows.append((env, method, *ours, grey(published.format(value)) or "-", describe_difference(cell)))
    header = ("env", "method", "ours, offline", "ours, online", "ours, online, best checkpoint")
    what = f"{published.source}{' (before → after)' if published.change else ''}"
    note = (
        "Grey: printed by others, on their data, physics and budgets. Ours: the look-ahead that the method acts with."
    )
    return Table("Beside published numbers", (*header, grey(what), "what differs from theirs"), rows, note)


def _format(result: Result | None) -> str:
    if result is None:
        return "-"
    estimate = compute_estimate(result.scores)
    return f"{estimate}{' *episodes*' if estimate.over == 'episodes' and estimate.standard_error is not None else ''}"


def describe_difference(cell: Cell) -> str:
    """Data, physics and budget in words, so that nobody takes a collected result for a D4RL one."""
    source, config = cell["snapshot"]["source"], cell["config"]
    same = source == "d4rl"
    data = "D4RL's data" if same else f"**other data**: {name_source(source)}"
    physics = f"physics: {config.get('task.environment_id')} on the present MuJoCo"
    return f"{data}; {physics}; budget: {config['preset']}"


def tabulate_cost(cells: Sequence[Cell], published: Published | None) -> Table:
    """Parameters, peak memory, seconds per phase and environment steps: means over a method's cells."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((*_identify(cell), cell["config"]["preset"]), []).append(cell)
    rows = [(*key, *_measure_cost(group)) for key, group in groups.items()]
    phases = [f"{phase}, s" for phase in PHASES]
    header = (
        "env",
        "data",
        "method",
        "preset",
        "parameters: policy",
        "critic",
        "peak memory, MB",
        "GPU, MB",
        *phases,
        "env steps",
    )
    notes = [
        "Means over cells. Peak memory is the most that one step's process held, libraries included. Seconds depend on how "
        "many cells ran at once; those of a shared training (*) are another cell's waiting and reading."
    ]
    if published is not None:
        listed = (f"{what}: {', '.join(f'{k} {v}' for k, v in row.items())}" for what, row in published.rows.items())
        notes.append(grey(f"{published.source}: {'; '.join(listed)}. Another machine, a GPU."))
    return Table("Cost", header, rows, " ".join(notes))


def _measure_cost(cells: Sequence[Cell]) -> list[str]:
    reports = [cell["evaluation"].get("diagnostics", {}) for cell in cells]
    parameters = [report["offline"]["parameters"] for report in reports if "offline" in report]
    memory = [cell.get("memory", {}).values() for cell in cells]
    shared = {phase for cell in cells for phase, owner in cell.get("shared_from", {}).items() if owner}
    return [
        *(_average((p[part] for p in parameters), "{:,.0f}".format) for part in ("policy", "critic")),
        *(
            _average((max(found) for steps in memory if (found := [s[kind] for s in steps if kind in s])), _whole)
            for kind in KINDS
        ),
        *(
            _average((c["seconds"][phase] for c in cells if phase in c["seconds"]), _tenths)
            + ("*" if phase in shared else "")
            for phase in PHASES
        ),
        _average((r["online"]["environment_steps"] for r in reports if "online" in r), "{:,.0f}".format),
    ]


def _whole(number: float) -> str:
    return f"{number:.0f}"


def _tenths(number: float) -> str:
    return f"{number:.1f}"


def _average(numbers: Iterable[float], show: Callable[[float], str]) -> str:
    values = list(numbers)
    return show(math.fsum(values) / len(values)) if values else "-"


def tabulate_diagnostics(cells: Sequence[Cell]) -> Table:
    """Requested and achieved return, and the critic's calibration, cell by cell."""
    rows = []
    for cell in cells:
        for policy, report in cell["evaluation"].get("diagnostics", {}).items():
            if "requested" in report:
                rows.append(
                    (*_identify(cell), cell["config"]["seed"], name_policy(policy), *_describe_requests(report))
                )
    header = ("env", "data", "method", "seed", "policy", "requested → achieved return", "critic: bias", "correlation")
    note = (
        "One candidate at a time, without choice. Bias: mean of the critic's prediction minus the discounted return that "
        "followed, in environment units; correlation over the same steps."
    )
    return Table("Requested returns and the critic's calibration", header, rows, note)


def _identify(cell: Cell) -> tuple[str, str, str]:
    return cell["config"]["env"], name_source(cell["snapshot"]["source"]), name_method(cell)


def _describe_requests(report: Mapping[str, Any]) -> tuple[str, str, str]:
    pairs = (f"{r['requested']:g} → {math.fsum(r['achieved']) / len(r['achieved']):.0f}" for r in report["requested"])
    known = report.get("calibration", {})
    bias, correlation = known.get("bias"), known.get("correlation")
    return (
        ", ".join(pairs),
        "-" if bias is None else f"{bias:.4g}",
        "-" if correlation is None else f"{correlation:.2f}",
    )
