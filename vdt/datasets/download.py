"""Download of one file by HTTP: checked before it gets its name, and continued after an interrupted try."""

from __future__ import annotations

import http.client
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vdt.data.errors import DataError
from vdt.system.files import compute_file_digest, sync_folder, write_text
from vdt.system.locks import hold_lock

logger = logging.getLogger(__name__)

PROBE_SECONDS = 3.0  # name look-up included
READ_TIMEOUT_SECONDS = 30.0
REPORT_EVERY_SECONDS = 5.0
BLOCK_BYTES = 2**20
MAX_DOWNLOAD_BYTES = 8 * 2**30
NETWORK_ERRORS = (OSError, http.client.HTTPException)  # urllib's URLError is an OSError
VALIDATORS = ("ETag", "Last-Modified")  # validators of the file's identity, the stronger first


def probe(url: str, seconds: float = PROBE_SECONDS) -> str | None:
    """Request the file's header.

    Returns:
        None if the address answers within `seconds`, else the error.
    """
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
                outcome.append(None)
        except (*NETWORK_ERRORS, ValueError) as error:  # the latter of an address that is none
            outcome.append(str(getattr(error, "reason", None) or error) or type(error).__name__)

    # A thread, because no timeout covers the name look-up; a daemon, so that a hanging one does not keep the process.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else f"no answer in {seconds:g} s"


def download(url: str, target: Path, check: Callable[[Path], None], sha256: str = "") -> None:
    """Download `url` to `target`, which is then there whole and checked, or not at all.

    Received data waits in `.NAME.part` beside it. If the connection breaks, the next call requests the rest (HTTP
    Range), provided that the file is still the same one (If-Range). If it is not, or the server cannot tell, the
    download starts again.

    Args:
        url: address.
        target: file to make.
        check: raises DataError if the given file is not the wanted one.
        sha256: digest that the content must have; empty if it is not known.

    Raises:
        DataError: if the connection breaks, the size is not known or not met, the content is not the wanted one, or
            the folder cannot be written.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(target.parent, "downloads"):  # the folder, for HDF5 locks the files themselves
            if not target.is_file():  # else another process was faster
                _make(url, target, part, check, sha256)
    except NETWORK_ERRORS as error:
        reason = f"no data for {READ_TIMEOUT_SECONDS:g} s" if isinstance(error, TimeoutError) else str(error)
        kept = _measure_rest(part)
        what = f"{kept} bytes are kept, the next try asks for the rest" if kept else "nothing was kept, try again"
        raise DataError(f"{url}: download to {target} failed ({reason}); {what}") from None


def _make(url: str, target: Path, part: Path, check: Callable[[Path], None], sha256: str) -> None:
    try:
        with open(part, "ab") as file:
            _fetch(url, part, file)
        try:
            check_digest(part, sha256)
            check(part)
        except DataError as error:
            _discard(part)
            raise DataError(f"{url}: what came is not the file wanted ({error}); nothing was kept") from None
        os.replace(part, target)
        sync_folder(target.parent)
    finally:
        if not _measure_rest(part):
            _discard(part)


def check_digest(path: Path, sha256: str) -> None:
    """Compare a file with the digest that is known for it; an empty one is not checked.

    Raises:
        DataError: if they differ.
    """
    if sha256 and (found := compute_file_digest(path, "sha256")) != sha256.lower():
        raise DataError(f"{path}: sha256 is {found}; accepted is {sha256} (task.d4rl_sha256)")


def _note(part: Path) -> Path:
    """Return the known facts of a partial file: address, size and validator."""
    return part.with_name(f"{part.name}.json")


def _measure_rest(part: Path) -> int:
    """Return the bytes that the next try can go on from."""
    return part.stat().st_size if part.exists() and _note(part).exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Beginning:
    """Part of a file that is here already."""

    received: int
    validator: str


def _read_beginning(url: str, part: Path) -> _Beginning | None:
    try:
        note = json.loads(_note(part).read_text())
        known = note["url"] == url and 0 < part.stat().st_size < note["total"]
        return _Beginning(part.stat().st_size, note["validator"]) if known else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fetch(url: str, part: Path, file: IO[bytes]) -> None:
    """Complete `part` to its full size."""
    begun = _read_beginning(url, part)
    headers = {"Range": f"bytes={begun.received}-", "If-Range": begun.validator} if begun else {}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=READ_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if begun is None or error.code != 416:
            raise
        _note(part).unlink()  # nothing follows the bytes that are here, so it was another file
        return _fetch(url, part, file)
    with answer:
        goes_on = begun is not None and answer.status == 206
        received = begun.received if begun and goes_on else 0
        length = _check_length(url, answer.headers.get("Content-Length"))
        total = received + length
        if goes_on and answer.headers.get("Content-Range", "").split("-")[0] != f"bytes {received}":
            _discard(part)
            raise http.client.HTTPException(
                f"asked for bytes from {received}, {answer.headers.get('Content-Range')} came"
            )
        if received:
            logger.info(f"download: goes on at {received:,} of {total:,} bytes")
        elif begun:
            logger.info("download: the server's file is another one now, or it cannot go on; started again")
        file.truncate(received)
        _write_note(part, url, total, answer.headers)
        _copy(answer, file, received, total)
    if (found := part.stat().st_size) != total:
        raise http.client.HTTPException(f"{found} bytes came, {total} were announced")


def _write_note(part: Path, url: str, total: int, headers: Mapping[str, Any]) -> None:
    """Write the facts by which a download can be continued, if the server gives a validator."""
    found = [headers[name] for name in VALIDATORS if headers.get(name) and not str(headers[name]).startswith("W/")]
    if found and headers.get("Accept-Ranges", "bytes") != "none":
        write_text(_note(part), json.dumps({"url": url, "total": total, "validator": found[0]}))
    else:
        _note(part).unlink(missing_ok=True)


def _copy(answer: http.client.HTTPResponse, file: IO[bytes], received: int, total: int) -> None:
    first, started = received, time.monotonic()
    reported = started
    try:
        while block := answer.read1(BLOCK_BYTES):  # available bytes: a slow server is reported, not waited for
            file.write(block)
            received += len(block)
            now = time.monotonic()
            if now - reported > REPORT_EVERY_SECONDS:
                reported, rate = now, (received - first) / (now - started)
                logger.info(
                    f"download: {received / 1e6:,.1f}/{total / 1e6:,.1f} MB, {rate / 1e6:.2f} MB/s, "
                    f"{(total - received) / rate:.0f} s left"
                )
    finally:
        file.flush()
        os.fsync(file.fileno())


def _check_length(url: str, announced: str | None) -> int:
    if announced is None or not announced.isdigit() or not 0 < int(announced) <= MAX_DOWNLOAD_BYTES:
        raise DataError(
            f"{url}: announces a size of {announced!r}; accepted are 1 to {MAX_DOWNLOAD_BYTES} bytes. "
            f"Download it by hand and put it into the cache folder"
        )
    return int(announced)
