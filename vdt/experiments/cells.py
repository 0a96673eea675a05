"""What is finished already and what is still to be run; results are kept for later flows."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.cells import DEFAULTS, open_cells, resolve_cells
from vdt.config.layers import Config, ConfigError, config_from_yaml
from vdt.experiments.results_store import compute_identity, find_result, save_result
from vdt.experiments.study import Plan, Study
from vdt.system.home import home

logger = logging.getLogger(__name__)

REPORT_FLOW = Path(__file__).with_name("report_flow.py")


def plan_cells(
    arguments: Mapping[str, str], flow_run: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any] | None]:
    """Decide what is to be run, and open an MLflow run for each such cell.

    A flow without a study runs all its cells. A study runs those without a result of the same settings, data and code.

    Returns:
        The cells to run (`flows.cells.Cell`s), the finished ones as `describe_cell` leaves them, and what a report needs to
        know of the study, none without one.

    Raises:
        ConfigError: if a value is not accepted, or a study has nothing left to run.
    """
    plans, study = resolve_cells(arguments)
    if study is None:
        return open_cells(plans, None, flow_run), [], None
    missing, finished = split_finished(plans, get_reuse(arguments))
    if not missing:
        raise ConfigError(f"all {len(plans)} cells of {study.place} are finished; {REPORT_FLOW.name} reports them")
    logger.info(f"study {study.name}: {len(finished)} cells are finished, {len(missing)} are run")
    adopt(finished, study)
    described = {**study.describe(), "keys": [plan.key for plan in plans]}
    return open_cells(order_by_critic(missing), study, flow_run), finished, described


def get_reuse(arguments: Mapping[str, str]) -> str:
    """What of earlier results is taken: exact, settings (of any code), none."""
    return arguments.get("reuse") or DEFAULTS["reuse"]


def split_finished(plans: Sequence[Plan], reuse: str) -> tuple[list[Plan], list[dict[str, Any]]]:
    """The plans without a result, and the results of the others.

    Raises:
        ConfigError: if an env's data is out of reach.
    """
    missing: list[Plan] = []
    finished: list[dict[str, Any]] = []
    keys: dict[str, str] = {}
    for plan in plans:
        result = None
        if reuse != "none":
            identity = compute_identity(plan.config, _find_data_key(plan.config, keys))
            result = find_result(home(), identity, any_code=reuse == "settings")
        if result is None:
            missing.append(plan)
        else:
            finished.append({**result, "key": plan.key, "patch": plan.patch})
    return missing, finished


def _find_data_key(config: Config, known: dict[str, str]) -> str:
    from vdt.datasets.choose import DataError, choose_source

    question = repr((config.env, config.task, config.data))
    if question not in known:
        try:
            choice = choose_source(config, home())
        except DataError as error:
            raise ConfigError(str(error)) from None
        known[question] = make_data_key(choice.source, choice.key)
    return known[question]


def make_data_key(source: str, key: str) -> str:
    """Names a data set's content."""
    return f"{source}/{key}"


def order_by_critic(plans: Sequence[Plan]) -> list[Plan]:
    """The first cell of each critic before the second ones, so that few wait for a critic that another trains."""
    from vdt.experiments.sharing import compute_critic_key

    seen: dict[tuple[str, str], int] = {}
    turns = []
    for plan in plans:
        critic = (plan.config.env, compute_critic_key(plan.config, ""))
        turns.append(seen.get(critic, 0))
        seen[critic] = turns[-1] + 1
    return [plan for _, plan in sorted(zip(turns, plans, strict=True), key=lambda pair: pair[0])]


def adopt(finished: Sequence[Mapping[str, Any]], study: Study) -> None:
    """Enter a study in the MLflow runs that it takes over; one whose flow failed elsewhere is a finished run now."""
    from vdt.tracking import submit

    for cell in finished:
        records = [{"kind": "study", "study": study.name}, {"kind": "status", "status": "FINISHED"}]
        submit(home(), cell["mlflow_run_id"], records)


def describe_cell(branch: Any) -> dict[str, Any]:
    """What a report needs of a cell, as plain values; `branch` has what the steps left."""
    cell = {
        "key": branch.cell["key"],
        "patch": branch.cell["patch"],
        "config": config_from_yaml(branch.cell["config_yaml"]).flatten(),
        "snapshot": branch.snapshot,
        "evaluation": branch.evaluation,
        "mlflow_run_id": branch.mlflow_run_id,
        "seconds": branch.seconds,
        "memory": branch.memory,
        "shared_from": {"pretrain_critic": branch.critic_shared_from, "train_actor": branch.actor_shared_from},
    }
    return dict(json.loads(json.dumps(cell)))  # the same values whether they come from this flow or from a file


def keep_result(flow: Any) -> None:
    """Keep the result of the cell that has just been evaluated."""
    key = make_data_key(flow.snapshot["source"], Path(flow.snapshot["path"]).parent.name)
    config = config_from_yaml(flow.cell["config_yaml"])
    save_result(home(), compute_identity(config, key), describe_cell(flow))


def report_instead(plans: Sequence[Plan], study: Study, reuse: str, argv: Sequence[str]) -> None:
    """If a study has nothing left to run, turn this process into the flow that reports it.

    Raises:
        ConfigError: if an env's data is out of reach.
    """
    if reuse == "none":
        return
    missing, finished = split_finished(plans, reuse)
    if not missing:
        logger.info(f"study {study.name}: all {len(finished)} cells are finished; nothing is trained, only reported")
        os.execv(sys.executable, [sys.executable, str(REPORT_FLOW), *argv[1:]])
