"""``kraken-history``, also as ``python -m kraken_history``."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command, or say what to install."""
    try:
        with _leaving_at_once():
            from kraken_history.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "kraken_history":
            raise
        sys.stderr.write(
            f"kraken-history: {error.name} is not installed:"
            " run pip install '.[services,embedded]' in the folder of kraken-history\n"
        )
        sys.exit(2)
    try:
        sys.exit(run())
    except KeyboardInterrupt:  # just before the command began, or just after it ended
        sys.exit(_EXIT_INTERRUPTED)


@contextmanager
def _leaving_at_once() -> Iterator[None]:
    """Ctrl-C ends the process here and now: imports take half a second, and there is nothing to clean up."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # whoever started us wants it ignored
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(_EXIT_INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    main()
