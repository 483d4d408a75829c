"""Late imports: a command loads its modules when it runs.

All of them together take two seconds of processor time, and ``--help``, ``--version`` and completion need none.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_INTERRUPTED = 130


@contextmanager
def loading() -> Iterator[None]:
    """Around imports: Ctrl-C and SIGTERM end the process here and now.

    There is nothing to clean up yet, and Python may report an interrupted import as an ignored exception or an
    ImportError. A signal that is ignored, or whose default action ends the process anyway, keeps its handler.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    raising = {number: handler for number, handler in before.items() if callable(handler)}
    for number in raising:
        signal.signal(number, lambda *_: os._exit(EXIT_INTERRUPTED))
    try:
        yield
    finally:
        for number, handler in raising.items():
            signal.signal(number, handler)
