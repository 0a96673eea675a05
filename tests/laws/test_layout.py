"""Rules of dependency and size, kept with `ast` so that nothing is imported."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import yaml

from vdt.config.task import Bridge

ROOT = Path(__file__).resolve().parents[2]
VDT = sorted((ROOT / "vdt").rglob("*.py"))
FLOWS = sorted((ROOT / "flows").glob("*.py"))

# Third-party package -> the only places that may import it.
IMPORTERS = {
    "metaflow": (),
    "mlflow": ("tracking", "serving"),
    "minari": ("datasets",),
    "h5py": ("datasets", "data.storage", "data.safe_hdf5"),
    "dvc": ("datasets.versioning",),
    "gymnasium": ("environments", "planning.env_model"),
    "gymnasium_robotics": ("environments",),
    "mujoco": ("environments", "planning.env_model"),
    "yaml": ("config",),
    "pydantic": ("config", "evaluation.records"),
    "pandas": ("reporting.frame", "serving"),
    "typer": ("cli",),
    "uvicorn": ("serving",),
    "pydantic_core": ("config",),
    "stable_baselines3": ("behavior.train",),
    "matplotlib": ("reporting",),
    "markdown_it": ("reporting.html",),
    "optuna": ("experiments.search_store", "reporting.importance"),
    "onnxruntime": ("agent.export",),
    "imageio": ("evaluation.video",),
}

# Packages of vdt/ from the ground up: a module imports its own package and those before it, never a later one.
ORDER = (
    *("system", "checkpoint", "data", "config", "environments", "tracking", "behavior", "critic", "policy"),
    *(
        "acceleration",
        "planning",
        "agent",
        "serving",
        "training",
        "evaluation",
        "reporting",
        "datasets",
        "experiments",
        "cli",
    ),
)
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def name_module(path: Path) -> str:
    """vdt/environments/__init__.py -> environments"""
    parts = path.relative_to(ROOT / "vdt").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_module(path): path for path in VDT}


def find_imports(tree: ast.AST, *, top_only: bool = False) -> Iterator[str]:
    """Full dotted names that are imported; with `top_only`, at import time of the module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif top_only and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(node)):
            continue
        else:
            yield from find_imports(node, top_only=top_only)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def resolve_module(dotted: str) -> str | None:
    """vdt.data.batches.SequenceBatch -> data.batches; none if it is not in vdt/."""
    if dotted.split(".")[0] != "vdt":
        return None
    parts = dotted.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts)


