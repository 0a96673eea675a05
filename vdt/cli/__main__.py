"""Run `python -m vdt.cli` as the command `vdt`, also where its script is not installed."""

import sys

from vdt.cli import main

sys.exit(main())
