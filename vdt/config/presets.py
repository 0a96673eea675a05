"""Text of a preset's file, made from layers: what a preset sets, and what it changes of each method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

TRIAL = "smoke"  # preset that learns nothing


def format_preset(comment: str, values: Mapping[str, Any]) -> str:
    """Return a preset as YAML.

    Args:
        comment: lines that say what it is for, without `#`.
        values: dotted key -> value, `methods.NAME.` before keys that hold for that method alone.
    """
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = list(value) if isinstance(value, tuple) else value
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=120)
