"""Runs the application in this process until a signal comes."""

import socket

import uvicorn
from fastapi import FastAPI

STOPS_WITHIN_S = 5
"""Seconds that open answers have to end when the server stops."""


class _Server(uvicorn.Server):
    """Ends the streams of events before it waits for open answers."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.hub.end_streams()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Answer the requests of a socket that is bound."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=STOPS_WITHIN_S
    )
    _Server(config).run(sockets=[listener])
