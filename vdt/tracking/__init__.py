"""Metrics, checkpoints and datasets in MLflow. Only this package imports `mlflow`, when it is needed."""

from vdt.tracking.address import RunsPage, describe_runs_page
from vdt.tracking.curves import read_curves, read_part
from vdt.tracking.errors import StoreError, get_first_line, get_store_errors
from vdt.tracking.runs import (
    REPORT_OF,
    continue_run,
    create_named_run,
    create_run,
    find_runs,
    find_study_run,
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
from vdt.tracking.store import open_store
from vdt.tracking.tracker import MLflowTracker, NullTracker, Tracker

__all__ = [
    "REPORT_OF",
    "MLflowTracker",
    "NullTracker",
    "RunsPage",
    "StoreError",
    "Tracker",
    "continue_run",
    "create_named_run",
    "create_run",
    "describe_runs_page",
    "find_runs",
    "find_study_run",
    "finish_runs",
    "get_first_line",
    "get_store_errors",
    "log_dataset",
    "log_files",
    "make_artifact_records",
    "make_continue_record",
    "make_dataset_record",
    "open_store",
    "read_curves",
    "read_part",
    "settle_abandoned",
    "submit",
    "warn_of_undelivered",
]
