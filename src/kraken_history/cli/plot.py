"""``candles --plot``: draw candles and their volume into a PNG file."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kraken_history.cli.whole_file import check_target, whole_file
from kraken_history.errors import HistoryError, MissingExtra, UsageError
from kraken_history.intervals import width_of
from kraken_history.records import HistoricalCandle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CANDLES = 2_000

_UP, _DOWN = "#0072b2", "#d55e00"  # blue and vermilion of Okabe and Ito: distinct for colour-blind readers, and in grey
_SIZE_INCHES, _DOTS_PER_INCH = (16, 9), 120
_DAY = timedelta(days=1)
_BODY_SHARE = 0.72  # of the candle's time, so that neighbours stay apart
_HOLLOW_AT_MOST = 300  # more candles are too narrow to draw hollow


def checked_limit(limit: int | None, *, has_start: bool) -> int | None:
    """The number of candles to read: one more than can be drawn, to detect a range that has too many.

    Raises:
        UsageError: ``limit`` is more than can be drawn.
    """
    if limit is not None and limit > MOST_CANDLES:
        raise UsageError(f"--plot draws at most {MOST_CANDLES:,} candles, got --limit {limit:,}")
    return MOST_CANDLES + 1 if limit is None and has_start else limit


def checked_target(path: Path) -> Path:
    """Check the path of the picture and return it resolved. An existing file will be replaced.

    Raises:
        MissingExtra: Matplotlib is not installed.
        UsageError: The path is not a valid target, or does not end in ``.png``.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib", "plot")
    if path.suffix.lower() != ".png":
        raise UsageError(f"--plot writes PNG: expected a name such as {path.stem or 'candles'}.png")
    return check_target(path, replaces=True)


def write_plot(candles: Sequence[HistoricalCandle], path: Path) -> None:
    """Draw candles of one symbol and interval, oldest first.

    Raises:
        HistoryError: ``candles`` is empty.
        UsageError: There are more than ``MOST_CANDLES``.
    """
    if not candles:
        raise HistoryError("there is nothing to draw")
    if len(candles) > MOST_CANDLES:
        raise UsageError(
            f"--plot draws at most {MOST_CANDLES:,} candles, and this range has more:"
            " use a longer --interval, a shorter range, or --limit"
        )
    figure = _figure(candles)
    with whole_file(path) as file:
        figure.savefig(file, format="png")


