"""Lets the tests of this folder import its oracle, `kernel_interpreter`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
