"""URLs of servers: which part is which, and that no part of a password is ever shown."""

import traceback
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_history.database.connections import connection_error
from kraken_history.database.urls import DatabaseUrl, read_database_url
from kraken_history.errors import HistoryError, UsageError
from kraken_history.fetching.queue import redis_settings
from kraken_history.runtime.arq_settings import arq_settings
from kraken_history.runtime.processes import see_that_redis_answers
from kraken_history.runtime.redis_urls import RedisUrl, read_redis_url
from kraken_history.urls import InvalidUrl, split_url, without_account, without_password

AWKWARD = "@:/%#?&=[]+ \\\"'\0\n\ud8ff,;é"
PASSWORDS = st.text(st.sampled_from(AWKWARD) | st.characters(), min_size=4, max_size=12).map(
    lambda text: f"Sup3r{text}"
)
PLACES = ["host:5432/name", "[::1]:1/0", "h1:1,h2:2/x", "/name", "host/0?ssl=true", "host/name?sslmode=require&port=1"]
QUERIES = [
    "postgresql://me@host/name?password={}",
    "redis://host:1/0?password={}",
    "redis+sentinel://host/main?sentinel_password={}",
    "postgresql:///x?password={}&host=/tmp",
]


def said_about(url: str) -> str:
    """Everything that can be shown about a URL: messages, reprs, and the tracebacks of its errors."""
    said = [without_password(url), without_account(url)]
    readers: list[Callable[[str], object]] = [split_url, read_database_url, read_redis_url, redis_settings]
    for read in readers:
        try:
            said.append(repr(read(url)))
        except (InvalidUrl, UsageError) as error:
            said += ["".join(traceback.format_exception(error)), repr(error), repr(error.args)]
            said.append(str(connection_error(error, url)) if isinstance(error, ValueError) else "")
    try:
        arguments = read_database_url(url).asyncpg_arguments() | {"password": ""}
        said.append(repr(arguments))
    except InvalidUrl:
        pass
    return "\n".join(said)


def is_shown(password: str, text: str) -> bool:
    """True if any half of the password is shown, in any of its forms."""
    forms = {password, password.encode(errors="replace").decode(), repr(password)[1:-1]}
    return any("Sup3r" in text or form in text for form in forms)


@given(
    password=PASSWORDS,
    scheme=st.sampled_from(["postgresql", "redis", "rediss+sentinel", "redis+cluster", "unix", "postgresql+asyncpg"]),
    place=st.sampled_from(PLACES),
)
def test_no_part_of_a_password_is_ever_shown(password: str, scheme: str, place: str) -> None:
    for user in ("me", ""):
        for written in (password, quote(password.encode(errors="replace"), safe="")):
            assert not is_shown(password, said_about(f"{scheme}://{user}:{written}@{place}"))


@given(password=PASSWORDS, start=st.sampled_from(QUERIES))
def test_a_password_among_the_arguments_is_never_shown(password: str, start: str) -> None:
    assert not is_shown(password, said_about(start.format(quote(password.encode(errors="replace"), safe=""))))


@given(password=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_an_encoded_password_arrives_as_it_was(password: str) -> None:
    encoded = quote(password, safe="")
    database, redis = read_database_url(f"postgresql://me:{encoded}@host/name"), read_redis_url(f"redis://:{encoded}@h")

    assert database.password == database.asyncpg_arguments()["password"] == password
    assert split_url(database.libpq_url()).password == password
    assert redis.password == arq_settings(redis).password == password


@pytest.mark.parametrize("password", ["Sup3r#Secret", "Sup3r/Secret", "Sup3r?Secret", "1/2", "12#34", "5?x=6"])
def test_a_password_that_ends_too_early_is_refused_with_the_remedy(password: str) -> None:
    # `#` and `/` ended the password, so that the drivers took its first part for a port and quoted it:
    # "invalid literal for int() with base 10: 'Sup3rSecret'".
    for url, read in (("postgresql://me:{}@host/x", read_database_url), ("redis://:{}@host:6379/0", read_redis_url)):
        with pytest.raises(InvalidUrl, match="percent-encode") as refusal:
            read(url.format(password))

        assert password not in str(refusal.value)
        assert without_password(url.format(password)) == "the address in the URL"


def test_a_command_says_it_too() -> None:
    with pytest.raises(UsageError, match="percent-encode") as refusal:
        see_that_redis_answers("redis://:Sup3r#Secret@127.0.0.1:9/0")

    assert "Sup3r" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:secret@proxy:8080/kraken?key=secret", "http://proxy:8080/kraken"),
        ("wss://ws.kraken.com/v2", "wss://ws.kraken.com/v2"),
        ("http://me:se/cret@proxy", "the address in the URL"),
    ],
)
def test_an_address_of_kraken_is_shown_without_its_account(url: str, shown: str) -> None:
    assert without_account(url) == shown


