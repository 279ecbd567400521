"""The programs of the suite without their start-up: this process has imported all of them, and forks for each run.

A line on stdin asks for a run: [program, arguments, file for its stdout, file for its stderr]; one on stdout is its exit code. What
runs is the program itself, in a process of its own. A sweep starts so many that their start-up was half of its time.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

LONGEST = 120  # seconds of a run
PROGRAMS = ("scan", "push", "submit", "poll", "fetch", "clean", "tick", "report", "ledger")
HEAVY = ("jsonschema", "tabulate", "plumbum", "shutil", "gzip", "dateutil.parser")  # what they import when they need it


def run(program: str, words: Sequence[str], out: str, err: str) -> None:
    """What `python -m mqi_scripts PROGRAM ...` does, in this process, which ends with it."""
    for fd, path in enumerate((os.devnull, out, err)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), fd)
    signal.alarm(LONGEST)
    sys.argv = [program, *words]
    code: object = 1
    try:
        code = import_module(f"mqi_scripts.verbs.{program.removeprefix('mqi-')}").main()
    except SystemExit as end:
        code = end.code
    finally:  # at once: to tear down all that was imported takes longer than most runs
        if sys.exc_info()[0]:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else bool(code))


def serve() -> None:
    for name in (*HEAVY, *(f"mqi_scripts.verbs.{name}" for name in PROGRAMS)):
        import_module(name)
    gc.freeze()
    for line in sys.stdin:
        if pid := os.fork():
            sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
            sys.stdout.flush()
        else:
            run(*json.loads(line))


if __name__ == "__main__":
    serve()
