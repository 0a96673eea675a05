"""A study: a file of params/studies/ that names many cells (env x method x patch x seed) and the table they fill.

A patch is a named change of settings. Keys of the file, all but `envs` with a default:

    title: Offline training        # of the report
    note: One sentence.            # stands below the title
    published: offline             # table of params/published/ beside the results
    found_by: sweep-…              # of a winner's study (params/found/): the search or grid that has found it
    share_training: true           # cells whose critic, or actor, would be the same train one (false where time is measured)
    preset: laptop
    source: auto
    seeds: [0, 1, 2]
    data_seeds: [1, 2]             # of collected data, each with every seed; none: the settings' own
    envs: [walker2d-medium-v2]
    methods: [vdt, dt]
    set: {online: {environment_steps: 0}}    # of all cells
    patches:                                 # each with every method; none: the methods as they are
      short: {policy: {context_length: 8}}
    grid:                                    # each combination is a patch, with each of the patches above
      actor.q_coefficient: [0.1, 0.3]
    search: {...}                            # instead of seeds, patches and grid: `vdt/experiments/search.py`
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vdt.config.errors import ConfigError, list_known
from vdt.config.layers import PARAMS, expect_mapping, list_names, load_yaml, parse_overrides, read_value
from vdt.config.schema import Config, flatten
from vdt.config.types import Flag, Text, Texts, Wholes
from vdt.experiments.grid import Grid, expand_grid, read_grid, read_plain
from vdt.experiments.resolve import resolve_config
from vdt.experiments.search import Search, TrialPlace, read_search
from vdt.reporting.published import load_published
from vdt.system.home import MOST_CELLS, home

STUDIES = PARAMS / "studies"
REPORTED_SEEDS = 3  # of a grid's winner
PATCH_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")
ACCEPTED = "at most 40 small letters, digits, _ . - only, a letter or digit first"
WORDS: dict[str, Any] = {  # keys of a study file that hold one value or a list, with their types
    "title": Text,
    "note": Text,
    "published": Text,
    "found_by": Text,
    "share_training": Flag,
    "preset": Text,
    "source": Text,
    "seeds": Wholes,
    "data_seeds": Wholes,
    "envs": Texts,
    "methods": Texts,
}
KEYS = (*WORDS, "set", "patches", "grid", "search")


def _read_grid(value: Any, where: str) -> Grid:
    return read_grid(expect_mapping(value, where), where)


SECTIONS: Mapping[str, Callable[[Any, str], Any]] = {"grid": _read_grid, "search": read_search}


@dataclass(frozen=True)
class Cell:
    """Cell to be run: its configuration, and the name of its patch, empty for none."""

    config: Config
    patch: str = ""

    @property
    def key(self) -> str:
        """Return the name of the cell's folders."""
        config = self.config
        words = (config.file_name, config.method, self.patch, config.data_name, f"s{config.seed}")
        return "-".join(filter(None, words))


@dataclass(frozen=True, kw_only=True)
class Study:
    """Content of a study file, checked for form; `expand` checks the rest."""

    name: str
    place: str
    title: str = ""
    note: str = ""
    published: str = ""
    found_by: str = ""
    share_training: bool = True
    preset: str = "laptop"
    source: str = "auto"
    init_from: str = ""
    seeds: tuple[int, ...] = (0,)
    data_seeds: tuple[int, ...] = ()
    envs: tuple[str, ...]
    methods: tuple[str, ...] = ("vdt",)
    set: Mapping[str, Any] = field(default_factory=dict)
    patches: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    grid: Grid = field(default_factory=dict)
    search: Search | None = None
    trial: TrialPlace | None = None

    def list_variants(self) -> dict[str, dict[str, Any]]:
        """Return the settings of each patch, of each combination of the grid with it, by name: dotted key -> value."""
        points = expand_grid(self.grid) if self.grid else {"": {}}
        return {
            "-".join(filter(None, (name, point))): {
                **{key: read_plain(value) for key, value in flatten(patch).items()},
                **settings,
            }
            for name, patch in self.patches.items()
            for point, settings in points.items()
        }

    def describe(self, overrides: str = "") -> dict[str, Any]:
        """Return the facts of the study for a report, as plain values; `overrides` is `--set` text.

        `folder` is that of `reports/`, `settings` those of its patches. Whether these were tried to find the best ones is
        `ranked`; then `frozen` is the winner's study without its settings.
        """
        words = {"name": self.name, "title": self.title, "note": self.note, "published": self.published}
        kind = "search" if self.search else "winner" if self.found_by else "study"  # a winner's study has their name
        folder = f"{kind}-{self.name}"
        ranked = bool(self.grid or self.search)
        facts = {**words, "folder": folder, "settings": self.list_variants(), "ranked": ranked}
        return {**facts, "frozen": _describe_winner_study(self, overrides)} if ranked else facts


