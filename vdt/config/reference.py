"""Reference of all settings: accepted values from the schema, the rest from the parameter files and their comments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from vdt.config.errors import ALIASES
from vdt.config.layers import PARAMS, list_names, load_layer
from vdt.config.schema import KEYS

LINE = re.compile(r"(?P<indent> *)(?P<name>\w+):[^#]*(?:# (?P<comment>.*))?")
RANGE = re.compile(r" \[(?P<low>[0-9.e-]+), (?P<high>[0-9.e]+\]|inf\))$")  # at the end: `[0, 1]`, `[1, inf)`
SOURCE = re.compile(r"; (?P<source>(?:paper|code|IQL|DT|ODT|CQL|TD3|RLPD|ours)\b.*)$")

HEAD = """# Configuration reference

Every key of the configuration. `--set "critic.expectile=0.7 policy.layers=2"` changes some of them; `vdt keys PATTERN`
prints those whose names or meanings match.

The values come from `params/vdt.yaml`, then the task, the preset, the method, a study's patches, and `--set`: the later
goes over the earlier. `presets` lists what a preset has in place of the default. What a method changes stands in its
file of `params/methods/`, six lines or so.

Sources: *paper*: the poster of the Value-Guided Decision Transformer; *code*: its public code; *IQL*, *DT*, *ODT*, *CQL*,
*TD3*: the code of those papers; *ours*: measured here ([method](../method.md)).

This page is made by `python -m vdt.config.reference`.
"""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """Key of the configuration, for the reference.

    Attributes:
        name: dotted key.
        accepted: type, range or words.
        default: value of params/vdt.yaml; empty where the task or the command line gives it.
        presets: preset -> value, where it is not the default.
        meaning: its effect, with its unit.
        source: origin of the default.
    """

    name: str
    accepted: str
    default: str
    presets: Mapping[str, str]
    meaning: str
    source: str


def read_comments(text: str) -> dict[str, str]:
    """Return dotted key -> comment behind it, of a parameter file with sections."""
    comments: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match is None:
            continue
        if not match["indent"]:
            section = match["name"]
        elif match["comment"]:
            comments[f"{section}.{match['name']}"] = match["comment"]
    return comments


def list_knobs() -> list[Knob]:
    """Return every key, in the order of the schema."""
    comments = read_comments((PARAMS / "vdt.yaml").read_text(encoding="utf-8"))
    defaults = load_layer(PARAMS / "vdt.yaml")
    presets = {name: load_layer(PARAMS / "presets" / f"{name}.yaml") for name in list_names("presets")}
    knobs = []
    for name, key in KEYS.items():
        comment = key.meaning or comments.get(name, "")
        source = SOURCE.search(comment)
        changed = {
            preset: _format(values[name])
            for preset, values in presets.items()
            if name in values and values[name] != defaults.get(name)
        }
        knobs.append(
            Knob(
                name=name,
                accepted=key.accepted,
                default=_format(defaults[name]) if name in defaults else "",
                presets=changed,
                meaning=RANGE.sub("", SOURCE.sub("", comment)),
                source=source["source"] if source else "",
            )
        )
    return knobs


def find_knobs(pattern: str) -> list[Knob]:
    """Return the keys whose name matches a pattern with `*`, or contains it, or that other code bases call by it.

    If there is none: those whose meaning contains it.
    """
    word = pattern.lower()
    meant = ALIASES.get(word, ())
    knobs = list_knobs()
    by_name = [
        knob for knob in knobs if word in knob.name or fnmatch(knob.name, word) or knob.name.rpartition(".")[2] in meant
    ]
    return by_name or [knob for knob in knobs if word in knob.meaning.lower()]


def _format(value: Any) -> str:
    """Return a value as YAML has it on one line."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_format, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_format(item)}" for key, item in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return str(value) or '""'


def format_reference() -> str:
    """Return the page of all keys as Markdown."""
    return HEAD + "".join(_format_sections(list_knobs()))


def _format_sections(knobs: list[Knob]) -> Iterator[str]:
    section = None
    for knob in knobs:
        name = knob.name.partition(".")[0] if "." in knob.name else ""
        if name != section:
            section = name
            title = f"`{name}`" if name else "Command line"
            yield f"\n## {title}\n\n| key | accepted | default | presets | meaning | source |\n|---|---|---|---|---|---|\n"
        presets = ", ".join(f"{preset} `{value}`" for preset, value in knob.presets.items())
        default = f"`{knob.default}`" if knob.default else ""
        cells = (f"`{knob.name}`", knob.accepted, default, presets, knob.meaning, knob.source)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


if __name__ == "__main__":
    from vdt.system.files import write_text
    from vdt.system.home import ROOT

    write_text(ROOT / "docs" / "reference" / "config.md", format_reference())
