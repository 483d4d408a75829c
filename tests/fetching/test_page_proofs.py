"""What a trusted page proves: the time that it covers, and the ids that it passes over."""

from datetime import datetime, timedelta

import pytest

from kraken_history.clock import CLOCK_SLACK
from kraken_history.fetching.pages import REST_LAG, TapeRequest, passed_over, without_doubted
from kraken_history.kraken.rest import TRADES_PAGE, TradesPage
from kraken_history.ledger import IdRanges
from kraken_history.records import HistoricalTrade, TimeRange, unix_ns
from tests.support.examples import NOON, make_trade

SECOND = timedelta(seconds=1)
ASKED_AT = NOON + timedelta(hours=2)


def trades(count: int) -> list[HistoricalTrade]:
    """One a second, from noon on."""
    return [make_trade(n + 1, NOON + n * SECOND) for n in range(count)]


def answer(count: int) -> TradesPage:
    return TradesPage(trades(count), unix_ns(NOON + max(count - 1, 0) * SECOND))


@pytest.mark.parametrize(
    ("count", "until", "continues", "covered"),
    [
        (TRADES_PAGE, None, False, TimeRange(NOON, NOON + 999 * SECOND)),
        (TRADES_PAGE, None, True, TimeRange(NOON - CLOCK_SLACK, NOON + 999 * SECOND)),
        (3, None, False, TimeRange(NOON, NOON + 2 * SECOND)),
        (0, None, False, None),
        (3, ASKED_AT + SECOND, False, TimeRange(NOON, ASKED_AT - REST_LAG)),
        (3, NOON + timedelta(hours=1), False, TimeRange(NOON, NOON + timedelta(hours=1))),
        (3, NOON - SECOND, False, None),
    ],
)
def test_a_page_covers_what_it_shows(
    count: int, until: datetime | None, continues: bool, covered: TimeRange | None
) -> None:
    request = TapeRequest("BTC/USDT", unix_ns(NOON), until, begins_with_a_trade=True, continues=continues)

    assert request.page(answer(count), ASKED_AT).covered == covered


def test_a_page_without_its_trades_proves_the_time_before_them_and_is_not_the_last() -> None:
    start = NOON - timedelta(hours=1)
    request = TapeRequest("BTC/USDT", unix_ns(start), NOON, begins_with_a_trade=False)

    page = request.page(answer(3), ASKED_AT).before_its_trades()

    assert (page.covered, list(page.trades), page.is_full) == (TimeRange(start, NOON), [], True)


def test_rows_without_an_id_may_be_any_of_the_ids_between() -> None:
    shown = [make_trade(1, NOON), make_trade(4, NOON + SECOND)]
    request = TapeRequest("BTC/USDT", 0, None, begins_with_a_trade=False)

    assert passed_over(request.page(TradesPage(shown, 5), ASKED_AT)) == IdRanges([(2, 4)])
    assert not passed_over(request.page(TradesPage(shown, 5, unidentified=1), ASKED_AT))


@pytest.mark.parametrize(
    ("until", "is_doubtful"),
    [
        (NOON + 2 * SECOND, False),  # shown to its end
        (NOON + timedelta(minutes=4), True),  # cut off before its end, as the stored trade after it shows
        (None, True),
    ],
)
def test_a_page_that_lacks_a_stored_trade_is_believed_only_for_the_time_that_it_shows(
    until: datetime | None, is_doubtful: bool
) -> None:
    request = TapeRequest("BTC/USDT", unix_ns(NOON), until, begins_with_a_trade=False)
    held = NOON + timedelta(hours=1)

    assert request.is_doubtful(answer(3), asked_at=ASKED_AT, newest_held=held) is is_doubtful
    assert request.is_contradicted(answer(3), first=answer(3), newest_held=held) is is_doubtful


def test_an_id_that_leaps_counts_as_unreadable_unless_the_other_answer_shows_it() -> None:
    leaping = make_trade(2**62, NOON + SECOND)
    shown = TradesPage([make_trade(1, NOON), leaping, make_trade(3, NOON + 2 * SECOND)], 5)
    other = TradesPage([make_trade(1, NOON), make_trade(2, NOON + SECOND), make_trade(3, NOON + 2 * SECOND)], 5)

    (row,) = without_doubted(shown, other).unreadable
    assert [trade.id for trade in without_doubted(shown, other).trades] == [1, 3]
    assert without_doubted(shown, other).rows == shown.rows
    assert str(2**62) in row.reason
    assert without_doubted(shown, shown) is shown
    assert without_doubted(other, shown) is other
