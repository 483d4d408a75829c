"""Asking Kraken for its pairs: only when it is needed, once, and never claiming more than it said."""

import asyncio
from collections.abc import Iterable

import pytest

from kraken_history.errors import KrakenBusy, ServiceUnavailable, UnknownSymbol
from kraken_history.kraken.resolver import ASK_AGAIN_S, Resolver
from kraken_history.symbols import Pair

EUR = Pair("BTC/EUR", "XBTEUR", "XXBTZEUR", "XBT/EUR", "online")


class Listing:
    """Pairs to be fetched; counts how often they were."""

    def __init__(self, *pairs: Pair, error: Exception | None = None) -> None:
        self.pairs = list(pairs)
        self.error = error
        self.fetched = 0

    async def __call__(self) -> Iterable[Pair]:
        self.fetched += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.pairs


async def test_the_default_pairs_need_no_kraken() -> None:
    listing = Listing(error=ServiceUnavailable("away"))
    resolver = Resolver(listing)

    found = {name: (await resolver.find(name)).symbol for name in ("BTC/USDT", "xbtusdt", "XRP/XBT", "BTCUSDT")}

    assert found == {"BTC/USDT": "BTC/USDT", "xbtusdt": "BTC/USDT", "XRP/XBT": "XRP/BTC", "BTCUSDT": "BTC/USDT"}
    assert listing.fetched == 0


async def test_any_other_is_asked_for_once_by_however_many_tasks() -> None:
    listing = Listing(EUR)
    resolver = Resolver(listing)

    found = await asyncio.gather(*(resolver.find(name) for name in ("XBTEUR", "btc/eur", "XXBTZEUR", "BTCEUR")))

    assert set(found) == {EUR}
    assert listing.fetched == 1


async def test_a_name_that_was_not_listed_is_asked_for_again_after_a_while() -> None:
    listing, now = Listing(), 0.0
    resolver = Resolver(listing, clock=lambda: now)
    for _ in range(3):
        with pytest.raises(UnknownSymbol, match="Kraken lists no such pair"):
            await resolver.find("BTC/EUR")
    before = listing.fetched
    listing.pairs, now = [EUR], ASK_AGAIN_S + 1

    assert (before, await resolver.find("BTC/EUR"), listing.fetched) == (1, EUR, 2)


@pytest.mark.parametrize("error", [ServiceUnavailable("away"), KrakenBusy(["EService:Busy"])])
async def test_a_kraken_that_cannot_be_asked_says_nothing_of_a_name(error: Exception) -> None:
    resolver = Resolver(Listing(error=error))

    for name in ("BTC/EUR", "XBTEUR"):
        with pytest.raises(type(error)):
            await resolver.find(name)
    with pytest.raises(type(error)):
        await resolver.symbol_of("XBTEUR")
    assert await resolver.symbol_of("XBT/EUR") == "BTC/EUR"
    assert await resolver.symbol_of("AAPLx/USD") == "AAPLx/USD"


async def test_a_text_that_is_no_name_is_refused_before_kraken_is_asked() -> None:
    listing = Listing(EUR)

    with pytest.raises(UnknownSymbol, match="expected BASE/QUOTE, such as BTC/USDT, got 'BTC/'"):
        await Resolver(listing).find("BTC/")
    assert listing.fetched == 0
