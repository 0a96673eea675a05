"""Downloads from a real server on the loopback interface that dies, lies, stalls and changes its mind."""

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from support.data import make_small_config, make_steps, write_hdf5
from support.server import serve_handler
from vdt.data.errors import DataError
from vdt.datasets import download as module
from vdt.datasets.choose import choose_source
from vdt.datasets.d4rl import get_cache_file
from vdt.datasets.download import download, probe
from vdt.datasets.snapshot import make_snapshot
from vdt.system.files import compute_file_digest
from vdt.system.locks import FOLDER_LOCK


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `content` as version `etag`; `fault` says how it misbehaves."""

    protocol_version = "HTTP/1.1"
    content: ClassVar[bytes] = b""
    etag: ClassVar[str] = '"one"'
    fault: ClassVar[str] = ""
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_HEAD(self) -> None:
        """Headers only."""
        self.send_file(body=False)

    def do_GET(self) -> None:
        """Headers and content."""
        self.asked.append((self.command, self.headers.get("Range")))
        self.send_file(body=True)

    def send_file(self, *, body: bool) -> None:
        """Answer as a file server does, or as `fault` says."""
        if self.fault == "gone":
            self.send_error(404)
            return
        if self.fault == "page":
            page = b"<html>Please log in</html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page if body else b"")
            return
        start = 0
        if self.headers.get("If-Range") == self.etag and self.etag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start and start >= len(self.content):
            self.send_error(416)
            return
        shown = self.content[start:]
        length = len(shown) + {"too long": 100, "too short": -100}.get(self.fault, 0)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.etag:
            self.send_header("ETag", self.etag)
        if self.fault != "unsized":
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if body:
            self.send_body(shown[: max(length, 0)])

    def send_body(self, shown: bytes) -> None:
        """All of it, half of it, or slowly."""
        if self.fault == "dies":
            shown = shown[: len(shown) // 2]
        if self.fault == "stalls":
            self.wfile.write(shown[:1000])
            self.wfile.flush()
            time.sleep(1.5)
            return
        pieces = [shown[k : k + 2000] for k in range(0, len(shown), 2000)] if self.fault == "slow" else [shown]
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()
            time.sleep(0.05 if self.fault == "slow" else 0)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on the loopback interface, with a file in D4RL's schema."""
    made = write_hdf5(tmp_path / "made.hdf5", make_steps(8, terminals=(3,), timeouts=(7,)))
    for name, value in {"content": made.read_bytes(), "etag": '"one"', "fault": "", "asked": []}.items():
        monkeypatch.setattr(Handler, name, value)
    with serve_handler(Handler) as url:
        yield url


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file.hdf5"


def accept(path: Path) -> None:
    assert path.exists()


def list_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {FOLDER_LOCK} if folder.exists() else set()


