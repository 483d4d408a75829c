"""Late imports: a command imports its modules only when it runs.

Loading all of them takes over a second of processor time, and ``--help``, ``--version`` and completion need none.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_INTERRUPTED = 130


@contextmanager
def loading() -> Iterator[None]:
    """Wrap imports in this: Ctrl-C and SIGTERM then end the process immediately.

    Nothing needs cleaning up yet, and Python may report an interrupted import as an ignored exception or an
    ImportError. If a signal is ignored, or its default action ends the process anyway, its handler stays.
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
