"""Importing the library must not set devices, threads, seeds or environment variables."""

import subprocess
import sys
from pathlib import Path


def test_importing_the_library_changes_no_settings() -> None:
    code = (
        "import gymnasium, os, torch;"  # gymnasium sets a variable of its own
        "before = dict(os.environ), torch.get_num_threads(), torch.get_rng_state();"
        "import vdt.training.online, vdt.evaluation.evaluate;"
        "assert before[0] == dict(os.environ) and before[1] == torch.get_num_threads();"
        "assert torch.equal(before[2], torch.get_rng_state())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2], timeout=300)
