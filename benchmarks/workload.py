"""Trades to measure with: three symbols, random walks of prices, about 150 trades per minute."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec

from kraken_history.records import HistoricalTrade, Side, group_by_symbol

START = datetime(2026, 1, 5, tzinfo=UTC)
TRADES_A_MINUTE = 150

# symbol, share of the trades, first price in ticks, decimals of the price
_BOOKS = (("BTC/USDT", 0.55, 1_054_336, 1), ("ETH/USDT", 0.30, 351_204, 2), ("XRP/USDT", 0.15, 24_871, 4))
_SIDES: Sequence[Side] = ("buy", "sell")


def make_trades(
    count: int, *, seed: int = 1, start: datetime = START, a_minute: float = TRADES_A_MINUTE
) -> list[HistoricalTrade]:
    """Trades in the order of time, ``a_minute`` of them on average; several may share an instant."""
    rng = random.Random(seed)
    ids = {symbol: 0 for symbol, *_ in _BOOKS}
    ticks = {symbol: first for symbol, _, first, _ in _BOOKS}
    weights = [share for _, share, _, _ in _BOOKS]
    mean_gap_us = 60_000_000 / a_minute
    elapsed_us = 0
    trades = []
    for _ in range(count):
        symbol, _, _, decimals = rng.choices(_BOOKS, weights)[0]
        if rng.random() > 0.3:  # else in the same instant as the one before
            elapsed_us += int(rng.expovariate(1 / (mean_gap_us / 0.7)))
        ids[symbol] += 1
        ticks[symbol] = max(ticks[symbol] + rng.randint(-3, 3), 1)
        trades.append(
            HistoricalTrade(
                ids[symbol],
                symbol,
                start + timedelta(microseconds=elapsed_us),
                Decimal(ticks[symbol]).scaleb(-decimals),
                Decimal(rng.randint(1_000, 200_000_000)).scaleb(-8),
                rng.choice(_SIDES),
                rng.choice(("market", "limit")),
            )
        )
    return trades


def make_frames(trades: Sequence[HistoricalTrade], *, trades_a_frame: int = 5) -> Iterator[bytes]:
    """The trades as frames of Kraken's WebSocket v2, each of one symbol."""
    for at in range(0, len(trades), 3 * trades_a_frame):
        for group in group_by_symbol(trades[at : at + 3 * trades_a_frame]).values():
            yield b'{"channel":"trade","type":"update","data":[%b]}' % b",".join(map(_row, group))


def _row(trade: HistoricalTrade) -> bytes:
    row = {
        "symbol": trade.symbol,
        "side": trade.side,
        "price": msgspec.Raw(str(trade.price).encode()),
        "qty": msgspec.Raw(str(trade.volume).encode()),
        "ord_type": trade.order_type,
        "trade_id": trade.id,
        "timestamp": trade.timestamp,
    }
    return msgspec.json.encode(row)
