"""Faults of REST's answers. No I/O: an answer in, an answer out, so that several faults of one call compose."""

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from simulator.faults.director import Director
from simulator.faults.kinds import Args
from simulator.faults.rules import Facts

_RESULT = b'{"error":[],"result"'
_PAGE_520 = b"""<!DOCTYPE html><html><head><title>api.kraken.com | 520: Web server is returning an unknown error</title>
</head><body><h1>Error 520</h1></body></html>"""

_ERRORS = {
    "eapi": "EAPI:Rate limit exceeded",
    "egeneral": "EGeneral:Too many requests",
    "lockout": "EGeneral:Temporary lockout",
    "unavailable": "EService:Unavailable",
    "busy": "EService:Busy",
    "timeout": "EService:Timeout",
    "internal": "EGeneral:Internal error",
}


class Answer(Struct, frozen=True):
    """One answer.

    Attributes:
        wait_s: It goes out after this time.
        sent: Bytes of the body after which the connection is cut; None for all, -1 for not even the headers.
    """

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = {}
    wait_s: float = 0.0
    sent: int | None = None


class Call(Struct, frozen=True):
    """What the units know of a call.

    Attributes:
        previous: The body of the page before, of the same method and pair.
        now_s: The exchange's unix time.
    """

    since: str = ""
    previous: bytes | None = None
    now_s: float = 0.0


def _refusal(error: str) -> Answer:
    return Answer(msgspec.json.encode({"error": [error]}))


def _throttle(answer: Answer, args: Args, call: Call) -> Answer:
    form, pause_s = str(args["form"]), int(args["s"])
    match form:
        case "eservice":
            return _refusal(f"EService:Throttled: {int(call.now_s) + pause_s}")
        case "http429":
            return Answer(b"Too Many Requests", 429, "text/plain", {"Retry-After": str(pause_s)} if pause_s else {})
        case "http520":
            return Answer(_PAGE_520, 520, "text/html")
        case _:
            return _refusal(_ERRORS[form])


def _error(answer: Answer, args: Args, call: Call) -> Answer:
    return _refusal(_ERRORS[str(args["form"])])


def _timeout(answer: Answer, args: Args, call: Call) -> Answer:
    return replace(answer, wait_s=answer.wait_s + float(args["s"]), sent=-1)


def _slow(answer: Answer, args: Args, call: Call) -> Answer:
    return replace(answer, wait_s=answer.wait_s + float(args["s"]))


def _cut_body(answer: Answer, args: Args, call: Call) -> Answer:
    kept = min(int(len(answer.body) * float(args["keep"])), max(len(answer.body) - 1, 0))
    if args["form"] == "http":
        return replace(answer, sent=kept)
    return replace(answer, body=answer.body[:kept])


def _empty_body(answer: Answer, args: Args, call: Call) -> Answer:
    return replace(answer, body=b"")


def _stuck_page(answer: Answer, args: Args, call: Call) -> Answer:
    """The page before; if there is none, this one with a cursor that leads back to it."""
    if call.previous is not None:
        return replace(answer, body=call.previous)
    found = _page(answer.body)
    if found is None:
        return answer
    result: dict[str, object] = {**found[2], "last": call.since or "0"}
    return replace(answer, body=msgspec.json.encode({"error": [], "result": result}))


class _Body(Struct):
    error: list[str] = []
    result: dict[str, msgspec.Raw] = {}


_body = msgspec.json.Decoder(_Body)
_rows = msgspec.json.Decoder(list[msgspec.Raw])


def _omit_rows(answer: Answer, args: Args, call: Call) -> Answer:
    """Neither the first row, which repeats the page before, nor the last, which the cursor names."""
    found = _page(answer.body)
    if found is None:
        return answer
    key, rows, result = found
    gone = set(Random(int(args["draw"])).sample(range(1, len(rows) - 1), min(int(args["n"]), len(rows) - 2)))
    kept: list[Any] = [row for at, row in enumerate(rows) if at not in gone]
    return replace(answer, body=msgspec.json.encode({"error": [], "result": {**result, key: kept}}))


def _page(body: bytes) -> tuple[str, list[msgspec.Raw], dict[str, msgspec.Raw]] | None:
    """The key, the rows and the result of a page of Trades; None if the body is something else."""
    try:
        result = _body.decode(body).result
        (key,) = (name for name in result if name != "last")
        return key, _rows.decode(result[key]), result
    except (msgspec.MsgspecError, ValueError):
        return None


UNITS: dict[str, Callable[[Answer, Args, Call], Answer]] = {
    "throttle": _throttle,
    "error": _error,
    "timeout": _timeout,
    "slow": _slow,
    "cut_body": _cut_body,
    "empty_body": _empty_body,
    "stuck_page": _stuck_page,
    "omit_rows": _omit_rows,
}


class AnswerFaults:
    """The way of REST's answers through the faults."""

    def __init__(self, director: Director) -> None:
        self._director = director
        self._previous: dict[str, bytes] = {}

    def struck(self, method: str, symbol: str, since: str, body: bytes, now_s: float) -> Answer:
        """The answer to one call.

        Args:
            symbol: The pair's symbol; empty for a call without a pair.
            now_s: The exchange's unix time.
        """
        answer, subject = Answer(body), f"{method} {symbol}".rstrip()
        n = self._director.next_number("answer", subject)
        previous = self._previous.get(subject)
        if method == "Trades" and body.startswith(_RESULT):
            self._previous[subject] = body
        if not self._director.watches("answer"):
            return answer
        page = _page(body) if method == "Trades" else None
        rows = len(page[1]) if page is not None else 0
        call = Call(since, previous, now_s)
        for strike in self._director.ask("answer", subject, Facts(symbol, method, rows), n):
            answer = UNITS[strike.fault](answer, strike.args, call)
            self._director.record(strike, {"method": method, "symbol": symbol, "since": since, "rows": rows})
        return answer
