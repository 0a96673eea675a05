"""Rules of docstrings, kept with `ast` so that nothing is imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = [*sorted((ROOT / "vdt").rglob("*.py")), *sorted((ROOT / "flows").glob("*.py"))]

# First words of docstrings of functions and methods: verbs in the imperative. Add a new verb here on purpose.
VERBS = [
    "Act",
    "Add",
    "Allocate",
    "Append",
    "Apply",
    "Begin",
    "Bind",
    "Bring",
    "Build",
    "Change",
    "Check",
    "Choose",
    "Collect",
    "Compare",
    "Compile",
    "Complete",
    "Compute",
    "Concatenate",
    "Continue",
    "Convert",
    "Copy",
    "Correct",
    "Count",
    "Create",
    "Cut",
    "Deliver",
    "Derive",
    "Detach",
    "Differentiate",
    "Disable",
    "Discard",
    "Divide",
    "Do",
    "Download",
    "Draw",
    "Drop",
    "Embed",
    "End",
    "Evaluate",
    "Explain",
    "Fill",
    "Find",
    "Fit",
    "Format",
    "Gather",
    "Handle",
    "Hold",
    "Improve",
    "Initialise",
    "Interleave",
    "Join",
    "Keep",
    "Label",
    "List",
    "Load",
    "Log",
    "Make",
    "Map",
    "Mark",
    "Measure",
    "Merge",
    "Mix",
    "Move",
    "Multiply",
    "Name",
    "Normalise",
    "Open",
    "Pass",
    "Plan",
    "Predict",
    "Prepare",
    "Pretrain",
    "Print",
    "Propose",
    "Put",
    "Queue",
    "Raise",
    "Read",
    "Rebuild",
    "Receive",
    "Recompute",
    "Record",
    "Refuse",
    "Register",
    "Remove",
    "Replace",
    "Replay",
    "Report",
    "Request",
    "Reset",
    "Resolve",
    "Restore",
    "Restrict",
    "Return",
    "Roll",
    "Rotate",
    "Run",
    "Save",
    "Seed",
    "Select",
    "Send",
    "Serve",
    "Set",
    "Show",
    "Sort",
    "Split",
    "Spread",
    "Start",
    "Step",
    "Store",
    "Subtract",
    "Swap",
    "Take",
    "Train",
    "Try",
    "Tune",
    "Turn",
    "Upgrade",
    "Use",
    "Walk",
    "Warn",
    "Wrap",
    "Write",
    "Yield",
]


def find_first_words() -> Iterator[tuple[str, str]]:
    """Yield each documented function's place, and the first word of its docstring."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
                yield f"{path.relative_to(ROOT)}::{node.name}", text.split()[0].rstrip(".,:;")


def test_docstrings_of_functions_begin_with_an_imperative() -> None:
    others = {place: word for place, word in find_first_words() if word not in VERBS}
    assert not others, "a function's docstring begins with a verb in the imperative (see VERBS)"


def test_listed_verbs_are_in_use_and_sorted() -> None:
    used = {word for _, word in find_first_words()}
    assert sorted(set(VERBS) & used) == VERBS, f"take out what is no longer used: {sorted(set(VERBS) - used)}"
