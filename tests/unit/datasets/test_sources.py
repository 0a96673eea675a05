"""D4RL's cache and address, and the choice of a source."""

import http.server
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from support.data import NOWHERE, make_data_config, make_small_config, make_steps, write_hdf5
from support.server import serve_handler
from vdt.config.schema import Config
from vdt.data.errors import DataError
from vdt.datasets.choose import choose_source, get_snapshot_path
from vdt.datasets.d4rl import get_cache_file, make_d4rl_key
from vdt.datasets.download import probe
from vdt.datasets.snapshot import make_snapshot
from vdt.system.files import compute_file_digest


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `content`; paths choose how it misbehaves."""

    content: ClassVar[bytes] = b""

    def do_HEAD(self) -> None:
        """Headers only."""
        if self.path.startswith("/slow"):
            time.sleep(5)
        self.send_response(404 if self.path.startswith("/gone") else 200)
        if not self.path.startswith("/unsized"):
            self.send_header("Content-Length", str(len(self.content) + (1000 if self.path.startswith("/short") else 0)))
        self.end_headers()

    def do_GET(self) -> None:
        """Headers and content."""
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """A server on the loopback interface."""
    with serve_handler(Handler) as url:
        yield url


def test_cache_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_cache_file("http://host/a/b/x-v2.hdf5") == tmp_path / "d4rl" / "x-v2.hdf5"
    monkeypatch.delenv("D4RL_DATASET_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get_cache_file("http://host/a/b/x-v2.hdf5") == tmp_path / ".d4rl" / "datasets" / "x-v2.hdf5"


def test_probe(address: str) -> None:
    assert probe(f"{address}/file.hdf5") is None
    assert "refused" in str(probe(NOWHERE))
    assert "Not Found" in str(probe(f"{address}/gone.hdf5"))
    started = time.monotonic()
    assert probe(f"{address}/slow.hdf5", seconds=0.3) is not None
    assert time.monotonic() - started < 2


def put_into_cache(url: str) -> Path:
    path = get_cache_file(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_hdf5(path, make_steps(8, terminals=(3,), timeouts=(7,)))


def test_auto_prefers_snapshot_then_cache_then_network_then_collected(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{address}/file.hdf5"
    reachable, offline = make_data_config("auto", url=url), make_data_config("auto")
    choice = choose_source(offline, tmp_path)
    assert choice.source == "collected"
    assert "refused" in choice.reason and str(get_cache_file(NOWHERE)) in choice.reason
    assert choose_source(reachable, tmp_path).reason == f"auto: no snapshot, not in the cache, and {url} answers"
    cached = put_into_cache(url)
    choice = choose_source(reachable, tmp_path)
    assert choice.source == "d4rl" and str(cached) in choice.reason
    for expected, key in (
        ("collected", choose_source(make_data_config("collected"), tmp_path).key),
        ("d4rl", choice.key),
    ):
        snapshot = get_snapshot_path(tmp_path, reachable.env, key)
        snapshot.parent.mkdir(parents=True)
        snapshot.touch()
        again = choose_source(reachable, tmp_path)
        assert again.source == expected and "here already" in again.reason


def test_d4rl_by_network_is_cached(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_hdf5(tmp_path / "made.hdf5", make_steps(8, terminals=(3,), timeouts=(7,)))
    monkeypatch.setattr(Handler, "content", made.read_bytes())
    config = make_small_config("d4rl", url=f"{address}/file.hdf5")
    recording = choose_source(config, tmp_path).load()
    assert recording.dataset.lengths.tolist() == [4, 4]
    assert recording.recipe["url"] == config.task.d4rl_url
    assert get_cache_file(config.task.d4rl_url).read_bytes() == made.read_bytes()
    assert "cache" in choose_source(config, tmp_path).reason


@pytest.mark.parametrize("known", [True, False])
def test_a_name_alone_does_not_make_a_file_d4rls(tmp_path: Path, known: bool) -> None:
    cached = put_into_cache(NOWHERE)
    digest = compute_file_digest(cached, "sha256") if known else ""
    snapshot = make_snapshot(make_small_config("d4rl", d4rl_sha256=digest), tmp_path / "home")
    assert snapshot.source == "d4rl" and snapshot.label == ("D4RL" if known else "D4RL (content not verified)")


def test_no_source_within_reach_says_what_remains(tmp_path: Path) -> None:
    put_here = str(tmp_path / "d4rl" / "file.hdf5")
    with pytest.raises(DataError) as caught:
        choose_source(make_data_config("auto", env="hopper-medium-v2", task__collected__ladder="null"), tmp_path)
    for part in ("hopper-medium-v2: no data", put_here, "refused", "Hopper-v4", "--source path:FILE"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="--source collected: there is no behaviour policy for Hopper-v4") as caught:
        choose_source(make_data_config("collected", env="hopper-medium-v2", task__collected__ladder="null"), tmp_path)
    assert put_here in str(caught.value)
    with pytest.raises(DataError, match=r"--source d4rl: no file at .*refused.*--source collected"):
        choose_source(make_data_config("d4rl"), tmp_path)


def forget_address(config: Config) -> Config:
    return replace(config, task=replace(config.task, d4rl_url=""))


@pytest.mark.parametrize("source", ["auto", "d4rl"])
def test_a_task_without_an_address_of_d4rls_says_so(tmp_path: Path, source: str) -> None:
    config = forget_address(make_small_config(source, task__collected__ladder="null"))
    with pytest.raises(DataError) as caught:
        choose_source(config, tmp_path)
    said = str(caught.value)
    assert "names no file of D4RL's (task.d4rl_url is empty)" in said and "path:FILE" in said
    assert "cannot be reached" not in said and "Download it" not in said


def test_without_an_address_of_d4rls_the_built_in_source_takes_its_place(tmp_path: Path) -> None:
    reason = choose_source(forget_address(make_small_config("auto")), tmp_path).reason
    assert reason.startswith("auto: no snapshot yet, its task names no file of D4RL's")


def test_keys_separate_sources_and_contents(tmp_path: Path) -> None:
    one = write_hdf5(tmp_path / "my data!.hdf5", make_steps(4, terminals=(3,)))
    first = choose_source(make_small_config(f"path:{one}"), tmp_path)
    write_hdf5(one, make_steps(5, terminals=(4,)))
    second = choose_source(make_small_config(f"path:{one}"), tmp_path)
    assert first.source == "path" and first.key != second.key
    assert first.key.startswith("path-my_data-")
    ranges = [{"task__action_low": f"[-{limit}]", "task__action_high": f"[{limit}]"} for limit in (0.5, 2.0)]
    changes: list[dict[str, Any]] = [{}, {"horizon": 6}, *ranges]
    assert len({make_d4rl_key(make_small_config("d4rl", **change)) for change in changes}) == 4
    with pytest.raises(DataError, match=r"/nowhere/x\.hdf5: no such file; accepted is an HDF5 file"):
        choose_source(make_small_config("path:/nowhere/x.hdf5"), tmp_path)
