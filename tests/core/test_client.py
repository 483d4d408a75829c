"""The REST client against a server that answers what the test says."""

import gzip
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from kraken_history.errors import KrakenBusy, KrakenHttpError, KrakenRefused, MalformedMessage, ServiceUnavailable
from kraken_history.kraken.client import LONGEST_ANSWER, KrakenRest
from kraken_history.kraken.pairs import PairMap
from kraken_history.kraken.rest import Refusal
from kraken_history.records import utc_from_unix_ns
from kraken_history.symbols import TOKENIZED_ASSET, Pair
from tests.support.kraken import CountingLimiter

REFUSAL = Refusal()
CALLS_WITHOUT_PAIR = "AssetPairs, SystemStatus and Time"
PAIR = PairMap().find("BTC/USDT")
PAGE = '{"error":[],"result":{"XBTUSDT":[["1.0","2.0",1762795433.97,"b","l","",7]],"last":"1762795433970000000"}}'
BUSY = '{"error":["EGeneral:Too many requests"]}'


@dataclass
class FakeKraken:
    """Gives its answers in turn, the last one again and again."""

    url: str = ""
    answers: list[tuple[int, str | bytes]] = field(default_factory=lambda: [(200, PAGE)])
    requests: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(str(request.rel_url))
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.Response(status=status, body=body, headers=self.headers)


