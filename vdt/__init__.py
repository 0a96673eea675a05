"""Value-Guided Decision Transformer: critic, policy, planner and the training around them.

`load_policy` loads a trained policy, and `Policy` acts. Both are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vdt.agent.policy import Policy, load_policy

    __version__: str

__all__ = ["Policy", "__version__", "load_policy"]


def __getattr__(name: str) -> Any:
    """Return a public name, imported at its first use, or the installed version."""
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("vdt")
    if name in __all__:
        import vdt.agent.policy

        return getattr(vdt.agent.policy, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names with the rest."""
    return sorted({*globals(), *__all__})
