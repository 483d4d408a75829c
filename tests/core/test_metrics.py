"""Metrics are served on this machine only, unless another address is set."""

import socket
import urllib.request

import pytest

from kraken_history.embedded.process import free_port
from kraken_history.errors import UsageError
from kraken_history.runtime.telemetry import serve_metrics


def test_metrics_are_served_on_the_loopback_address() -> None:
    port = free_port()
    serve_metrics(port)

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert b"kraken_frames_total" in answer.read()
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", port))  # of this machine too, but not the address that it listens on


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (
            "no.such.host.invalid",
            "METRICS_HOST: expected a name or address of this machine, got 'no.such.host.invalid'",
        ),
        ("192.0.2.1", "of METRICS_HOST 192.0.2.1"),
    ],
)
def test_an_address_of_another_machine_is_one_line(host: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        serve_metrics(free_port(), host)
