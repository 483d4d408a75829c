"""The forms of the answers, as the OpenAPI document describes them.

The answers are encoded from the library's own records, which is many times faster; a test compares the two.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from kraken_history.reading.kinds import CoverageKind
from kraken_history.records import CandleSource, Side

Number = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$", examples=["91023.4"])]
"""An exact decimal number, as text: a JSON number would be rounded by most readers."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Symbols(_Form):
    """The stored symbols, in alphabetical order."""

    symbols: list[str]


class Status(_Form):
    """The stored data of one symbol."""

    symbol: str
    oldest_timestamp: datetime | None
    newest_timestamp: datetime | None
    last_sync_at: datetime
    total_trades: int
    missing_trades: int = Field(description="Ids that are neither stored nor proven not to exist")
    total_candles: int


class Statuses(_Form):
    """The stored data of several symbols."""

    symbols: list[Status]


class Candle(_Form):
    """A candle of ``[timestamp, timestamp + interval_minutes)``."""

    symbol: str
    timestamp: datetime = Field(description="Open time")
    interval_minutes: int
    open: Number
    high: Number
    low: Number
    close: Number
    volume: Number = Field(description="In the base asset")
    quote_volume: Number = Field(description="In the quote asset")
    trade_count: int
    vwap: Number
    source: CandleSource = Field(description="The weakest source of its minutes")
    is_made_up: bool | None = Field(None, description="Only with gaps=pad: nobody traded, or the candle is missing")


class Candles(_Form):
    """One page of candles, oldest first."""

    symbol: str
    interval_minutes: int
    candles: list[Candle]
    next: datetime | None = Field(description="The `start` of the next page; null at the end of the range")


class Trade(_Form):
    """One trade."""

    id: int
    symbol: str
    timestamp: datetime
    price: Number
    volume: Number
    side: Side
    order_type: str
    misc: str


class Trades(_Form):
    """One page of trades, by time, and by id within one instant."""

    symbol: str
    trades: list[Trade]
    next: datetime | None = Field(description="The `start` of the next page; null at the end of the range")


class Span(_Form):
    """Time of one kind, ``[start, end)``."""

    start: datetime
    end: datetime
    kind: CoverageKind


class Coverage(_Form):
    """How a range of a symbol's history is covered."""

    symbol: str
    start: datetime
    end: datetime = Field(description="Where this page ends")
    proven_s: float
    exchange_s: float
    quiet_s: float
    missing_s: float
    spans: list[Span] = Field(description="Each begins where the one before it ends")
    next: datetime | None = Field(description="The `start` of the next page; null at the end of the range")


class Bucket(_Form):
    """Seconds of each kind within ``[start, end)``."""

    start: datetime
    end: datetime
    proven_s: float
    exchange_s: float
    quiet_s: float
    missing_s: float


class CoverageByBuckets(_Form):
    """How a range of a symbol's history is covered, by buckets of equal width."""

    symbol: str
    start: datetime
    end: datetime
    resolution_minutes: int
    buckets: list[Bucket] = Field(description="Each begins where the one before it ends")


class RunCoverage(_Form):
    """What a run was computed on."""

    model_config = ConfigDict(extra="allow")

    gaps: str | None
    interval: int


class Run(_Form):
    """A saved run of a backtest."""

    model_config = ConfigDict(extra="allow")

    id: str
    strategy_name: str
    symbols: list[str]
    start_time: datetime
    end_time: datetime
    parameters: dict[str, object]
    metrics: dict[str, object]
    created_at: datetime
    coverage: RunCoverage | None


class Runs(_Form):
    """Saved runs, newest first."""

    runs: list[Run]


class Health(_Form):
    """The health of the database."""

    is_healthy: bool
    reason: str
    latency_s: float
    server: str
    newest_timestamp: datetime | None
    replica_lag_s: float | None


Format = Literal["json", "csv", "arrow", "ccxt"]
