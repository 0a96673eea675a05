"""Hooks of the documentation site: equations become MathML, which browsers draw without a script."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

EQUATION = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the equations of a page, LaTeX between lines of `$$`, by MathML."""
    return EQUATION.sub(lambda found: f"\n{convert(found[1], display='block')}\n", markdown)
