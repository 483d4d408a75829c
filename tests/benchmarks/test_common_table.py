"""The common table of the benchmarks: which take part, and what a line says."""

import asyncio

import pytest
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks.lines import Line, Sizes, machine, table_of


def text_of(*lines: Line) -> str:
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table_of(lines))
    return shown.get()


def test_every_benchmark_with_lines_takes_part() -> None:
    taking_part, alone = command.parts()

    assert {"ingest", "read", "gaps", "shards", "csv_import"} <= set(taking_part)
    assert not {"servers", "workload", "lines"} & {*taking_part, *alone}


@pytest.mark.parametrize(
    ("line", "of_limit", "times_usual"),
    [
        (Line("speed", "rows/s", 50, 100, usual=10), 0.5, 5),
        (Line("time", "ms", 50, 100, usual=10, smaller_is_better=True), 2, 0.2),
        (Line("memory", "MB", 50), None, None),
        (Line("nothing measured", "rows/s", 0, 100), None, None),
    ],
)
def test_a_line_compares_so_that_more_is_better(line: Line, of_limit: float, times_usual: float) -> None:
    assert (line.of_limit, line.times_usual) == (of_limit, times_usual)


def test_the_table_names_the_limit_and_the_usual_way() -> None:
    shown = text_of(Line("stream → rows", "trades/s", 61234.5, 72345.6, "plain COPY", 20000, "executemany"))

    for part in ("stream → rows", "61,23", "72,346 plain COPY", "0.85", "20,000 executemany", "3.1"):
        assert part in shown


def test_a_size_shrinks_with_the_share_but_not_below_its_least() -> None:
    sizes = Sizes(share=0.05)

    assert (sizes.of(200_000), sizes.of(30, least=5), Sizes().of(7)) == (10_000, 5, 7)


def test_a_part_that_fails_costs_no_other_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    async def good(sizes: Sizes) -> list[Line]:
        return [Line("good", "ms", 1)]

    async def bad(sizes: Sizes) -> list[Line]:
        raise RuntimeError("no disk")

    lines, failed = asyncio.run(command.measure({"bad": bad, "good": good}, Sizes()))

    assert ([line.what for line in lines], failed) == (["good"], ["bad"])
    assert "no disk" in capsys.readouterr().err


def test_the_machine_is_described_in_one_line() -> None:
    assert "processors" in machine()
    assert "\n" not in machine()
