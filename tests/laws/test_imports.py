"""Importing the library must not set devices, threads, seeds or environment variables."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_only_reports_load_what_reports_need() -> None:
    """Each step is a process of its own: half a second of imports is paid nine times."""
    code = (
        "import sys; from flows.stage import Stage;"
        "import vdt.datasets.snapshot, vdt.evaluation.diagnostics, vdt.evaluation.evaluate, vdt.training.online;"
        "found = {'pandas', 'matplotlib', 'scipy.stats'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=300)


def test_importing_the_library_changes_no_settings() -> None:
    code = (
        "import gymnasium, os, torch;"  # gymnasium sets a variable of its own
        "before = dict(os.environ), torch.get_num_threads(), torch.get_rng_state();"
        "import vdt.training.online, vdt.evaluation.evaluate;"
        "assert before[0] == dict(os.environ) and before[1] == torch.get_num_threads();"
        "assert torch.equal(before[2], torch.get_rng_state())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=300)
