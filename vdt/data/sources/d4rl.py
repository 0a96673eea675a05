"""Source `d4rl`: the original HDF5 file, from D4RL's cache folder or from its address."""

from __future__ import annotations

import hashlib
import http.client
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from vdt.config import Config
from vdt.data.sources.hdf5 import read_recording
from vdt.data.sources.recording import DataError, Recording
from vdt.files import atomic_write, compute_file_digest

PROBE_SECONDS = 3.0  # name look-up included
READ_TIMEOUT_SECONDS = 30.0
REPORT_EVERY_SECONDS = 5.0
BLOCK_BYTES = 2**20
MAX_DOWNLOAD_BYTES = 8 * 2**30
NETWORK_ERRORS = (OSError, http.client.HTTPException)  # urllib's URLError is an OSError


def get_cache_file(url: str) -> Path:
    """Where D4RL itself keeps the file: `$D4RL_DATASET_DIR` or `~/.d4rl/datasets`, under the address's last part."""
    folder = os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets"
    return Path(folder).expanduser() / Path(urllib.parse.urlsplit(url).path).name


def make_d4rl_key(config: Config) -> str:
    """Folder name of the snapshot."""
    digest = hashlib.sha256(f"{config.task.d4rl_url} {config.task.horizon}".encode()).hexdigest()
    return f"d4rl-{digest[:8]}"


def probe(url: str, seconds: float = PROBE_SECONDS) -> str | None:
    """Ask for the file's header.

    Returns:
        None if the address answers within `seconds`, else what went wrong.
    """
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
                outcome.append(None)
        except NETWORK_ERRORS as error:
            outcome.append(str(getattr(error, "reason", None) or error) or type(error).__name__)

    # A thread, because no timeout covers the name look-up; a daemon, so that a hanging one does not keep the process.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else f"no answer in {seconds:g} s"


def download(url: str, target: Path) -> None:
    """Fetch `url` into a temporary file beside `target`, check its size, and only then rename it.

    Raises:
        DataError: if the connection breaks, the size is not known or not met, or the folder cannot be written.
    """
    try:
        with urllib.request.urlopen(url, timeout=READ_TIMEOUT_SECONDS) as answer:
            total = _check_length(url, answer.headers.get("Content-Length"))
            with atomic_write(target) as file:
                received, started = 0, time.monotonic()
                reported = started
                while block := answer.read(BLOCK_BYTES):
                    file.write(block)
                    received += len(block)
                    now = time.monotonic()
                    if now - reported > REPORT_EVERY_SECONDS:
                        reported, rate = now, received / (now - started)
                        left = (total - received) / rate
                        print(f"download: {received / 1e6:.1f}/{total / 1e6:.1f} MB  {left:.0f} s left", flush=True)
                if received != total:
                    raise DataError(
                        f"{url}: {received} bytes came, {total} were announced; nothing was kept, try again"
                    )
    except NETWORK_ERRORS as error:
        raise DataError(f"{url}: download to {target} failed ({error}); nothing was kept, try again") from None


def _check_length(url: str, announced: str | None) -> int:
    if announced is None or not announced.isdigit() or not 0 < int(announced) <= MAX_DOWNLOAD_BYTES:
        raise DataError(
            f"{url}: announces a size of {announced!r}; accepted are 1 to {MAX_DOWNLOAD_BYTES} bytes. "
            f"Download it by hand and put it into the cache folder"
        )
    return int(announced)


def load_d4rl(config: Config, *, fetch: bool) -> Recording:
    """Read the cached file, downloading it before if `fetch`."""
    url = config.task.d4rl_url
    path = get_cache_file(url)
    if fetch:
        print(f"download: {url} -> {path}", flush=True)
        download(url, path)
    recipe = {"url": url, "sha256": compute_file_digest(path, "sha256"), "horizon": config.task.horizon}
    return read_recording(path, config.task, recipe)
