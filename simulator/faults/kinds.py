"""The kinds of faults: where each strikes, and its parameters. No I/O, no clock."""

from collections.abc import Mapping
from random import Random
from typing import Literal

from msgspec import Struct

from kraken_history.errors import UsageError

Point = Literal["frame", "trade", "subscribe", "connect", "answer", "second"]
"""A place where a fault may strike.

``frame`` is a frame that goes to one client, ``trade`` a trade inside frames, ``subscribe`` one symbol of a subscribe
request, ``connect`` a WebSocket handshake, ``answer`` an answer of REST, ``second`` each second of the run.
"""

Value = str | int | float
Args = Mapping[str, Value]

_SHOWN = 6  # digits of a drawn number


class Parameter(Struct, frozen=True):
    """A parameter of a fault.

    Attributes:
        low, high: The valid range of a number.
        default: The value if the rule gives none; None draws it from the seed.
        drawn: The range to draw from; by default the valid one.
        choices: The valid words; the parameter is a number if there are none.
        drawable: The words to draw from; by default all.
    """

    low: float = 0
    high: float = 0
    default: Value | None = None
    drawn: tuple[float, float] | None = None
    is_whole: bool = False
    choices: tuple[str, ...] = ()
    drawable: tuple[str, ...] = ()

    def checked(self, name: str, value: object) -> Value:
        """The value, from text or from JSON.

        Raises:
            UsageError: It is not valid.
        """
        if self.choices:
            if str(value) not in self.choices:
                raise UsageError(f"{name}: expected one of {', '.join(self.choices)}, got {value!r}")
            return str(value)
        wanted = "a whole number" if self.is_whole else "a number"
        number = _number(value, is_whole=self.is_whole)
        if number is None or not self.low <= number <= self.high:
            raise UsageError(f"{name}: expected {wanted} from {self.low:g} to {self.high:g}, got {value!r}")
        return number

    def chosen(self, random: Random) -> Value:
        """The value where the rule gives none."""
        if self.default is not None:
            return self.default
        if self.choices:
            return random.choice(self.drawable or self.choices)
        low, high = self.drawn or (self.low, self.high)
        return random.randint(int(low), int(high)) if self.is_whole else round(random.uniform(low, high), _SHOWN)


def _number(value: object, *, is_whole: bool) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        if is_whole:
            return int(value) if not isinstance(value, float) or value.is_integer() else None
        return float(value)
    except (ValueError, OverflowError):
        return None


class Kind(Struct, frozen=True):
    """A kind of fault.

    Attributes:
        text: What happens, for the documentation and for errors.
        on: The channels of frames, or the methods of REST, that it strikes if the rule names none; empty for all.
        rows: Fewest rows of a frame or page that it can strike.
        parameters: By name.
        draws_symbol: It needs one symbol; if the rule names none, it is drawn.
    """

    point: Point
    text: str
    parameters: Mapping[str, Parameter] = {}
    on: tuple[str, ...] = ()
    rows: int = 0
    draws_symbol: bool = False

    def draw(self, given: Args, random: Random) -> dict[str, Value]:
        """All parameters: the given ones, and the others by default or by chance."""
        return {
            name: given[name] if name in given else parameter.chosen(random)
            for name, parameter in self.parameters.items()
        }


_SEED = Parameter(high=2**31 - 1, is_whole=True)
_SHARE = Parameter(high=1, drawn=(0.05, 0.95))
_DAY_S = 86_400.0
_TRADES = ("trade",)

THROTTLE_FORMS = ("eapi", "egeneral", "eservice", "http429", "http520", "lockout")
ERROR_FORMS = ("unavailable", "busy", "timeout", "internal")

