"""The environment, read once; a value that does not fit is one line that names its variable."""

import traceback
from pathlib import Path

import pytest

from kraken_history.errors import UsageError
from kraken_history.settings import Settings, load_settings
from kraken_history.settings_files import chosen_files
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
        ("KRAKEN_WS_URL", "https://ws.kraken.com/v2", "expected an address such as wss://ws.kraken.com/v2"),
        ("KRAKEN_REST_URL", "api.kraken.com", "expected an address such as https://api.kraken.com"),
        ("KRAKEN_REST_URL", "http://me:se/cret@proxy", "percent-encode"),
        ("REDIS_PREFIX", "a b", "expected letters, digits, and - _ . or : between them, got 'a b'"),
        ("BATCH_MAX_ROWS", "0", "expected a whole number greater than 0, got '0'"),
        ("BATCH_MAX_ROWS", "many", "expected a whole number greater than 0, got 'many'"),
        ("BATCH_MAX_AGE_S", "-1", "expected a number greater than 0, got '-1'"),
        ("STREAM_SHARDS", "1.5", "expected a whole number greater than 0, got '1.5'"),
        ("HEAL_DELAY_S", "-0.1", "expected a number of at least 0, got '-0.1'"),
        ("METRICS_PORT", "65536", "expected a whole number from 0 to 65535, got '65536'"),
        ("HISTORY_DAYS", "1000000000", "expected a whole number greater than 0 and of at most 20000"),
        ("RETENTION_TRADES_DAYS", "-5", "expected a whole number greater than 0, got '-5'"),
        ("RETENTION_HOURS_DAYS", "5", "expected a whole number of at least 30, got '5'"),
        ("LOG_LEVEL", "loud", "expected one of debug, info, warning, error, got 'loud'"),
        ("LOG_JSON", "perhaps", "expected true or false, got 'perhaps'"),
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


class TestFiles:
    """``.env`` and ``kraken-history.toml`` in the current directory, or where a variable says."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.delenv("KRAKEN_HISTORY_ENV_FILE", raising=False)
        monkeypatch.delenv("KRAKEN_HISTORY_CONFIG", raising=False)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_the_environment_counts_before_env_and_env_before_toml(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "kraken-history.toml").write_text(
            'symbols = ["BTC/USDT", "XBT/EUR"]\nhistory_days = 1\nstream_shards = 1\nlog_json = true\n'
        )
        (folder / ".env").write_text("HISTORY_DAYS=2\nSTREAM_SHARDS=2\nDB_PASSWORD=of-compose\nMETRICS_PORT=\n")
        monkeypatch.setenv("STREAM_SHARDS", "3")

        settings = load_settings()

        assert settings.symbols == ("BTC/USDT", "BTC/EUR")
        assert (settings.history_days, settings.stream_shards) == (2, 3)
        assert (settings.log_json, settings.metrics_port) == (True, None)

    def test_files_elsewhere_are_named_by_variables(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "a.toml").write_text("history_days = 7\n")
        (elsewhere / "b.env").write_text("STREAM_SHARDS=5\n")
        (folder / ".env").write_text("STREAM_SHARDS=6\n")
        monkeypatch.setenv("KRAKEN_HISTORY_CONFIG", "elsewhere/a.toml")
        monkeypatch.setenv("KRAKEN_HISTORY_ENV_FILE", "elsewhere/b.env")

        settings = load_settings()

        assert (settings.history_days, settings.stream_shards) == (7, 5)
        assert chosen_files() == {
            "KRAKEN_HISTORY_CONFIG": str(elsewhere / "a.toml"),
            "KRAKEN_HISTORY_ENV_FILE": str(elsewhere / "b.env"),
        }

    def test_no_file_is_read_if_its_variable_is_empty(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "kraken-history.toml").write_text("nonsense")
        (folder / ".env").write_text("STREAM_SHARDS=many\n")
        monkeypatch.setenv("KRAKEN_HISTORY_CONFIG", "")
        monkeypatch.setenv("KRAKEN_HISTORY_ENV_FILE", "")

        assert load_settings().stream_shards == 1

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("history_day = 5", "'history_day' is not a setting: did you mean history_days?"),
            ("HISTORY_DAYS = 5", "'HISTORY_DAYS' is not a setting: did you mean history_days?"),
            ("zzz = 5", "'zzz' is not a setting: remove it"),
            ('history_days = "many"', "HISTORY_DAYS: expected a whole number"),
            ("symbols = 5", "SYMBOLS: "),
            ('database_url = "postgresql://me:hunter2@host', "expected lines like history_days = 90"),
            ("database_url = 5", "DATABASE_URL: expected text"),
        ],
    )
    def test_what_a_toml_file_cannot_say_is_one_line(self, folder: Path, text: str, said: str) -> None:
        (folder / "kraken-history.toml").write_text(text)

        with pytest.raises(UsageError) as refusal:
            load_settings()

        assert said in str(refusal.value)
        assert "\n" not in str(refusal.value)
        assert "hunter2" not in "".join(traceback.format_exception(refusal.value))

    def test_a_file_that_is_not_there_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KRAKEN_HISTORY_CONFIG", "nowhere.toml")

        with pytest.raises(
            UsageError, match=r"KRAKEN_HISTORY_CONFIG: expected the path of a file, got 'nowhere\.toml'"
        ):
            load_settings()
