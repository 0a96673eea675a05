"""Published numbers beside this project's (params/published/), and the differences between the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vdt.config.errors import ConfigError, list_known
from vdt.config.layers import PARAMS, load_tasks, load_yaml

FOLDER = PARAMS / "published"


@dataclass(frozen=True)
class Published:
    """Published table.

    Attributes:
        source: place of publication.
        by: kind of its columns: "method" or "patch".
        change: whether its values are pairs, before and after online tuning.
        rows: env (or quantity) -> column -> number, [mean, standard error], or [before, after].
    """

    source: str
    by: str
    change: bool
    rows: Mapping[str, Mapping[str, Any]]

    def find(self, env: str, method: str, patch: str) -> Any:
        """Return the published value for a cell; none if there is none."""
        if self.by == "method" and patch:
            return None
        return self.rows.get(env, {}).get(method if self.by == "method" else patch)

    @property
    def rows_are_envs(self) -> bool:
        """Return whether its rows are envs; a table of other quantities is shown unchanged."""
        return not load_tasks().keys().isdisjoint(self.rows)

    def format(self, value: Any) -> str:
        """Format a value as it was printed."""
        if isinstance(value, list):
            return f"{value[0]} {'→' if self.change else '±'} {value[1]}"
        return "" if value is None else str(value)

    def get_score(self, value: Any) -> float | None:
        """Return the number of a value that the final score is compared with."""
        if isinstance(value, list):
            return float(value[-1 if self.change else 0])
        return None if value is None else float(value)


def list_published() -> list[str]:
    """List the names of the tables."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_published(name: str, where: str = "published") -> Published:
    """Load a table by name.

    Raises:
        ConfigError: if there is none; `where` names the origin of the name.
    """
    known = list_published()
    if name not in known:
        raise ConfigError(f"{where}: there is no table {name!r}{list_known(name, known)}")
    content = load_yaml(FOLDER / f"{name}.yaml")
    return Published(content["source"], content["by"], bool(content.get("change")), content["rows"])
