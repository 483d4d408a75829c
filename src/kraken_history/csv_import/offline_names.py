"""Derives the pair of a download from its name alone, for when Kraken cannot be asked.

A name consists of two assets' names without a separator, so splitting it is a guess: ``ADAUSD`` is ADA/USD, but
AUSD is a quote asset too. The guess is made only if no second reading is possible.
"""

import re

from kraken_history.symbols import symbol_from_wsname

# None of these ends in another, so a name ends in one of them at most.
_QUOTES = (
    "USD", "EUR", "GBP", "CAD", "AUD", "CHF", "JPY", "AED", "USDT", "USDC", "DAI", "XBT", "BTC", "ETH", "DOT",
)  # fmt: skip
# Quotes that do end in one of these. No name is read with them; if it could be, it is not read at all.
_CONFUSING_QUOTES = ("AUSD", "PYUSD", "RLUSD", "TBTC", "WBTC", "WETH")

# Assets that trade against many others, by the downloads' names and by ours. The list need not be complete.
_ASSETS = frozenset(
    """
    1INCH AAVE ACA ADA AKT ALGO ALICE ANKR ANT APE API3 APT AR ARB ASTR ATOM AUD AUDIO AVAX AXS BAL BAND BAT BCH BICO
    BNB BNT BONK BTC CAD CHF CHZ COMP CRV CVX DAI DASH DENT DOGE DOT DYDX EGLD ENA ENJ ENS EOS ETC ETH ETH2.S ETHW EUR
    EURT EWT FARM FET FIL FLOKI FLOW FLR FTM GALA GBP GMX GNO GRT HBAR ICP ICX IMX INJ JASMY JPY JTO JUP KAVA KEEP KNC
    KSM LDO LINK LPT LRC LSK LTC LUNA LUNA2 MANA MANTA MATIC MEME MINA MKR MLN MNT MOON NANO NEAR OCEAN OGN OMG ONDO OP
    OXT PAXG PENDLE PEPE POL POPCAT PYTH PYUSD QNT QTUM RAY REN RENDER REP REPV2 RLUSD RNDR RUNE SAND SC SEI SHIB SNX
    SOL STORJ STRK STX SUI SUSHI TAO TBTC TIA TON TRUMP TRX TUSD UNI USD USDC USDG USDT WAVES WBTC WIF WLD XBT XDG XLM
    XMR XRP XTZ YFI ZEC ZRX
    """.split()  # noqa: SIM905 — a list of strings is four times as long, and no clearer
)


# One of Kraken's keys of its oldest pairs, which have a letter before each asset: XICNXETH is ICN/ETH.
_KEY = re.compile("[XZ][A-Z0-9]{3}[XZ][A-Z0-9]{3}")


def symbol_from_name(name: str) -> str | None:
    """``XBTUSDC`` → ``BTC/USDC``; None if the name is ambiguous or unreadable.

    An unknown asset is accepted if the name is in capitals, as Kraken's are, and cannot be read as a known asset
    against another quote: ``XBTAUSD`` is rejected, because if XBTA does not exist, it is XBT/AUSD.
    """
    capitals = name.upper()
    quote = next((quote for quote in _QUOTES if capitals.endswith(quote)), "")
    base = capitals.removesuffix(quote)
    others = [capitals.removesuffix(other) for other in _CONFUSING_QUOTES if capitals.endswith(other)]
    if base in _ASSETS:
        is_sure = _ASSETS.isdisjoint(others)
    else:
        beginnings = (base, base[1:])  # Kraken's keys have a letter before it: XXBTZUSD
        is_begun = any(text.startswith(asset) for asset in _ASSETS for text in beginnings)
        is_sure = name == capitals and len(base) > 1 and not (others or is_begun or _KEY.fullmatch(name))
    return symbol_from_wsname(f"{base}/{quote}") if quote and is_sure else None
