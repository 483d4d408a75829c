"""Sends an answer of REST as its faults have left it."""

import asyncio

from aiohttp import web

from simulator.faults.answers import Answer


async def send(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Send an answer, late or in part if it says so; the client's own time-out ends the wait."""
    if answer.wait_s:
        await asyncio.sleep(answer.wait_s)
    if answer.sent is None:
        return web.Response(
            body=answer.body, status=answer.status, content_type=answer.content_type, headers=answer.headers
        )
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_type = answer.content_type
    response.content_length = len(answer.body)
    if answer.sent >= 0:
        await response.prepare(request)
        await response.write(answer.body[: answer.sent])
    if request.transport is not None:
        request.transport.close() if answer.sent >= 0 else request.transport.abort()
    return response
