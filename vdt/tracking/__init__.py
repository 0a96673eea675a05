"""Metrics, checkpoints and datasets in MLflow. Only this package imports `mlflow`, when it is needed."""

from vdt.tracking.address import RunsPage, describe_runs_page, serve_runs
from vdt.tracking.copying import CopyingTracker, read_copy
from vdt.tracking.curves import read_curves, resolve_run_ids
from vdt.tracking.errors import StoreError, describe_failure, get_store_errors
from vdt.tracking.flow_runs import FlowRun, list_flow_runs
from vdt.tracking.mlflow_run import BY_USER, CONTINUED_FROM, CONTINUES, REPORT_OF, SHARED_FROM
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
from vdt.tracking.run_names import name_variant
from vdt.tracking.runs import (
    TRIAL_STATE,
    create_named_run,
    create_run,
    find_runs,
    finish_runs,
    get_git_commit,
    is_code_changed,
    is_finished,
    make_artifact_records,
    make_continue_record,
    make_dataset_record,
    make_local_id,
    make_trial_tags,
    name_dataset,
    send_now,
    send_to_each,
    settle_abandoned,
)
from vdt.tracking.store import get_tracking_uri, has_store, open_store, upgrade_store
from vdt.tracking.tracker import LoadableModel, MLflowTracker, NullTracker, Tracker
from vdt.tracking.waiting import delivers_later, tell_of_undelivered

__all__ = [
    "BY_USER",
    "CONTINUED_FROM",
    "CONTINUES",
    "REPORT_OF",
    "SCORE_METRIC",
    "SHARED_FROM",
    "TRIAL_STATE",
    "Artifact",
    "Continue",
    "CopyingTracker",
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
    "delivers_later",
    "describe_failure",
    "describe_runs_page",
    "find_runs",
    "finish_runs",
    "get_git_commit",
    "get_store_errors",
    "get_tracking_uri",
    "has_store",
    "is_code_changed",
    "is_finished",
    "list_flow_runs",
    "make_artifact_records",
    "make_continue_record",
    "make_dataset_record",
    "make_local_id",
    "make_trial_tags",
    "name_dataset",
    "name_variant",
    "open_store",
    "read_copy",
    "read_curves",
    "register_policy",
    "resolve_run_ids",
    "send_now",
    "send_to_each",
    "serve_runs",
    "settle_abandoned",
    "tell_of_undelivered",
    "upgrade_store",
    "write_texts",
]
