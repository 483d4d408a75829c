"""Decides which faults strike. Pure: the same seed, rules and opportunities give the same faults.

An opportunity is a point, a subject and a number: the 17th frame of trades of BTC/USDT on the first connection is
``("frame", "1 trade BTC/USDT", 17)``. Whether a rule strikes there is drawn from a generator that is seeded with just
these, so that no decision depends on what else happens, or when.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from random import Random
from typing import Protocol

from msgspec import Struct

from simulator.faults.kinds import KINDS, Point, Value
from simulator.faults.rules import Facts, Rule


class Opportunity(Struct, frozen=True):
    """Where a fault may strike: the ``n``-th time that something happens to a subject."""

    point: Point
    subject: str
    n: int


class Strike(Struct, frozen=True):
    """A fault that strikes, with all its parameters."""

    fault: str
    where: Opportunity
    args: dict[str, Value]


class Plan(Protocol):
    """A source of faults."""

    def strikes(self, where: Opportunity, facts: Facts, now_s: float) -> list[Strike]:
        """The faults that strike here, in order; counts them."""

    def watches(self, point: Point) -> bool:
        """False if no fault can strike at this point any more."""


class SeededPlan:
    """Draws from a seed whether each rule strikes.

    Args:
        symbols: To draw from, for faults that need a symbol.
    """

    def __init__(self, rules: Sequence[Rule], seed: int | str, symbols: Sequence[str]) -> None:
        self.rules: list[Rule] = []
        self._seed = seed
        self._symbols = sorted(symbols)
        self._struck: list[int] = []
        self._watching: dict[Point, int] = {}
        self.add(rules)

    def watches(self, point: Point) -> bool:
        return self._watching.get(point, 0) > 0

    def strikes(self, where: Opportunity, facts: Facts, now_s: float) -> list[Strike]:
        found: list[Strike] = []
        for at, rule in enumerate(self.rules):
            if rule.kind.point != where.point or not self._is_left(at) or not rule.selects(facts, now_s):
                continue
            random = Random(f"{self._seed}/{at}/{where.point}/{where.subject}/{where.n}")
            if random.random() < rule.chance:
                self._struck[at] += 1
                self._watching[where.point] -= not self._is_left(at)
                found.append(drawn(rule, where, random, self._symbols))
        return found

    def add(self, rules: Iterable[Rule]) -> None:
        """Add rules behind the others."""
        for rule in rules:
            self.rules.append(rule)
            self._struck.append(0)
            self._watching[rule.kind.point] = self._watching.get(rule.kind.point, 0) + 1

    def clear(self) -> None:
        """Strike no more."""
        self.rules.clear()
        self._struck.clear()
        self._watching.clear()

    def left(self) -> list[Rule]:
        """The rules that have not struck as often as they may."""
        return [rule for at, rule in enumerate(self.rules) if self._is_left(at)]

    def _is_left(self, at: int) -> bool:
        count = self.rules[at].count
        return count is None or self._struck[at] < count


class RecordedPlan:
    """Repeats recorded faults: each strikes at its opportunity, whatever the time."""

    def __init__(self, strikes: Iterable[Strike]) -> None:
        self._by_place: dict[Opportunity, list[Strike]] = defaultdict(list)
        for strike in strikes:
            self._by_place[strike.where].append(strike)
        self._places = Counter(where.point for where in self._by_place)

    def watches(self, point: Point) -> bool:
        return self._places[point] > 0

    def strikes(self, where: Opportunity, facts: Facts, now_s: float) -> list[Strike]:
        found = self._by_place.pop(where, [])
        self._places[where.point] -= bool(found)
        return found

    def clear(self) -> None:
        """Strike no more."""
        self._by_place.clear()
        self._places.clear()


def drawn(rule: Rule, where: Opportunity, random: Random, symbols: Sequence[str]) -> Strike:
    """The rule's fault, with the parameters drawn that it leaves open."""
    kind = KINDS[rule.fault]
    args = kind.draw(rule.args, random)
    if kind.point == "second" and (rule.symbol or kind.draws_symbol):
        args["symbol"] = rule.symbol or random.choice(symbols)
    return Strike(rule.fault, where, args)
