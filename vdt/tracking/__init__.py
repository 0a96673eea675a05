"""Metrics, checkpoints and datasets in MLflow. Only this package imports `mlflow`, when it is needed."""

from vdt.tracking.address import RunsPage, describe_runs_page, serve_runs
from vdt.tracking.curves import read_curves, read_part, resolve_run_ids
from vdt.tracking.errors import StoreError, describe_failure, get_store_errors
from vdt.tracking.flow_runs import FlowRun, list_flow_runs
from vdt.tracking.models import SCORE_METRIC, write_texts
from vdt.tracking.policies import PolicyStore, StoredModel, StoredRun
from vdt.tracking.records import (
    Artifact,
    Continue,
    JoinStudy,
    Metrics,
    ModelFiles,
    Record,
    Register,
    Status,
    Tags,
)
from vdt.tracking.registry import Registration, check_model_name, register_policy
from vdt.tracking.runs import (
    REPORT_OF,
    TRIAL_STATE,
    create_named_run,
    create_run,
    find_runs,
    find_study_run,
    finish_runs,
    make_artifact_records,
    make_continue_record,
    make_dataset_record,
    make_trial_tags,
    name_dataset,
    send_now,
    settle_abandoned,
    warn_of_undelivered,
)
from vdt.tracking.store import get_tracking_uri, open_store, upgrade_store
from vdt.tracking.tracker import LoadableModel, MLflowTracker, NullTracker, Tracker

__all__ = [
    "REPORT_OF",
    "SCORE_METRIC",
    "TRIAL_STATE",
    "Artifact",
    "Continue",
    "FlowRun",
    "JoinStudy",
    "LoadableModel",
    "MLflowTracker",
    "Metrics",
    "ModelFiles",
    "NullTracker",
    "PolicyStore",
    "Record",
    "Register",
    "Registration",
    "RunsPage",
    "Status",
    "StoreError",
    "StoredModel",
    "StoredRun",
    "Tags",
    "Tracker",
    "check_model_name",
    "create_named_run",
    "create_run",
    "describe_failure",
    "describe_runs_page",
    "find_runs",
    "find_study_run",
    "finish_runs",
    "get_store_errors",
    "get_tracking_uri",
    "list_flow_runs",
    "make_artifact_records",
    "make_continue_record",
    "make_dataset_record",
    "make_trial_tags",
    "name_dataset",
    "open_store",
    "read_curves",
    "read_part",
    "register_policy",
    "resolve_run_ids",
    "send_now",
    "serve_runs",
    "settle_abandoned",
    "upgrade_store",
    "warn_of_undelivered",
    "write_texts",
]
