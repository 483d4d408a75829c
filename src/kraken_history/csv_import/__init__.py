"""Kraken's downloads → database: candles (OHLCVT), and trades (time and sales) as the candles that they make.

The exchange's values are stored to the last digit. Its candles have no vwap. In its place, the typical price is
stored, (high + low + close) / 3 cut to ten decimals, and ``quote_volume`` is ``volume × vwap``; the source ``csv``
says so. If the file holds trades, both values are exact.

A file is written in one transaction, under the lock of its symbol, and read in blocks: neither memory nor the
client's time per row depends on its length.
"""

from kraken_history.csv_import.extent import Phase
from kraken_history.csv_import.importer import CsvImporter, Imported, Skipped
from kraken_history.csv_import.names import Content, content_of
from kraken_history.csv_import.refusal import CsvError
from kraken_history.csv_import.rows import CandleReader, TradeReader
from kraken_history.csv_import.sources import CsvFile, found_files
from kraken_history.kraken.resolver import FetchPairs
from kraken_history.storing.candle_text import Candles

__all__ = [
    "CandleReader",
    "Candles",
    "Content",
    "CsvError",
    "CsvFile",
    "CsvImporter",
    "FetchPairs",
    "Imported",
    "Phase",
    "Skipped",
    "TradeReader",
    "content_of",
    "found_files",
]
