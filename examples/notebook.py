# ruff: noqa: T201 — a notebook prints
# %% [markdown]
# # Candles in a notebook
#
# The cells of this file run in Jupyter, VS Code or PyCharm, or all at once: `python examples/notebook.py`.
# They read the database of `DATABASE_URL` and need the extras `frames` and `plot`.

# %%
import os
from datetime import UTC, datetime, timedelta

from matplotlib.figure import Figure

from kraken_history.blocking import BlockingHistoricalDataProvider

history = BlockingHistoricalDataProvider(os.environ["DATABASE_URL"], pool_min_size=1)
history.connect()
symbols = history.get_symbols()
if not symbols:
    raise SystemExit("nothing is stored yet: fetch something with kraken-history up, fill-gaps or import-csv")
print("stored:", ", ".join(symbols))

# %% [markdown]
# ## The last two weeks, by the hour, as a frame
#
# pandas has the time as its index; `as_="polars"` has it as a column.

# %%
symbol = history.find_symbol(os.environ.get("SYMBOL", symbols[0]))
newest = history.get_data_range(symbol)["newest"] or datetime.now(UTC)
end = newest + timedelta(hours=1)
start = end - timedelta(days=14)
hours = history.get_candles_frame(symbol, 60, start, end, as_="pandas", gaps="ignore")
if hours.empty:
    raise SystemExit(f"of {symbol} no candles are stored: name another one in SYMBOL, or fetch some with fill-gaps")
missing = history.get_coverage(symbol, start, newest).duration("missing")
if missing:
    print(f"warning: {missing} of these two weeks is missing, so the figures below are not those of all of it")
print(hours[["open", "high", "low", "close", "volume", "trade_count"]].tail())

# %% [markdown]
# ## Returns and how much they vary over a day

# %%
hours["average"] = hours["close"].rolling(24, min_periods=1).mean()
hours["change"] = hours["close"].pct_change()
print(f"{len(hours)} candles, from {hours.index[0]} on; the largest rise was {hours['change'].max():.2%}")

# %% [markdown]
# ## A plot

# %%
figure = Figure(figsize=(12, 6), layout="constrained")
prices, volumes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
prices.plot(hours.index, hours["close"], label="close", color="#0072b2")
prices.plot(hours.index, hours["average"], label="mean of 24 candles", color="#d55e00")
prices.set_title(f"{symbol}, 60 min, in UTC")
prices.legend()
volumes.bar(hours.index, hours["volume"], width=timedelta(minutes=45), color="#999999")
volumes.set_ylabel(f"volume in {symbol.partition('/')[0]}")
figure.savefig("notebook.png")
figure  # noqa: B018 — shows it below the cell

# %%
history.close()
