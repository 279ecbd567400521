"""flock with a deadline. A lock file is never deleted and no child inherits it; the dead hold none."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mqi_scripts.words import Busy


@contextmanager
def held(path: str, seconds: float, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of that file, or raise Busy with who holds it after `seconds` on the monotonic clock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    who = os.pread(fd, 200, 0).decode("ascii", "replace").strip() or "another process"
                    raise Busy(f"{path} is held by {who}: wait until it is done, then try again") from None
            time.sleep(0.02)
        if not shared:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"process {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
