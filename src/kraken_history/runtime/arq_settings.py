"""The URL of a Redis in the form that arq understands, apart from its reading: arq takes long to load."""

from arq.connections import RedisSettings

from kraken_history.runtime.redis_urls import RedisUrl

_TLS_OF_ARQ = frozenset({"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_data"})


def arq_settings(url: RedisUrl) -> RedisSettings:
    """Settings for arq's own connections."""
    tls = {name: value for name, value in (url.tls or {}).items() if name in _TLS_OF_ARQ | {"ssl_check_hostname"}}
    by_sentinel = url.kind == "sentinel"
    host, port = url.hosts[0]
    return _Settings(
        host=list(url.hosts) if by_sentinel else host,
        port=port,
        sentinel=by_sentinel,
        sentinel_master=url.master,
        unix_socket_path=url.socket,
        database=url.database,
        ssl=url.tls is not None,
        **url.account(),
        **tls,
    )


class _Settings(RedisSettings):
    """arq's settings, whose repr shows the password otherwise."""

    def __repr__(self) -> str:
        return f"RedisSettings(host={self.host!r}, port={self.port!r})"
