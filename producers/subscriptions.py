"""Which subscriptions Kraken has answered. No I/O, no clock."""

from collections.abc import Iterable, Sequence

from kraken_history.kraken.websocket import Channel, Refused, Subscribed

CHANNELS: Sequence[Channel] = ("trade", "ohlc")


class Subscriptions:
    """Keeps the answers to one subscribe a channel, which come one a symbol and in any order.

    A refusal leaves the socket open and heartbeats going: without this the feed of that symbol would be dead
    in silence.
    """

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols = tuple(symbols)
        self.unanswered: set[tuple[str, str]] = {(channel, s) for channel in CHANNELS for s in self.symbols}
        self._accepted: set[tuple[str, str]] = set()
        self.refused: dict[str, str] = {}
        """Symbol → Kraken's reason."""

    @property
    def requests(self) -> list[tuple[int, Channel]]:
        """The request ids with the channel that each asks for."""
        return list(enumerate(CHANNELS, start=1))

    def add(self, symbols: Iterable[str]) -> list[str]:
        """Expect answers of further symbols; return those that are new."""
        new = [symbol for symbol in symbols if symbol not in self.symbols]
        self.symbols = (*self.symbols, *new)
        self.unanswered |= {(channel, symbol) for channel in CHANNELS for symbol in new}
        return new

    def accept(self, answer: Subscribed) -> None:
        """Note that a symbol of a channel was accepted, perhaps after it had been refused."""
        accepted = answer.channel, answer.symbol
        if accepted in self.unanswered or answer.symbol in self.refused:
            self.unanswered.discard(accepted)
            self._accepted.add(accepted)
            if all((channel, answer.symbol) in self._accepted for channel in CHANNELS):
                self.refused.pop(answer.symbol, None)

    def refuse(self, answer: Refused) -> list[str]:
        """Note a refusal; return the symbols that are newly refused.

        Kraken names the symbol but not the channel. A refusal without a symbol is about all of the request that
        is not answered yet.
        """
        channels = [channel for req_id, channel in self.requests if answer.req_id in (None, req_id)]
        unanswered = {symbol for channel, symbol in self.unanswered if channel in channels}
        symbols = [answer.symbol] if answer.symbol else [symbol for symbol in self.symbols if symbol in unanswered]
        self.unanswered -= {(channel, symbol) for channel in channels for symbol in symbols}
        newly = [symbol for symbol in symbols if symbol not in self.refused]
        self.refused.update(dict.fromkeys(newly, answer.error))
        return newly

    def rename(self, names: Iterable[str]) -> None:
        """Forget that these were refused: they turned out to be other names of symbols that are asked for instead."""
        for name in names:
            self.refused.pop(name, None)

    @property
    def are_answered(self) -> bool:
        """True if everything was answered, and something accepted."""
        return not self.unanswered and bool(self._accepted)

    @property
    def all_refused(self) -> bool:
        """True if everything was answered and nothing accepted, on either channel."""
        return not self.unanswered and not self._accepted
