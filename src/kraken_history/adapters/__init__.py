"""History in the forms that backtesting libraries take. None of the libraries is imported before it is needed.

The reads of a provider choose what happens to missing data (``gaps``); nothing here fills or drops a row.
"""

from kraken_history.adapters.frames import backtesting_frame, backtrader_feed, vectorbt_frame
from kraken_history.adapters.nautilus import nautilus_bars, nautilus_instrument, nautilus_trades

__all__ = [
    "backtesting_frame",
    "backtrader_feed",
    "nautilus_bars",
    "nautilus_instrument",
    "nautilus_trades",
    "vectorbt_frame",
]
