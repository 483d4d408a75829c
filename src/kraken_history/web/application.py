"""The application that the server runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from msgspec import to_builtins
from pydantic import SecretStr

from kraken_history.provider import HistoricalDataProvider
from kraken_history.web import models
from kraken_history.web.access import Gate, check_token, is_loopback, local_names
from kraken_history.web.api import router
from kraken_history.web.bodies import json_answer
from kraken_history.web.events import CandleHub
from kraken_history.web.problems import answer_problems, problem

CONNECTIONS = 8
"""Maximum number of connections to the database for all requests together, beside those of followers."""

_ABOUT = """Trades and candles of Kraken, and the proof of what is complete.

Prices and volumes are text, so that no digit is lost. Times are in UTC. A read fails with status 409 if part of its
range is missing, unless it says `gaps=ignore`."""


def create_app(database_url: str, *, host: str = "127.0.0.1", token: SecretStr | None = None) -> FastAPI:
    """The application, which connects to the database when it starts.

    Args:
        host: The address on which it is served. On a loopback address, reads need no token.
        token: What clients of other addresses must send.

    Raises:
        UsageError: The address can be reached by others, and there is no token.
    """
    check_token(host, token)
    provider = HistoricalDataProvider(database_url, pool_min_size=1, pool_max_size=CONNECTIONS)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.hub = CandleHub(provider)
        async with provider:
            yield
            await app.state.hub.close()

    app: FastAPI = FastAPIOffline(
        title="kraken-history",
        version=version("kraken-history"),
        description=_ABOUT,
        docs_url="/api/docs",
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        static_url="/api/docs/assets",
        lifespan=lifespan,
    )
    app.state.provider = provider
    app.state.reads_need_token = not is_loopback(host)
    app.add_middleware(Gate, token=token if app.state.reads_need_token else None, names=local_names(host))
    answer_problems(app)
    app.include_router(router)
    _add_health(app)
    return app


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["health"], status_code=204, response_class=Response)
    async def is_alive() -> Response:
        """The server answers. It says nothing about the database: restarting this server would not mend that."""
        return Response(status_code=204)

    @app.get("/readyz", tags=["health"], response_model=models.Health)
    async def is_ready(request: Request) -> Response:
        """The database answers, and has the schema of this version; else status 503."""
        provider: HistoricalDataProvider = request.app.state.provider
        health = await provider.health_check()
        if not health.is_healthy:
            return problem(503, "The database is unavailable", health.reason)
        return json_answer(request, to_builtins(health))