KINDS: Mapping[str, Kind] = {
    "drop": Kind("frame", "a frame is lost", on=_TRADES),
    "repeat": Kind("frame", "a frame comes again", {"times": Parameter(1, 100, 1, is_whole=True)}, on=_TRADES),
    "reorder": Kind(
        "frame",
        "a frame comes after later ones, or a second late if too few follow",
        {"by": Parameter(1, 100, drawn=(1, 3), is_whole=True)},
        on=_TRADES,
    ),
    "delay": Kind(
        "frame", "a frame and all frames behind it are late", {"s": Parameter(0, 3600, drawn=(0.05, 1.0))}, on=_TRADES
    ),
    "truncate": Kind("frame", "a frame is cut", {"keep": _SHARE}, on=_TRADES),
    "corrupt": Kind(
        "frame",
        "characters of a frame are changed, until it is not JSON any more",
        {"form": Parameter(choices=("text", "bytes"), default="text"), "draw": _SEED},
        on=_TRADES,
    ),
    "split": Kind("frame", "the rows of a frame come in two frames", {"at": _SHARE}, on=_TRADES, rows=2),
    "merge": Kind("frame", "a frame waits for the next of its symbol, and both come as one", on=_TRADES, rows=1),
    "late_ack": Kind("frame", "an acknowledgement or a refusal is late", {"s": Parameter(0, 3600, 2.0)}, on=("ack",)),
    "omit": Kind("trade", "a trade is in no frame of the WebSocket; REST has it"),
    "refuse": Kind("subscribe", "a symbol is refused", on=()),
    "handshake": Kind(
        "connect",
        "a WebSocket handshake is answered with an HTTP error",
        {
            "status": Parameter(
                choices=("500", "502", "503", "504", "520", "429"), drawable=("500", "502", "503", "520")
            )
        },
    ),
    "throttle": Kind(
        "answer",
        "REST refuses a call as one too many, in one of Kraken's forms",
        {
            "form": Parameter(choices=THROTTLE_FORMS, drawable=THROTTLE_FORMS[:-1]),
            "s": Parameter(0, 3600, 2, is_whole=True),
        },
    ),
    "error": Kind("answer", "REST answers with an error that passes", {"form": Parameter(choices=ERROR_FORMS)}),
    "timeout": Kind("answer", "no answer comes, and at last the connection is cut", {"s": Parameter(0, 3600, 40.0)}),
    "slow": Kind("answer", "an answer is late", {"s": Parameter(0, 3600, 2.0)}),
    "cut_body": Kind(
        "answer",
        "a body is cut: with the HTTP message (http), or inside the JSON of a whole message (json)",
        {"form": Parameter(choices=("http", "json")), "keep": _SHARE},
    ),
    "empty_body": Kind("answer", "HTTP 200 with an empty body"),
    "stuck_page": Kind(
        "answer", "a page of Trades is the one before it again: it does not advance", on=("Trades",), rows=1
    ),
    "omit_rows": Kind(
        "answer",
        "rows are missing inside a page of Trades",
        {"n": Parameter(1, 998, drawn=(1, 3), is_whole=True), "draw": _SEED},
        on=("Trades",),
        rows=3,
    ),
    "close": Kind("second", "every socket is closed with a code", {"code": Parameter(1000, 4999, 1001, is_whole=True)}),
    "cut": Kind("second", "every socket ends without a closing handshake"),
    "reset": Kind("second", "every connection of a socket is reset (RST)"),
    "silence": Kind(
        "second",
        "open sockets lose all frames for a while, of one symbol if the rule names it",
        {"s": Parameter(0, _DAY_S, 20.0), "heartbeats": Parameter(choices=("yes", "no"))},
    ),
    "delist": Kind(
        "second",
        "a symbol is not traded or listed for a while; 0 s is for ever",
        {"s": Parameter(0, _DAY_S, 0.0)},
        draws_symbol=True,
    ),
    "maintenance": Kind(
        "second",
        "the status is another than online, and nothing is traded",
        {
            "s": Parameter(0, _DAY_S, 30.0),
            "status": Parameter(choices=("maintenance", "cancel_only", "post_only"), default="maintenance"),
        },
    ),
    "skip_ids": Kind(
        "second",
        "the next ids of a symbol do not exist",
        {"n": Parameter(1, 1_000_000, drawn=(1, 20), is_whole=True)},
        draws_symbol=True,
    ),
    "bust": Kind(
        "second",
        "a trade, by default (id=0) the newest of a symbol, disappears from REST and snapshots",
        {"id": Parameter(0, 2**62, 0, is_whole=True)},
        draws_symbol=True,
    ),
    "clock_jump": Kind(
        "second",
        "the exchange's clock jumps, and back after a while; 0 s is for ever",
        {"by_s": Parameter(-_DAY_S, _DAY_S, drawn=(-3600, 3600)), "s": Parameter(0, _DAY_S, 0.0)},
    ),
}


def kind_of(name: object) -> Kind:
    """The kind of this name.

    Raises:
        UsageError: There is none.
    """
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise UsageError(f"expected a fault ({', '.join(KINDS)}), got {name!r}")
    return kind
