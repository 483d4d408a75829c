"""Stops supervisord when the command that started it has ended, even if it was killed.

supervisord runs it as ``python guard.py LOCK_FILE``. The command holds that lock for as long as it runs.
It imports only the standard library, to start fast and use little memory.
"""

import fcntl
import os
import signal
import sys
from pathlib import Path


def main(lock_file: Path) -> None:
    """Wait until the kernel releases the command's lock, then send SIGTERM to supervisord."""
    supervisor = os.getppid()
    with lock_file.open("r") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    if os.getppid() == supervisor:
        os.kill(supervisor, signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
