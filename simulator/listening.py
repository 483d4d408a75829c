"""The port of a simulated Kraken: where it listens, and its URLs."""

from aiohttp import web

from kraken_history.errors import UsageError


class Port:
    """One port, which serves an application between :meth:`open` and :meth:`close`.

    Args:
        number: 0 becomes the port that the system chose.
    """

    def __init__(self, host: str, number: int) -> None:
        self.host, self.number = host, number
        self._runner: web.AppRunner | None = None

    @property
    def ws_url(self) -> str:
        """Where a WebSocket v2 client connects."""
        return f"ws://{self._authority}/v2"

    @property
    def rest_url(self) -> str:
        """Stands for ``https://api.kraken.com``: paths begin with ``/0/public``."""
        return f"http://{self._authority}"

    @property
    def _authority(self) -> str:
        return f"[{self.host}]:{self.number}" if ":" in self.host else f"{self.host}:{self.number}"

    async def open(self, application: web.Application) -> None:
        """Listen.

        Raises:
            UsageError: The port cannot be used.
        """
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.number).start()
        except (OSError, OverflowError) as error:
            await runner.cleanup()
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"cannot listen on {self.host}:{self.number}: {reason}; choose another --port") from error
        self._runner = runner
        self.number = runner.addresses[0][1]

    async def close(self) -> None:
        """Free the port. May be called twice, or before :meth:`open`."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
