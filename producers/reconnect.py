"""Decides when to reconnect. No I/O, no clock."""

import random

RETRIES_AT_ONCE = 5
"""Number of retries without a pause. Kraken: after a random drop connect at once, a handful of times."""

SLOW_RETRY_S = 5.0
"""Minimum seconds between later retries. Kraken: after maintenance or a long outage, at most every five seconds."""

LONGEST_RETRY_S = 60.0
"""Maximum seconds between retries."""


def reconnect_delay_s(failures: int, *, in_maintenance: bool, rng: random.Random) -> float:
    """Seconds to wait before the next attempt.

    Cloudflare bans an address for ten minutes after about 150 connections in ten; these delays stay below
    that by an order of magnitude.

    Args:
        failures: Consecutive attempts without a working session, the last one included.
        in_maintenance: The last status was not ``online``.
    """
    if failures <= RETRIES_AT_ONCE and not in_maintenance:
        return rng.uniform(0, 0.2)
    doublings = max(failures - RETRIES_AT_ONCE, 0)
    longest = min(SLOW_RETRY_S * 2 ** min(doublings, 10), LONGEST_RETRY_S)
    return SLOW_RETRY_S + rng.uniform(0, longest - SLOW_RETRY_S) if longest > SLOW_RETRY_S else SLOW_RETRY_S
