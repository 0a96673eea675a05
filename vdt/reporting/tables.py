"""Tables of a report, as Markdown: results, changes, costs, and published numbers beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from vdt.environments.scores import describe_cut, format_return, format_success
from vdt.evaluation.records import CellRecord
from vdt.reporting import calibration
from vdt.reporting.aggregates import Aggregate, Headlines, Improvement
from vdt.reporting.calibration import CellIndex, describe_critic
from vdt.reporting.document import Table
from vdt.reporting.frame import Change, Estimate, Result, compute_config_differences, compute_estimate, label_data
from vdt.reporting.published import Published

KINDS = ("machine", "gpu")  # of memory
OTHER_SEEDS = "A mean without ± is that of the data sets' means: they have different seeds, or one."
NO_WIDTH = "With one run per env an interval has no width: it does not say how another run would do."
PHASES = ("pretrain_critic", "train_actor", "tune_online", "evaluate")
SUCCESS_HEADER = "success rate (± over seeds, or Wilson's 95%)"


def grey(text: str) -> str:
    """Return text that is shown in grey where a viewer supports it."""
    return f'<span style="color:grey">{text}</span>' if text else ""


def name_policy(policy: str) -> str:
    """Return a policy in words."""
    return "online, best checkpoint" if policy == "online_best" else policy


def name_source(label: str) -> str:
    """Return the data source in words, in bold unless it is D4RL's."""
    name, _, rest = label.partition(" (")
    return f"**{name}** ({rest}" if rest else name


def identify(record: CellRecord) -> tuple[str, str, str]:
    """Return the columns env, data and method of a cell."""
    return record.env, name_source(record.data_label), record.name


def _format_score(result: Result | None) -> str:
    if result is None:
        return "-"
    if result.score is not None:
        return _format_estimate(result.score)
    return f"none: others were {describe_cut(result.cut_at)}" if result.is_withheld else describe_cut(result.cut_at)


def _format_estimate(estimate: Estimate) -> str:
    return f"{estimate}{' *episodes*' if estimate.is_over_episodes else ''}"


def tabulate_results(title: str, records: Sequence[CellRecord], results: Sequence[Result]) -> Table:
    """Make the table of scores and returns; the critic's bias is the mean over cells."""
    labels = label_data(records)
    cells = CellIndex(records)
    header = "env|data|data's mean score|method|policy|look-ahead|normalized_score|episode return"
    rows = [
        (
            result.env,
            name_source(labels[result.env, result.source, result.md5]),
            "?" if result.dataset_score is None else f"{result.dataset_score:.1f}",
            result.method,
            name_policy(result.policy),
            result.planner,
            _format_score(result),
            format_return(result.episode_return.mean),
            *describe_critic(cells.select(result), result.policy),
            f"{len(result.seeds)} ({', '.join(map(str, result.seeds))})",
            sum(map(len, result.returns)),
            f"{math.fsum(result.milliseconds_per_step) / len(result.seeds):.2f}",
            _format_successes(result),
        )
        for result in results
    ]
    more = (*calibration.HEADER, "seeds", "episodes", "ms per step", SUCCESS_HEADER)
    return Table(title, (*header.split("|"), *more), rows, calibration.NOTE)


def _format_successes(result: Result) -> str:
    """Return the success rate with its uncertainty; episodes of one policy are no independent trials of a method."""
    runs = [successes for successes in result.successes if successes]
    if len(runs) < 2:
        return format_success(runs[0]) if runs else "-"
    rate = compute_estimate(runs)
    return f"{rate.mean:.0%} ± {100 * (rate.standard_error or 0.0):.0f}"


def tabulate_changes(records: Sequence[CellRecord], changes: Sequence[Change]) -> Table:
    """Make the table of changes by look-ahead and online tuning."""
    labels = label_data(records)
    rows = [
        (
            change.before.env,
            name_source(labels[change.before.env, change.before.source, change.before.md5]),
            change.before.method,
            change.effect,
            f"{name_policy(change.before.policy)} {change.before.planner}",
            f"{name_policy(change.after.policy)} {change.after.planner}",
            f"{change.estimate.mean:+.1f}"
            + ("" if change.estimate.standard_error is None else f" ± {change.estimate.standard_error:.1f}")
            + (" *episodes*" if change.estimate.is_over_episodes else ""),
            change.estimate.seeds,
        )
        for change in changes
    ]
    header = ("env", "data", "method", "what", "from", "to", "change of normalized_score", "seeds")
    return Table("Look-ahead and online tuning", header, rows, "Paired by seed and episode.")


