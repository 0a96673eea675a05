"""Published numbers that stand beside ours (params/published/), and what differs between theirs and ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vdt.config.errors import ConfigError, list_known
from vdt.config.layers import PARAMS, load_tasks, load_yaml

FOLDER = PARAMS / "published"


@dataclass(frozen=True)
class Published:
    """One published table.

    Attributes:
        source: where it was printed.
        by: what its columns are: "method" or "patch".
        change: whether its values are pairs, before and after online tuning.
        rows: env (or quantity) -> column -> number, [mean, standard error], or [before, after].
    """

    source: str
    by: str
    change: bool
    rows: Mapping[str, Mapping[str, Any]]

    def find(self, env: str, method: str, patch: str) -> Any:
        """Their value for one of our cells, none if they print none."""
        if self.by == "method" and patch:
            return None
        return self.rows.get(env, {}).get(method if self.by == "method" else patch)

    @property
    def rows_are_envs(self) -> bool:
        """Whether its rows are envs; a table of other quantities is shown as it is."""
        return not load_tasks().keys().isdisjoint(self.rows)

    def format(self, value: Any) -> str:
        """A value as it was printed."""
        if isinstance(value, list):
            return f"{value[0]} {'→' if self.change else '±'} {value[1]}"
        return "" if value is None else str(value)

    def get_score(self, value: Any) -> float | None:
        """The number of a value that our last score is compared with."""
        if isinstance(value, list):
            return float(value[-1 if self.change else 0])
        return None if value is None else float(value)


def list_published() -> list[str]:
    """Names of the tables."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_published(name: str, where: str = "published") -> Published:
    """A table by name.

    Raises:
        ConfigError: if there is none; `where` says who asked.
    """
    known = list_published()
    if name not in known:
        raise ConfigError(f"{where}: there is no table {name!r}{list_known(name, known)}")
    content = load_yaml(FOLDER / f"{name}.yaml")
    return Published(content["source"], content["by"], bool(content.get("change")), content["rows"])
