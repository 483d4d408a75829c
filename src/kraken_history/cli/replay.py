"""``replay --as-kraken``: the server of the checkout, on the database of the commands."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import get_args

from kraken_history.cli import servers as server_choice
from kraken_history.cli.checkout import find_checkout
from kraken_history.cli.instants import instant, range_options
from kraken_history.errors import InvalidChoice, UsageError
from kraken_history.kraken.pairs import checked_name
from kraken_history.reading.gaps import TradeGapsChoice
from kraken_history.settings import Settings

MAX_SPEED = "max"


def run_replay(
    settings: Settings,
    symbols: Sequence[str],
    from_: str | None,
    to: str | None,
    days: int | None,
    *,
    speed: str,
    gaps: str,
    host: str,
    port: int,
    stays: bool,
) -> int:
    """Serve the replay until its end, and return the exit code.

    Raises:
        UsageError: An option is not valid, or there is no checkout; raised before any server is started.
    """
    names = [checked_name(name) for name in symbols]
    start, end = range_options(from_, to, days)
    now = datetime.now(UTC)
    if start is None:
        raise UsageError("expected --from or --days, for example: kraken-history replay --as-kraken --days 1")
    if start >= (end or now):
        raise UsageError(f"the range is reversed or empty: --from {instant(start)} must be before now")
    if gaps not in get_args(TradeGapsChoice):
        raise InvalidChoice("--gaps", gaps, get_args(TradeGapsChoice))
    options = {
        "from": start.isoformat(),
        "to": (end or now).isoformat(),
        "speed": checked_speed(speed),
        "gaps": gaps,
        "host": host,
        "port": port,
    }
    words = [f"--{name}={value}" for name, value in options.items()] + ["--stay"] * stays
    checkout = find_checkout()
    read_end, write_end = os.pipe()  # if this command is killed, the replay sees that its other end is closed
    with server_choice.database(settings) as database_url:
        replay = subprocess.Popen(
            [sys.executable, "-m", "replaying", f"--lifeline={read_end}", *words, *names],
            cwd=checkout,
            env=os.environ | {"DATABASE_URL": database_url},
            pass_fds=(read_end,),
        )
        os.close(read_end)
        before = signal.signal(signal.SIGINT, lambda *_: replay.send_signal(signal.SIGINT))  # it closes its sockets
        try:
            return replay.wait()
        finally:
            signal.signal(signal.SIGINT, before)
            if replay.poll() is None:  # this command was told to end
                replay.terminate()
                replay.wait()
            os.close(write_end)


def checked_speed(text: str) -> str:
    """The speed as the server takes it.

    Raises:
        UsageError: It is not a positive number, nor ``max``.
    """
    word = text.strip().lower()
    try:
        if word == MAX_SPEED or 0 < float(word) < float("inf"):
            return word
    except ValueError:
        pass
    raise UsageError(f"--speed: expected a positive number, or {MAX_SPEED}, got {text!r}")
