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
    make_artifact_records,
    make_continue_record,
    make_dataset_record,
    settle_abandoned,
    submit,
    warn_of_undelivered,
)
from vdt.tracking.store import StoreError, get_store_errors, open_store
from vdt.tracking.tracker import MLflowTracker, NullTracker, Tracker

__all__ = [
    "MLflowTracker",
    "NullTracker",
    "RunIdentity",
    "StoreError",
    "Tracker",
    "continue_run",
    "create_named_run",
    "create_run",
    "find_runs",
    "finish_runs",
    "get_store_errors",
    "log_dataset",
    "log_files",
    "make_artifact_records",
    "make_continue_record",
    "make_dataset_record",
    "open_store",
    "settle_abandoned",
    "submit",
    "warn_of_undelivered",
]
