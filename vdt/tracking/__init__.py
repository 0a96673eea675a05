"""Metrics, checkpoints and datasets in MLflow. Only this package imports `mlflow`, when it is needed."""

from vdt.tracking.runs import (
    RunIdentity,
    continue_run,
    create_named_run,
    create_run,
    find_runs,
    finish_runs,
    log_dataset,
    log_files,
    open_store,
)
from vdt.tracking.tracker import MLflowTracker, NullTracker, Tracker

__all__ = [
    "MLflowTracker",
    "NullTracker",
    "RunIdentity",
    "Tracker",
    "continue_run",
    "create_named_run",
    "create_run",
    "find_runs",
    "finish_runs",
    "log_dataset",
    "log_files",
    "open_store",
]
