"""Names in SYMBOLS: which are subscribed at once, and which are looked up in the list of all symbols."""

import asyncio

from fakeredis import FakeAsyncRedis

from producers.naming import Found, Naming
from tests.producers.kraken_server import Conversation, kraken_server
from tests.producers.test_feed import BTC, NOT_LISTED, running_feed
from tests.support.waiting import until

LISTED = ["BTC/USDT", "BTC/EUR", "AAPLx/USD"]


def test_a_symbol_is_subscribed_letter_by_letter_and_any_other_name_is_looked_up() -> None:
    naming = Naming(["BTC/USDT", "AAPLxUSD", "AAPLX/USD", "XBTEUR"])

    assert (naming.symbols, naming.unsettled) == (["BTC/USDT", "AAPLX/USD"], ["AAPLxUSD", "XBTEUR"])
    assert naming.settle(LISTED) == Found({"AAPLxUSD": "AAPLx/USD", "XBTEUR": "BTC/EUR"}, {})
    assert (naming.symbols, naming.unsettled) == (["BTC/USDT", "AAPLx/USD", "AAPLX/USD", "BTC/EUR"], [])


def test_a_refused_symbol_is_looked_up_unless_it_is_known_to_be_right() -> None:
    naming = Naming(["BTC/USDT", "aaplx/usd", "NO/SUCH"])
    naming.doubt(["BTC/USDT", "aaplx/usd", "NO/SUCH", "of somebody else"])

    assert naming.unsettled == ["aaplx/usd", "NO/SUCH"]
    assert naming.settle(LISTED) == Found(
        {"aaplx/usd": "AAPLx/USD"}, {"NO/SUCH": "Kraken lists no such pair; write BASE/QUOTE, as in BTC/USDT"}
    )


def test_a_name_that_may_mean_two_symbols_names_both() -> None:
    naming = Naming(["aaplxusd"])

    found = naming.settle(["AAPLx/USD", "AAPLX/USD"])

    assert found.unknown == {"aaplxusd": "'aaplxusd' may mean AAPLx/USD or AAPLX/USD: write the one that is meant"}


async def test_a_list_that_does_not_come_keeps_no_symbol_from_being_followed(redis: FakeAsyncRedis) -> None:
    async def script(kraken: Conversation) -> None:
        await kraken.accept_all()
        await kraken.stay()

    async with (
        kraken_server(script) as server,
        running_feed(redis, server.url, symbols=[BTC, "XBTEUR"], ack_timeout_s=0.1) as feed,
    ):
        await until(lambda: feed.connected and feed.refused)
        await asyncio.sleep(0)

        assert feed.refused == {"XBTEUR": "Kraken did not list its symbols within 0.1 s; write BASE/QUOTE"}
        assert server.connections == 1


async def test_a_list_that_is_refused_keeps_no_symbol_from_being_followed(redis: FakeAsyncRedis) -> None:
    async def script(kraken: Conversation) -> None:
        for _ in range(2):
            request = await kraken.request()
            await kraken.refuse(request, NOT_LISTED)
            await kraken.acknowledge(request, [BTC])
        request = await kraken.request()
        assert request["params"]["channel"] == "instrument"
        await kraken.send(
            {"error": "Channel not supported", "method": "subscribe", "success": False, "req_id": request["req_id"]}
        )
        await kraken.stay()

    async with (
        kraken_server(script) as server,
        running_feed(redis, server.url, symbols=[NOT_LISTED, BTC]) as feed,
    ):
        await until(lambda: feed.connected)

        assert feed.refused == {NOT_LISTED: "Currency pair not supported XBT/USDT"}
        assert server.connections == 1
