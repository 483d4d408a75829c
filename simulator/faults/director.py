"""Asks the plans at each opportunity, counts the opportunities, and logs what strikes."""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from msgspec.structs import replace

from simulator.faults.kinds import Point
from simulator.faults.log import Line, Log
from simulator.faults.plan import Opportunity, RecordedPlan, SeededPlan, Strike, drawn
from simulator.faults.rules import Facts, Rule, check_symbols, rules_of

NOTHING = Facts()


class Director:
    """All faults of one simulator.

    Args:
        symbols: The simulated symbols.
        rules: Faults of the whole run, drawn from ``seed``.
        recorded: Faults that an earlier run logged, to strike again.

    Raises:
        UsageError: A fault names a symbol that is not simulated.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        rules: Sequence[Rule] = (),
        seed: int = 0,
        recorded: Sequence[Line] = (),
        log: Log | None = None,
        clock: Callable[[], float],
    ) -> None:
        named = {rule.symbol for rule in rules} | {str(line.args.get("symbol", "")) for line in recorded}
        check_symbols(named, symbols)
        self.seed = seed
        self.log = log or Log()
        self.symbols = list(symbols)
        self._clock = clock
        self._started = clock()
        self._seeded = SeededPlan(rules, seed, symbols)
        self._armed = SeededPlan((), f"{seed}/armed", symbols)
        self._recorded = RecordedPlan(line.strike for line in recorded)
        self._counts: Counter[tuple[Point, str]] = Counter()
        self._omitted: set[tuple[str, int]] = set()
        self._armings = 0

    @property
    def now_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def start(self) -> None:
        """The run starts now."""
        self._started = self._clock()

    def watches(self, point: Point) -> bool:
        """False if nothing can strike at this point, so that nobody need ask."""
        return self._seeded.watches(point) or self._armed.watches(point) or self._recorded.watches(point)

    def arm(self, scenario: object) -> tuple[list[Strike], list[Rule]]:
        """Add rules, whose times count from now; a rule without limits strikes once.

        Returns the faults of the point ``second`` that are due now, for the caller to carry out, and the rules that
        wait for an opportunity.

        Raises:
            UsageError: A rule is not valid.
        """
        rules = [replace(rule, count=1) if rule.is_unlimited else rule for rule in rules_of(scenario)]
        check_symbols({rule.symbol for rule in rules}, self.symbols)
        due = [rule for rule in rules if rule.is_one_event and not rule.at_s]
        self._armings += 1
        random = Random(f"{self.seed}/now/{self._armings}")
        now = Opportunity("second", "", int(self.now_s))
        waiting = [replace(rule, at_s=rule.at_s + self.now_s) for rule in rules if rule not in due]
        self._armed.add(waiting)
        return [drawn(rule, now, random, self.symbols) for rule in due], waiting

    def clear(self) -> None:
        """Strike no more."""
        for plan in (self._recorded, self._seeded, self._armed):
            plan.clear()

    def left(self) -> list[Rule]:
        """The rules that may strike yet, except recorded faults."""
        return self._seeded.left() + self._armed.left()

    def next_number(self, point: Point, subject: str) -> int:
        """Count one more opportunity of a subject; return its number, from 1 on."""
        self._counts[point, subject] += 1
        return self._counts[point, subject]

    def ask(self, point: Point, subject: str = "", facts: Facts = NOTHING, n: int | None = None) -> list[Strike]:
        """The faults that strike at the next opportunity of this subject, or at the ``n``-th."""
        if n is None:
            n = self.next_number(point, subject)
        where = Opportunity(point, subject, n)
        now_s = float(n) if point == "second" else self.now_s
        return [
            strike
            for plan in (self._recorded, self._seeded, self._armed)
            for strike in plan.strikes(where, facts, now_s)
        ]

    def omits(self, symbol: str, trade_id: int, facts: Facts) -> bool:
        """True if no frame shall have this trade. Once omitted, a trade stays so, on every connection."""
        if (symbol, trade_id) in self._omitted:
            return True
        strikes = self.ask("trade", symbol, facts, trade_id)
        for strike in strikes[:1]:
            self._omitted.add((symbol, trade_id))
            self.record(strike, {"symbol": symbol, "id": trade_id})
        return bool(strikes)

    @property
    def omits_any(self) -> bool:
        """True if a trade was or may be omitted."""
        return bool(self._omitted) or self.watches("trade")

    def record(self, strike: Strike, hit: dict[str, object]) -> Line:
        """Log a fault that strikes now."""
        return self.log.add(strike, self.now_s, hit)
