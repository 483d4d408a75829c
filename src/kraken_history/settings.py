"""The settings, read once, at start, from the environment, ``.env`` and a TOML file.

An environment variable has the name of its field in upper case: ``DATABASE_URL``, ``REDIS_URL``, ``SYMBOLS`` …
``.env`` has lines with the same names; ``kraken-history.toml`` has the names in lower case. The environment counts
before ``.env``, and ``.env`` before the TOML file.
Secrets are :class:`~pydantic.SecretStr` and never appear in a repr or a log.
"""

import socket
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from kraken_history.errors import UnknownSymbol, UsageError
from kraken_history.kraken.pacing import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, Pacing
from kraken_history.kraken.pairs import checked_name, symbol_without_kraken
from kraken_history.settings_files import env_file, read_toml
from kraken_history.settings_words import complaint_about
from kraken_history.symbols import DEFAULT_SYMBOLS
from kraken_history.urls import DEFAULT_PREFIX, PREFIX, UrlOfSetting, is_cluster, split_url, with_prefix

_NO_CLUSTER = "the queue of jobs cannot be in a cluster"


class Settings(BaseSettings):
    """All settings of the services and commands.

    Attributes:
        symbols: Our symbols, ``BTC/USDT``, if they can be found without Kraken. If a name has no slash and is not a
            default pair (``XBTEUR``), the services ask Kraken for its pair.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    database_url: SecretStr | None = Field(None, description="postgresql://user:password@host:5432/name")
    redis_url: SecretStr | None = Field(None, description="redis://:password@host:6379/0")
    jobs_redis_url: SecretStr | None = Field(
        None, description="Redis of the jobs, the rate limit and the signs of life, if REDIS_URL names a cluster"
    )
    redis_prefix: str = Field(
        DEFAULT_PREFIX, pattern=f"^{PREFIX.pattern}$", description="first part of the names of all keys in Redis"
    )
    redis_wait_s: float = Field(10.0, ge=0, description="how long a command waits for a Redis that is away")
    symbols: Annotated[tuple[str, ...], NoDecode] = Field(DEFAULT_SYMBOLS, description="comma-separated")
    kraken_history_data_dir: Path | None = Field(None, description="where the embedded servers live")

    kraken_ws_url: str = Field("wss://ws.kraken.com/v2", pattern="^wss?://")
    kraken_rest_url: str = Field("https://api.kraken.com", pattern="^https?://")
    kraken_api_key: SecretStr | None = Field(None, description="accepted and never sent: the data is public")
    kraken_api_secret: SecretStr | None = Field(None, description="accepted and never sent: the data is public")

    ack_timeout_s: PositiveFloat = Field(10.0, description="how long Kraken has to acknowledge a subscription")
    silence_timeout_s: PositiveFloat = Field(
        10.0, description="a socket that is silent for so long is replaced: heartbeats come each second"
    )
    stream_shards: PositiveInt = Field(
        1, description="number of streams that share the symbols; the same everywhere, at least one per consumer"
    )
    stream_max_entries: PositiveInt = Field(
        200_000, description="number of entries in a stream at which the producer stops publishing"
    )
    publish_after_s: PositiveFloat = Field(0.02, description="maximum wait of a trade for others that share its entry")
    entry_max_trades: PositiveInt = Field(200, description="maximum number of trades per entry")
    publish_buffer_max_trades: PositiveInt = Field(
        200_000, description="maximum number of trades held while Redis is away or full"
    )

    consumer_name: str = Field(
        default_factory=socket.gethostname,
        description="stable: a restarted consumer continues with its own entries",
    )
    batch_max_rows: PositiveInt = Field(5_000, description="rows at which a batch is written")
    batch_max_age_s: PositiveFloat = Field(0.05, description="age of its oldest entry at which a batch is written")
    write_timeout_s: PositiveFloat = Field(
        60.0, description="after so long without an answer, consumers and short jobs cancel a statement and retry it"
    )
    reclaim_after_s: PositiveFloat = Field(
        30.0, description="idle time after which another consumer's entry is taken over"
    )
    dead_letters_max: PositiveInt = Field(
        100_000, description="maximum number of dead letters kept; more are only counted"
    )

    rest_call_spacing_s: PositiveFloat = Field(1.0, description="between two REST calls for the same pair")
    rest_total_spacing_s: PositiveFloat = Field(0.25, description="between any two REST calls")
    rest_slowest_spacing_s: PositiveFloat = Field(
        4.0,
        description="upper bound for the spacing of a pair's calls while Kraken refuses; it recovers by itself",
    )
    rest_first_backoff_s: PositiveFloat = Field(
        FIRST_BACKOFF_S, description="pause after a refused call; doubles with each refusal in a row"
    )
    rest_longest_backoff_s: PositiveFloat = Field(LONGEST_BACKOFF_S, description="longest pause after refusals")
    backfill_lease_s: PositiveFloat = Field(
        30.0, description="time without a sign of its worker after which another worker takes a backfill over"
    )
    backfill_run_s: PositiveFloat = Field(20.0, description="how long one job fetches pages")
    heal_delay_s: float = Field(1.0, ge=0, description="how long missing ids may arrive by themselves before a fetch")

    history_days: PositiveInt = Field(30, le=20_000, description="days of history to fetch for each symbol")

    retention_trades_days: PositiveInt | None = Field(None, description="drop older trades; 90 is common")
    retention_candles_days: PositiveInt | None = Field(None, description="drop older one-minute candles; 365 is common")
    retention_minutes_days: PositiveInt | None = Field(
        None, description="drop older candles of 5, 15 and 30 minutes; 730 is common"
    )
    retention_hours_days: int | None = Field(
        None, ge=30, description="drop older candles of 1 and 4 hours; 1825 is common"
    )

    archive_url: SecretStr | None = Field(
        None, description="folder or s3://bucket/path of an archive that the worker keeps up to date"
    )

    fear_greed_enabled: bool = Field(False, description="fetch the fear and greed index once a day")
    fear_greed_url: str = Field("https://api.alternative.me", pattern="^https?://", description="address of the source")
    btc_dominance_enabled: bool = Field(False, description="fetch bitcoin's share of the market once a day")
    btc_dominance_url: str = Field(
        "https://api.coingecko.com", pattern="^https?://", description="address of the source"
    )

    metrics_port: int | None = Field(None, ge=0, le=65535, description="serve Prometheus metrics here")
    metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="address to serve the metrics on; they need no password"
    )
    web_port: int = Field(8765, ge=0, le=65535, description="serve the HTTP API here; 0 takes a free port")
    web_host: str = Field(
        "127.0.0.1", min_length=1, description="address to serve the HTTP API on; others than loopback need WEB_TOKEN"
    )
    web_token: SecretStr | None = Field(
        None, description="what clients send as `Authorization: Bearer`, 16 characters or more"
    )
    log_level: str = Field("info", pattern="(?i)^(debug|info|warning|error)$")
    log_json: bool | None = Field(None, description="JSON lines; by default if the output is not a terminal")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources, of which an earlier one counts."""
        files = (
            DotEnvSettingsSource(settings_cls, env_file=env_file()),
            InitSettingsSource(settings_cls, read_toml(cls.model_fields)),
        )
        return (init_settings, env_settings, *files)

    @field_validator("kraken_ws_url", "kraken_rest_url", "fear_greed_url", "btc_dominance_url")
    @classmethod
    def _are_urls(cls, value: str) -> str:
        split_url(value)  # its error quotes nothing, unlike those of the HTTP client
        return value

    @field_validator("symbols", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("symbols")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one symbol, for example BTC/USDT")
        try:
            return tuple(dict.fromkeys(symbol_without_kraken(name) or checked_name(name) for name in value))
        except UnknownSymbol as error:
            raise ValueError(str(error)) from None

    @field_validator(
        "database_url",
        "redis_url",
        "jobs_redis_url",
        "metrics_port",
        "web_token",
        "log_json",
        "kraken_history_data_dir",
        "retention_trades_days",
        "retention_candles_days",
        "retention_minutes_days",
        "retention_hours_days",
        "archive_url",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def pacing(self) -> Pacing:
        """How calls to REST are spaced."""
        return Pacing(
            self.rest_call_spacing_s,
            self.rest_total_spacing_s,
            self.rest_slowest_spacing_s,
            self.rest_first_backoff_s,
            self.rest_longest_backoff_s,
        )

    def require_database_url(self) -> str:
        """The database, for a process that does not start one.

        Raises:
            UsageError: DATABASE_URL is not set.
        """
        if self.database_url is None:
            raise UsageError("DATABASE_URL is not set: set it, or start everything with `kraken-history up`")
        return self.database_url.get_secret_value()

    def require_redis_url(self) -> str:
        """The Redis, for a process that does not start one.

        Raises:
            UsageError: REDIS_URL is not set.
        """
        if self.redis_url is None:
            raise UsageError("REDIS_URL is not set: set it, or start everything with `kraken-history up`")
        return with_prefix(self.redis_url.get_secret_value(), self.redis_prefix)

    @property
    def given_jobs_redis_url(self) -> str | None:
        """The Redis of the jobs, the rate limit and the signs of life; None if none is set.

        Raises:
            UsageError: It is a cluster, or the streams are in a cluster and no other Redis is set.
        """
        if self.jobs_redis_url is not None:
            url = with_prefix(self.jobs_redis_url.get_secret_value(), self.redis_prefix)
            if is_cluster(url):
                raise UsageError(f"expected JOBS_REDIS_URL to name one server or Sentinels: {_NO_CLUSTER}")
            return UrlOfSetting(url, "JOBS_REDIS_URL")
        if self.redis_url is None:
            return None
        url = self.require_redis_url()
        if is_cluster(url):
            raise UsageError(f"REDIS_URL names a cluster: set JOBS_REDIS_URL too, because {_NO_CLUSTER}")
        return url

    def require_jobs_redis_url(self) -> str:
        """As :attr:`given_jobs_redis_url`, for a process that does not start a Redis.

        Raises:
            UsageError: Neither JOBS_REDIS_URL nor REDIS_URL is set, or it cannot be used.
        """
        return self.given_jobs_redis_url or self.require_redis_url()


def load_settings() -> Settings:
    """Read the environment, ``.env`` and the TOML file, in this order of precedence.

    Raises:
        UsageError: A value does not fit, and names the variable and what it takes; or a file cannot be read.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        raise UsageError(f"{name.upper() or 'the settings'}: {_words(name, first)}") from None


def _words(name: str, error: ErrorDetails) -> str:
    field = Settings.model_fields.get(name)
    if error["type"] == "value_error" or field is None:
        return error["msg"].removeprefix("Value error, ")
    return complaint_about(field, error["input"], is_shown=not name.endswith(("_url", "_key", "_secret", "_token")))
