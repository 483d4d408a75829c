"""Faults of the frames that go to one client. No I/O; the time is an argument.

Each unit takes a frame and returns the frames that take its place, so that several faults of one frame compose.
What waits is kept by :class:`FramePipe`.
"""

import heapq
from collections.abc import Callable, Sequence
from random import Random

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from simulator.faults.director import Director
from simulator.faults.kinds import Args
from simulator.faults.rules import Facts

LONGEST_HOLD_S = 1.0
"""Maximum seconds that a reordered or merged frame waits for later frames: a quiet symbol may have none."""


class Rows(Struct, frozen=True):
    """A frame of trades or candles, taken apart; the rows are bytes as they were sent."""

    head: bytes
    rows: Sequence[bytes]
    symbol: str
    ids: Sequence[int]

    def text(self) -> bytes:
        """The frame."""
        return self.head + b",".join(self.rows) + b"]}"

    def part(self, start: int, stop: int | None = None) -> "Rows":
        """The frame with some of its rows."""
        return replace(self, rows=self.rows[start:stop], ids=self.ids[start:stop])


class Frame(Struct, frozen=True):
    """A frame on its way to the client.

    Attributes:
        on: Its channel; ``ack`` for answers to requests, ``pong`` for those to pings.
        content: Its rows; None if it has none, or is damaged.
        wait_s: It is this late itself.
        stall_s: It and all frames behind it are this late.
        behind: It goes out after this many later frames.
        joins: It waits for the next frame of its symbol and joins it.
    """

    text: bytes
    on: str = ""
    symbol: str = ""
    content: Rows | None = None
    wait_s: float = 0.0
    stall_s: float = 0.0
    behind: int = 0
    joins: bool = False

    @property
    def hit(self) -> dict[str, object]:
        """The frame in a line of the log."""
        hit: dict[str, object] = {"on": self.on, "symbol": self.symbol, "bytes": len(self.text)}
        if self.content is not None and self.content.ids:
            hit |= {"first_id": self.content.ids[0], "last_id": self.content.ids[-1], "rows": len(self.content.rows)}
        return hit


class _Named(Struct):
    symbol: str = ""


class _Envelope(Struct):
    channel: str = ""
    method: str = ""
    symbol: str = ""
    result: _Named = msgspec.field(default_factory=_Named)


class _Row(Struct):
    trade_id: int = -1


class _Data(Struct):
    data: list[msgspec.Raw]


_envelope = msgspec.json.Decoder(_Envelope)
_data = msgspec.json.Decoder(_Data)
_row = msgspec.json.Decoder(_Row)

_CHANNELS = {channel: b'{"channel":"%b"' % channel.encode() for channel in ("trade", "ohlc")}
_SYMBOL = b'"symbol":"'
_DATA = b'"data":['
_FIRST_ROW_BYTES = 256


def address_of(text: bytes) -> tuple[str, str]:
    """Channel and symbol of a frame that the simulator made; ``ack`` or ``pong`` for answers to requests."""
    for channel, head in _CHANNELS.items():
        if text.startswith(head):
            start = text.find(_SYMBOL, 0, _FIRST_ROW_BYTES) + len(_SYMBOL)
            return channel, "" if start < len(_SYMBOL) else text[start : text.index(b'"', start)].decode()
    envelope = _envelope.decode(text)
    if envelope.method:
        return "pong" if envelope.method == "pong" else "ack", envelope.symbol or envelope.result.symbol
    return envelope.channel, ""


def read_frame(text: bytes, on: str, symbol: str) -> Frame:
    """A frame of this address, taken apart if it has rows."""
    if on not in _CHANNELS:
        return Frame(text, on, symbol)
    rows = [bytes(row) for row in _data.decode(text).data]
    ids = [_row.decode(row).trade_id for row in rows] if on == "trade" else []
    return Frame(text, on, symbol, Rows(text[: text.index(_DATA) + len(_DATA)], rows, symbol, ids))