def make_reported(study: Study, settings: Mapping[str, Any]) -> Study:
    """Return the study of a winner on the reported seeds: the search's, or three that a grid has not used."""
    seeds, data_seeds, changes = (
        choose_reported_seeds(study.seeds),
        study.data_seeds,
        {**flatten(study.set), **settings},
    )
    if study.search is not None:
        seeds = study.search.report_seeds
        if study.search.report_data_seed is not None:
            data_seeds, changes = (), {**changes, "data.seed": study.search.report_data_seed}
    return replace(study, search=None, grid={}, seeds=seeds, data_seeds=data_seeds, set=changes, patches={"": {}})


def choose_reported_seeds(tuning: Sequence[int]) -> tuple[int, ...]:
    """Return the first three seeds that are not among the given ones."""
    free = (seed for seed in itertools.count() if seed not in tuning)
    return tuple(itertools.islice(free, REPORTED_SEEDS))


def _describe_winner_study(study: Study, overrides: str) -> dict[str, Any]:
    reported = make_reported(study, {})
    settings = {**flatten(reported.set), **parse_overrides(overrides)}
    return {
        "published": study.published,
        "share_training": study.share_training,
        "preset": study.preset,
        "source": study.source,
        "init_from": study.init_from,
        "seeds": list(reported.seeds),
        "data_seeds": list(reported.data_seeds),
        "set": {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()},
    }


def find_study_file(given: str) -> Path:
    """Return the file of a study that is given by name ("offline") or by path.

    Raises:
        ConfigError: if there is none.
    """
    path = Path(given).expanduser()
    for candidate in (path, PARAMS.parent / path, home() / path, STUDIES / f"{given}.yaml"):
        if candidate.is_file():
            return candidate
    known = list_names("studies")
    raise ConfigError(
        f"--study: there is no file {given}{list_known(path.stem, known)} (params/studies/), or a path of your own YAML file"
    )


def load_study(given: str) -> Study:
    """Read a study file.

    Raises:
        ConfigError: naming file and key.
    """
    path = find_study_file(given)
    if not PATCH_NAME.fullmatch(path.stem):
        odd = re.sub(r"[a-z0-9_.-]", "", path.stem)[:1] or path.stem  # else it is too long, or begins with a sign
        raise ConfigError(f"--study {path}: a study is named by its file: {ACCEPTED}, not {odd!r}")
    values = {key: _read_value(path, key, value) for key, value in load_yaml(path).items()}
    present = [key for key in ("methods", "seeds", "patches") if key in values]  # absent ones have defaults
    for key in ("envs", *present):
        if not values.get(key):
            raise ConfigError(f"{path}: {key} is empty or absent, so the study has no cells")
    if values.get("published"):
        load_published(values["published"], f"{path}: published")
    for name, patch in values.get("patches", {}).items():
        if not isinstance(name, str) or not PATCH_NAME.fullmatch(name):
            raise ConfigError(
                f"{path}: patches: {name!r} is no name: small letters, digits, _ . - only, quoted if a number"
            )
        expect_mapping(patch, f"{path}: patches: {name}")
    if "search" in values:
        _refuse_beside_search(path, values)
        values["seeds"] = values["search"].seeds
    return Study(name=path.stem, place=str(path), **values)


