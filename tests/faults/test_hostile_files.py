"""Files from elsewhere are treated as hostile."""

import subprocess
import sys
from pathlib import Path

import pytest

from vdt.config.errors import ConfigError
from vdt.config.layers import load_yaml, parse_overrides
from vdt.system.home import ROOT

FUZZ = str(ROOT / "tests" / "faults" / "fuzz.py")


@pytest.mark.parametrize("inputs", [60, pytest.param(20_000, marks=pytest.mark.faults)])
def test_no_input_crashes_a_reader(inputs: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", FUZZ, "--inputs", str(inputs)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: &a [*a]", "aliases"),
        ("[" * 2000, "not plain YAML"),
        ("a: 2026-13-45", "not plain YAML"),
        ("- 1", "must hold a mapping, not list"),
    ],
)
def test_yaml_is_plain_values_only(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_yaml(path)


def test_overrides_that_are_no_words() -> None:
    with pytest.raises(ConfigError, match="No closing quotation"):
        parse_overrides("a='1")
