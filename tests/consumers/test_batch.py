"""When a batch is due, with time as an argument."""

from consumers.batch import Batch, Entry
from tests.support.records import candle, trade, trades


def entry(rows: int, id_: bytes = b"1-0") -> Entry:
    return Entry("kraken:trades:{0}", id_, trades(range(rows)), [], {})


def test_an_entry_counts_its_trades_and_candles() -> None:
    assert Entry("any", b"1-0", trades(range(3)), [candle([trade(1)])], {}).rows == 4


def test_an_empty_batch_is_never_due() -> None:
    batch = Batch(max_rows=1, max_age_s=0.0)

    assert batch.due(now_s=1e9) == ""
    assert batch.wait_s(now_s=1e9) == 0.0


def test_a_batch_is_due_when_it_has_enough_rows() -> None:
    batch = Batch(max_rows=10, max_age_s=5.0)
    batch.add(entry(9), now_s=100.0)
    assert batch.due(now_s=100.0) == ""
    batch.add(entry(4), now_s=100.0)

    assert batch.due(now_s=100.0) == "rows"
    assert batch.rows == 13


def test_a_batch_is_due_when_its_oldest_entry_is_too_old() -> None:
    batch = Batch(max_rows=10, max_age_s=5.0)
    batch.add(entry(1), now_s=100.0)
    batch.add(entry(1), now_s=104.0)

    assert (batch.due(now_s=104.9), batch.due(now_s=105.0)) == ("", "age")


def test_it_says_how_long_reading_may_go_on() -> None:
    batch = Batch(max_rows=10, max_age_s=5.0)
    assert batch.wait_s(now_s=100.0) == 5.0
    batch.add(entry(1), now_s=100.0)

    assert batch.wait_s(now_s=103.0) == 2.0


def test_an_entry_without_rows_ages_too_so_that_it_is_acknowledged() -> None:
    batch = Batch(max_rows=10, max_age_s=5.0)
    batch.add(entry(0), now_s=100.0)

    assert batch.due(now_s=105.0) == "age"


def test_taking_a_batch_leaves_it_new() -> None:
    batch = Batch(max_rows=10, max_age_s=5.0)
    batch.add(entry(20, b"1-0"), now_s=100.0)
    batch.add(entry(1, b"2-0"), now_s=101.0)

    assert [taken.id for taken in batch.take()] == [b"1-0", b"2-0"]
    assert (batch.entries, batch.rows, batch.due(now_s=200.0)) == ([], 0, "")
    batch.add(entry(1), now_s=200.0)
    assert batch.due(now_s=204.0) == ""
