"""Value-Guided Decision Transformer: critic, policy, planner and the training around them.

`load_policy` loads a trained policy, `Policy` acts, `evaluate_policy` runs its episodes in its environment, and
`EpisodeWriter` keeps what happened on a robot as data to train on. They are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vdt.agent.histories import EpisodeHistory
    from vdt.agent.policy import Policy, load_policy
    from vdt.agent.spaces import Spaces
    from vdt.data.episode_writer import EpisodeWriter
    from vdt.evaluation.evaluate import evaluate_policy
    from vdt.evaluation.records import EvaluationReport

    __version__: str

__all__ = [
    "EpisodeHistory",
    "EpisodeWriter",
    "EvaluationReport",
    "Policy",
    "Spaces",
    "__version__",
    "evaluate_policy",
    "load_policy",
]
PLACES = {
    "EpisodeHistory": "vdt.agent.histories",
    "EpisodeWriter": "vdt.data.episode_writer",
    "EvaluationReport": "vdt.evaluation.records",
    "Policy": "vdt.agent.policy",
    "Spaces": "vdt.agent.spaces",
    "evaluate_policy": "vdt.evaluation.evaluate",
    "load_policy": "vdt.agent.policy",
}
COMPUTE = ("Policy", "load_policy", "evaluate_policy")  # names of these that lead to torch's sums


def __getattr__(name: str) -> Any:
    """Return a public name, imported at its first use, or the installed version."""
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("vdt")
    if name in PLACES:
        import importlib

        if name in COMPUTE:
            from vdt.system.machine import steady_sums

            steady_sums()  # before torch's first product, as flows and commands do
        return getattr(importlib.import_module(PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names with the rest."""
    return sorted({*globals(), *__all__})