def matches(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def find_package(module: str) -> int:
    """Place of a module's package in `ORDER`."""
    package = module.split(".")[0]
    assert package in ORDER, f"vdt/{package}: say in ORDER (tests/laws/test_layout.py) where this package stands"
    return ORDER.index(package)


def find_dependencies(module: str, *, top_only: bool = False) -> set[str]:
    """Modules of vdt/ that a module imports."""
    resolved = {resolve_module(name) for name in find_imports(parse(MODULES[module]), top_only=top_only)}
    return {name for name in resolved if name} - {module}


def test_there_is_something_to_check() -> None:
    assert {"config.layers", "critic.losses", "policy.losses", "planning.planner"} <= set(MODULES)
    assert (ROOT / "flows" / "vdt_flow.py") in FLOWS


@pytest.mark.parametrize("package", sorted(IMPORTERS))
def test_one_importer_each(package: str) -> None:
    importers = {m for m, path in MODULES.items() if package in {n.split(".")[0] for n in find_imports(parse(path))}}
    strangers = {m for m in importers if not any(matches(m, allowed) for allowed in IMPORTERS[package])}
    assert not strangers, f"{package} is imported by {strangers}, allowed: {IMPORTERS[package]}"


def test_every_dependency_is_imported() -> None:
    names = {"pyyaml": "yaml", "markdown-it-py": "markdown_it", "gymnasium-robotics": "gymnasium_robotics"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [re.split(r"[\[<>=!~ ]", item)[0] for item in project["dependencies"]]
    imported = {name.split(".")[0] for path in [*VDT, *FLOWS] for name in find_imports(parse(path))}
    assert {names.get(name, name) for name in needed} <= imported


def test_vdt_never_imports_flows_or_tests() -> None:
    for module, path in MODULES.items():
        roots = {name.split(".")[0] for name in find_imports(parse(path))}
        assert not roots & {"flows", "tests", "benchmarks"}, module


def test_modules_live_in_packages() -> None:
    assert [path.name for path in (ROOT / "vdt").glob("*.py")] == ["__init__.py"]


def test_packages_are_in_order() -> None:
    upward = {
        f"{module} -> {name}"
        for module in MODULES
        if module
        for name in find_dependencies(module)
        if find_package(name) > find_package(module)
    }
    assert not upward, f"imports of a later package: {sorted(upward)}"


def test_critic_and_policy_do_not_know_each_other() -> None:
    for one, other in (("critic", "policy"), ("policy", "critic")):
        for module in (m for m in MODULES if matches(m, one)):
            assert not {name for name in find_dependencies(module) if matches(name, other)}, module


def test_no_import_cycles() -> None:
    open_path: list[str] = []
    done: set[str] = set()

    def visit(module: str) -> None:
        assert module not in open_path, " -> ".join([*open_path, module])
        if module not in done:
            open_path.append(module)
            for name in sorted(find_dependencies(module)):
                visit(name)
            open_path.pop()
            done.add(module)

    for module in MODULES:
        visit(module)


def find_words(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Words of names and strings, docstrings apart, with their line."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            text = node.value
        elif isinstance(node, ast.Name):
            text = node.id
        elif isinstance(node, ast.Attribute):
            text = node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            text = node.name
        yield from ((word, getattr(node, "lineno", 0)) for word in re.split(r"[^a-z0-9]+", text.lower()))


def test_no_task_names() -> None:
    families = [yaml.safe_load(path.read_text()) for path in (ROOT / "params" / "tasks").glob("*.yaml")]
    forbidden = {name.split("-")[0].lower() for family in families for name in family["tasks"]}
    forbidden |= {name.lower() for family in families for name in family["environments"]}
    assert "walker2d" in forbidden
    for path in VDT:
        allowed = set(get_args(Bridge)) if path.parent.name == "environments" or path.name == "task.py" else set()
        found = [(word, line) for word, line in find_words(parse(path)) if word in forbidden - allowed]
        assert not found, f"{path.relative_to(ROOT)}: task facts live in params/tasks/: {found}"


def find_local_file(dotted: str) -> Path | None:
    """The file of vdt/ or flows/ that an imported name comes from; none for other packages."""
    parts = dotted.split(".")
    while len(parts) > 1:
        path = ROOT.joinpath(*parts)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
        parts.pop()
    return None


@pytest.mark.parametrize("flow", ["vdt_flow.py", "behavior_flow.py"])
def test_flow_files_import_nothing_heavy(flow: str) -> None:
    """Metaflow imports a flow file once per task, so all that it pulls in counts."""
    pending, reached = [ROOT / "flows" / flow], set()
    while pending:
        file = pending.pop()
        names = set(find_imports(parse(file), top_only=True))
        packages = {name.split(".")[0] for name in names}
        strangers = (
            packages - {"metaflow", "vdt", "flows", "yaml", "pydantic", "pydantic_core"} - set(sys.stdlib_module_names)
        )
        assert not strangers, f"{flow} imports {strangers} by way of {file.relative_to(ROOT)}"
        new = {local for name in names if (local := find_local_file(name))} - reached
        reached |= new
        pending += new
    assert ROOT / "vdt" / "system" / "home.py" in reached


def test_no_module_level_settings() -> None:
    """No device, thread count or random state is set by importing."""
    forbidden = re.compile(r"\b(manual_seed|set_num_threads|set_default_device|random\.seed|set_default_dtype)\b")
    for path in VDT:
        top = [n for n in parse(path).body if not isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Expr)]
        calls = [ast.unparse(n) for n in parse(path).body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
        text = "\n".join([*calls, *(ast.unparse(node) for node in top)])
        assert not forbidden.search(text), path


@pytest.mark.parametrize("folder", ["vdt", "flows", "tests", "benchmarks"])
def test_files_are_short(folder: str) -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert not {str(p): n for p, n in lengths.items() if n > MAX_FILE_LINES}


def count_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    assert function.end_lineno is not None
    documented = function.body[0] if ast.get_docstring(function) is not None else None
    docstring = documented.end_lineno - documented.lineno + 1 if documented and documented.end_lineno else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_functions_are_short() -> None:
    long = {
        f"{path.relative_to(ROOT)}::{node.name}": count_lines(node)
        for path in [*VDT, *FLOWS]
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and count_lines(node) > MAX_FUNCTION_LINES
    }
    assert not long


def is_broad(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or (
        isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException")
    )


def test_no_swallowed_exceptions() -> None:
    """A broad except raises again, or does something with what it caught."""
    for path in [*VDT, *FLOWS]:
        for handler in ast.walk(parse(path)):
            if isinstance(handler, ast.ExceptHandler) and is_broad(handler):
                inside = list(ast.walk(handler))
                raises = any(isinstance(node, ast.Raise) for node in inside)
                uses = any(isinstance(node, ast.Name) and node.id == handler.name for node in inside)
                assert raises or uses, f"{path.relative_to(ROOT)}:{handler.lineno}: swallows any exception"
