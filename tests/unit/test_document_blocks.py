"""Blocks and commands of the documents: each is run by tests/flows/test_documents.py, checked here, or marked why not."""

from collections import Counter
from pathlib import Path

import nbformat
import pytest

from support.documents import (
    MARK,
    RUNNABLE,
    SHOWN,
    Block,
    check_command,
    find_blocks,
    list_commands,
    list_inline_commands,
    read_study,
)
from vdt.config.errors import ConfigError
from vdt.system.home import ROOT


def test_every_block_is_run_checked_or_marked() -> None:
    """Counts stand in the message of a failure, and a block of no known language fails: nobody would run it."""
    blocks = find_blocks()
    unknown = [str(block) for block in blocks if block.language not in RUNNABLE + SHOWN]
    assert not unknown, f"blocks without one of the languages {', '.join(RUNNABLE + SHOWN)}: {unknown}"
    wrong = [f"{block}: {block.mark}" for block in blocks if block.mark and not MARK.fullmatch(block.mark)]
    assert not wrong, f"marks are `not run: REASON` or `checked: REASON`: {wrong}"
    kinds = Counter(block.kind for block in blocks if block.language in RUNNABLE)
    assert set(kinds) == {"run", "checked", "not run"} and kinds["run"] > sum(kinds.values()) / 2, kinds


def test_what_is_shown_has_no_commands() -> None:
    for block in find_blocks("shown"):
        first = [line.split(" ")[0] for line in block.text.splitlines()]
        assert block.language == "text" or not {".venv/bin/python", ".venv/bin/vdt", "python"} & set(first), str(block)


def test_marks_name_tests_that_exist() -> None:
    for block in find_blocks("not run"):
        named = [word.strip(";,") for word in block.mark.split() if word.startswith(("tests/", ".ci/"))]
        assert named and all((ROOT / path).is_file() for path in named), f"{block}: {block.mark}"


@pytest.mark.parametrize("block", find_blocks("checked"), ids=str)
def test_commands_too_long_to_run_are_right(block: Block) -> None:
    for command in list_commands(block.text):
        check_command(command)


@pytest.mark.parametrize(("page", "command"), list_inline_commands())
def test_commands_in_sentences_are_right(page: str, command: str) -> None:
    check_command(command)


@pytest.mark.parametrize("block", find_blocks("run", "yaml"), ids=str)
def test_yaml_is_a_study_or_a_method(block: Block, tmp_path: Path) -> None:
    assert read_study(block.text, tmp_path).envs


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (".venv/bin/vdt evaluat 17", "No such command 'evaluat'"),
        (".venv/bin/vdt evaluate 17 --lokahead", "No such option: --lokahead"),
        (".venv/bin/vdt export walker2d-medium-v2", "is an env"),
        (".venv/bin/vdt db upgrad", "No such command 'upgrad'"),
        (".venv/bin/python flows/vdt_flow.py run --env walker2d-medum-v2", "unknown env 'walker2d-medum-v2'"),
        (".venv/bin/python flows/vdt_flow.py --env walker2d-medium-v2", "the word run is missing"),
        (".venv/bin/python flows/vdt_flow.py run --study quik", "quik"),
        (".venv/bin/python examples/none.py", "there is no examples/none.py"),
    ],
)
def test_a_wrong_command_is_found(command: str, message: str) -> None:
    with pytest.raises((Exception, ConfigError)) as caught:
        check_command(command)
    assert message in getattr(caught.value, "message", str(caught.value))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