def _with(frame: Frame, content: Rows) -> Frame:
    return replace(frame, text=content.text(), content=content)


def _drop(frame: Frame, args: Args) -> list[Frame]:
    return []


def _repeat(frame: Frame, args: Args) -> list[Frame]:
    return [frame] * (1 + int(args["times"]))


def _truncate(frame: Frame, args: Args) -> list[Frame]:
    kept = min(int(len(frame.text) * float(args["keep"])), len(frame.text) - 1)
    return [replace(frame, text=frame.text[:kept], content=None)]


def _corrupt(frame: Frame, args: Args) -> list[Frame]:
    """If the frame were JSON still, a price could be wrong in a way that no client can notice."""
    random, text = Random(int(args["draw"])), bytearray(frame.text)
    if args["form"] == "bytes":
        text[random.randrange(len(text))] = 0xFF
    while _is_json(text):
        text[random.randrange(len(text))] = random.randrange(0x20, 0x7F)
    return [replace(frame, text=bytes(text), content=None)]


def _is_json(text: bytes | bytearray) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _split(frame: Frame, args: Args) -> list[Frame]:
    if frame.content is None or len(frame.content.rows) < 2:
        return [frame]
    at = 1 + int(float(args["at"]) * (len(frame.content.rows) - 1))
    at = min(at, len(frame.content.rows) - 1)
    return [_with(frame, frame.content.part(0, at)), _with(frame, frame.content.part(at))]


def _merge(frame: Frame, args: Args) -> list[Frame]:
    return [replace(frame, joins=frame.content is not None)]


def _reorder(frame: Frame, args: Args) -> list[Frame]:
    return [replace(frame, behind=int(args["by"]))]


def _delay(frame: Frame, args: Args) -> list[Frame]:
    return [replace(frame, stall_s=float(args["s"]))]


def _wait(frame: Frame, args: Args) -> list[Frame]:
    return [replace(frame, wait_s=float(args["s"]))]


UNITS: dict[str, Callable[[Frame, Args], list[Frame]]] = {
    "drop": _drop,
    "repeat": _repeat,
    "reorder": _reorder,
    "delay": _delay,
    "truncate": _truncate,
    "corrupt": _corrupt,
    "split": _split,
    "merge": _merge,
    "late_ack": _wait,
}


def _can_join(before: Rows, behind: Rows) -> bool:
    return before.head == behind.head and before.symbol == behind.symbol


class _Held(Struct, eq=False):
    frame: Frame
    until_s: float
    left: int


