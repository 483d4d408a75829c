"""Errors as JSON, in the form of RFC 9457 (``application/problem+json``), without a traceback or a secret."""

from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from kraken_history.backtests import UnknownRun
from kraken_history.errors import (
    CoverageError,
    HistoryError,
    ProviderClosed,
    SchemaMismatch,
    ServiceUnavailable,
    UnknownIndicator,
    UnknownSymbol,
    UsageError,
)

MEDIA_TYPE = "application/problem+json"
_AGAIN_AFTER_S = 2


class MissingRange(BaseModel):
    """Missing time, ``[start, end)``."""

    start: datetime
    end: datetime


class Problem(BaseModel):
    """Why a request has no answer.

    ``gaps`` is there if part of the history is missing (status 409).
    """

    title: str = Field(description="The kind of problem, the same for all of a kind")
    status: int
    detail: str = Field(description="What was expected, what came, and the remedy, in one line")
    gaps: list[MissingRange] | None = None


class TooBusyError(ServiceUnavailable):
    """The server does as much of this as it allows at once."""


_TITLES: tuple[tuple[type[HistoryError], int, str], ...] = (
    (CoverageError, 409, "Part of the history is missing"),
    (UnknownSymbol, 404, "Unknown symbol"),
    (UnknownRun, 404, "Unknown run"),
    (UnknownIndicator, 404, "Unknown indicator"),
    (UsageError, 400, "Invalid request"),
    (TooBusyError, 503, "Too busy"),
    (ServiceUnavailable, 503, "The database is unavailable"),
    (ProviderClosed, 503, "The server is stopping"),
    (SchemaMismatch, 503, "The database is of another version"),
    (HistoryError, 500, "The request failed"),
)


def answer_problems(app: FastAPI) -> None:
    """Answer the errors of this project, and those of the framework, as problems."""
    handlers: tuple[tuple[type[Exception], Callable[[Request, Exception], Awaitable[Response]]], ...] = (
        (HistoryError, _of_ours),
        (RequestValidationError, _of_an_argument),
        (HTTPException, _of_the_framework),
    )
    for kind, handler in handlers:
        app.add_exception_handler(kind, handler)


def problem(status: int, title: str, detail: str, **more: object) -> Response:
    """The answer of one problem. It must not be cached."""
    body = msgspec.json.encode({"title": title, "status": status, "detail": detail, **more})
    headers = {"Cache-Control": "no-store"}
    if status == 503:
        headers["Retry-After"] = str(_AGAIN_AFTER_S)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(body, status, headers, MEDIA_TYPE)


async def _of_ours(_: Request, error: Exception) -> Response:
    status, title = next((status, title) for kind, status, title in _TITLES if isinstance(error, kind))
    if isinstance(error, CoverageError):
        gaps = [{"start": gap.start, "end": gap.end} for gap in error.gaps]
        return problem(status, title, error.message("ask with gaps=ignore"), gaps=gaps)
    return problem(status, title, " ".join(str(error).split()))


async def _of_an_argument(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = str(first["loc"][-1]) if first["loc"] else "the request"
    return problem(400, "Invalid request", f"{where}: {first['msg']}")


async def _of_the_framework(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = problem(error.status_code, "Invalid request", error.detail)
    answer.headers.update(error.headers or {})
    return answer
