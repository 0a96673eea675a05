"""The flow where steps share no files: Metaflow's S3 datastore (a fake one on loopback) and an MLflow server."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.flow import ENV, FLOW, make_variables
from support.server import find_free_port, serve

pytest.importorskip("moto", reason="the fake S3 needs moto[server]")
IMAGE, SECRET, RUN = "registry.example/vdt:1", "mlflow-login", "vdt-1"
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


@pytest.fixture(scope="module")
def template(folder: Path, variables: dict[str, str]) -> dict[str, Any]:
    """The DAG as Argo's template, with an image, a secret and more memory; no cluster is asked."""
    wanted = f"kubernetes:image={IMAGE},secrets={SECRET},cpu=4,memory=16000"
    text = run(variables, folder, "--with", wanted, "argo-workflows", "create", "--only-json")
    return dict(json.loads(text))


def list_containers(template: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one["container"] for one in template["spec"]["templates"] if "container" in one}


def test_argo_template_asks_for_gpus_where_networks_train(template: dict[str, Any]) -> None:
    asking = {
        name
        for name, container in list_containers(template).items()
        if "nvidia.com/gpu" in str((container["resources"] or {}).get("limits", {}))
    }
    assert asking == GPU_STEPS


def test_argo_template_has_image_secret_and_resources(template: dict[str, Any]) -> None:
    """Also the containers of the exit hooks, which mark the runs in MLflow."""
    containers = list_containers(template)
    assert {"start", "success-flows.hooks.on-success", "error-flows.hooks.on-error"} < set(containers)
    for container in containers.values():
        assert container["image"] == IMAGE
        assert [source["secretRef"]["name"] for source in container["envFrom"]] == [SECRET]
    for name in (*GPU_STEPS, "fetch-dataset", "evaluate"):
        asked = containers[name]["resources"]["requests"]
        assert (float(asked["cpu"]), float(asked["memory"].rstrip("M"))) == (4, 16000), name


def start_container(folder: Path, variables: dict[str, str], container: dict[str, Any], **inputs: str) -> Path:
    """Run the command of a container as its image would, in an empty folder; return that folder.

    Left out is what only Argo reads: a decorator that writes outputs to /mnt/out.
    """
    empty = Path(tempfile.mkdtemp(dir=folder))
    values = {"env": ENV, "preset": "smoke", "source": "collected"}
    command = container["command"][2]
    command = re.sub(
        r"\{\{=toBase64\(workflow.parameters\['(.+?)'\]\)\}\}",
        lambda found: base64.b64encode(json.dumps(values.get(found[1], "")).encode()).decode(),
        command,
    )
    for name, value in {"workflow.name": RUN, "workflow.creationTimestamp": "now", **inputs}.items():
        command = command.replace("{{" + name + "}}", value)
    command = re.sub(r"--with=argo_workflows_internal:\S+", "", command).replace("/tmp/", f"{empty}/")
    assert "{{" not in command, command
    given = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1",  # the image has them
        "VDT_HOME": str(empty / "home"),
        "HOME": str(empty),
        "OMP_NUM_THREADS": "1",
        **{name: value for name, value in variables.items() if name.startswith("AWS_")},
        **{one["name"]: one["value"] or "from the pod" for one in container["env"]},
        "METAFLOW_RUN_ID": f"argo-{RUN}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'far-away.db'}",  # in place of a server
    }
    done = subprocess.run(["bash", "-c", command], cwd=empty, env=given, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return empty


def test_steps_run_from_the_shipped_package_and_share_no_files(
    folder: Path, variables: dict[str, str], template: dict[str, Any]
) -> None:
    """The commands of Argo's containers: package and artifacts come from S3, each folder is gone before the next step."""
    import boto3

    containers, tasks = list_containers(template), dict[str, str]()
    store = boto3.session.Session("x", "x", region_name="us-east-1").client(
        "s3", endpoint_url=variables["METAFLOW_S3_ENDPOINT_URL"]
    )
    before = ""
    for step in ("start", "fetch_dataset", "pretrain_critic"):
        inputs = {"inputs.parameters.input-paths": before, "inputs.parameters.split-index": "0"}
        empty = start_container(folder, variables, containers[step.replace("_", "-")], **inputs)
        unpacked = empty / "metaflow"
        assert (unpacked / "vdt" / "params").exists() or (unpacked / "params").exists()
        trained = list((empty / "home").rglob("*.pt"))
        shutil.rmtree(empty)
        prefix = f"metaflow/VDTFlow/argo-{RUN}/{step}/"
        keys = [item["Key"] for item in store.list_objects_v2(Bucket="bucket", Prefix=prefix)["Contents"]]
        tasks[step] = next(key.removeprefix(prefix).split("/")[0] for key in keys)
        before = f"argo-{RUN}/{step}/{tasks[step]}"
    assert trained, "the critic was trained on data that came from another folder"