def database(url: str) -> DatabaseUrl:
    return read_database_url(url)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg"])
def test_every_scheme_of_postgresql_is_the_same(scheme: str) -> None:
    assert database(f"{scheme}://me:x@h/n").asyncpg_arguments()["dsn"] == "postgresql://me@h/n"


def test_arguments_go_to_the_client_that_knows_them() -> None:
    # As Neon, Supabase and others write them. asyncpg sent each of them to the server, which refused the connection:
    # 'unrecognized configuration parameter "channel_binding"'.
    url = database(
        "postgresql://me:x@h/n?sslmode=require&channel_binding=require&connect_timeout=7&keepalives_idle=60"
        "&application_name=my+app&pgbouncer=true&options=-c%20work_mem%3D8MB&search_path=a"
    )

    arguments = url.asyncpg_arguments()
    assert arguments == {
        "dsn": "postgresql://me@h/n?sslmode=require",
        "password": "x",
        "timeout": 7.0,
        "server_settings": {"options": "-c work_mem=8MB", "search_path": "a", "application_name": "my app"},
    }
    assert url.is_pooled is True
    libpq = split_url(url.libpq_url())
    assert libpq.options["channel_binding"] == "require"
    assert libpq.options["connect_timeout"] == "7"
    assert libpq.options["options"] == "-c work_mem=8MB -c search_path=a"
    assert "pgbouncer" not in libpq.options


@pytest.mark.parametrize(
    ("arguments", "is_pooled"),
    [
        ("", None),
        ("?pgbouncer=true", True),
        ("?pgbouncer=false", False),
        ("?statement_cache_size=0", True),
        ("?prepared_statement_cache_size=0", True),
        ("?statement_cache_size=100", None),
    ],
)
def test_a_url_may_say_that_a_pooler_answers(arguments: str, is_pooled: bool | None) -> None:
    assert database(f"postgresql://h/n{arguments}").is_pooled is is_pooled


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://h1:1,[::1]:2,h3/n", (("h1", 1), ("::1", 2), ("h3", None))),
        ("postgresql:///n?host=/tmp&port=5433", (("/tmp", 5433),)),
        ("postgresql://%2Ftmp:5433/n", (("/tmp", 5433),)),
        ("postgresql:///n?host=h1,h2&port=1,2", (("h1", 1), ("h2", 2))),
        ("postgresql:///n?host=h1:1,::1,[::1],h2", (("h1", 1), ("::1", None), ("::1", None), ("h2", None))),
        ("postgresql:///n", ()),
        ("postgresql://h1:1/n?host=h2", (("h1", 1),)),
    ],
)
def test_hosts_are_where_either_driver_expects_them(url: str, hosts: object) -> None:
    assert database(url).hosts == hosts


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://h/n?requirepeer=x", "requirepeer"),
        ("postgresql://h/n?require_auth=scram-sha-256", "require_auth"),
        ("postgresql://h/n?gssencmode=require", "gssencmode"),
        ("postgresql://h/n?pgbouncer=perhaps", "pgbouncer"),
        ("postgresql://h1,h2/n?port=1,2,3", "port"),
        ("postgresql://h/n?sslrootcert=/nowhere/root.crt", "sslrootcert does not exist: '/nowhere/root.crt'"),
        ("postgresql://h/n?sslmode=verify-full&sslkey=/nowhere/x", "sslkey"),
    ],
)
def test_an_argument_that_cannot_be_honoured_is_named(url: str, named: str) -> None:
    with pytest.raises(InvalidUrl, match=named):
        database(url).asyncpg_arguments()


