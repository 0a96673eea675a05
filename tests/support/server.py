"""Real servers on loopback, for the duration of a test."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def serve(folder: Path, name: str, *words: str, health: str) -> Iterator[subprocess.Popen[bytes]]:
    """Serve by a Python process and its children, from its first answer at `health` to the end of the block."""
    with open(folder / f"{name}.log", "w") as log:
        process = subprocess.Popen([sys.executable, *words], cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 600
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(health, timeout=2):
                    break
                assert process.poll() is None and time.monotonic() < deadline, (folder / f"{name}.log").read_text()
                time.sleep(0.2)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):  # the block may have ended it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


@contextlib.contextmanager
def serve_handler(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve by `handler` in this process; yield the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
