"""Numbers of the archive are exact: decimals, their texts with every zero, and the nearest floats."""

from datetime import timedelta
from decimal import Decimal

import asyncpg
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from kraken_history.archive.place import Folder
from kraken_history.archive.restoring import restore
from kraken_history.archive.tables import (
    SCALE_BITS,
    WIDE,
    Digest,
    as_schema,
    floats_of,
    schema_of,
    texts_of,
    wide_schema,
)
from kraken_history.months import Month
from kraken_history.records import HistoricalTrade
from kraken_history.storing.store import Store
from tests.archive.conftest import BTC, archived, trade
from tests.archive.test_restoring import content
from tests.support.examples import NOON, decimals, make_trade

NOVEMBER = Month(2025, 11)


@given(st.lists(decimals(), min_size=1, max_size=20))
def test_floats_are_the_nearest_ones(numbers: list[Decimal]) -> None:
    for type_ in (WIDE, pyarrow.decimal128(36, 12)):
        column = pyarrow.chunked_array([pyarrow.array(numbers, type_), pyarrow.array(numbers[:2], type_)[1:]])

        assert floats_of(column).to_pylist() == [float(number) for number in numbers + numbers[1:2]]


def with_zeros(number: Decimal, places: int) -> Decimal:
    """The number with at least so many digits behind the point, without rounding."""
    whole, _, fraction = f"{number:f}".partition(".")
    return Decimal(f"{whole}.{fraction.ljust(places, '0')}")


@given(st.lists(st.tuples(decimals(), st.integers(0, 30)), min_size=1, max_size=20))
def test_texts_have_the_digits_that_the_database_had(numbers: list[tuple[Decimal, int]]) -> None:
    written = [with_zeros(number, places) for number, places in numbers]
    scales = [len(f"{number:f}".partition(".")[2]) for number in written]
    prices = pyarrow.array([number for number, _ in numbers], WIDE)
    packed = [scale | 3 << SCALE_BITS for scale in scales]
    rows = pyarrow.table({"price": prices, "scales": packed})

    assert [str(Decimal(text)) for text in texts_of("trades", rows, "price").to_pylist()] == list(map(str, written))


def test_the_digest_does_not_depend_on_parts_and_widths() -> None:
    trades = [trade(id_) for id_ in range(1, 20)]
    names = HistoricalTrade.__struct_fields__
    columns = {name: [getattr(each, name) for each in trades] for name in names if name != "symbol"}
    rows = (
        pyarrow.table({**columns, "stored_at": [None, *[NOON] * 18], "scales": [0] * 19})
        .select(wide_schema("trades").names)
        .cast(wide_schema("trades"))
    )
    whole, in_parts = Digest("trades"), Digest("trades")

    whole.add(rows)
    in_parts.add(as_schema(rows, schema_of("trades", ())).slice(0, 7))
    in_parts.add(rows.slice(7))

    assert whole.hex() == in_parts.hex()
    other_digest = Digest("trades")
    other_digest.add(rows.slice(1))
    assert other_digest.hex() != whole.hex()


@pytest.mark.parametrize("database_server", ["postgresql"], indirect=True)
async def test_long_numbers_widen_their_column_or_leave_the_month_in_the_database(
    pool: asyncpg.Pool,
    other: asyncpg.Pool,
    place: Folder,
) -> None:
    odd = [
        make_trade(1, NOON, "0.123456789012345678", "12345678901234.5"),
        make_trade(2, NOON + timedelta(seconds=1), "99999999.5000", "1"),
    ]
    await Store(pool).write(odd)

    assert [each.state for each in await archived(pool, place, BTC)] == ["written"]

    path = place.folder / "trades/symbol=BTC-USDT/month=2025-11.parquet"
    types = {field.name: field.type for field in parquet.ParquetFile(path).schema_arrow}
    assert (types["price"], types["volume"]) == (WIDE, WIDE)
    async for _ in restore(other, place):
        pass
    assert await content(other) == await content(pool)

    for id_, price in ((3, "0.1234567890123456789"), (4, "123456789012345678901.5"), (5, "9" * 21), (6, "9" * 40)):
        await Store(pool).write([make_trade(id_, NOON + timedelta(seconds=id_), price, "1")])
        (outcome,) = await archived(pool, place, BTC)
        assert outcome.state == "refused"
        assert "expected numbers of at most 20 digits before the point and 18 after it" in outcome.reason
        assert parquet.ParquetFile(path).metadata.num_rows == 2
        await pool.execute("DELETE FROM trades WHERE id = $1", id_)
        await pool.execute("DELETE FROM candles WHERE last_trade_id = $1", id_)
