"""``export`` of several symbols, one file each, and the choice between candles and trades."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import typer
from pydantic import SecretStr

from kraken_history.cli import servers as server_choice
from kraken_history.cli.commands.export import FileFormat, Program
from kraken_history.cli.export import (
    STANDARD_OUTPUT,
    NothingWhole,
    Wanted,
    candles_file,
    check_target_or_output,
    file_format,
    find_status,
    run_export,
)
from kraken_history.cli.export_for import run_export_for
from kraken_history.cli.export_trades import run_export_trades, trades_file
from kraken_history.cli.failures import complain
from kraken_history.cli.gaps_option import Gaps
from kraken_history.cli.instants import instant, range_options
from kraken_history.errors import CoverageError, UsageError
from kraken_history.intervals import parse_interval
from kraken_history.kraken.pairs import checked_name
from kraken_history.provider import HistoricalDataProvider
from kraken_history.settings import load_settings


def run_command(
    symbols: Sequence[str] | None,
    interval: str,
    from_: str | None,
    to: str | None,
    *,
    days: int | None,
    format_: FileFormat | None,
    output: Path | None,
    gaps: Gaps,
    force: bool,
    trades: bool,
    all_: bool,
    for_: Program | None = None,
) -> None:
    """Check the options and write the files."""
    names = [checked_name(name) for name in symbols or ()]
    if bool(names) is all_:
        raise UsageError("expected symbols or --all, for example: kraken-history export BTC/USDT")
    (start, end), minutes, now = range_options(from_, to, days), parse_interval(interval), datetime.now(UTC)
    if end is None and start is not None and start >= now:
        raise UsageError(f"the range is reversed or empty: --from {instant(start)} must be before now")
    run = run_export_trades if trades else run_export
    wanted = Wanted("", minutes, start, end or now, gaps, ends_with_history=end is None)
    if for_ is not None:
        run_export_for(
            load_settings(), for_, names, wanted, output, trades=trades, replaces=force, find_stored=_find_stored
        )
        return
    if len(names) == 1:
        wanted = msgspec.structs.replace(wanted, symbol=names[0])
        run(load_settings(), wanted, file_format(format_, output), output, replaces=force)
        return
    format_ = format_ or FileFormat.CSV
    folder = _checked_folder(output)
    check_target_or_output(format_, None, replaces=force)
    settings = load_settings()
    with server_choice.database(settings) as database_url:
        stored = _find_stored(database_url, names)
        paths = {name: folder / (trades_file(name, format_) if trades else candles_file(name, minutes, format_))
                 for name in stored}  # fmt: skip
        for path in paths.values():  # before anything is written
            check_target_or_output(format_, path, replaces=force)
        settings = settings.model_copy(update={"database_url": SecretStr(database_url)})
        code = 0
        for name, path in paths.items():
            try:
                run(settings, msgspec.structs.replace(wanted, symbol=name), format_, path, replaces=force)
            except (CoverageError, NothingWhole) as error:  # the other symbols may be complete
                code = complain(error)
    if code:
        raise typer.Exit(code)


def _checked_folder(output: Path | None) -> Path:
    """The folder of the files, which is made if it does not exist; by default the current one."""
    if output is None:
        return Path()
    if output == STANDARD_OUTPUT or (output.exists() and not output.is_dir()):
        raise UsageError(f"expected a folder with --output for several symbols, got {output}")
    if output.suffix.lower() in {".csv", ".parquet", ".feather"} and not output.exists():
        raise UsageError(
            f"expected a folder with --output for several symbols, got {output}: give the format by --format"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {output}: {error.strerror}: name another with --output") from error
    return output


def _find_stored(database_url: str, names: Sequence[str]) -> list[str]:
    return asyncio.run(_stored(database_url, names))


async def _stored(database_url: str, names: Sequence[str]) -> list[str]:
    """The stored symbols of these names, each once; all stored symbols without a name."""
    async with HistoricalDataProvider(database_url, pool_min_size=1, pool_max_size=1) as provider:
        if names:
            return list(dict.fromkeys([(await find_status(provider, name)).symbol for name in names]))
        stored = await provider.get_symbols()
    if not stored:
        raise UsageError("nothing is stored yet: start `kraken-history up`")
    return stored
