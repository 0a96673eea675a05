"""The server's port is its own from the start; whatever ends the server, it leaves nothing behind."""

import asyncio
import contextlib
import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.pyfunc import load_model

from support.builders import make_lively_actor_critic
from support.server import find_free_port, serve
from vdt.serving.server import PolicyServer, listen, make_folder


def test_a_port_is_taken_before_anything_is_served_at_it() -> None:
    with listen(0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ValueError, match=rf"cannot serve at 127\.0\.0\.1:{port} .*choose another port with --port"):
            listen(port)
    with listen(port) as again:
        assert again.getsockname()[1] == port


def post(server: PolicyServer, records: list[dict[str, Any]]) -> tuple[int, Any]:
    """Answer of the application itself, without a port."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps({"dataframe_records": records}).encode()}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    asyncio.run(server({"type": "http", "path": "/invocations", "method": "POST", "headers": headers}, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_mistakes_get_a_sentence_of_this_project(tmp_path: Path) -> None:
    """Not one of MLflow's, whose check of columns comes first where it is asked."""
    actor_critic = make_lively_actor_critic()
    torch.save({"actor_critic": actor_critic.state_dict(), "versions": {}}, tmp_path / "policy.pt")
    good: dict[str, Any] = {"observations": [[0.5, 1.0], [1.0, 2.0]], "actions": [[0.1]], "rewards": [1.0]}
    changes: dict[str, dict[str, Any]] = {
        "observations of episode 0 must be a list of rows of numbers": {"observations": [0.5, 1.0]},
        "actions of episode 0 must be a list of rows of numbers": {"actions": [0.1]},
        "rewards of episode 0 must be a list of numbers": {"rewards": 1.0},
        "observations of episode 0: number 0 of row 0 is true": {"observations": [[True, 1.0], [1.0, 2.0]]},
        "observations of episode 0 must be rows of 2 numbers, not of shape (2, 3)": {"observations": [[1, 2, 3]] * 2},
        "target_return of episode 0 holds 2 returns to choose among, and this model acts without look-ahead; accepted is "
        "one number, or vdt serve --lookahead": {"target_return": [1, 2]},
    }
    with make_folder(tmp_path / "policy.pt", actor_critic.config, lookahead=False) as folder:
        server = PolicyServer(load_model(str(folder)))
        status, answer = post(server, [good, good])
        assert status == 200 and len(answer["predictions"]) == 2
        for message, change in changes.items():
            status, answer = post(server, [{**good, **change}])
            assert status == 400 and answer["message"].startswith(message), answer
        assert post(server, []) == (
            400,
            {"error_code": "BAD_REQUEST", "message": "a request holds 1 to 1000 episodes, not 0"},
        )


@pytest.mark.slow
def test_sigterm_ends_a_server_as_ctrl_c_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary, port = tmp_path / "temporary", find_free_port()
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    torch.save({"actor_critic": make_lively_actor_critic().state_dict(), "versions": {}}, tmp_path / "policy.pt")
    words, address = ("-m", "vdt.cli", "serve", "policy.pt", "--port", str(port)), f"http://127.0.0.1:{port}"
    with serve(tmp_path, "server", *words, health=f"{address}/ping") as process:
        body = b'{"inputs": [{"observations": [[0.5, 1]]}]}'
        request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
        with contextlib.closing(urllib.request.urlopen(request, timeout=60)) as answer:
            assert answer.status == 200
        assert list(temporary.glob("vdt-serve-*"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert (tmp_path / "server.log").read_text().splitlines()[-1] == "serve: ended"
    assert not list(temporary.glob("vdt-*")) and not list(temporary.glob("tmp*"))