class FramePipe:
    """The way of one connection's frames through the faults: :meth:`push` at one end, :meth:`take` at the other.

    Args:
        connection: Number of the connection, counted from 1.
    """

    def __init__(self, director: Director, connection: int) -> None:
        self._director = director
        self._connection = connection
        self._due: list[tuple[float, int, bytes]] = []
        self._held: list[_Held] = []
        self._sequence = 0
        self._stalled_until_s = 0.0
        self._silent_until_s: dict[str, float] = {}
        self._mute_until_s = 0.0
        self.waiting_bytes = 0
        """Bytes of the frames that wait here."""

    def silence(self, until_s: float, *, symbol: str = "", heartbeats: bool = True) -> None:
        """Lose all frames from now on, or those of one symbol."""
        self._silent_until_s[symbol] = until_s
        if not symbol and not heartbeats:
            self._mute_until_s = until_s

    def end_silence(self) -> None:
        """Lose no more frames."""
        self._silent_until_s.clear()
        self._mute_until_s = 0.0

    def lets_heartbeats_pass(self, now_s: float) -> bool:
        """False while the silence is complete."""
        return now_s >= self._mute_until_s

    def push(self, text: bytes, now_s: float) -> None:
        """A frame that the exchange sends."""
        on, symbol = address_of(text)
        subject = f"{self._connection} {on} {symbol}" if symbol else f"{self._connection} {on}"
        n = self._director.next_number("frame", subject)  # of all frames, so that a replay finds the same one
        if self._is_silent(symbol, now_s):
            return
        if not (self._held or self._director.omits_any or self._director.watches("frame")):
            self._schedule(text, now_s)
            return
        frame = self._without_omitted(read_frame(text, on, symbol))
        for struck in self._struck(frame, subject, n) if frame is not None else ():
            self._pass_on(struck, now_s)

    def take(self, now_s: float) -> list[bytes]:
        """The frames that are due, in order."""
        for held in [held for held in self._held if held.until_s <= now_s]:
            self._release(held, now_s)
        due: list[bytes] = []
        while self._due and self._due[0][0] <= now_s:
            due.append(heapq.heappop(self._due)[2])
            self.waiting_bytes -= len(due[-1])
        return due

    def due_in_s(self, now_s: float) -> float | None:
        """Seconds until the next frame is due; None if none waits."""
        times = [held.until_s for held in self._held] + [entry[0] for entry in self._due[:1]]
        return max(min(times) - now_s, 0.0) if times else None

    def _is_silent(self, symbol: str, now_s: float) -> bool:
        if not self._silent_until_s:
            return False
        self._silent_until_s = {name: until for name, until in self._silent_until_s.items() if until > now_s}
        return "" in self._silent_until_s or (bool(symbol) and symbol in self._silent_until_s)

    def _without_omitted(self, frame: Frame) -> Frame | None:
        content = frame.content
        if content is None or not content.ids or not self._director.omits_any:
            return frame
        facts = Facts(frame.symbol, frame.on, len(content.rows))
        kept = [at for at, id_ in enumerate(content.ids) if not self._director.omits(frame.symbol, id_, facts)]
        if len(kept) == len(content.ids):
            return frame
        if not kept and b'"snapshot"' not in content.head:
            return None
        rows, ids = [content.rows[at] for at in kept], [content.ids[at] for at in kept]
        return _with(frame, replace(content, rows=rows, ids=ids))

    def _struck(self, frame: Frame, subject: str, n: int) -> list[Frame]:
        rows = len(frame.content.rows) if frame.content is not None else 0
        frames = [frame]
        for strike in self._director.ask("frame", subject, Facts(frame.symbol, frame.on, rows), n):
            self._director.record(strike, frame.hit)
            frames = [new for old in frames for new in UNITS[strike.fault](old, strike.args)]
        return frames

    def _pass_on(self, frame: Frame, now_s: float) -> None:
        frame = self._joined(frame)
        if frame.joins or frame.behind:
            self._held.append(_Held(frame, now_s + LONGEST_HOLD_S, frame.behind))
            self.waiting_bytes += len(frame.text)
            return
        if frame.stall_s:
            self._stalled_until_s = max(self._stalled_until_s, now_s + frame.stall_s)
        self._schedule(frame.text, now_s, frame.wait_s)
        for held in [held for held in self._held if held.left]:
            held.left -= 1
            if not held.left:
                self._release(held, now_s)

    def _joined(self, frame: Frame) -> Frame:
        """The frame behind the rows of one that waits for it."""
        for held in self._held:
            before, content = held.frame.content, frame.content
            if held.frame.joins and before and content and _can_join(before, content):
                self._held.remove(held)
                self.waiting_bytes -= len(held.frame.text)
                rows, ids = [*before.rows, *content.rows], [*before.ids, *content.ids]
                return _with(frame, replace(content, rows=rows, ids=ids))
        return frame

    def _release(self, held: _Held, now_s: float) -> None:
        self._held.remove(held)
        self.waiting_bytes -= len(held.frame.text)
        self._schedule(held.frame.text, now_s)

    def _schedule(self, text: bytes, now_s: float, wait_s: float = 0.0) -> None:
        self._sequence += 1
        self.waiting_bytes += len(text)
        heapq.heappush(self._due, (max(now_s + wait_s, self._stalled_until_s), self._sequence, text))