def test_the_machines_own_certificates_are_trusted_if_asked() -> None:
    arguments = database("postgresql://h/n?sslmode=require&sslrootcert=system").asyncpg_arguments()

    assert arguments["ssl"].check_hostname
    assert arguments["dsn"] == "postgresql://h/n"
    assert split_url(database("postgresql://h/n?sslrootcert=system").libpq_url()).options["sslmode"] == "verify-full"


def redis(url: str) -> RedisUrl:
    return read_redis_url(url)


@pytest.mark.parametrize(
    "arguments",
    [
        "?decode_responses=true",
        "?protocol=3&encoding=latin-1",
        "?socket_timeout=0.1&max_connections=1&health_check_interval=0",
        "?retry_on_timeout=yes&client_name=me",
    ],
)
def test_options_of_other_clients_do_no_harm(arguments: str) -> None:
    plain = {"host": "h", "port": 6379, "db": 3}

    assert redis(f"redis://h/3{arguments}").connection_arguments() == plain


@pytest.mark.parametrize(
    ("url", "tls"),
    [
        ("redis://h", None),
        ("redis://h?ssl=false", None),
        ("redis://h?ssl=true", {}),
        ("rediss://h", {}),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", {"ssl_cert_reqs": "none"}),
        (
            "rediss://h?ssl_ca_certs=/x.pem&ssl_check_hostname=true",
            {"ssl_ca_certs": "/x.pem", "ssl_check_hostname": True},
        ),
    ],
)
def test_tls_is_asked_for_by_scheme_or_argument(url: str, tls: object) -> None:
    assert redis(url).tls == tls
    assert arq_settings(redis(url)).ssl is (tls is not None)


def test_a_socket_is_a_path() -> None:
    url = redis("unix://me:x@/run/redis.sock?db=2")

    assert url.connection_arguments() == {"path": "/run/redis.sock", "db": 2, "username": "me", "password": "x"}
    assert arq_settings(url).unix_socket_path == "/run/redis.sock"


def test_sentinels_name_a_master() -> None:
    url = redis("rediss+sentinel://me:x@h1,[::1]:2/main/3?sentinel_username=s&sentinel_password=a%2Bb+c&prefix=p")

    assert (url.kind, url.hosts, url.master, url.database) == ("sentinel", (("h1", 26379), ("::1", 2)), "main", 3)
    assert (url.user, url.password, url.prefix, url.tls) == ("me", "x", "p", {})
    assert url.node_arguments("h1", 26379) == {"host": "h1", "port": 26379, "username": "s", "password": "a+b+c"}
    assert url.connection_arguments() == {"db": 3, "username": "me", "password": "x"}
    settings = arq_settings(url)
    assert (settings.sentinel, settings.host, settings.sentinel_master) == (True, list(url.hosts), "main")


def test_a_cluster_has_nodes() -> None:
    url = redis("redis+cluster://:x@h1:1,h2/0")

    assert (url.kind, url.hosts, url.database) == ("cluster", (("h1", 1), ("h2", 6379)), 0)
    assert url.cluster_arguments() == {"username": None, "password": "x", "ssl": False}


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis+sentinel://h", "expected the master's name"),
        ("redis+sentinel://h/m/x", "behind the master's name"),
        ("redis+cluster://h/1", "expected database 0"),
        ("redis://h?sentinel_password=x", "sentinel_password"),
        ("redis://h?foo=1", "foo"),
        ("redis://h/name", "the number of a database"),
        ("redis://h1,h2", "one host"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("redis://h?ssl=maybe", "ssl"),
        ("http://h", "redis://"),
    ],
)
def test_what_a_redis_url_cannot_mean_is_named(url: str, named: str) -> None:
    with pytest.raises(InvalidUrl, match=named):
        redis(url)


def test_errors_of_a_url_are_errors_of_its_user() -> None:
    error = connection_error(InvalidUrl("x"), "postgresql://h/n")

    assert isinstance(error, HistoryError)
    assert isinstance(error, UsageError)