def test_probe(address: str) -> None:
    assert probe(f"{address}/file.hdf5") is None
    Handler.fault = "gone"
    assert "Not Found" in str(probe(f"{address}/file.hdf5"))


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("wrong", ["example.org/file.hdf5", "", "http://[1/file.hdf5"])
def test_an_address_that_is_none_is_named_at_once(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    said = str(probe(wrong, 60))
    assert ("unknown url type" in said or "Invalid IPv6 URL" in said) and time.monotonic() - started < 30
    with pytest.raises(DataError, match=r"cannot be reached \(unknown url type: 'example.org/file.hdf5'\)"):
        choose_source(make_small_config("d4rl", url="example.org/file.hdf5"), Path.cwd())
    assert "Traceback" not in capsys.readouterr().err


def test_good_server(address: str, target: Path) -> None:
    download(f"{address}/file.hdf5", target, accept)
    assert target.read_bytes() == Handler.content
    assert list_files(target.parent) == {"file.hdf5"}


def test_server_dies_half_way_and_the_next_try_fetches_the_rest(
    address: str, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Handler.fault, half, whole = "dies", len(Handler.content) // 2, len(Handler.content)
    with pytest.raises(DataError, match=rf"{half} bytes came, {whole} were announced\); {half} bytes are kept"):
        download(f"{address}/file.hdf5", target, accept)
    assert list_files(target.parent) == {".file.hdf5.part", ".file.hdf5.part.json"}
    Handler.fault = ""
    download(f"{address}/file.hdf5", target, accept)
    assert [asked for _, asked in Handler.asked] == [None, f"bytes={half}-"]
    assert f"goes on at {half:,} of {whole:,}" in capsys.readouterr().out
    assert target.read_bytes() == Handler.content
    assert list_files(target.parent) == {"file.hdf5"}


@pytest.mark.parametrize("etag", ['"two"', 'W/"one"', ""])
def test_a_beginning_of_another_file_is_discarded(address: str, target: Path, etag: str) -> None:
    """The server has another version, or cannot say that it is the same one."""
    Handler.fault, Handler.etag = "dies", '"one"' if etag == '"two"' else etag
    with pytest.raises(DataError, match="bytes are kept" if etag == '"two"' else "nothing was kept"):
        download(f"{address}/file.hdf5", target, accept)
    Handler.fault, Handler.etag, Handler.content = "", etag, Handler.content[::-1]
    download(f"{address}/file.hdf5", target, accept)
    assert target.read_bytes() == Handler.content
    assert list_files(target.parent) == {"file.hdf5"}


def test_a_note_that_is_damaged_or_of_another_address_is_not_trusted(address: str, target: Path) -> None:
    for text in ("no json", "[]", '{"url": "http://other/", "total": 99999, "validator": "\\"one\\""}'):
        target.parent.mkdir(exist_ok=True)
        target.with_name(".file.hdf5.part").write_bytes(b"something else")
        target.with_name(".file.hdf5.part.json").write_text(text)
        download(f"{address}/file.hdf5", target, accept)
        assert target.read_bytes() == Handler.content
        target.unlink()
    assert all(asked is None for _, asked in Handler.asked)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("too long", r"\d+ bytes came, \d+ were announced"),
        ("unsized", "announces a size of None; accepted are 1 to"),
        ("gone", r"download to .* failed \(HTTP Error 404: Not Found\); nothing was kept, try again"),
        ("page", r"what came is not the file wanted \(.*not a whole HDF5 file.*nothing was kept"),
        ("too short", r"what came is not the file wanted \(.*not a whole HDF5 file.*truncated.*nothing was kept"),
    ],
)
def test_what_is_not_whole_never_gets_the_name(address: str, home: Path, fault: str, message: str) -> None:
    """Through the real code path: `--source d4rl --set task.d4rl_url=…`."""
    config = make_small_config("d4rl", url=f"{address}/file.hdf5")
    cached = get_cache_file(config.task.d4rl_url)
    Handler.fault = fault
    with pytest.raises(DataError, match="HTTP Error 404|cannot be reached" if fault == "gone" else message):
        make_snapshot(config, home)
    assert not cached.exists()
    if fault == "gone":
        with pytest.raises(DataError, match=message):
            download(config.task.d4rl_url, cached, accept)
    left = {".file.hdf5.part", ".file.hdf5.part.json"} if fault == "too long" else set()
    assert list_files(cached.parent) == left, "only a beginning that can be continued stays"
    Handler.fault = ""
    assert make_snapshot(config, home).card["episodes"] == 2
    assert list_files(cached.parent) == {"file.hdf5"}


def test_digest_is_checked_where_it_is_known(address: str, tmp_path: Path, home: Path) -> None:
    right = compute_file_digest(tmp_path / "made.hdf5", "sha256")
    config = make_small_config("d4rl", url=f"{address}/file.hdf5", d4rl_sha256="0" * 64)
    with pytest.raises(DataError, match=rf"sha256 is {right}; accepted is 0000.*nothing was kept"):
        make_snapshot(config, home)
    cached = get_cache_file(config.task.d4rl_url)
    assert not list_files(cached.parent)
    good = make_small_config("d4rl", url=f"{address}/file.hdf5", d4rl_sha256=right)
    assert make_snapshot(good, home).card["recipe"]["sha256"] == right
    cached.write_bytes(b"damaged later")
    with pytest.raises(DataError, match=f"{cached}: sha256 is .*; accepted is {right}"):
        make_snapshot(good, home / "other")


def test_slow_server_is_reported(
    address: str, target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "REPORT_EVERY_SECONDS", 0.05)
    Handler.fault, Handler.content = "slow", Handler.content * 3
    download(f"{address}/file.hdf5", target, accept)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("download:")]
    assert len(lines) >= 2 and "MB/s" in lines[0] and "s left" in lines[0]


def test_silent_server_is_given_up(address: str, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT_SECONDS", 0.2)
    Handler.fault = "stalls"
    with pytest.raises(DataError, match=r"failed \(no data for 0.2 s\); 1000 bytes are kept"):
        download(f"{address}/file.hdf5", target, accept)
    assert not target.exists()


def test_two_processes_fetch_it_once(address: str, target: Path) -> None:
    threads = [threading.Thread(target=download, args=(f"{address}/file.hdf5", target, accept)) for _ in range(2)]
    Handler.fault = "slow"
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Handler.asked) == 1 and target.read_bytes() == Handler.content
    assert list_files(target.parent) == {"file.hdf5"}
