"""Where readable history ends at the present, for reads that insist on complete history. Pure.

The last moments before now are never known: a trade may be on its way, and only a later trade proves that none is
missing. A read that ends now must not fail for that, and must not return a candle that may lack trades either. So

* the time since a symbol's last known trade counts as quiet as far as other symbols' trades go on past it by the
  grace, as for followers (:mod:`kraken_history.reading.settling`); but for at most :data:`LONGEST_SILENCE`, because a
  symbol that nobody follows any more is silent too, and only while no candle of a later minute is stored, which would
  show that somebody traded;
* missing time that begins within :data:`UNSETTLED` before now is unsettled: the read ends where it begins. Anything
  else that is missing is a gap.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from kraken_history.intervals import Span

UNSETTLED = timedelta(minutes=5)
"""How long ago unsettled time may have begun: longer than it takes to heal a lost connection. A feed that is down for
longer leaves a gap."""

LONGEST_SILENCE = timedelta(days=1)
"""How long a symbol's silence counts as quiet because other symbols are traded. After that, Kraken has to be asked."""

GRACE = timedelta(seconds=45)
"""How far other symbols' trades must have gone on; the default ``grace_s`` of followers."""


class LiveEdge(Struct, frozen=True):
    """What is known about the end of a symbol's history.

    Attributes:
        now: The database's clock.
        known_until: End of the time that the newest trade proves, or Kraken's answers after it; None without trades.
        newest_candle: Open time of the newest one-minute candle.
        newest_of_all: Time of the newest trade of any symbol.
    """

    now: datetime
    known_until: datetime | None
    newest_candle: datetime | None
    newest_of_all: datetime | None

    def quiet(self, grace: timedelta = GRACE) -> Span | None:
        """The time since the last known trade that counts as quiet; None if there is none."""
        if self.known_until is None or self.newest_of_all is None:
            return None
        until = min(self.now, self.newest_of_all) - grace
        is_traded = self.newest_candle is not None and self.newest_candle > self.known_until
        is_quiet = timedelta() < until - self.known_until <= LONGEST_SILENCE and not is_traded
        return (self.known_until, until) if is_quiet else None


class Judged(Struct, frozen=True):
    """Missing time, judged.

    Attributes:
        gaps: The gaps, oldest first.
        settled_until: Where unsettled time begins; None if there is none in the time that was asked about.
    """

    gaps: Sequence[Span]
    settled_until: datetime | None


def judge(
    missing: Sequence[Span], edge: LiveEdge, grace: timedelta = GRACE, unsettled: timedelta = UNSETTLED
) -> Judged:
    """Which of the missing time is a gap, and which is not settled yet.

    Args:
        missing: Oldest first, and before :attr:`LiveEdge.now`.
    """
    quiet = edge.quiet(grace)
    gaps = list(missing if quiet is None else without(missing, [quiet]))
    begins = next((start for start, _ in gaps if start >= edge.now - unsettled), None)
    if begins is None:
        return Judged(gaps, None)
    return Judged([gap for gap in gaps if gap[0] < begins], begins)


def without(spans: Iterable[Span], others: Sequence[Span]) -> list[Span]:
    """The parts of ``spans`` that are in none of ``others``; both are in order of their starts."""
    left: list[Span] = []
    for start, end in spans:
        for low, high in others:
            if start < high and low < end:
                if start < low:
                    left.append((start, low))
                start = min(high, end)
        if start < end:
            left.append((start, end))
    return left
