"""What the documents claim is true of the tree: commands, functions, tests, labels, versions."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
METHOD = (ROOT / "docs" / "method.md").read_text()
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
MAX_PARAGRAPH_WORDS = 60
MAX_COLUMNS = 120  # of prose; commands and rows of tables cannot be broken
IGNORED = {".hypothesis", ".git", ".venv", ".metaflow", ".metaflow_spin", ".vdt", ".dvc", "data", "reports", "build"}
TEXT = {".py", ".md", ".yaml", ".toml", ".txt", ".sh", ".json", ".lock", ".cfg", ".dvc", ""}


def find_definitions(path: Path) -> set[str]:
    """Names of functions and classes; methods as Class.method."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/method.md", "CHANGELOG.md"])
def test_named_functions_exist(document: str) -> None:
    references = re.findall(r"`([\w/]+\.py)::([\w.]+)`", (ROOT / document).read_text())
    assert references or document != "README.md"
    for path, name in references:
        assert (ROOT / path).is_file(), f"{document} names {path}, which does not exist"
        assert name in find_definitions(ROOT / path), f"{document} names {path}::{name}, which does not exist"


def test_every_defect_of_the_public_code_names_a_guard() -> None:
    section = METHOD.split("## 5.")[1].split("## 6.")[0]
    rows = [line for line in section.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 14))
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", row), f"no guarding test: {row}"


def test_labels_of_the_method_are_defined_and_used() -> None:
    defined = set(re.findall(r"^\*\*(M\d+),", METHOD, re.MULTILINE))
    cited = {label for path in (ROOT / "vdt").rglob("*.py") for label in re.findall(r"\bM\d+\b", path.read_text())}
    assert defined == {f"M{number}" for number in range(1, 7)}
    assert cited == defined


def find_prose(page: str) -> Iterator[str]:
    """Paragraphs and items of lists, line breaks kept; no headings, tables, equations, commands or comments."""
    text = re.sub(r"^(```|\$\$).*?^\1$|<!--.*?-->", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text):
        if block.strip() and not re.match(r"\n*(#|\||    |!\[|\[!\[|<)", block):
            yield block.strip()


@pytest.mark.parametrize("page", PAGES)
def test_paragraphs_are_short(page: str) -> None:
    long = {text[:60]: len(text.split()) for text in find_prose(page) if len(text.split()) > MAX_PARAGRAPH_WORDS}
    assert not long, f"words of paragraphs and items that have more than {MAX_PARAGRAPH_WORDS}"
    assert not [line for text in find_prose(page) for line in text.splitlines() if len(line) > MAX_COLUMNS]


def test_readme_opens_with_a_command() -> None:
    lines = README.splitlines()
    assert next(number for number, line in enumerate(lines, 1) if line.startswith("```")) <= 20


@pytest.mark.parametrize("page", PAGES)
def test_named_paths_exist(page: str) -> None:
    """Files and folders of this tree that stand in backticks; NAME and <...> are for the reader to fill in."""
    folders = "vdt|flows|tests|params|docs|benchmarks|examples"
    named = re.findall(rf"`((?:{folders})/(?:[\w./-]*(?:/|\.\w+))?)`", (ROOT / page).read_text())
    assert not [path for path in named if "NAME" not in path and not (ROOT / path).exists()]


@pytest.mark.parametrize(
    "target", re.findall(r"\bmake ([a-z-]+(?: [a-z-]+)*)`", (ROOT / "CONTRIBUTING.md").read_text())
)
def test_named_targets_exist(target: str) -> None:
    defined = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(target.split()) <= defined


def test_image_copies_what_exists() -> None:
    """`docker build` copies what the Dockerfile names and .dockerignore lets through."""
    copies = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    named = {name for words in copies for name in words.split()}
    allowed = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert named == set(allowed) and {"vdt", "params", "flows", "constraints.txt"} <= named
    assert all((ROOT / name).exists() for name in named)


@pytest.mark.parametrize(
    "leftover", ["reports/.study-quick.lock", "metaflow_card_cache/card.html", "reports/1/report.md"]
)
def test_what_a_run_leaves_is_ignored_by_git(leftover: str) -> None:
    ignored = subprocess.run(["git", "-C", ROOT, "check-ignore", "--quiet", "--no-index", leftover], check=False)
    assert ignored.returncode == 0


def test_citation_and_package_have_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changelog = re.findall(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changelog[0] == (citation["version"], citation["date-released"]) and citation["version"] == version


def test_readme_tree_exists() -> None:
    tree = README.split("## Where is what")[1].split("```text\n")[1].split("```")[0]
    for line in tree.strip().splitlines():
        assert (ROOT / line.split()[0]).exists(), f"README's tree names {line.split()[0]}"


def test_ci_runs_the_command_of_the_readme() -> None:
    """`.ci/run` takes the line from the README, so there must be exactly one, in a code block of its own."""
    commands = re.findall(r"^```bash\n(python -m venv .*)\n```$", README, re.MULTILINE)
    assert len(commands) == 2
    pattern = re.search(r"grep -E '([^']+)' README.md", (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    assert [line for line in README.splitlines() if re.search(pattern[1], line)] == [commands[1]]
    assert all("-c constraints.txt" in command for command in commands)


def test_constraints_are_exact_and_cover_the_dependencies() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), (
        "only name==version, no places, no local versions"
    )
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    names = {re.split(r"[\[<>=!~ ]", item)[0].lower().replace("_", "-") for item in needed} - {"vdt"}
    assert names <= pinned, names - pinned


def test_no_machine_paths() -> None:
    """No file names a folder of the machine that it was written on."""
    folders = "|".join(["work", "tmp", "root", "home"])
    pattern = re.compile(rf"(^|[^A-Za-z0-9_.])/({folders})/[a-z]", re.MULTILINE)
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        generated = parts[0] in IGNORED or any("cache" in part or part.endswith(".egg-info") for part in parts)
        generated = generated or parts[0].startswith(".coverage")  # of a run before this one
        if path.is_file() and path.suffix in TEXT and not generated:
            assert not pattern.search(path.read_text(errors="replace")), path.relative_to(ROOT)
