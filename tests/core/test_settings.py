"""The environment, read once; a value that does not fit is one line that names its variable."""

from pathlib import Path

import pytest

from kraken_history.errors import UsageError
from kraken_history.settings import Settings, load_settings
from kraken_history.symbols import DEFAULT_SYMBOLS


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
        monkeypatch.delenv(field, raising=False)


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = load_settings()

    assert settings.symbols == DEFAULT_SYMBOLS
    assert settings.kraken_ws_url == "wss://ws.kraken.com/v2"
    assert settings.kraken_rest_url == "https://api.kraken.com"
    assert settings.stream_shards == 1
    assert settings.database_url is None
    assert settings.redis_url is None
    assert settings.metrics_port is None
    assert settings.consumer_name


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("BTC/USDT", ("BTC/USDT",)),
        ("BTC/USDT,ETH/USDT", ("BTC/USDT", "ETH/USDT")),
        (" btc/usdt , sol/USDT ,", ("BTC/USDT", "SOL/USDT")),
        ("XBT/USDT,XBTUSDT,BTCUSDT,XXRPXXBT", ("BTC/USDT", "XRP/BTC")),
        ("XBT/EUR,AAPLx/USD,eth/eur", ("BTC/EUR", "AAPLx/USD", "eth/eur")),
        ("XBTEUR,AAPLxUSD", ("XBTEUR", "AAPLxUSD")),
        ("BTC/USDT,ETH/USDT,BTC/USDT", ("BTC/USDT", "ETH/USDT")),
    ],
)
def test_symbols_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch, text: str, symbols: tuple[str, ...]) -> None:
    monkeypatch.setenv("SYMBOLS", text)

    assert load_settings().symbols == symbols


def test_every_value_comes_from_the_variable_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DATABASE_URL": "postgresql://u:p@host:5432/name",
        "REDIS_URL": "redis://:p@host:6379/0",
        "KRAKEN_WS_URL": "ws://127.0.0.1:1234/v2",
        "KRAKEN_REST_URL": "http://127.0.0.1:1234",
        "KRAKEN_HISTORY_DATA_DIR": "/somewhere",
        "BATCH_MAX_ROWS": "17",
        "BATCH_MAX_AGE_S": "0.5",
        "HEAL_DELAY_S": "0",
        "METRICS_PORT": "9100",
        "LOG_LEVEL": "WARNING",
        "LOG_JSON": "true",
        "CONSUMER_NAME": "second",
    }.items():
        monkeypatch.setenv(name, value)

    settings = load_settings()

    assert settings.require_database_url() == "postgresql://u:p@host:5432/name"
    assert settings.require_redis_url() == "redis://:p@host:6379/0"
    assert settings.kraken_ws_url == "ws://127.0.0.1:1234/v2"
    assert settings.kraken_rest_url == "http://127.0.0.1:1234"
    assert settings.kraken_history_data_dir == Path("/somewhere")
    assert (settings.batch_max_rows, settings.batch_max_age_s, settings.heal_delay_s) == (17, 0.5, 0)
    assert (settings.metrics_port, settings.log_level, settings.log_json) == (9100, "WARNING", True)
    assert settings.consumer_name == "second"


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "METRICS_PORT", "LOG_JSON", "KRAKEN_HISTORY_DATA_DIR"])
def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "")

    assert getattr(load_settings(), name.lower()) is None


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("SYMBOLS", "BTC", "expected BASE/QUOTE, such as BTC/USDT, got 'BTC'"),
        ("SYMBOLS", "BTC/USDT,FOO", "FOO"),
        ("SYMBOLS", "BTC/", "expected BASE/QUOTE, such as BTC/USDT, got 'BTC/'"),
        ("SYMBOLS", "BTC-EUR", "expected BASE/QUOTE, such as BTC/USDT, got 'BTC-EUR'"),
        ("SYMBOLS", "BTC/USDT\nETH/USDT", "BASE/QUOTE"),
        ("SYMBOLS", "", "at least one symbol"),
        ("SYMBOLS", " , ", "at least one symbol"),
        ("KRAKEN_WS_URL", "https://ws.kraken.com/v2", "wss?"),
        ("KRAKEN_REST_URL", "api.kraken.com", "https?"),
        ("BATCH_MAX_ROWS", "0", "greater than 0"),
        ("BATCH_MAX_ROWS", "many", "integer"),
        ("BATCH_MAX_AGE_S", "-1", "greater than 0"),
        ("STREAM_SHARDS", "1.5", "integer"),
        ("HEAL_DELAY_S", "-0.1", "greater than or equal to 0"),
        ("METRICS_PORT", "65536", "65535"),
        ("HISTORY_DAYS", "1000000000", "20000"),
        ("LOG_LEVEL", "loud", "debug"),
        ("LOG_JSON", "perhaps", "boolean"),
    ],
)
def test_a_value_that_does_not_fit_is_one_line_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, hint: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(UsageError) as refusal:
        load_settings()

    message = str(refusal.value)
    assert message.startswith(f"{name}: ")
    assert hint in message
    assert "\n" not in message


def test_secrets_are_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "KRAKEN_API_KEY", "KRAKEN_API_SECRET"):
        monkeypatch.setenv(name, f"scheme://user:{name}-hunter2@host/name")

    settings = load_settings()

    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)
    assert "hunter2" not in settings.model_dump_json()


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
def test_a_process_that_needs_a_server_says_which_variable_is_missing(name: str) -> None:
    settings = load_settings()

    with pytest.raises(UsageError, match=f"{name} is not set.*kraken-history up"):
        getattr(settings, f"require_{name.lower()}")()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(load_settings(), "stream_shards", 2)  # noqa: B010 — a type checker refuses it too


def test_what_nobody_knows_in_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMBOL", "nonsense")

    assert load_settings().symbols == DEFAULT_SYMBOLS
