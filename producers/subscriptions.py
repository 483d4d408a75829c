"""Records which subscriptions Kraken has answered. No I/O, no clock."""

from collections.abc import Iterable, Sequence

from kraken_history.kraken.websocket import Channel, Refused, Subscribed

CHANNELS: Sequence[Channel] = ("trade", "ohlc")


class Subscriptions:
    """Records the answers to one subscribe request per channel. They come one per symbol, in any order.

    After a refusal the socket stays open and heartbeats continue. Without this record, the missing feed of that
    symbol would go unnoticed.
    """

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols = tuple(symbols)
        self.unanswered: set[tuple[str, str]] = {(channel, s) for channel in CHANNELS for s in self.symbols}
        self._accepted: set[tuple[str, str]] = set()
        self.refused: dict[str, str] = {}
        """Symbol → Kraken's reason."""

    @property
    def requests(self) -> list[tuple[int, Channel]]:
        """The request ids, each with the channel that it subscribes to."""
        return list(enumerate(CHANNELS, start=1))

    def add(self, symbols: Iterable[str]) -> list[str]:
        """Expect answers for further symbols; return the new ones."""
        new = [symbol for symbol in symbols if symbol not in self.symbols]
        self.symbols = (*self.symbols, *new)
        self.unanswered |= {(channel, symbol) for channel in CHANNELS for symbol in new}
        return new

    def unanswered_of(self, channel: Channel) -> list[str]:
        """The symbols of a channel for which Kraken has not answered."""
        return [symbol for symbol in self.symbols if (channel, symbol) in self.unanswered]

    def not_accepted_of(self, channel: Channel, symbols: Iterable[str]) -> list[str]:
        """Those of the symbols that Kraken has not accepted on a channel."""
        return [symbol for symbol in symbols if (channel, symbol) not in self._accepted]

    def accept(self, answer: Subscribed) -> None:
        """Record that Kraken accepted a symbol of a channel, possibly after a refusal."""
        accepted = answer.channel, answer.symbol
        if accepted in self.unanswered or answer.symbol in self.refused:
            self.unanswered.discard(accepted)
            self._accepted.add(accepted)
            if all((channel, answer.symbol) in self._accepted for channel in CHANNELS):
                self.refused.pop(answer.symbol, None)

    def refuse(self, answer: Refused) -> list[str]:
        """Record a refusal; return the newly refused symbols.

        Kraken names the symbol but not the channel. A refusal without a symbol applies to all
        symbols of the request that have no answer yet. A refusal of what Kraken has accepted before means that it is
        subscribed already.
        """
        channels = [channel for req_id, channel in self.requests if answer.req_id in (None, req_id)]
        unanswered = {symbol for channel, symbol in self.unanswered if channel in channels}
        symbols = [answer.symbol] if answer.symbol else [symbol for symbol in self.symbols if symbol in unanswered]
        self.unanswered -= {(channel, symbol) for channel in channels for symbol in symbols}
        symbols = [s for s in symbols if any((channel, s) not in self._accepted for channel in channels)]
        newly = [symbol for symbol in symbols if symbol not in self.refused]
        self.refused.update(dict.fromkeys(newly, answer.error))
        return newly

    def rename(self, names: Iterable[str]) -> None:
        """Remove the refusals of these names: other spellings of them are subscribed instead."""
        for name in names:
            self.refused.pop(name, None)

    @property
    def are_answered(self) -> bool:
        """True if Kraken answered everything and accepted something."""
        return not self.unanswered and bool(self._accepted)

    @property
    def all_refused(self) -> bool:
        """True if Kraken answered everything and accepted nothing, on either channel."""
        return not self.unanswered and not self._accepted
