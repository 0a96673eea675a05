"""The server's port is its own from the start; whatever ends the server, it leaves nothing behind."""

import contextlib
import signal
import urllib.request
from pathlib import Path

import pytest
import torch

from support.builders import make_lively_actor_critic
from support.server import find_free_port, serve
from vdt.serving.server import listen


def test_a_port_is_taken_before_anything_is_served_at_it() -> None:
    with listen(0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ValueError, match=rf"cannot serve at 127\.0\.0\.1:{port} .*choose another port with --port"):
            listen(port)
    with listen(port) as again:
        assert again.getsockname()[1] == port


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
