"""Signs of life as services would write them."""

from datetime import UTC, datetime
from typing import TypeVar

from msgspec.structs import replace

from kraken_history.runtime.signs import ConsumerSign, ProducerSign, Sign, WorkerSign

AT = datetime(2026, 1, 5, 10, tzinfo=UTC)
PRODUCER = ProducerSign(pid=7, at=AT, healthy=True, refused={}, last_ids={})
CONSUMER = ConsumerSign(pid=8, at=AT, healthy=True)
WORKER = WorkerSign(pid=9, at=AT, healthy=True, symbols=(), history_days=0)

_S = TypeVar("_S", bound=Sign)


def sign(of: _S, **changes: object) -> _S:
    """One of the above, with some fields changed."""
    return replace(of, **changes)
