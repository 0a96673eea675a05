"""A Markdown report as one HTML file: images inside, no script, no request to any host.

A wide table scrolls in a box of its own, so that the page fits a narrow screen.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

GREY = re.compile(r"&lt;span style=&quot;color:grey&quot;&gt;(.*?)&lt;/span&gt;")
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #57606a; --line: #d8dee4; --band: #f6f8fa;
  --link: #0550ae; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --faint: #9198a1; --line: #3d444d; --band: #151b23; --link: #79b8ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p, ul { margin: .75rem 0; max-width: 48rem; }
h1 + p { font-size: 1.2rem; line-height: 1.45; }
a { color: var(--link); }
nav { margin: 1.5rem 0; font-size: .9rem; color: var(--faint); }
nav a { margin-right: .9rem; display: inline-block; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .8125rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th { text-align: left; vertical-align: bottom; font-weight: 600; border-bottom: 2px solid var(--line); }
td { border-bottom: 1px solid var(--line); vertical-align: top; }
th, td { padding: .3rem .55rem; }
tbody tr:nth-child(even) { background: var(--band); }
code { font: .85em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--band); padding: .1em .3em;
  border-radius: 4px; }
td code { overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; }
figure img { display: block; width: 46rem; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption, .grey { color: var(--faint); }
figcaption { font-size: .875rem; margin-top: .4rem; max-width: 48rem; }
@media (max-width: 40rem) {
  body { padding: 1rem .9rem 3rem; font-size: 15px; } h1 { font-size: 1.3rem; } h1 + p { font-size: 1.05rem; }
  .table:has(th:nth-child(5)) table { min-width: 42rem; }
}
@media print {
  :root { --ink: #000; --paper: #fff; --faint: #444; --line: #bbb; --band: #f4f4f4; }
  body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  table { font-size: 8pt; } th, td { padding: .2rem .4rem; } .table { overflow: visible; }
  h2 { break-after: avoid; } figure, tr { break-inside: avoid; }
}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # what a browser may fetch: nothing


def make_page(markdown: str, folder: Path) -> str:
    """Return a Markdown report as a page of HTML.

    Args:
        markdown: begins with the title; HTML in it is shown as text, but for grey spans.
        folder: of the images that it links to, PNG files.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    for name, rule in (("image", _inline_image), ("table_open", _open_table), ("table_close", _close_table)):
        parser.add_render_rule(name, rule)
    environment: dict[str, Any] = {"folder": folder}
    tokens = parser.parse(markdown, environment)
    headings = _name_headings(tokens)
    _make_figures(tokens)
    body = GREY.sub(r'<span class="grey">\1</span>', parser.renderer.render(tokens, parser.options, environment))
    title = next((token.content for token in tokens if token.type == "inline"), "report")
    links = "".join(f'<a href="#{key}">{html.escape(name)}</a>' for key, name in headings)
    head, found, rest = body.partition("<h2")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f"{head}<nav>{links}</nav>\n{found}{rest}</body>\n</html>\n"
    )


def _name_headings(tokens: Sequence[Token]) -> list[tuple[str, str]]:
    """Set an id for each section's heading; return ids and texts."""
    found: list[tuple[str, str]] = []
    for token, content in pairwise(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            key = f"section-{len(found) + 1}"
            token.attrSet("id", key)
            found.append((key, content.content))
    return found


def _make_figures(tokens: list[Token]) -> None:
    """Turn paragraphs of an image and an emphasised caption into figures with captions."""
    for opening, inline, closing in zip(tokens, tokens[1:], tokens[2:], strict=False):
        children = inline.children or []
        if opening.type != "paragraph_open" or not children or children[0].type != "image":
            continue
        opening.tag = closing.tag = "figure"
        caption = next((place for place, child in enumerate(children) if child.type == "em_open"), None)
        if caption is not None:
            children[caption].tag = children[-1].tag = "figcaption"
            del children[1:caption]


def _inline_image(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, environment: dict[str, Any]
) -> str:
    """Return an image with its file inside."""
    token = tokens[index]
    content = (environment["folder"] / Path(str(token.attrGet("src"))).name).read_bytes()
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))  # of PNG's first chunk
    alternative = html.escape(renderer.renderInlineAsText(token.children, options, environment))
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return f'<img src="{source}" alt="{alternative}" width="{width}" height="{height}">'


def _open_table(*_: Any) -> str:
    return '<div class="table" tabindex="0" role="region" aria-label="table"><table>\n'


def _close_table(*_: Any) -> str:
    return "</table></div>\n"
