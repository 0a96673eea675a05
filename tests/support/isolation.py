"""Isolation of tests inside their folder."""

from pathlib import Path

from vdt.system.home import QUIET


def make_environment_variables(folder: Path) -> dict[str, str]:
    """Make the variables that keep a process and its children inside a folder and off the network."""
    return {
        **QUIET,
        "HOME": str(folder / "user"),
        "XDG_CACHE_HOME": str(folder / "user" / ".cache"),
        "XDG_CONFIG_HOME": str(folder / "user" / ".config"),
        "D4RL_DATASET_DIR": str(folder / "user" / "d4rl"),
        "MINARI_DATASETS_PATH": str(folder / "user" / "minari"),
        "HF_HUB_OFFLINE": "1",
        "VDT_HOME": str(folder / "home"),
        "METAFLOW_USER": "test",
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder / "home"),
    }
