"""Code blocks of the documents, as a reader would take them: found with their marks, made small, checked or run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

from flows.command_line import is_search, parse_words
from flows.slurm_request import parse_request
from flows.words import check_words
from vdt.cli.application import app
from vdt.experiments.cells import OPTIONS, name_option, resolve_cells, resolve_study
from vdt.experiments.search_trials import check_search
from vdt.experiments.study import Study
from vdt.system.home import ROOT

PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^(?:<!-- (?P<mark>[^\n]*) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
MARK = re.compile(r"(not run|checked): \S.*")
RUNNABLE = ("bash", "python", "yaml")
SHOWN = ("text", "json", "mermaid", "bibtex")  # nobody is asked to run these
INSTALL = "python -m venv .venv && .venv/bin/pip install -c constraints.txt -e . && "
RUN_ID = '"?<run id>"?'
INLINE = re.compile(r"`((?:\.venv/bin/(?:python|vdt)|vdt) [^`|]+)`")


@dataclass(frozen=True)
class Block:
    """Block of code between fences.

    Attributes:
        page: path of the document in the repository.
        line: of its first fence.
        language: after the fence.
        text: between the fences.
        mark: comment before the block, without its dashes; empty if there is none.
    """

    page: str
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def kind(self) -> str:
        """What tests do with the block: run, checked (its words alone), not run, or shown."""
        found = MARK.fullmatch(self.mark)
        return "shown" if self.language in SHOWN else found[1] if found else "run"


def find_blocks(kind: str = "", language: str = "") -> list[Block]:
    """Find the blocks of all pages, or those of one kind or language."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start("language")) + 1
            found.append(Block(page, line, match["language"], match["text"], match["mark"] or ""))
    return [block for block in found if kind in ("", block.kind) and language in ("", block.language)]


def list_commands(text: str) -> list[str]:
    """Return the commands of a block, one a line, without comments; a backslash joins lines."""
    lines = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in re.sub(r"\\\n\s*", "", text).splitlines())
    return [line for line in lines if line]


def list_inline_commands() -> list[tuple[str, str]]:
    """Return the commands inside paragraphs and tables, each after its page."""
    return [(page, " ".join(found.split())) for page in PAGES for found in INLINE.findall((ROOT / page).read_text())]


def shrink(command: str, names: Mapping[str, str]) -> str:
    """Return a command as a test runs it: already installed, preset `smoke`, with real things in place of names.

    Args:
        command: of a document.
        names: pattern of what the reader is to fill in, or of what is too large → what stands for it.
    """
    command = command.removeprefix(INSTALL)
    if "vdt_flow.py run" in command and "--preset" not in command:
        command += " --preset smoke"
    for name, value in names.items():
        command = re.sub(name, value, command)
    return command


def check_command(command: str) -> None:
    """Check the words of a command, and that all it names exists, without running it.

    Raises:
        Exception: Typer's, ConfigError or AssertionError, whichever names the first wrong word.
    """
    for name, value in (("\\bSECONDS\\b", "10"), (RUN_ID, "1795888450714840")):
        command = re.sub(name, value, command)
    program, *words = shlex.split(command)
    if Path(program).name == "vdt":
        _check_vdt(words)
    elif words[0] == "flows/slurm.py":
        resolve_study(parse_request(words).options)
    elif words[0].startswith("flows/"):
        assert (ROOT / words[0]).is_file(), f"{command}: there is no {words[0]}"
        _check_flow(words)
    else:
        assert (ROOT / words[0]).is_file(), f"{command}: there is no {words[0]}"


def _check_vdt(words: list[str]) -> None:
    """Parse the words of the command `vdt`; a command without any is named, and needs none of its arguments."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("vdt", list(words))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, list(rest), parent=context, resilient_parsing=not rest)


def _check_flow(words: list[str]) -> None:
    """Resolve all cells of a flow's command line, or the ends of the space of a search."""
    given, others = parse_words(words)
    check_words(words[0], words[1:], others, [name_option(name) for name in (*OPTIONS, "register")])
    values = vars(given)
    if words[0] == "flows/vdt_flow.py" and "run" in others:
        if is_search(values):
            check_search(resolve_study(values), values["set"])
        else:
            resolve_cells(values)


def read_study(text: str, folder: Path) -> Study:
    """Resolve a block of YAML as a study file: what it leaves out of one is added, a method's settings are its patch."""
    content = yaml.safe_load(text)
    if not content.keys() <= set(Study.__dataclass_fields__):
        content = {"patches": {"block": content}}
    path = folder / "block.yaml"
    path.write_text(yaml.safe_dump({"envs": ["walker2d-medium-v2"], "title": "A block", **content}))
    values = {"study": str(path), "set": "", "trial": ""}
    study = resolve_study(values)
    if study.search is not None:
        check_search(study)
    else:
        resolve_cells(values)
    return study
