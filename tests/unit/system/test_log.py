"""Log lines: the level's word, the cell's name, and terminals that know only ASCII."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vdt.system.home import ROOT
from vdt.system.log import configure_logging

logger = logging.getLogger("vdt.test_log")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    configure_logging()


def test_the_formatter_writes_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    logger.info("critic: 100% done")
    logger.warning("the store is away")
    logger.error("no such env")
    logger.debug("not shown")
    assert capsys.readouterr().out == "critic: 100% done\nWARNING: the store is away\nerror: no such env\n"


def test_each_line_names_its_cell(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("iql s1")
    configure_logging("vdt s0")  # takes the place of the former
    logger.warning("two\nlines")
    assert capsys.readouterr().out == "vdt s0 | WARNING: two\nvdt s0 | lines\n"


def test_a_reader_that_is_gone_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging()
    closed = io.StringIO()
    closed.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        logger.info("nobody reads this")


def test_a_terminal_that_knows_only_ascii() -> None:
    code = (
        "from vdt.system.log import configure_logging; configure_logging(); import logging;"
        "logging.getLogger('vdt').info('score 63.1 ± 2.0 → 70 é'); print('a ± b')"
    )
    variables = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "score 63.1 +/- 2.0 -> 70 ?\na +/- b\n"), done.stderr
