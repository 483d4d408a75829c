"""``coverage``: how complete the history is, and the command that fills each missing range."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.text import Text

from kraken_history.cli import servers as server_choice
from kraken_history.cli.coverage_strip import cells, coloured, days_per_cell, legend
from kraken_history.cli.instants import instant
from kraken_history.cli.missing_time import ONE_BY_ONE, Gap, are_several, explain, lasting, percent
from kraken_history.cli.replicas import replica_line
from kraken_history.completeness.longer_cover import find_longer_since
from kraken_history.completeness.unreachable import find_unreachable_instants
from kraken_history.errors import UsageError
from kraken_history.intervals import as_utc
from kraken_history.kraken.pairs import checked_name
from kraken_history.reading.database import Database
from kraken_history.reading.kinds import KINDS
from kraken_history.reading.measured_coverage import MeasuredCoverage, measure_coverage
from kraken_history.reading.names import read_symbol, read_symbols
from kraken_history.reading.replicas import read_replica_lag
from kraken_history.reading.stored_extent import read_extents
from kraken_history.settings import Settings

_WIDTH_IN_A_PIPE = 80
_MOST_GAPS = 40  # shown per symbol; --json has all


class Report(Struct, frozen=True):
    """The coverage of one symbol, with its gaps explained."""

    coverage: MeasuredCoverage
    gaps: Sequence[Gap]


def run_coverage(
    settings: Settings,
    names: Sequence[str],
    *,
    start: datetime | None,
    end: datetime | None,
    interval: int,
    as_json: bool,
) -> None:
    """Measure the coverage of the symbols, by default of all that are stored, and print it.

    Raises:
        UsageError: A name is not valid, nothing is stored under it, or ``start`` is not in the past.
    """
    wanted = [checked_name(name) for name in names]
    if start is not None and start >= datetime.now(UTC):
        raise UsageError(f"--from: expected a time before now, got {instant(start)}")
    with server_choice.database(settings) as database_url:
        reports = asyncio.run(_measure(database_url, wanted, start, end, interval))
    if as_json:
        sys.stdout.write(msgspec.json.encode({"symbols": {r.coverage.symbol: as_record(r) for r in reports}}).decode())
        sys.stdout.write("\n")
    else:
        _print(reports)
    if not reports:
        sys.stderr.write("nothing is stored yet: start `kraken-history up`, or import a download\n")


async def _measure(
    database_url: str, names: Sequence[str], start: datetime | None, end: datetime | None, interval: int
) -> list[Report]:
    database = Database(database_url, 1, 1)
    await database.open()
    try:
        symbols = [await read_symbol(database, name) for name in names] or await read_symbols(database)
        async with database.connection() as connection:
            if (lag_s := await read_replica_lag(connection)) is not None:
                sys.stderr.write(f"{replica_line(lag_s)}\n")
            now = _whole_second(await connection.fetchval("SELECT now()"))
            extents = await read_extents(connection)
            until = min(_second_after(end), now) if end else now
            reports = []
            for symbol in dict.fromkeys(symbols):
                known = extents[symbol].since if symbol in extents else until
                if interval > 1:
                    known = min(known, await find_longer_since(connection, symbol, interval) or known)
                since = min(_whole_second(as_utc(start)) if start else _second_after(known), until)
                coverage = await measure_coverage(connection, symbol, since, until, interval)
                instants = await find_unreachable_instants(connection, symbol, since, until)
                gaps = explain(symbol, coverage.missing, coverage.dropped, instants, now=now)
                reports.append(Report(coverage, gaps))
        return reports
    finally:
        await database.close()


def _whole_second(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def _second_after(moment: datetime) -> datetime:
    return _whole_second(moment + timedelta(microseconds=999_999))


def as_record(report: Report) -> dict[str, object]:
    """The report as ``--json`` prints it. The four kinds add up to the range."""
    coverage = report.coverage
    return {
        "from": instant(coverage.start),
        "to": instant(coverage.end),
        **{f"{kind}_s": coverage.totals[kind] for kind in KINDS},
        "gaps": [{"start": instant(gap.start), "end": instant(gap.end), "command": gap.command} for gap in report.gaps],
    }


def _print(reports: Sequence[Report]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_IN_A_PIPE)
    for at, report in enumerate(reports):
        if at:
            console.print()
        for line in lines_of(report, console.width, is_terminal=console.is_terminal):
            console.print(line, soft_wrap=True)


def lines_of(report: Report, width: int, *, is_terminal: bool) -> list[Text]:
    """The report in lines of at most ``width`` characters. Only a command may be longer, and only in a pipe."""
    coverage = report.coverage
    unsettled = [gap for gap in report.gaps if gap.why == "unsettled"]
    per_cell = days_per_cell(len(coverage.days), width - 2)
    strip = cells(coverage.days, per_cell, unsettled_s=sum(int(gap.duration.total_seconds()) for gap in unsettled))
    scale = "a day" if per_cell == 1 else f"{per_cell} days"
    lines = [
        Text.assemble(
            (coverage.symbol, "bold"), f"  {_minute(coverage.start)} to {_minute(coverage.end)}, {scale} per character"
        ),
        Text("  ").append_text(legend()),
        Text("  ").append_text(coloured(strip)),
    ]
    whole_s = (coverage.end - coverage.start).total_seconds()
    for kind, seconds in coverage.totals.items():
        lines.append(Text(f"  {kind:<10}{lasting(seconds):>16}{percent(seconds, whole_s):>10}"))
    return [*lines, *_gap_lines(report.gaps, width, is_terminal=is_terminal)]


def _gap_lines(gaps: Sequence[Gap], width: int, *, is_terminal: bool) -> list[Text]:
    lines = [Text(f"  {ONE_BY_ONE}")] if are_several(gaps) else []
    for gap in gaps[:_MOST_GAPS]:
        length = lasting(gap.duration.total_seconds())
        span = f"  {_second(gap.start)} to {_second(gap.end)}, {length}"
        if gap.why == "missing":
            lines += [Text(f"{span}:"), *_command(gap.command, width, is_terminal=is_terminal)]
        elif gap.why == "dropped":
            lines += [Text(f"{span}: dropped by retention,"), Text("      which no command brings back")]
        elif gap.why == "unreachable":
            lines += [Text(f"{span}: more trades in one instant"), Text("      than Kraken's REST API shows")]
        else:
            lines.append(Text(f"{span}: not settled yet"))
    if len(gaps) > _MOST_GAPS:
        lines.append(Text(f"  and {len(gaps) - _MOST_GAPS:,} more missing ranges: --json lists all"))
    return lines


def _command(command: str, width: int, *, is_terminal: bool) -> list[Text]:
    """The command, indented. If it is too long for a terminal, it continues on a second line, as shells allow."""
    indent = " " * 6
    if not is_terminal or len(indent + command) <= width:
        return [Text(indent + command)]
    head, option, tail = command.partition(" --from ")
    return [Text(f"{indent}{head} \\"), Text(f"{indent}   {option}{tail}")] if option else [Text(indent + command)]


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z"


def _second(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}Z"
