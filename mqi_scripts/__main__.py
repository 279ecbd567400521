"""`python -m mqi_scripts scan ...` is mqi-scan where it is not installed, as in bin/."""

import sys
from importlib import import_module

raise SystemExit(import_module(f"mqi_scripts.verbs.{sys.argv.pop(1).removeprefix('mqi-')}").main())
