"""For tests that need numpy, which is often there for the system's Python alone: imported first, it
starts the test anew under that one, or ends it as skipped. Paths to the tools are set as well."""

import os
import sys

ROOT = os.environ.get("FATHOM_SOURCE_ROOT") or os.getcwd()
SYSTEM_PYTHON = "/usr/bin/python3"
sys.path[:0] = [os.path.join(ROOT, folder) for folder in ("tools/needle", "tests/style")]

try:
    import numpy
except ImportError:
    if sys.executable != SYSTEM_PYTHON and os.path.exists(SYSTEM_PYTHON):
        os.execv(SYSTEM_PYTHON, [SYSTEM_PYTHON, "-B", *sys.argv])
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    print(f"skipped: {name}: no python3 with numpy")
    print(f"check: {name}: 0 passed, 0 failed, 1 skipped")
    sys.exit(77)
