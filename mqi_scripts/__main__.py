"""`python -m mqi_scripts scan ...` is mqi-scan where it is not installed, as in bin/."""

import sys
from importlib import import_module

try:
    code = import_module(f"mqi_scripts.verbs.{sys.argv.pop(1).removeprefix('mqi-')}").main()
except KeyboardInterrupt:  # before the program's own boundary was reached: nothing has begun
    code = 130
raise SystemExit(code)