@pytest.fixture
async def kraken() -> AsyncIterator[FakeKraken]:
    fake = FakeKraken()
    application = web.Application()
    application.router.add_get("/{path:.*}", fake.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


@pytest.fixture
def limiter() -> CountingLimiter:
    return CountingLimiter()


@pytest.fixture
async def rest(kraken: FakeKraken, limiter: CountingLimiter) -> AsyncIterator[KrakenRest]:
    async with KrakenRest(kraken.url + "/", limiter, attempts=3) as client:
        yield client


async def test_a_page_is_asked_for_by_altname_and_nanoseconds(
    rest: KrakenRest, kraken: FakeKraken, limiter: CountingLimiter
) -> None:
    page = await rest.fetch_trades_page(PAIR, 1762795433971744500)

    assert kraken.requests == ["/0/public/Trades?pair=XBTUSDT&since=1762795433971744500"]
    assert [(trade.id, trade.symbol) for trade in page.trades] == [(7, "BTC/USDT")]
    assert page.last == 1762795433970000000
    assert limiter.events == [("turn", "XBTUSDT"), ("success", "XBTUSDT")]


async def test_without_last_the_cursor_stays_at_since(rest: KrakenRest, kraken: FakeKraken) -> None:
    kraken.answers = [(200, '{"error":[],"result":{"XBTUSDT":[]}}')]

    assert (await rest.fetch_trades_page(PAIR, 42)).last == 42


@pytest.mark.parametrize("refusal", [(200, BUSY), (520, "<html>"), (200, " <html>"), (503, ""), (500, "{}")])
async def test_a_busy_kraken_is_asked_again(
    rest: KrakenRest, kraken: FakeKraken, limiter: CountingLimiter, refusal: tuple[int, str]
) -> None:
    kraken.answers = [refusal, refusal, (200, PAGE)]

    page = await rest.fetch_trades_page(PAIR)

    assert len(page.trades) == 1
    assert [kind for kind, _ in limiter.events] == ["turn", "refusal", "turn", "refusal", "turn", "success"]


async def test_a_kraken_that_stays_busy_is_given_up_after_all_attempts(
    rest: KrakenRest, kraken: FakeKraken, limiter: CountingLimiter
) -> None:
    kraken.answers = [(200, BUSY)]

    with pytest.raises(KrakenBusy, match="Too many requests"):
        await rest.fetch_trades_page(PAIR)

    assert len(kraken.requests) == 3
    assert (limiter.count("refusal"), limiter.count("success")) == (3, 0)


async def test_a_refusal_is_passed_on_at_once(rest: KrakenRest, kraken: FakeKraken, limiter: CountingLimiter) -> None:
    kraken.answers = [(200, '{"error":["EQuery:Unknown asset pair"]}')]

    with pytest.raises(KrakenRefused, match="Unknown asset pair"):
        await rest.fetch_trades_page(PAIR)

    assert len(kraken.requests) == 1
    assert limiter.count("refusal") == 0


@pytest.mark.parametrize("body", ["", "null", "not json", b"\xff\xfe", '{"error":[],"result":{"XXBT'])
async def test_an_empty_or_cut_answer_is_asked_for_again_with_the_patience_of_an_outage(
    rest: KrakenRest, kraken: FakeKraken, limiter: CountingLimiter, body: str | bytes
) -> None:
    """With HTTP 200 such an answer counted as a failure of the backfill, and five of them ended it after 4.4 s."""
    kraken.answers = [(200, body)]

    with pytest.raises(KrakenHttpError, match="got HTTP 200 with a body that is not JSON"):
        await rest.fetch_trades_page(PAIR)

    assert limiter.count("refusal") == len(kraken.requests) > 1


@pytest.mark.parametrize("body", ['{"error":[],"result":{"XBTUSDT":[["1"]]}}', '{"error":[]}', '["text"]'])
async def test_an_answer_that_is_none_is_malformed_and_not_asked_for_again(
    rest: KrakenRest, kraken: FakeKraken, body: str | bytes
) -> None:
    kraken.answers = [(200, body)]

    with pytest.raises(MalformedMessage):
        await rest.fetch_trades_page(PAIR)

    assert len(kraken.requests) == 1


async def test_a_kraken_that_nobody_reaches_is_unavailable(limiter: CountingLimiter) -> None:
    async with KrakenRest("http://127.0.0.1:9", limiter, attempts=2) as rest:
        with pytest.raises(ServiceUnavailable, match=r"http://127\.0\.0\.1:9"):
            await rest.fetch_trades_page(PAIR)

    assert limiter.count("refusal") == 2


async def test_all_pairs_are_fetched_under_a_limit_of_their_own(
    rest: KrakenRest, kraken: FakeKraken, limiter: CountingLimiter
) -> None:
    rows = '{"XXBTZUSD":{"altname":"XBTUSD","wsname":"XBT/USD","status":"online"},"XXBTZUSD.d":{"altname":"XBTUSD.d"}}'
    stock = '{"AAPLxUSD":{"altname":"AAPLxUSD","wsname":"AAPLx/USD","aclass_base":"tokenized_asset"}}'
    kraken.answers = [(200, f'{{"error":[],"result":{listed}}}') for listed in (rows, stock)]

    pairs = await rest.fetch_asset_pairs()

    assert [(pair.symbol, pair.asset_class) for pair in pairs] == [
        ("BTC/USD", "currency"),
        ("AAPLx/USD", "tokenized_asset"),
    ]
    assert kraken.requests == ["/0/public/AssetPairs", "/0/public/AssetPairs?aclass_base=tokenized_asset"]
    assert limiter.events == [("turn", CALLS_WITHOUT_PAIR), ("success", CALLS_WITHOUT_PAIR)] * 2


async def test_where_tokenised_assets_are_refused_the_other_pairs_are_known(
    rest: KrakenRest, kraken: FakeKraken
) -> None:
    rows = '{"XXBTZUSD":{"altname":"XBTUSD","wsname":"XBT/USD"}}'
    kraken.answers = [(200, f'{{"error":[],"result":{rows}}}'), (200, '{"error":["EGeneral:Invalid arguments"]}')]

    assert [pair.symbol for pair in await rest.fetch_asset_pairs()] == ["BTC/USD"]


async def test_a_list_of_half_the_pairs_is_not_taken_for_all_of_them(rest: KrakenRest, kraken: FakeKraken) -> None:
    rows = '{"XXBTZUSD":{"altname":"XBTUSD","wsname":"XBT/USD"}}'
    kraken.answers = [(200, f'{{"error":[],"result":{rows}}}'), (200, BUSY)]

    with pytest.raises(KrakenBusy):
        await rest.fetch_asset_pairs()


async def test_only_of_a_tokenised_asset_the_class_is_told(rest: KrakenRest, kraken: FakeKraken) -> None:
    stock = Pair("AAPLx/USD", "AAPLxUSD", "AAPLxUSD", "AAPLx/USD", "online", TOKENIZED_ASSET)
    ohlc = '{"error":[],"result":{"AAPLxUSD":[],"last":0}}'
    kraken.answers = [(200, PAGE), (200, PAGE), (200, ohlc), (200, ohlc)]

    for pair in (PAIR, stock):
        await rest.fetch_trades_page(pair, 5)
    for pair in (PAIR, stock):
        await rest.fetch_ohlc_page(pair, utc_from_unix_ns(60 * 10**9))

    assert kraken.requests == [
        "/0/public/Trades?pair=XBTUSDT&since=5",
        "/0/public/Trades?pair=AAPLxUSD&since=5&asset_class=tokenized_asset",
        "/0/public/OHLC?pair=XBTUSDT&interval=1&since=60",
        "/0/public/OHLC?pair=AAPLxUSD&interval=1&since=60&asset_class=tokenized_asset",
    ]


async def test_a_client_that_was_not_opened_says_so(limiter: CountingLimiter) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await KrakenRest("http://127.0.0.1:9", limiter).fetch_trades_page(PAIR)


async def test_an_answer_without_end_is_given_up_like_an_outage(rest: KrakenRest, kraken: FakeKraken) -> None:
    kraken.answers = [(200, b" " * (LONGEST_ANSWER + 1)), (200, PAGE)]

    assert len((await rest.fetch_trades_page(PAIR)).trades) == 1

    kraken.answers = [(200, b" " * (LONGEST_ANSWER + 1))]
    with pytest.raises(ServiceUnavailable, match=f"at most {LONGEST_ANSWER} bytes"):
        await rest.fetch_trades_page(PAIR)


async def test_a_small_answer_that_unpacks_to_a_large_one_is_given_up_too(rest: KrakenRest, kraken: FakeKraken) -> None:
    kraken.answers = [(200, gzip.compress(b" " * (LONGEST_ANSWER + 1)))]
    kraken.headers = {"Content-Encoding": "gzip"}

    with pytest.raises(ServiceUnavailable, match=f"at most {LONGEST_ANSWER} bytes"):
        await rest.fetch_trades_page(PAIR)
