"""Rules say which faults may strike when. They come as text, as JSON, or as keywords. No I/O, no clock."""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from kraken_history.errors import UsageError
from simulator.faults.kinds import KINDS, Args, Kind, Parameter, Value, kind_of

_ON = {
    "frame": ("trade", "ohlc", "ack", "status", "pong", "instrument"),
    "answer": ("Trades", "OHLC", "AssetPairs", "SystemStatus", "Time"),
    "subscribe": ("trade", "ohlc"),
}
_SHARED = {
    "p": Parameter(0, 1),
    "at_s": Parameter(0, 1e9),
    "for_s": Parameter(0, 1e9),
    "count": Parameter(1, 1e9, is_whole=True),
}


class Facts(Struct, frozen=True):
    """What a rule can select by: the symbol, the channel or method (``on``), and the number of rows."""

    symbol: str = ""
    on: str = ""
    rows: int = 0


class Rule(Struct, frozen=True):
    """When a kind of fault strikes.

    Attributes:
        p: Probability at each opportunity; None is 1, and lets the rule be armed for a single strike.
        at_s: Seconds into the run before which the rule does nothing.
        for_s: Length of its time in seconds.
        count: Most times that it strikes; None for no limit.
        symbol: It strikes only where this symbol is concerned.
        on: It strikes only this channel or method.
        args: Parameters that are not drawn.
    """

    fault: str
    p: float | None = None
    at_s: float = 0.0
    for_s: float = math.inf
    count: int | None = None
    symbol: str = ""
    on: str = ""
    args: Args = {}

    @property
    def kind(self) -> Kind:
        """The kind of its fault."""
        return KINDS[self.fault]

    @property
    def chance(self) -> float:
        """The probability at each opportunity."""
        return 1.0 if self.p is None else self.p

    @property
    def is_unlimited(self) -> bool:
        """True if nothing limits how often it strikes, and it does not say so by its probability."""
        return self.p is None and self.for_s == math.inf and self.count is None

    @property
    def is_one_event(self) -> bool:
        """True if it strikes once, at a second of the run."""
        return self.kind.point == "second" and self.p is None and self.count == 1

    def selects(self, facts: Facts, now_s: float) -> bool:
        """True if the rule may strike here and now."""
        if not self.at_s <= now_s < self.at_s + self.for_s or facts.rows < self.kind.rows:
            return False
        if self.kind.point == "second":
            return True
        on = (self.on,) if self.on else self.kind.on
        return (not on or facts.on in on) and self.symbol in ("", facts.symbol)

    def as_json(self) -> dict[str, Value]:
        """The form that :func:`rule_of` reads."""
        fields: dict[str, Value] = {"fault": self.fault, "p": self.chance, "at_s": self.at_s}
        if self.for_s != math.inf:
            fields["for_s"] = self.for_s
        if self.count is not None:
            fields["count"] = self.count
        chosen = {"symbol": self.symbol, "on": self.on}
        return fields | {name: word for name, word in chosen.items() if word} | dict(self.args)


def rule_of(fields: Mapping[str, object]) -> Rule:
    """A rule from its fields.

    A fault of the point ``second`` without a probability strikes once, in its first second.

    Raises:
        UsageError: A field is unknown or not valid.
    """
    fault, kind = str(fields.get("fault")), kind_of(fields.get("fault"))
    known = {"fault", "symbol", *_SHARED, *kind.parameters} | ({"on"} if kind.point in _ON else set())
    unknown = [name for name in fields if name not in known]
    if unknown:
        raise UsageError(f"{fault}: expected only {', '.join(sorted(known))}, got {unknown[0]!r}")
    shared: dict[str, Any] = {
        name: parameter.checked(f"{fault}: {name}", fields[name])
        for name, parameter in _SHARED.items()
        if name in fields
    }
    args = {
        name: parameter.checked(f"{fault}: {name}", fields[name])
        for name, parameter in kind.parameters.items()
        if name in fields
    }
    if kind.point == "second" and "p" not in shared:
        shared.setdefault("count", 1)
    symbol, on = fields.get("symbol", ""), fields.get("on", "")
    if not isinstance(symbol, str):
        raise UsageError(f"{fault}: symbol: expected a symbol such as BTC/USDT, got {symbol!r}")
    if on not in ("", *_ON.get(kind.point, ())):
        raise UsageError(f"{fault}: on: expected one of {', '.join(_ON[kind.point])}, got {on!r}")
    return Rule(fault, symbol=symbol, on=str(on), args=args, **shared)


def rules_of(scenario: object) -> list[Rule]:
    """Rules from JSON that was decoded: one object, a list of them, or text as of :func:`rules_of_text`.

    Raises:
        UsageError: It is none of these, or a rule is not valid.
    """
    rules: list[Rule] = []
    parts = deque([scenario])
    while parts:
        match parts.popleft():
            case str(spec):
                rules += rules_of_text(spec)
            case Mapping() as fields:
                rules.append(rule_of(fields))
            case Sequence() as inner:
                parts.extendleft(reversed(inner))
            case other:
                raise UsageError(f"expected faults as objects with the key fault, got {other!r:.60}")
    return rules


def rules_of_text(spec: str) -> list[Rule]:
    """Rules from text: ``drop:p=0.02;delay:p=0.1,s=0.5;reset:at_s=30``.

    Raises:
        UsageError: A rule is not valid.
    """
    return [_rule_of_text(text.strip()) for text in spec.split(";") if text.strip()]


def _rule_of_text(text: str) -> Rule:
    fault, _, rest = text.partition(":")
    fields: dict[str, object] = {"fault": fault.strip()}
    for part in filter(None, map(str.strip, rest.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"expected a fault as name:parameter=value,…, got {text!r}")
        fields[name.strip()] = value.strip()
    return rule_of(fields)


def check_symbols(named: Iterable[str], symbols: Sequence[str]) -> None:
    """Check that faults name only symbols that are simulated; empty ones name none.

    Raises:
        UsageError: They name another.
    """
    for symbol in sorted(set(named) - {"", *symbols}):
        raise UsageError(f"expected faults of {', '.join(symbols)}, got {symbol!r}; give the same --symbols")
