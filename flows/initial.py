"""Policies that trainings begin from: kept by `start`, found by the steps that train, on whatever machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.transfer import describe_file, fetch_file
from vdt.config.errors import ConfigError
from vdt.config.layers import config_from_mapping
from vdt.config.schema import Config
from vdt.system.home import home


def keep_initial_policies(flow: Any) -> dict[str, dict[str, str]]:
    """Keep a copy of each policy that cells begin from; return the copies, described for later steps, by digest.

    Raises:
        ConfigError: if one has changed since its digest was taken.
    """
    configs = [config_from_mapping(cell["config"]) for cell in flow.cells]
    begun = {config.init.sha256: config for config in configs if config.init.sha256}
    if not begun:
        return {}
    from vdt.agent.initial import keep_initial

    return {sha256: describe_file(flow, keep_initial(config, _get_folder())) for sha256, config in begun.items()}


def fetch_initial(flow: Any, config: Config) -> Path | None:
    """Return the copy of the policy that training begins from; none where it begins from random networks.

    Raises:
        ConfigError: if the copy is gone or changed, and so is the original.
    """
    if not config.init.sha256:
        return None
    try:
        return fetch_file(flow, flow.initial_policies[config.init.sha256], home() / ".vdt" / "fetched")
    except ConfigError:
        from vdt.agent.initial import keep_initial

        return keep_initial(config, _get_folder())


def _get_folder() -> Path:
    return home() / ".vdt" / "policies"
