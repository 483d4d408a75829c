"""Decides when to reconnect, and when to ask for refused symbols again. No I/O, no clock."""

import random

RETRIES_AT_ONCE = 5
"""Number of retries without a pause. Kraken: after a random drop connect at once, a handful of times."""

SLOW_RETRY_S = 5.0
"""Minimum seconds between later retries. Kraken: after maintenance or a long outage, at most every five seconds."""

LONGEST_RETRY_S = 60.0
"""Maximum seconds between retries."""

FIRST_ASK_AGAIN_S = 5.0
"""Seconds between a refusal of a symbol and the next request for it. A refusal may be temporary, as in maintenance."""

LONGEST_ASK_AGAIN_S = 300.0
"""Maximum seconds between two requests for a refused symbol. It may be delisted, and each request counts for Kraken."""


def ask_again_delay_s(times: int, *, longest_s: float = LONGEST_ASK_AGAIN_S) -> float:
    """Seconds to wait before refused symbols are asked for again: 5, 10, 20 and so on.

    Args:
        times: How often they have been asked for again so far, in this session.
    """
    return min(FIRST_ASK_AGAIN_S * 2.0 ** min(times, 10), longest_s)


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
