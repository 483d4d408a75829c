"""``docs/faults.json``, one row per run, and ``docs/faults.md``, the table made of it."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.faults.outcome import ALLOWED_S, Outcome
from tests.faults.scenario import SCENARIOS, Scenario
from tests.faults.system import SPACING_S

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_RUNS = Path(__file__).resolve().parents[2] / ".faults/runs.json"
"""All runs with their details, so that scenarios can be run one by one; not part of the repository."""


class Row(Struct, frozen=True):
    """The outcome of one run."""

    scenario: str
    flavour: str
    seed: int
    lost: int
    doubled: int
    wrong: int
    heal_s: float
    pages: int
    allowed_s: float
    complaints: tuple[str, ...]
    date: str

    @property
    def key(self) -> str:
        """Names the run."""
        return f"{self.scenario}/{self.flavour}/{self.seed}"

    @property
    def is_well(self) -> bool:
        """True if everything that the contract promises held."""
        return not (self.lost or self.doubled or self.wrong or self.complaints) and self.heal_s <= self.allowed_s

    @property
    def line(self) -> str:
        """The run in one line."""
        state = "well" if self.is_well else "FAILED"
        said = f": {'; '.join(self.complaints)}" if self.complaints else ""
        return (
            f"{state} {self.key}: lost {self.lost}, doubled {self.doubled}, wrong {self.wrong},"
            f" {self.heal_s:g} s of {self.allowed_s:g} s, {self.pages} pages{said}"
        )


def row_of(what: Scenario, flavour: str, seed: int, outcome: Outcome) -> Row:
    """The row of a run that has just ended."""
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    return Row(what.name, flavour, seed, **msgspec.structs.asdict(outcome), date=date)


def read_rows() -> dict[str, Row]:
    """The runs so far, by key."""
    if not _RUNS.is_file():
        return {}
    return {row.key: row for row in msgspec.json.decode(_RUNS.read_bytes(), type=list[Row])}


def add_to_report(row: Row) -> None:
    """Add a run, in place of an earlier one of the same scenario, flavour and seed, and write both files."""
    rows = read_rows() | {row.key: row}
    order = list(SCENARIOS)
    known = sorted(
        (row for row in rows.values() if row.scenario in SCENARIOS),
        key=lambda row: (order.index(row.scenario), row.flavour, row.seed),
    )
    _RUNS.parent.mkdir(exist_ok=True)
    _RUNS.write_bytes(_lines(known))
    (_DOCS / "faults.json").write_bytes(_lines([_public(row) for row in known]))
    (_DOCS / "faults.md").write_text(_page(known))


def _public(row: Row) -> dict[str, object]:
    names = ("scenario", "flavour", "seed", "lost", "doubled", "wrong", "heal_s")
    return {name: getattr(row, name) for name in names}


def _lines(rows: Iterable[object]) -> bytes:
    """A list in JSON, one row a line."""
    return b"[\n" + b",\n".join(map(msgspec.json.encode, rows)) + b"\n]\n"


def _page(rows: list[Row]) -> str:
    table = [_table_line(list(group)) for _, group in groupby(rows, key=lambda row: (row.scenario, row.flavour))]
    failed = [f"- {row.line}" for row in rows if not row.is_well]
    own = [f"- `{each.name}`: {each.bound_s:g} s, because {each.why}." for each in SCENARIOS.values() if each.bound_s]
    dates = sorted({row.date for row in rows})
    return _TEXT.format(
        runs=len(rows),
        well=sum(row.is_well for row in rows),
        scenarios=len({row.scenario for row in rows}),
        dates=" to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
        spacing=f"{SPACING_S:g}",
        allowed=f"{ALLOWED_S:g}",
        table="\n".join(table),
        own="\n".join(own),
        failed="\n".join(failed) or "None.",
        says="\n".join(f"| `{each.name}` | {each.says} |" for each in SCENARIOS.values()),
    )


def _table_line(rows: list[Row]) -> str:
    """The worst of all seeds."""
    slowest = max(rows, key=lambda row: row.heal_s - row.allowed_s)
    lost, doubled, wrong = (sum(getattr(row, name) for row in rows) for name in ("lost", "doubled", "wrong"))
    seeds = ", ".join(str(row.seed) for row in rows)
    state = "yes" if all(row.is_well for row in rows) else "**no**"
    return (
        f"| `{rows[0].scenario}` | {rows[0].flavour} | {seeds} | {lost} | {doubled} | {wrong} |"
        f" {slowest.heal_s:g} | {slowest.pages} | {slowest.allowed_s:g} | {state} |"
    )


_TEXT = """# Faults

This page and [faults.json](faults.json) are written by the command that runs the scenarios:

```sh
python -m tests.faults                          # all of them; an hour or more
python -m tests.faults redis --seeds 1,2,3      # those whose name contains "redis", with three seeds
python -m tests.faults --list                   # what there is
```

`pytest -m faults` runs the same scenarios as tests. A few short ones are part of every run of the tests.

Each run starts real processes (the simulator, producers, consumers, workers) and real servers (PostgreSQL or \
TimescaleDB, and Valkey), with a TCP proxy between each process and each server. Trading goes on during the \
fault. All random moments come from the seed. At the end, the database is compared with the simulator's tape: \
every id, every one-minute candle, and every longer candle. In addition, the streams must be drained, no service \
may have ended by itself or printed a traceback, and memory and streams must be within their bounds.

Nothing in the services knows of faults. The proxies can reset, refuse, delay, throttle, swallow and half-close \
connections, and freeze one at certain bytes: just before they are forwarded, or just after. If the answer `COMMIT` of \
PostgreSQL is held back, the transaction is committed and the consumer does not know it yet. Killed then, it has died \
between the commit and the acknowledgement.

- **lost**: trades that are not stored a minute after the fault, or after the bound. **doubled**: rows beyond the \
first per trade. **wrong**: candles of any interval that differ, and symbols with trades that nobody made.
- **heals in**: seconds from the end of the fault until every trade up to that moment is stored. A fault that a \
service must survive while it lasts, such as a consumer that is killed for good, counts from its beginning. A \
process that is started again counts from its first sign of life, because the time until then depends on the \
machine.
- **allowed**: pages × spacing + {allowed} s, with the pages of REST Trades that were requested, and \
`REST_CALL_SPACING_S` of {spacing} s. Some scenarios have a bound of their own, given below with the reason.

{well} of {runs} runs of {scenarios} scenarios ended well ({dates}). A line shows the slowest of its seeds.

| scenario | flavour | seeds | lost | doubled | wrong | heals in (s) | pages | allowed (s) | well |
|---|---|---|---|---|---|---|---|---|---|
{table}

## Bounds of their own

{own}

## Runs that did not end well

{failed}

## Scenarios

| scenario | what happens |
|---|---|
{says}
"""
