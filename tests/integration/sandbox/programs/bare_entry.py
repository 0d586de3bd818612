"""The control: the sandbox's own entry with every confinement left out, so that tests see each act succeed."""

import os
import runpy
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(root))

from workers.sandbox import confinement  # noqa: E402 - importable only now

confinement.confine = lambda plan: confinement.Confinement(0, False, os.geteuid(), "some", False)
runpy.run_path(str(root / "workers" / "sandbox" / "entry.py"), run_name="__main__")
