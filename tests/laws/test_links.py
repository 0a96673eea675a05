"""Links of the documents lead somewhere: files and headings of this tree are there, other places have an address."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"))
)
CODE = re.compile(r"^(```|\$\$).*?^\1$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")
MAX_PICTURE_BYTES = 200_000  # of a still one; the walker moves


def find_links(page: str) -> list[str]:
    """Find the targets of a page's links and pictures, none of them inside code."""
    return LINK.findall(CODE.sub("", (ROOT / page).read_text()))


def find_anchors(path: Path) -> set[str]:
    """Name the headings of a page as GitHub and the site do."""
    text = re.sub(r"^(```|\$\$).*?^\1$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def find_fault(page: str, target: str) -> str:
    """Say what is wrong with a link of a page; nothing for a good one."""
    address = urlsplit(target)
    if address.scheme:
        good = address.scheme == "https" and "." in address.netloc and "localhost" not in address.netloc
        return "" if good else "no https address of another place"
    path = (ROOT / page).parent / unquote(address.path) if address.path else ROOT / page
    if not path.exists():
        return "no such file"
    if page.startswith("docs/") and not path.resolve().is_relative_to(ROOT / "docs"):
        return "outside docs/: the site does not have it"
    if address.fragment and address.fragment not in find_anchors(path):
        return "no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    faults = {target: fault for target in find_links(page) if (fault := find_fault(page, target))}
    assert not faults


@pytest.mark.parametrize(
    ("page", "target", "fault"),
    [
        ("README.md", "docs/none.md", "no such file"),
        ("README.md", "#none", "no such heading"),
        ("README.md", "docs/data.md#none", "no such heading"),
        ("README.md", "http://localhost:5000", "no https address"),
        ("docs/data.md", "../README.md", "outside docs/"),
        ("README.md", "#your-own-data", ""),
        ("docs/index.md", "data.md#sources", ""),
    ],
)
def test_a_wrong_link_is_found(page: str, target: str, fault: str) -> None:
    found = find_fault(page, target)
    assert found.startswith(fault) and bool(found) == bool(fault)


def test_pictures_are_light() -> None:
    heavy = [path.name for path in (ROOT / "docs").rglob("*.png") if path.stat().st_size > MAX_PICTURE_BYTES]
    assert not heavy