def _figure(candles: Sequence[HistoricalCandle]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
    prices, volumes = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _draw_prices(prices, candles)
    _draw_volumes(volumes, candles)
    _name_axes(prices, volumes, candles)
    return figure


def _draw_prices(axes: "Axes", candles: Sequence[HistoricalCandle]) -> None:
    stroke = _stroke(candles)
    for colour, group in _by_direction(candles):
        opens, closes = [float(each.open) for each in group], [float(each.close) for each in group]
        bottoms, tops = list(map(min, opens, closes)), list(map(max, opens, closes))
        _draw_lines(axes, group, [float(each.low) for each in group], bottoms, colour, stroke)
        _draw_lines(axes, group, tops, [float(each.high) for each in group], colour, stroke)
        is_hollow = colour == _UP and len(candles) <= _HOLLOW_AT_MOST
        _draw_boxes(axes, group, bottoms, tops, ("white" if is_hollow else colour, colour), stroke)
    lowest, highest = min(float(each.low) for each in candles), max(float(each.high) for each in candles)
    space = (highest - lowest) * 0.05 or highest * 0.01 or 1.0
    axes.set_ylim(lowest - space, highest + space)


def _draw_volumes(axes: "Axes", candles: Sequence[HistoricalCandle]) -> None:
    for colour, group in _by_direction(candles):
        volumes = [float(candle.volume) for candle in group]
        _draw_boxes(axes, group, [0.0] * len(group), volumes, (colour, colour), min(_stroke(candles), 0.5))
    axes.set_ylim(0, max(float(candle.volume) for candle in candles) * 1.05 or 1.0)


def _draw_lines(
    axes: "Axes",
    candles: Sequence[HistoricalCandle],
    bottoms: Sequence[float],
    tops: Sequence[float],
    colour: str,
    stroke: float,
) -> None:
    """Draw a vertical line in the middle of each candle's time."""
    from matplotlib.collections import LineCollection

    ends = [
        [(middle, bottom), (middle, top)] for middle, bottom, top in zip(_middles(candles), bottoms, tops, strict=True)
    ]
    axes.add_collection(LineCollection(ends, colors=colour, linewidths=stroke), autolim=False)


def _draw_boxes(
    axes: "Axes",
    candles: Sequence[HistoricalCandle],
    bottoms: Sequence[float],
    tops: Sequence[float],
    colours: tuple[str, str],
    stroke: float,
) -> None:
    """Draw a box over most of each candle's time; ``colours`` are those of its inside and its edge."""
    from matplotlib.collections import PolyCollection

    half = width_of(candles[0].interval_minutes) / _DAY * _BODY_SHARE / 2
    corners = [
        [(middle - half, bottom), (middle - half, top), (middle + half, top), (middle + half, bottom)]
        for middle, bottom, top in zip(_middles(candles), bottoms, tops, strict=True)
    ]
    inside, edge = colours
    axes.add_collection(PolyCollection(corners, facecolors=inside, edgecolors=edge, linewidths=stroke), autolim=False)


def _middles(candles: Sequence[HistoricalCandle]) -> list[float]:
    """The middle of each candle's time, in Matplotlib's days."""
    from matplotlib.dates import date2num

    half = width_of(candles[0].interval_minutes) / 2

    return [float(date2num(each.timestamp + half)) for each in candles]  # type: ignore[no-untyped-call]


def _by_direction(candles: Sequence[HistoricalCandle]) -> list[tuple[str, list[HistoricalCandle]]]:
    rising = [candle for candle in candles if candle.close >= candle.open]
    falling = [candle for candle in candles if candle.close < candle.open]
    return [(colour, group) for colour, group in ((_UP, rising), (_DOWN, falling)) if group]


def _stroke(candles: Sequence[HistoricalCandle]) -> float:
    """Width of lines in points: thinner if the buckets are narrow, so that lines do not overlap."""
    buckets = _end(candles) - candles[0].timestamp
    share = width_of(candles[0].interval_minutes) / buckets
    return min(1.2, max(0.4, share * _SIZE_INCHES[0] * 72 * 0.25))


def _end(candles: Sequence[HistoricalCandle]) -> datetime:
    return candles[-1].timestamp + width_of(candles[-1].interval_minutes)


def _name_axes(prices: "Axes", volumes: "Axes", candles: Sequence[HistoricalCandle]) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import ScalarFormatter

    first, end = candles[0], _end(candles)
    base, _, quote = first.symbol.partition("/")
    prices.set_title(
        f"{first.symbol}, {first.interval_minutes} min   {first.timestamp:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC",
        loc="left",
        fontsize=14,
    )
    prices.set_title("blue: closed at its open or above; orange: below", loc="right", fontsize=10, color="#555555")
    prices.set_ylabel(f"Price in {quote}")
    volumes.set_ylabel(f"Volume in {base}")
    volumes.set_xlabel("Time in UTC")
    space = max((end - first.timestamp) * 0.01, width_of(first.interval_minutes))
    volumes.xaxis_date(tz=UTC)
    volumes.set_xlim(first.timestamp - space, end + space)  # type: ignore[arg-type]
    locator = AutoDateLocator(tz=UTC, minticks=6, maxticks=14)  # type: ignore[no-untyped-call]
    volumes.xaxis.set_major_locator(locator)
    volumes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
    for axes in (prices, volumes):
        plain = ScalarFormatter(useOffset=False)
        plain.set_scientific(False)
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "left"):
            axes.spines[side].set_visible(False)
