"""Names and colors by which runs are told apart in MLflow's lists and charts."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Mapping
from typing import Any

from vdt.config.layers import list_names
from vdt.config.schema import Config, shorten_keys

LIGHTNESS = (0.38, 0.58, 0.28, 0.7)  # by seed, in turn
LONGEST = 60  # characters of the changed settings in a name
NAMED_ALREADY = ("data.seed",)  # in the name of every run


def name_variant(patch: str, changes: Mapping[str, Any]) -> str:
    """Return what distinguishes a run beside method, data and seed: its patch and the settings of `--set`, shortened.

    Args:
        patch: name of the patch that the cell carries, empty for none.
        changes: dotted key -> value, of `--set`.
    """
    told = {key: value for key, value in changes.items() if key not in NAMED_ALREADY}
    words = [f"{word}={value}" for word, value in zip(shorten_keys(told), told.values(), strict=True)]
    shown = list[str]()
    for word in words:
        if len(",".join([*shown, word])) > LONGEST:
            break
        shown.append(word)
    left = [f"{len(words) - len(shown)} more"] if len(shown) < len(words) else []
    return "-".join(filter(None, (patch, ",".join([*shown, *left]))))


def make_run_name(config: Config, *, source: str = "", patch: str = "") -> str:
    """Return `<method>-<patch>-d<data seed>-s<seed>-<env as a file's name>-<source>`: the differences within a study come first.

    Args:
        config: of the cell.
        source: of its data, empty until it is known.
        patch: what else distinguishes it (`name_variant`), if anything.
    """
    parts = (config.method, patch, config.data_name, f"s{config.seed}", config.file_name, source)
    return "-".join(part for part in parts if part)


def choose_color(config: Config, patch: str = "") -> str:
    """Return a run's color in MLflow's lists and charts, as "#rrggbb": MLflow draws its own by chance, some of them equal.

    The hue tells methods and patches, or changed settings, apart, the lightness seeds.
    """
    methods = list_names("methods")
    shift = 0.0 if not patch else 0.25 + zlib.crc32(patch.encode()) % 100 / 200  # of the way to the next method's hue
    hue = ((methods.index(config.method) if config.method in methods else 0) + shift) / max(1, len(methods))
    rgb = colorsys.hls_to_rgb(hue, LIGHTNESS[config.seed % len(LIGHTNESS)], 0.75)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
