"""The flow's last work: one report over all cells, kept with every cell's MLflow run and shown as a card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metaflow import current
from metaflow.cards import Image, Markdown

from flows.transfer import describe_file
from vdt.config import config_from_yaml
from vdt.files import make_file_name
from vdt.runtime import home


def make_report(flow: Any, inputs: Iterable[Any]) -> tuple[str, list[str], list[dict[str, str]]]:
    """Write, print, log and show the report, and mark the MLflow runs as finished.

    Args:
        flow: the running flow.
        inputs: the joined branches, with artifacts `cell`, `snapshot`, `evaluation`, `mlflow_run_id` and `seconds`.

    Returns:
        Path of the report's Markdown, ids of the MLflow runs, the report's files as artifacts (`describe_file`).
    """
    from vdt.reporting import write_report
    from vdt.tracking import make_artifact_records, make_continue_record, submit

    os.chdir(home())  # Metaflow keeps cards below the current folder, whatever its datastore's root is
    cells = [_describe_cell(branch) for branch in inputs]
    path = write_report(cells, home() / "reports" / str(current.run_id))
    text = path.read_text()
    print(text, flush=True)
    current.card.append(Markdown(text))
    files = sorted(path.parent.iterdir())
    for figure in (f for f in files if f.suffix == ".png"):
        current.card.append(Image(figure.read_bytes(), figure.stem))
    _keep_as_newest(path, {make_file_name(cell["config"]["env"]) for cell in cells})
    opening, closing = make_continue_record(str(current.run_id), fork=False), {"kind": "status", "status": "FINISHED"}
    records = [opening, *make_artifact_records(files, "report"), closing]
    run_ids = [submit(home(), cell["mlflow_run_id"], records) for cell in cells]
    return str(path), run_ids, [describe_file(flow, file) for file in files]


def _describe_cell(branch: Any) -> dict[str, Any]:
    return {
        "config": config_from_yaml(branch.cell["config_yaml"]).flatten(),
        "snapshot": branch.snapshot,
        "evaluation": branch.evaluation,
        "mlflow_run_id": branch.mlflow_run_id,
        "seconds": branch.seconds,
    }


def _keep_as_newest(path: Path, envs: set[str]) -> None:
    """A run of one env is also found under the env's name (`dvc.yaml` names that file)."""
    if len(envs) == 1:
        folder = home() / "reports" / envs.pop()
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path.with_name("report.json"), folder / "report.json")
