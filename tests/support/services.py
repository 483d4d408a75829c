"""The project's processes, started as the Procfile starts them, and killed."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

REPOSITORY = Path(__file__).resolve().parents[2]

SIMULATOR = ("-m", "simulator")
PRODUCER = ("-m", "producers")
CONSUMER = ("-m", "consumers")
WORKER = ("-m", "arq", "jobs.worker.WorkerSettings")


_PASSED_ON = ("PATH", "PYTHONPATH", "COVERAGE_PROCESS_CONFIG")  # with the last, its lines count as covered


class Service:
    """A Python process of the project; leaving ``with`` kills it.

    Args:
        log: The file for its output, over all its starts.
        environment: Its whole environment, except the path and a measurement of coverage.
    """

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._arguments = [sys.executable, *arguments]
        self._log = log
        kept = {
            name: os.environ[name] for name in ("PATH", "PYTHONPATH", "COVERAGE_PROCESS_CONFIG") if name in os.environ
        }
        no_files = {"KRAKEN_HISTORY_ENV_FILE": "", "KRAKEN_HISTORY_CONFIG": ""}
        self._environment = kept | no_files | dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def output(self) -> str:
        """Its output so far."""
        return self._log.read_text()

    def start(self) -> None:
        """Start the process."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._arguments, cwd=REPOSITORY, env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it is running."""
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=30)

    def wait(self) -> int:
        """Wait until it ends by itself; returns the exit code."""
        assert self._process is not None
        return self._process.wait(timeout=60)

    def is_running(self) -> bool:
        """True until it ends."""
        return self._process is not None and self._process.poll() is None


def simulator_urls(output: str) -> tuple[str, str] | None:
    """The URLs of WebSocket and REST, once the simulator has printed them."""
    found = re.search(r"WebSocket (ws://\S+) REST (http://\S+)/0/public", output)
    return (found[1], found[2]) if found else None
