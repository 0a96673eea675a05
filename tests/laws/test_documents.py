"""What the documents claim is true of the tree: commands, functions, tests, labels, versions."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
METHOD = (ROOT / "docs" / "method.md").read_text()
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


@pytest.mark.parametrize("document", ["README.md", "docs/method.md", "CHANGELOG.md"])
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


def test_readme_tree_exists() -> None:
    tree = README.split("## Where is what")[1].split("```")[1]
    for line in tree.strip().splitlines():
        assert (ROOT / line.split()[0]).exists(), f"README's tree names {line.split()[0]}"
    assert len(README.splitlines()) <= 150


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
        if path.is_file() and path.suffix in TEXT and not generated:
            assert not pattern.search(path.read_text(errors="replace")), path.relative_to(ROOT)
