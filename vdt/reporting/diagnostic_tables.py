"""Table of what explains scores: requested and achieved returns, and the critic's calibration, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vdt.environments.scores import describe_cut
from vdt.evaluation.records import CellRecord, Diagnostics
from vdt.reporting.document import Table
from vdt.reporting.tables import identify, name_policy


def tabulate_diagnostics(records: Sequence[CellRecord]) -> Table:
    """Make the table of requested and achieved return, and of the critic's calibration, cell by cell."""
    rows = []
    for record in records:
        for policy, report in record.evaluation.diagnostics.items():
            if report.requested is not None:
                rows.append((*identify(record), record.seed, name_policy(policy), *_describe_requests(report)))
    header = (
        "env",
        "data",
        "method",
        "seed",
        "policy",
        "requested → achieved return",
        "critic: bias",
        "correlation",
        "errors' correlation",
    )
    note = (
        "One candidate at a time, without choice. Bias: mean of the critic's prediction minus the discounted return that "
        "followed, in environment units; correlation over the same steps. Errors' correlation: of the critic's errors before "
        "and after a step of the data; above `actor.max_history_correlation` the critic does not guide, below as "
        "`actor.guidance_scaling` says."
    )
    return Table("Requested returns and the critic's calibration", header, rows, note)


def _describe_requests(report: Diagnostics) -> tuple[str, ...]:
    requested = report.requested or ()
    pairs = ", ".join(f"{r.requested:g} → {math.fsum(r.achieved) / len(r.achieved):.0f}" for r in requested)
    cut = next((f" ({describe_cut(r.cut_at)})" for r in requested if r.cut_at is not None), "")
    bias, correlation = (
        (report.calibration.bias, report.calibration.correlation) if report.calibration else (None, None)
    )
    return (
        pairs + cut,
        "-" if bias is None else f"{bias:.4g}",
        "-" if correlation is None else f"{correlation:.2f}",
        "-" if report.history_correlation is None else f"{report.history_correlation:.2f}",
    )


def tabulate_values(records: Sequence[CellRecord]) -> Table:
    """Make the table of what the policy is worth without an environment, cell by cell."""
    rows = [
        (
            *(*identify(record), record.seed, report.episodes, f"{report.fitted_q_steps:,}"),
            *(
                "-" if value is None else f"{value:.4g}"
                for value in (report.data, report.critic, report.fitted_q_halfway, report.fitted_q)
            ),
        )
        for record in records
        for report in record.evaluation.values.values()
    ]
    header = ("env", "data", "method", "seed", "episodes", "fit's steps")
    values = ("data's discounted return", "policy, its critic", "policy, fitted Q half way", "policy, fitted Q")
    note = (
        "Discounted returns from the episodes' first observations. Fitted Q: a fresh critic of this policy, trained on the "
        "data alone. **No measured returns**: where the data has no action like the policy's they are guesses, often too "
        "high. Where the fit's half and end differ much, it had not ended (`evaluation.fitted_q_steps`)."
    )
    return Table("The policy's value, estimated without an environment", (*header, *values), rows, note)
