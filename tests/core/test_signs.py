"""Signs of life as records: what is read of them, and what an entry proves that is not understood."""

import msgspec
import pytest

from kraken_history.runtime.signs import (
    ConsumerSign,
    ProducerSign,
    Sign,
    Signs,
    UnreadableSign,
    WorkerSign,
    decode_sign,
    encode_sign,
)
from tests.support.signs import CONSUMER, PRODUCER, WORKER, sign

WRITTEN = [
    ("producer:a", sign(PRODUCER, last_ids={"BTC/USDT": 5}, refused={"X/Y": "no"}, system="online", sessions=2)),
    ("consumer:b", sign(CONSUMER, healthy=False, trouble={"database": "it is gone"}, new_trades=3)),
    ("worker:c", sign(WORKER, symbols=("BTC/USDT",), history_days=30)),
]


@pytest.mark.parametrize(("name", "written"), WRITTEN)
def test_a_sign_comes_out_as_it_went_in(name: str, written: Sign) -> None:
    assert decode_sign(name, encode_sign(written)) == written


def test_the_fields_that_status_prints_have_kept_their_names() -> None:
    names = {kind: {*msgspec.json.decode(encode_sign(written))} for kind, written in WRITTEN}
    shared = {"pid", "at", "healthy", "trouble", "version", "clock_ahead_s"}

    assert names == {
        "producer:a": shared | {"system", "refused", "sessions", "published_trades", "let_go_trades", "last_ids"},
        "consumer:b": shared | {"new_trades", "known_trades", "batches", "shards"},
        "worker:c": shared | {"symbols", "history_days", "jobs"},
    }


def test_a_service_of_0_1_which_wrote_no_version_is_understood() -> None:
    body = b'{"pid":7,"at":"2026-01-05T10:00:00.5Z","healthy":true,"symbols":["BTC/USDT"],"history_days":30}'

    assert isinstance(decode_sign("worker:a", body), WorkerSign)


@pytest.mark.parametrize("version", ["2", "0", "null", '"1"', "1.0", "true", '"' + "x" * 500 + '"'])
def test_another_version_is_unreadable_whatever_else_is_in_it(version: str) -> None:
    body = encode_sign(PRODUCER).replace(b'"version":1', f'"version":{version}'.encode())
    read = decode_sign("producer:a", body)

    assert isinstance(read, UnreadableSign)
    assert read.unreadable.startswith("unreadable, written by another version: expected version 1, got ")
    assert len(read.unreadable) < 120
    assert (read.pid, read.healthy) == (7, False)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("producer:a", b""),
        ("producer:a", b"\xff"),
        ("producer:a", b"null"),
        ("producer:a", b"[1]"),
        ("producer:a", b"[" * 100_000),
        ("producer:a", b"{}"),
        ("producer:a", b'{"pid":"seven","at":"2026-01-05T10:00:00Z","healthy":true,"refused":{},"last_ids":{}}'),
        ("producer:a", b'{"pid":7,"at":"2026-01-05T10:00:00","healthy":true,"refused":{},"last_ids":{}}'),
        ("producer:a", b'{"pid":7,"at":"2026-01-05T10:00:00Z","refused":{},"last_ids":{}}'),
        ("producer:a", b'{"pid":7,"at":"2026-01-05T10:00:00Z","healthy":true,"last_ids":{"BTC/USDT":5}}'),
        ("producer:a", b'{"pid":7,"at":"2026-01-05T10:00:00Z","healthy":true,"refused":{},"last_ids":{"X":-1}}'),
        ("reader:a", b'{"pid":7,"at":"2026-01-05T10:00:00Z","healthy":true}'),
        ("", b'{"pid":7,"at":"2026-01-05T10:00:00Z","healthy":true}'),
    ],
)
def test_an_entry_that_is_not_a_sign_is_unreadable_in_one_line(name: str, body: bytes) -> None:
    read = decode_sign(name, body)

    assert isinstance(read, UnreadableSign)
    assert read.unreadable.startswith("unreadable")
    assert "\n" not in read.state
    assert not read.healthy


def test_live_is_what_a_connected_producer_has_seen_and_kraken_did_not_refuse() -> None:
    signs = Signs(
        {
            "producer:a": sign(PRODUCER, last_ids={"BTC/USDT": 5, "ETH/USDT": 7}, refused={"ETH/USDT": "no"}),
            "producer:b": sign(PRODUCER, last_ids={"BTC/USDT": 9}),
            "producer:c": sign(PRODUCER, last_ids={"SOL/USDT": 9}, healthy=False),
            "producer:d": PRODUCER,
            "producer:e": UnreadableSign(unreadable="unreadable"),
            "consumer:a": CONSUMER,
        }
    )

    assert signs.live_ids == {"BTC/USDT": 9}


def test_an_unreadable_producer_proves_nothing() -> None:
    live = encode_sign(sign(PRODUCER, last_ids={"BTC/USDT": 5}))
    newer = live.replace(b'"version":1', b'"version":2')

    assert Signs({"producer:a": decode_sign("producer:a", live)}).live_ids == {"BTC/USDT": 5}
    assert Signs({"producer:a": decode_sign("producer:a", newer)}).live_ids == {}


def test_wanted_are_the_most_days_that_any_worker_fetches() -> None:
    signs = Signs(
        {
            "worker:a": sign(WORKER, symbols=("BTC/USDT", "ETH/USDT"), history_days=30),
            "worker:b": sign(WORKER, symbols=("BTC/USDT",), history_days=7),
            "worker:c": UnreadableSign(unreadable="unreadable"),
        }
    )

    assert signs.wanted_days == {"BTC/USDT": 30, "ETH/USDT": 30}
    assert signs.unreadable == {"worker:c": "unreadable"}
    assert ([*signs.of(ProducerSign)], len([*signs.of(WorkerSign)])) == ([], 2)


def test_the_state_is_the_reason_if_a_service_is_not_well() -> None:
    troubles = {"kraken": "connecting", "redis": "it is full"}

    assert CONSUMER.state == "well"
    assert sign(PRODUCER, healthy=False, trouble=troubles).state == "kraken: connecting, redis: it is full"
    assert ConsumerSign(pid=8, at=CONSUMER.at, healthy=False).state == "it reports no reason"
