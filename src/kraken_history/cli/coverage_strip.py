"""Coverage by day as one line of characters, for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from rich.text import Text

from kraken_history.reading.kinds import CoverageKind

_DAY = timedelta(days=1)

LEGEND = (
    ("#", "green", "proven"),
    ("+", "cyan", "exchange"),
    (".", "blue", "quiet"),
    ("%", "yellow", "partly missing"),
    ("x", "red", "missing"),
)
"""Character, colour and meaning of a cell. The characters differ, so that colours are not needed."""

_STYLES = {character: style for character, style, _ in LEGEND}


def days_per_cell(days: int, width: int) -> int:
    """The number of days that a cell must stand for so that ``width`` cells are enough."""
    return max(-(-days // width), 1)


def cells(days: Mapping[datetime, Mapping[CoverageKind, int]], per_cell: int, *, unsettled_s: int = 0) -> str:
    """The characters of the days, each of ``per_cell`` days.

    Args:
        unsettled_s: Missing seconds at the end that are not settled yet. They do not count as missing.
    """
    totals = [_added(group) for group in _groups(list(days.values()), per_cell)]
    if totals and any(totals[-1][kind] for kind in ("proven", "exchange", "quiet")):
        totals[-1]["missing"] -= min(unsettled_s, totals[-1]["missing"])
    return "".join(_character(total) for total in totals)


def _groups(
    days: Sequence[Mapping[CoverageKind, int]], per_cell: int
) -> Iterator[Sequence[Mapping[CoverageKind, int]]]:
    for at in range(0, len(days), per_cell):
        yield days[at : at + per_cell]


def _added(days: Sequence[Mapping[CoverageKind, int]]) -> dict[CoverageKind, int]:
    return {kind: sum(day[kind] for day in days) for kind in days[0]}


def _character(total: Mapping[CoverageKind, int]) -> str:
    if total["missing"]:
        return "%" if total["proven"] or total["exchange"] or total["quiet"] else "x"
    if total["proven"] or total["exchange"]:
        return "#" if total["proven"] >= total["exchange"] else "+"
    return "."


def legend() -> Text:
    """What the characters mean."""
    text = Text()
    for character, style, meaning in LEGEND:
        text.append("  " if text else "").append(character, style).append(f" {meaning}")
    return text


def coloured(characters: str) -> Text:
    """The characters of :func:`cells`, with colours."""
    text = Text()
    for character in characters:
        text.append(character, _STYLES[character])
    return text
