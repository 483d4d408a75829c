"""Ends supervisord when the command that started it is gone, however it went.

Run by supervisord as ``python guard.py LOCK_FILE``: the command holds that lock for as long as it lives.
Only the standard library is imported, so that this costs little.
"""

import fcntl
import os
import signal
import sys
from pathlib import Path


def main(lock_file: Path) -> None:
    """Wait until the lock is free, which the kernel sees to, and tell the parent to stop everything."""
    supervisor = os.getppid()
    with lock_file.open("r") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    if os.getppid() == supervisor:
        os.kill(supervisor, signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
