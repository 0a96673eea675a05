"""Whether a critic or a fit can be trusted, in words: its bias, and the rest of the gap that its settings leave."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from vdt.config.convergence import UNFINISHED, estimate_convergence, estimate_fit_gap
from vdt.config.guidance import may_guide
from vdt.evaluation.records import Calibration, CellRecord
from vdt.reporting.frame import Result, find_task

HEADER = ("critic: bias", "critic: gap left", "critic guides")
NOTE = (
    "Critic's bias: mean of its prediction minus the discounted return that followed, in parentheses as a share of that "
    "return; of several cells their mean, then the smallest and the largest, as those of both signs cancel. Gap left: what "
    "its settings can be expected to leave of the way to its fixed point, the largest of the cells. Guides: in how many "
    "cells the critic passed its test (`actor.max_history_correlation`), with the strength that `actor.guidance_scaling` gives; "
    "the others train and act as `dt`. A second critic, trained where the first fails, guides online "
    "tuning and the choice of a return."
)


class CellIndex:
    """Cells by method, task and seed: a table asks for those of each of its rows."""

    def __init__(self, records: Iterable[CellRecord]) -> None:
        """Sort the cells."""
        self._cells: dict[tuple[object, ...], list[CellRecord]] = {}
        for cell in records:
            self._cells.setdefault((cell.name, find_task(cell), cell.seed), []).append(cell)

    def select(self, result: Result) -> list[CellRecord]:
        """Return the cells behind a result."""
        keys = ((result.method, result.task, seed) for seed in result.seeds)
        return [cell for key in keys for cell in self._cells.get(key, ())]


def find_largest_gap(cells: Sequence[CellRecord]) -> float | None:
    """Return the largest share of the gap that the cells' critics leave; none where they have no critic."""
    found = [estimate_convergence(cell.config) for cell in cells]
    return max((convergence.gap for convergence in found if convergence is not None), default=None)


def find_unfinished_fit(cells: Iterable[CellRecord]) -> int | None:
    """Return the steps of the shortest fit of the offline policies' values, if it leaves more than `UNFINISHED`."""
    fits = [cell.evaluation.values["offline"] for cell in cells if "offline" in cell.evaluation.values]
    steps = min((fit.fitted_q_steps for fit in fits if fit.fitted_q is not None), default=None)
    return steps if steps is not None and estimate_fit_gap(steps) > UNFINISHED else None


def describe_unfinished_fit(steps: int) -> str:
    """Return in words how much of the way a fit of so many steps leaves."""
    return f"{steps:,} steps of the fit leave {100 * estimate_fit_gap(steps):.0f} % of the way (`evaluation.fitted_q_steps`)"


def compute_mean_bias(cells: Sequence[CellRecord], policy: str) -> float | None:
    """Compute the mean over cells of the critic's bias on a policy's steps; none where it was not measured."""
    found = _list_calibrations(cells, policy)
    return math.fsum(calibration.bias for calibration in found) / len(found) if found else None


def compute_mean_share(cells: Sequence[CellRecord], policy: str, *, pooled: bool = False) -> float | None:
    """Compute the mean over cells of bias over return; none where it was not measured, or a return is 0.

    If pooled, it is the mean bias over the mean size of the returns, which has the sign of the mean bias.
    """
    found = _list_calibrations(cells, policy)
    earned = [math.fsum(calibration.earned) / len(calibration.earned) for calibration in found]
    if not found or not all(earned):
        return None
    if pooled:
        return math.fsum(c.bias for c in found) / math.fsum(map(abs, earned))
    return math.fsum(c.bias / abs(mean) for c, mean in zip(found, earned, strict=True)) / len(found)


def is_unguided(cell: CellRecord) -> bool:
    """Return whether the cell's critic failed its test, so that the policy trains and acts without it."""
    report = cell.evaluation.diagnostics.get("offline")
    found = None if report is None else report.history_correlation
    return not may_guide(found, cell.config.get("actor.max_history_correlation", 1.0))


def has_second_critic(cell: CellRecord) -> bool:
    """Return whether the cell's first critic failed its test and a second one passed, which guides online tuning alone."""
    report = cell.evaluation.diagnostics.get("offline")
    return report is not None and report.second_critic and not is_unguided(cell)


def describe_guidance(cells: Sequence[CellRecord]) -> str:
    """Return in how many cells the critic guides, as "2 of 3"; "-" where no cell's critic was tested."""
    reports = [cell.evaluation.diagnostics.get("offline") for cell in cells]
    tested = [report for report in reports if report is not None and report.history_correlation is not None]
    return f"{len(cells) - sum(map(is_unguided, cells))} of {len(cells)}" if tested else "-"


def describe_critic(cells: Sequence[CellRecord], policy: str, *, absolute: bool = True) -> tuple[str, str, str]:
    """Return the columns of `HEADER` for a policy's cells.

    Args:
        cells: of one method.
        policy: on whose steps the critic was compared.
        absolute: whether to print the bias in environment units too, which differ between envs.
    """
    bias, share, gap = (
        compute_mean_bias(cells, policy),
        compute_mean_share(cells, policy, pooled=absolute),
        find_largest_gap(cells),
    )
    left, guides = "-" if gap is None else f"{100 * gap:.2g} %", describe_guidance(cells)
    shown = _format_bias(bias, share, absolute=absolute)
    ordered = sorted(_list_biases(cells, policy), key=lambda one: one[0] if absolute else one[1] or 0.0)
    each = [_format_bias(*one, absolute=absolute) for one in ordered]
    spread = f", between {each[0]} and {each[-1]}" if shown != "-" and len({*each}) > 1 else ""
    return f"{shown}{spread}", left, guides


def _format_bias(bias: float | None, share: float | None, *, absolute: bool) -> str:
    percent = "" if share is None else f"{100 * share:+.0f} %"
    if bias is None or not absolute:
        return percent or "-"
    return f"{bias:.4g}{f' ({percent})' if percent else ''}"


def _list_biases(cells: Sequence[CellRecord], policy: str) -> list[tuple[float, float | None]]:
    """Return bias and share of each cell where they were measured."""
    measured = ((cell, compute_mean_bias([cell], policy)) for cell in cells)
    return [(bias, compute_mean_share([cell], policy)) for cell, bias in measured if bias is not None]


def _list_calibrations(cells: Sequence[CellRecord], policy: str) -> list[Calibration]:
    reports = [cell.evaluation.diagnostics.get(policy) for cell in cells]
    return [report.calibration for report in reports if report and report.calibration]
