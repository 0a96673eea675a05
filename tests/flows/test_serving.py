"""A policy behind a real server: the actions of `Policy.act`, an answer to whatever is sent, an end without remains."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
import pytest
import torch

from support.builders import make_lively_actor_critic
from support.environments import COUNTDOWN
from support.flow import make_variables
from support.odd_requests import JSON, make_odd_requests
from vdt import load_policy
from vdt.serving.model_files import CHECKPOINT, describe_model
from vdt.system.home import ROOT
from vdt.tracking import write_texts

SIZE, ACTIONS, STEPS = 2, 1, 60
START_SECONDS = 240.0
ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


class Client:
    """Client of one server, with a connection for each request."""

    def __init__(self, port: int) -> None:
        self.port = port

    def post(self, body: bytes, content_type: str = JSON) -> tuple[int, Any]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as connection:
            connection.request("POST", "/invocations", body, {"Content-Type": content_type})
            answer = connection.getresponse()
            text = answer.read().decode()
        return answer.status, json.loads(text) if text.startswith("{") else text

    def act(self, records: list[dict[str, Any]]) -> np.ndarray:
        status, answer = self.post(json.dumps({"dataframe_records": records}).encode())
        assert status == 200, answer
        return np.array(answer["predictions"], np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and beside it the model that MLflow makes of it."""
    folder = tmp_path_factory.mktemp("serving")
    actor_critic = make_lively_actor_critic({"planner.forget_steps": 2})
    files = describe_model(actor_critic.config, lookahead=True)
    write_texts(files.texts, folder / "model")
    torch.save({"actor_critic": actor_critic.state_dict(), "versions": {}}, folder / "model" / CHECKPOINT)
    return folder


def start(folder: Path, kind: str, port: int) -> subprocess.Popen[str]:
    ours = ["vdt.cli", "serve", str(folder / "model" / CHECKPOINT), "--port", str(port)]
    mlflows = ["mlflow", "models", "serve", "--model-uri", str(folder / "model"), "--port", str(port)]
    words = ours if kind == "vdt" else [*mlflows, "--env-manager", "local", "--host", "127.0.0.1"]
    command = [sys.executable, "-m", *words]
    bin_first = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }  # MLflow starts uvicorn by name
    variables = {**make_variables(folder), **bin_first}
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def find_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait(port: int) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        try:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
                connection.request("GET", "/ping")
                assert connection.getresponse().status == 200
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server does not answer")


@pytest.fixture
def client(server: int) -> Client:
    return Client(server)


@pytest.fixture(scope="module", params=["vdt", "mlflow"])
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[int]:
    port = find_port()
    with start(folder, request.param, port) as process:
        try:
            wait(port)
            yield port
        finally:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.terminate()


def test_an_episode_over_http_is_the_episode_in_process(folder: Path, client: Client) -> None:
    policy = load_policy(folder / "model" / CHECKPOINT, lookahead=True)
    rng = np.random.default_rng(0)
    seen, rewards = rng.normal(size=(STEPS, SIZE)).astype(np.float32), rng.normal(size=STEPS).astype(np.float32)
    taken: list[Any] = []
    policy.reset()
    for t in range(STEPS):
        action = policy.act(seen[t], rewards[t - 1] if t else None)
        record = {"observations": seen[: t + 1].tolist(), "actions": taken, "rewards": rewards[:t].tolist()}
        (answer,) = client.act([record])
        assert (answer == action).all(), f"step {t}"
        taken.append(action.tolist())


def test_the_example_plays_the_episode_that_the_policy_plays(folder: Path, server: int) -> None:
    name = f"support.environments:{COUNTDOWN}"  # a module that registers it, and its name
    words = ("examples/serve_client.py", name, f"http://127.0.0.1:{server}", "3")
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    said = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=variables, check=True, timeout=120, stdout=subprocess.PIPE
    )
    policy, environment = load_policy(folder / "model" / CHECKPOINT, lookahead=True), gymnasium.make(COUNTDOWN)
    policy.reset()
    (observation, _), rewards, ended = environment.reset(seed=3), list[float](), False
    while not ended:
        action = policy.act(observation, rewards[-1] if rewards else None)
        observation, reward, terminated, truncated, _ = environment.step(action)
        rewards.append(float(reward))
        ended = terminated or truncated
    assert said.stdout.decode() == f"{name}: return {sum(rewards):.4f} in {len(rewards)} steps\n"
    assert len(rewards) == 5 and len(set(rewards)) > 1


def test_ten_episodes_in_one_request_are_ten_that_run_together(folder: Path, client: Client) -> None:
    policy = load_policy(folder / "model" / CHECKPOINT, lookahead=True)
    rng = np.random.default_rng(1)
    seen, rewards = rng.normal(size=(10, 12, SIZE)).astype(np.float32), rng.normal(size=(10, 12)).astype(np.float32)
    taken = np.zeros((10, 12, ACTIONS), np.float32)
    policy.reset(episodes=10)
    for t in range(12):
        actions = policy.act(seen[:, t], rewards[:, t - 1] if t else None)
        rows = [(seen[i, : t + 1], taken[i, :t], rewards[i, :t]) for i in range(10)]
        names = ("observations", "actions", "rewards")
        records = [dict(zip(names, (array.tolist() for array in row), strict=True)) for row in rows]
        assert (client.act(records) == actions).all(), f"step {t}"
        taken[:, t] = actions


def test_odd_requests_are_refused_and_the_server_lives(client: Client, request: pytest.FixtureRequest) -> None:
    good = [{"observations": [[0.5, 1]]}]
    before = client.act(good)
    ours = "vdt" in request.node.name
    for body, content_type in make_odd_requests(150, SIZE, ACTIONS):
        status, answer = client.post(body, content_type)
        shown = (body[:200], content_type, status, str(answer)[:300])
        if ours:
            assert 400 <= status < 500, shown
            assert set(answer) == {"error_code", "message"} and answer["message"] and "\n" not in answer["message"], (
                shown
            )
            assert len(answer["message"]) <= 500, shown
        else:
            assert status >= 400 or b'"observation":' in body, shown  # MLflow leaves out names that it does not know
    assert (client.act(good) == before).all()


def test_a_request_that_is_too_long_is_refused_before_it_is_read(server: int, request: pytest.FixtureRequest) -> None:
    if "mlflow" in request.node.name:
        pytest.skip("MLflow's own command has no limit")
    client = Client(server)
    status, answer = client.post(b" " * (64 * 2**20 + 1))
    assert status == 413 and "at most 67108864 bytes" in answer["message"]
    assert client.act([{"observations": [[0.5, 1]]}]).shape == (1, 1)


def test_ctrl_c_ends_the_server_and_the_port_is_free_again(folder: Path) -> None:
    process = start(folder, "vdt", 0)
    with process:
        end_one(folder, process)


def end_one(folder: Path, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = next(line for line in process.stdout if ADDRESS.search(line))
    found = ADDRESS.search(line)
    assert found is not None and "Ctrl-C ends it" in line
    port = int(found[1])
    wait(port)
    children = psutil.Process(process.pid).children(recursive=True)
    with start(folder, "vdt", port) as taken:
        output, _ = taken.communicate(timeout=START_SECONDS)
    assert taken.returncode == 2 and f"error: cannot serve at 127.0.0.1:{port}" in output
    process.send_signal(signal.SIGINT)
    assert (process.stdout.read().strip(), process.wait(60)) == ("serve: ended", 0)
    assert children == [] and find_port()
    with pytest.raises(ConnectionRefusedError):
        Client(port).post(b"")
