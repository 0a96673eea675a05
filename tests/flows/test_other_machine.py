"""The flow where steps share no files: Metaflow's S3 datastore (a fake one on loopback) and an MLflow server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.flow import ENV, FLOW, make_variables
from support.server import find_free_port, serve

pytest.importorskip("moto", reason="the fake S3 needs moto[server]")
GPU_STEPS = {"pretrain-critic", "train-actor", "tune-online"}
FRESH_FOLDER = """
import os, sys, tempfile
if "step" in sys.orig_argv:
    os.environ["VDT_HOME"] = tempfile.mkdtemp(dir=os.environ["VDT_TEST_FOLDERS"])
    os.chdir(os.environ["VDT_HOME"])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def variables(folder: Path) -> Iterator[dict[str, str]]:
    """Environment of a flow whose datastore is a fake S3."""
    import boto3

    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    with serve(folder, "s3", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port), health=f"{url}/moto-api/"):
        session = boto3.session.Session("x", "x", region_name="us-east-1")
        session.client("s3", endpoint_url=url).create_bucket(Bucket="bucket")
        yield {
            **make_variables(folder),
            **keys,
            "METAFLOW_S3_ENDPOINT_URL": url,
            "METAFLOW_DATASTORE_SYSROOT_S3": "s3://bucket/metaflow",
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder / "metadata"),
        }


def run(variables: dict[str, str], folder: Path, *words: str) -> str:
    command = [sys.executable, str(FLOW), "--no-pylint", "--datastore", "s3", *words]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout


@pytest.mark.faults
def test_steps_that_share_no_files(folder: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(FRESH_FOLDER)
    (folder / "homes").mkdir()
    port = find_free_port()
    server = ["-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    server += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder / "store"),
    ]
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    with serve(folder, "mlflow", *server, health=f"http://127.0.0.1:{port}/health"):
        variables = {
            **variables,
            "PYTHONPATH": str(folder / "site"),
            "VDT_TEST_FOLDERS": str(folder / "homes"),
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
        }
        output = run(variables, folder, "run", "--env", ENV, "--preset", "smoke", "--source", "collected")
        assert "normalized_score" in output
        homes = list((folder / "homes").iterdir())
        assert len(homes) == 9, "each of the nine steps had a folder of its own"
        assert sum((home / "reports").is_dir() and any((home / "reports").glob("*/report.json")) for home in homes) == 1
        from mlflow import MlflowClient

        client = MlflowClient(f"http://127.0.0.1:{port}")
        experiment = client.get_experiment_by_name("vdt")
        assert experiment is not None
        (logged,) = client.search_runs([experiment.experiment_id])
        assert logged.info.status == "FINISHED"
        assert {key.split("/")[0] for key in logged.data.metrics} >= {"critic", "actor", "online", "eval"}
        assert {Path(f.path).name for f in client.list_artifacts(logged.info.run_id, "report")} >= {"report.json"}


def test_argo_template_asks_for_gpus_where_networks_train(folder: Path, variables: dict[str, str]) -> None:
    text = run(variables, folder, "argo-workflows", "create", "--only-json")
    templates = json.loads(text)["spec"]["templates"]
    containers = {template["name"]: template["container"] for template in templates if "container" in template}
    asking = {
        name
        for name, container in containers.items()
        if "nvidia.com/gpu" in str(container["resources"].get("limits", {}))
    }
    assert asking == GPU_STEPS