def tabulate_held_out(records: Sequence[CellRecord]) -> Table:
    """Make the table of held-out episodes, cell by cell."""
    rows = []
    for record in records:
        for policy, report in record.evaluation.held_out.items():
            values = (report.policy_value, report.data_value, report.monte_carlo_value, report.value_correlation)
            numbers = (report.action_rmse, report.action_std, *values)
            counts = (record.seed, policy, report.episodes, report.steps)
            rows.append((*identify(record), *counts, *("-" if n is None else _four_digits(n) for n in numbers)))
    header = (
        "env|data|method|seed|policy|episodes|steps|action error (RMSE)|std of actions|value of policy's actions|"
        "value of data's actions|discounted return of data|correlation"
    )
    note = (
        "Episodes that were not trained on. Values are the critic's smaller target Q, discounted, in environment units; beside "
        "them what the data's steps really earned, bootstrapped where an episode was cut."
    )
    return Table("Held-out episodes", header.split("|"), rows, note)


def tabulate_config_differences(records: Sequence[CellRecord]) -> Table:
    """Make the table of keys in which the methods' configurations differ."""
    differences = compute_config_differences(records)
    methods = list(dict.fromkeys(record.name for record in records))
    rows = [
        (f"`{key}`", *(", ".join(map(str, row.get(method, ["-"]))) for method in methods))
        for key, row in differences.items()
    ]
    return Table("What the methods' configurations differ in", ("key", *methods), rows)


def tabulate_cells(records: Sequence[CellRecord]) -> Table:
    """Make the table of cells: the data's md5 and the MLflow run of each."""
    header = ("env", "data", "method", "preset", "seed", "data md5", "MLflow run")
    rows = [
        (*identify(r), r.preset, r.seed, f"`{r.snapshot.md5}`", f"`{r.mlflow_run_id}`" if r.mlflow_run_id else "-")
        for r in records
    ]
    return Table("Cells", header, rows)


def tabulate_seconds(records: Sequence[CellRecord]) -> Table:
    """Make the table of how long each step of each cell took."""
    steps = list(dict.fromkeys(step for record in records for step in record.seconds))
    rows = [
        (*identify(r), r.preset, r.seed, *(f"{r.seconds[step]:.1f}" if step in r.seconds else "-" for step in steps))
        for r in records
    ]
    return Table("Seconds of each step", ("env", "data", "method", "preset", "seed", *steps), rows)


def tabulate_aggregates(aggregates: Sequence[Aggregate], records: Sequence[CellRecord]) -> Table:
    """Make the table of mean and interquartile mean over envs."""
    rows = []
    for a in aggregates:
        cells = [
            r
            for r in records
            if r.name == a.method and (r.env, r.snapshot.source, r.snapshot.md5, r.preset) in a.shared
        ]
        critic = describe_critic(cells, a.policy, absolute=False)
        rows.append((a.method, name_policy(a.policy), a.tasks, a.runs, a.mean, a.iqm, *critic))
    header = (
        "method",
        "policy",
        "data sets",
        "runs",
        "mean ± SE over seeds",
        "IQM [95 % interval]",
        *calibration.HEADER,
    )
    note = (
        "normalized_score with the look-ahead that each method acts with, over the envs that all methods have. IQM: mean of "
        "all runs without the lowest and highest quarter, each data set counting the same; its interval is a bootstrap of runs "
        f"within each data set, and of data sets where an env has several, rough for few seeds. {NO_WIDTH}"
        + ("" if all(a.has_equal_seeds for a in aggregates) else f" {OTHER_SEEDS}")
    )
    return Table("Over all envs", header, rows, note)


def tabulate_improvements(improvements: Sequence[Improvement]) -> Table:
    """Make the table of the probability of improvement against each other method."""
    rows = []
    for i in improvements:
        p = i.probability
        interval = f"{p.value:.2f} [{p.low:.2f}, {p.high:.2f}]"
        rows.append((name_policy(i.policy), i.method, i.baseline, i.tasks, interval))
    header = ("policy", "method", "against", "data sets", "P(improvement) [95 % interval]")
    note = (
        "Probability that a run of the method scores above a run of the other, a tie counting one half; mean over envs. "
        f"{NO_WIDTH}"
    )
    return Table("Probability of improvement", header, rows, note)