def _refuse_beside_search(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse what a search has no place for: seeds of its own kinds, and other sets of patches."""
    for key in ("seeds", "patches", "grid"):
        if key in values:
            instead = "search: seeds and search: report: seeds" if key == "seeds" else "search: space"
            raise ConfigError(f"{path}: {key} does not go with search; {instead} is its place")
    if len(values.get("methods", ("vdt",))) > 1:
        raise ConfigError(
            f"{path}: a search has one method, not {', '.join(values['methods'])}; give each its own file"
        )


def _read_value(path: Path, key: Any, value: Any) -> Any:
    """Return a key's value, of its type."""
    if key not in KEYS:
        raise ConfigError(f"{path}: unknown key {key!r}{list_known(str(key), KEYS)}")
    if key in SECTIONS:
        return SECTIONS[key](value, f"{path}: {key}")
    if key not in WORDS:
        return expect_mapping(value, f"{path}: {key}")
    value = read_value(key, WORDS[key], value, str(path))
    if isinstance(value, tuple) and len(set(value)) < len(value):
        raise ConfigError(f"{path}: {key} names something twice: {', '.join(map(str, value))}")
    return value


def expand(study: Study, overrides: str = "", numbers: Sequence[int] | None = None) -> list[Cell]:
    """Return every cell of a study, in the order env, method, patch, data seed, seed.

    Args:
        study: content of the file, or a changed one.
        overrides: `--set` text, which goes over the file's settings.
        numbers: of the cells that are wanted, from 1, in rising order; the others are not resolved. By default all.

    Raises:
        ConfigError: naming the study and the cell with the first value that is not accepted.
    """
    _check_size(study)
    _refuse_two_values(study, parse_overrides(overrides))
    variants, cells = study.list_variants(), []
    begin = [("--init-from", {"init": {"policy": study.init_from}})] if study.init_from else []
    data = [("data_seeds", {"data.seed": seed}) for seed in study.data_seeds] or [("data_seeds", {})]
    groups = list(itertools.product(study.envs, study.methods, variants.items(), data))
    for place, seeds in _group_numbers(study, numbers if numbers is not None else range(1, count_cells(study) + 1)):
        env, method, (name, patch), data_seed = groups[place]
        patches = [("set", study.set), data_seed, (f"patches.{name}", patch), *begin]
        where = f"{study.place}: env {env}, method {method}{f', patch {name}' if name else ''}: "
        try:
            first = resolve_config(
                env,
                preset=study.preset,
                method=method,
                source=study.source,
                seed=min(study.seeds),
                patches=patches,
                overrides=overrides,
            )
        except ConfigError as error:
            raise ConfigError(f"{where if study.place else ''}{error}") from None
        cells += [Cell(first.with_seed(seed), name) for seed in seeds]
    _refuse_equal_cells(study, cells)
    return cells


def _group_numbers(study: Study, numbers: Iterable[int]) -> Iterator[tuple[int, list[int]]]:
    """Return the seeds of the numbered cells, for each place in the order of what else distinguishes cells."""
    count = len(study.seeds)
    for place, group in itertools.groupby(numbers, lambda number: (number - 1) // count):
        yield place, [study.seeds[(number - 1) % count] for number in group]


def _refuse_two_values(study: Study, overrides: Mapping[str, Any]) -> None:
    """Refuse a key that two of patch, grid, set, `--set` and `data_seeds` give, where one would be lost."""
    patches = {f"patch {name}": flatten(patch) for name, patch in study.patches.items()}
    wide = {"the sweep" if study.place == "--sweep" else "grid": study.grid, "--set": flatten(overrides)}
    for (one, first), (other, second) in [*itertools.product(wide.items(), patches.items()), tuple(wide.items())]:
        both = sorted(set(first) & set(second))
        if both:
            raise ConfigError(f"{study.place}: {one} and {other} both give {both[0]}; leave it out of one")
    place = study.place or "--data-seeds"
    if study.data_seeds and study.source != "collected":
        raise ConfigError(f"{place}: data_seeds needs source collected, not {study.source}: other data has no seed")
    places: dict[str, Mapping[str, Any]] = {"set": study.set, "grid": study.grid, "--set": overrides}
    places |= {f"patch {name}": patch for name, patch in study.patches.items()}
    for where, settings in places.items() if study.data_seeds else ():
        if "data.seed" in flatten(settings):
            raise ConfigError(f"{place}: data_seeds and {where} both give data.seed; leave it out of one")


def count_cells(study: Study) -> int:
    """Return the number of a study's cells, without making them."""
    return math.prod(map(len, _list_parts(study).values()))


def _list_parts(study: Study) -> dict[str, Sized]:
    """Return what the cells of a study are all combinations of, by its name."""
    parts: dict[str, Sized] = {"envs": study.envs, "methods": study.methods, "patches": study.patches}
    parts |= {**{f"values of {key}": values for key, values in study.grid.items()}, "seeds": study.seeds}
    return parts | ({"data seeds": study.data_seeds} if study.data_seeds else {})


def _check_size(study: Study) -> None:
    """Refuse more cells than a flow takes, before they are made."""
    parts, cells = _list_parts(study), count_cells(study)
    if cells > MOST_CELLS:
        sizes = " x ".join(f"{len(part):,} {name}" for name, part in parts.items() if len(part) > 1)
        raise ConfigError(f"{sizes} are {cells:,} cells; at most {MOST_CELLS:,} are accepted")


def _refuse_equal_cells(study: Study, cells: Sequence[Cell]) -> None:
    seen: dict[str, Cell] = {}
    named: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(repr(cell.config), cell)
        if other is not cell:
            patches = f"patches {other.patch!r} and {cell.patch!r} give"
            what = patches if other.patch != cell.patch else "two of its data sets are one, and give"
            raise ConfigError(
                f"{study.place or '--env'}: {what} {cell.config.method} on {cell.config.env} the same configuration"
            )
        if (other := named.setdefault(cell.key, cell)) is not cell:
            both = " and ".join(f"{one.config.method} with patch {one.patch!r}" for one in (other, cell))
            raise ConfigError(
                f"{study.place or '--env'}: {both} on {cell.config.env} would both be called {cell.key}; rename a patch"
            )
