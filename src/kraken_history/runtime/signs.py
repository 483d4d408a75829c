"""The records that running services leave as signs of life, without I/O.

Decisions rest on them: a producer's newest trade ids prove that nothing is missing after the stored trades, and a
worker's settings say how much history is wanted. So an entry counts only if all of it is understood. Every other
entry becomes an :class:`UnreadableSign`, which proves nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec import Struct

from kraken_history.clock import hint_of_clocks
from kraken_history.records import AwareDatetime, Count, TradeId

VERSION = 1
"""Version of the records. A record without the field has this one too: 0.1 wrote the same fields, and no version."""

_SHOWN = 40  # characters of an unknown version in the error


class Sign(Struct, frozen=True, kw_only=True):
    """The fields that every service reports.

    Attributes:
        at: The time of writing, by the clock of the service's machine.
        healthy: False while the service cannot do its work.
        trouble: By server that the service needs: the reason why it cannot use it.
        clock_ahead_s: By server, ``redis`` or ``kraken``: seconds by which the clock of the service's machine is ahead.
    """

    service: ClassVar[str]

    pid: int
    at: AwareDatetime
    healthy: bool
    trouble: dict[str, str] = {}
    clock_ahead_s: dict[str, float] = {}
    version: int = VERSION

    @property
    def remarks(self) -> list[str]:
        """What a person should know although the service works, one line each."""
        hint = hint_of_clocks(self.clock_ahead_s)
        return [hint] if hint else []

    @property
    def state(self) -> str:
        """``well``, or the reason why not."""
        if self.healthy:
            return "; ".join(["well", *self.remarks])
        return ", ".join(f"{place}: {reason}" for place, reason in self.trouble.items()) or "it reports no reason"


class ProducerSign(Sign, frozen=True, kw_only=True):
    """Reported by a producer.

    Attributes:
        system: State of Kraken's matching engine; empty before Kraken has sent one.
        refused: By symbol that Kraken refused on this connection: Kraken's reason.
        sessions: Connections to Kraken since the start.
        published_trades: Trades published since the start.
        let_go_trades: Trades dropped since the start, for gap filling to fetch.
        last_ids: By symbol: the newest trade id received.
    """

    service: ClassVar[str] = "producer"

    system: str = ""
    refused: dict[str, str]
    sessions: Count = 0
    published_trades: Count = 0
    let_go_trades: Count = 0
    last_ids: dict[str, TradeId]

    @property
    def live_ids(self) -> dict[str, int]:
        """By symbol that this producer receives now: the newest trade id. Empty while it is not connected."""
        if not self.healthy:
            return {}
        return {symbol: id_ for symbol, id_ in self.last_ids.items() if symbol not in self.refused}


class ConsumerSign(Sign, frozen=True, kw_only=True):
    """Reported by a consumer.

    Attributes:
        new_trades: Trades stored since the start.
        known_trades: Trades received since the start that were stored already.
        batches: Batches written since the start.
        shards: The shards that it reads; None if it reads all, as 0.1 does.
    """

    service: ClassVar[str] = "consumer"

    new_trades: Count = 0
    known_trades: Count = 0
    batches: Count = 0
    shards: tuple[Count, ...] | None = None


class WorkerSign(Sign, frozen=True, kw_only=True):
    """Reported by a worker.

    Attributes:
        symbols: The symbols whose gaps it fills.
        history_days: Days of history that it fetches of each.
        jobs: By id of a job that has run for minutes: for how many seconds.
    """

    service: ClassVar[str] = "worker"

    symbols: tuple[str, ...]
    history_days: Count
    jobs: dict[str, Count] = {}

    @property
    def remarks(self) -> list[str]:
        return super().remarks + [f"{id_} has run for {seconds / 60:.0f} min" for id_, seconds in self.jobs.items()]


class UnreadableSign(Struct, frozen=True, kw_only=True):
    """An entry that this version does not understand.

    Attributes:
        unreadable: The reason, in one line.
        pid: The process, if the entry names one.
    """

    unreadable: str
    pid: int | None = None
    healthy: bool = False

    @property
    def remarks(self) -> list[str]:
        """None: see :class:`Sign`."""
        return []

    @property
    def state(self) -> str:
        """The reason why it is not known to be well."""
        return self.unreadable


AnySign = ProducerSign | ConsumerSign | WorkerSign | UnreadableSign

_S = TypeVar("_S", ProducerSign, ConsumerSign, WorkerSign)


class Signs(Struct, frozen=True):
    """The services alive at one time.

    Attributes:
        by_name: In alphabetical order, by ``<service>:<name>``. If several processes have the same name, ``~``
            and eight digits follow, which differ.
        ages_s: By the same names, seconds since the sign was written, by the clock of Redis.
    """

    by_name: Mapping[str, AnySign]
    ages_s: Mapping[str, float] = {}

    def of(self, kind: type[_S]) -> Iterator[_S]:
        """The signs of one service that could be read."""
        return (sign for sign in self.by_name.values() if isinstance(sign, kind))

    @property
    def unreadable(self) -> dict[str, str]:
        """By name of an entry that could not be read: the reason."""
        return {name: sign.unreadable for name, sign in self.by_name.items() if isinstance(sign, UnreadableSign)}

    @property
    def live_ids(self) -> dict[str, int]:
        """By symbol: the newest trade id that any connected producer has received."""
        newest: dict[str, int] = {}
        for sign in self.of(ProducerSign):
            for symbol, id_ in sign.live_ids.items():
                newest[symbol] = max(id_, newest.get(symbol, id_))
        return newest

    @property
    def wanted_days(self) -> dict[str, int]:
        """By symbol: the days of history that the living workers fetch; the maximum if they differ."""
        wanted: dict[str, int] = {}
        for sign in self.of(WorkerSign):
            for symbol in sign.symbols:
                wanted[symbol] = max(sign.history_days, wanted.get(symbol, 0))
        return wanted


class _Envelope(Struct):
    version: Any = VERSION
    pid: Any = None


_envelopes = msgspec.json.Decoder(_Envelope)
_decoders: dict[str, msgspec.json.Decoder[Any]] = {
    kind.service: msgspec.json.Decoder(kind) for kind in (ProducerSign, ConsumerSign, WorkerSign)
}


def encode_sign(sign: Sign) -> bytes:
    """The entry's body, as :func:`decode_sign` reads it."""
    return msgspec.json.encode(sign)


def decode_sign(name: str, body: bytes) -> AnySign:
    """Decode the entry of ``<service>:<name>``. Never raises: see :class:`UnreadableSign`."""
    service = name.partition(":")[0]
    try:
        envelope = _envelopes.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return UnreadableSign(unreadable=f"unreadable: expected a JSON object ({error})")
    pid = envelope.pid if type(envelope.pid) is int else None
    if type(envelope.version) is not int or envelope.version != VERSION:
        got = repr(envelope.version)[:_SHOWN]
        reason = f"unreadable, written by another version: expected version {VERSION}, got {got}"
        return UnreadableSign(unreadable=reason, pid=pid)
    if service not in _decoders:
        reason = f"unreadable: expected one of {', '.join(_decoders)}, got the service {service!r}"
        return UnreadableSign(unreadable=reason, pid=pid)
    try:
        sign: AnySign = _decoders[service].decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return UnreadableSign(unreadable=f"unreadable, perhaps written by another version: {error}", pid=pid)
    return sign
