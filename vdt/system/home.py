"""Process setup: folders, environment variables, user name, log. Imports nothing heavy.

`prepare()` must run before `import metaflow`, which reads the user name and the datastore's root while it is imported.
"""

from __future__ import annotations

import gc
import os
import pwd
import shlex
import sys
from pathlib import Path

from vdt.system.log import configure_logging
from vdt.system.machine import count_workers, limit_spinning, steady_sums

PACKAGE = Path(__file__).resolve().parents[1]  # vdt/
ROOT = PACKAGE.parent  # of the clone; where the package is installed from a wheel, site-packages
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a server's address may hold a password
    "GIT_PYTHON_REFRESH": "quiet",
    "PYTHONUTF8": "1",  # of child processes: files and pipes are UTF-8, independent of the terminal
}


OBJECTS_PER_COLLECTION = 100_000  # Python's own: 700
MOST_CELLS = 10_000  # of one flow; Metaflow itself stops at 100


class FolderError(OSError):
    """Folder that the pipeline writes to and that cannot be written."""


def find_params() -> Path:
    """Return the folder of parameter files: `vdt/params/` of a wheel, else `params/` beside the package."""
    inside = PACKAGE / "params"
    return inside if inside.is_dir() else ROOT / "params"


def home() -> Path:
    """Return the folder of data, checkpoints, tracking store and reports.

    It is `VDT_HOME`; without that the root of the clone, or the current folder if the package comes from a wheel.
    """
    default = Path.cwd() if find_params().parent == PACKAGE else ROOT
    return Path(os.environ.get("VDT_HOME") or default).expanduser().resolve()


def make_resume_command(command: str, run_id: str) -> str:
    """Return the exact command that continues a run in the present home folder; `command` is how its flow was called."""
    return f"{name_home()}{command} resume --origin-run-id {run_id}"


def make_vdt_command(words: str) -> str:
    """Return the exact command `vdt` of this installation and home folder with these words, for the present folder."""
    script = Path(sys.executable).with_name("vdt")
    called = shlex.quote(shorten_path(script)) if script.exists() else "python -m vdt.cli"
    return f"{name_home()}{called} {words}"


def shorten_path(path: str | Path) -> str:
    """Return a path as a command in the present folder names it: relative if it lies below, else as it is."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else str(path)


def name_home() -> str:
    """Return the beginning of a command that names the home folder, where an environment variable does."""
    return f"VDT_HOME={shlex.quote(os.environ['VDT_HOME'])} " if os.environ.get("VDT_HOME") else ""


def prepare() -> None:
    """Set the environment variables that Metaflow, MLflow and DVC read; those set by the user stay.

    A user name is only set where Metaflow would refuse to start: for root, and for a process without one. Garbage
    collection is less frequent: importing PyTorch and MLflow then takes three quarters of the time, in each step's process.
    """
    configure_logging()
    if os.environ.get("VDT_HOME"):
        os.environ["VDT_HOME"] = str(home())  # absolute: steps change their folder
    name_user()  # MLflow looks for a home folder while it is imported
    limit_spinning()
    steady_sums()
    gc.set_threshold(OBJECTS_PER_COLLECTION)
    names = ("METAFLOW_USER", "SUDO_USER", "USERNAME", "USER")
    if all(os.environ.get(name, "root") in ("", "root") for name in names):
        os.environ["METAFLOW_USER"] = "vdt"
    os.environ.setdefault("METAFLOW_DATASTORE_SYSROOT_LOCAL", str(home()))
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    workers = str(count_workers())
    for command in ("RUN", "RESUME"):
        os.environ.setdefault(f"METAFLOW_{command}_MAX_WORKERS", workers)
        os.environ.setdefault(f"METAFLOW_{command}_MAX_NUM_SPLITS", str(MOST_CELLS))
    path = os.environ.get("PYTHONPATH", "")  # exit hooks run as `python -m ...` children and import vdt by name
    if str(ROOT) not in path.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), path]))


def name_user() -> None:
    """Set user name and home folder of a process without them: `docker run --user 12345` has neither.

    Python reads these variables before it queries the system, where Metaflow, MLflow and DVC would end with an error.
    """
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
            os.environ["LOGNAME"] = f"uid{os.getuid()}"
        if not os.access(os.environ.get("HOME") or "", os.W_OK):  # docker sets it to /
            os.environ["HOME"] = str(home())