def tabulate_published(records: Sequence[CellRecord], headlines: Headlines, published: Published) -> Table:
    """Make the table of results beside published ones, env by env, with their differences."""
    rows = []
    cells: dict[tuple[str, str, str, str], list[CellRecord]] = {}
    for record in records:
        cells.setdefault((record.env, record.snapshot.md5, record.preset, record.name), []).append(record)
    for (env, md5, preset, method), (record, *others) in cells.items():
        critic = describe_critic([record, *others], "offline")
        task = (env, record.snapshot.source, md5, preset)
        ours = [
            _format_score(headlines.get(policy, {}).get(method, {}).get(task))
            for policy in ("offline", "online", "online_best")
        ]
        value = published.find(env, record.method, record.patch)
        rows.append((env, method, *ours, *critic, grey(published.format(value)) or "none", describe_difference(record)))
    ours_header = ("ours, offline", "ours, online", "ours, online, best checkpoint")
    header = ("env", "method", *ours_header, *calibration.HEADER)
    what = f"{published.source}{' (before → after)' if published.change else ''}"
    note = (
        "Grey: printed by others, on their data, physics and budgets. Ours: the look-ahead that the method acts with."
    )
    return Table("Beside published numbers", (*header, grey(what), "what differs from theirs"), rows, note)


def describe_difference(record: CellRecord) -> str:
    """Return data, physics and budget in words, so that a collected result is not mistaken for a D4RL one."""
    label, other = record.snapshot.label, "" if record.snapshot.source == "d4rl" else "**other data**: "
    data = "D4RL's data" if label == "D4RL" else other + name_source(label)
    physics = f"physics: {record.config.get('task.environment_id')} on the present MuJoCo"
    return f"{data}; {physics}; budget: {record.preset}"


def tabulate_cost(records: Sequence[CellRecord], published: Published | None) -> Table:
    """Make the table of parameters, peak memory, seconds per phase and environment steps: means over cells."""
    groups: dict[tuple[str, ...], list[CellRecord]] = {}
    for record in records:
        groups.setdefault((*identify(record), record.preset), []).append(record)
    rows = [(*key, *_measure_cost(group)) for key, group in groups.items()]
    sizes = ("policy parameters", "critic parameters", "peak memory, MB", "GPU, MB")
    header = ("env", "data", "method", "preset", *sizes, *(f"{phase}, s" for phase in PHASES), "env steps")
    notes = [
        "Means over cells. Peak memory is the most that one step's process held, libraries included. Seconds depend on how "
        "many cells ran at once; those of a shared training (*) are another cell's waiting and reading. Those of a step that was "
        "killed leave out what was lost after its last checkpoint."
    ]
    if published is not None:
        listed = (f"{what}: {', '.join(f'{k} {v}' for k, v in row.items())}" for what, row in published.rows.items())
        notes.append(grey(f"{published.source}: {'; '.join(listed)}. Another machine, a GPU."))
    return Table("Cost", header, rows, " ".join(notes))


def _measure_cost(records: Sequence[CellRecord]) -> list[str]:
    reports = [record.evaluation.diagnostics for record in records]
    parameters = [found["offline"].parameters for found in reports if "offline" in found]
    memory = [record.memory.values() for record in records]
    shared = {phase for record in records for phase, owner in record.shared_from.items() if owner}
    critics = any(record.config.get("critic.gradient_steps") != 0 for record in records)  # else it costs nothing
    return [
        _average((p.policy for p in parameters), "{:,.0f}".format),
        _average((p.critic for p in parameters if critics), "{:,.0f}".format),
        *(
            _average((max(found) for steps in memory if (found := [s[kind] for s in steps if kind in s])), _whole)
            for kind in KINDS
        ),
        *(
            _average(
                (r.seconds[phase] for r in records if phase in r.seconds and (critics or phase != "pretrain_critic")),
                _tenths,
            )
            + ("*" if phase in shared else "")
            for phase in PHASES
        ),
        _average((found["online"].environment_steps for found in reports if "online" in found), "{:,.0f}".format),
    ]


def _whole(number: float) -> str:
    return f"{number:.0f}"


def _tenths(number: float) -> str:
    return f"{number:.1f}"


def _four_digits(number: float) -> str:
    return f"{number:.4g}"


def _average(numbers: Iterable[float], show: Callable[[float], str]) -> str:
    values = list(numbers)
    return show(math.fsum(values) / len(values)) if values else "-"
