"""The one name of supervisor that ``cli.supervisor`` leans on."""

import xmlrpc.client
from pathlib import Path

import pytest
from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]  # it has no stubs


def test_its_transport_speaks_over_a_unix_socket(tmp_path: Path) -> None:
    """``up`` and ``demo`` ask supervisord over its socket. Without it they cannot tell which service runs."""
    transport = SupervisorTransport("", "", f"unix://{tmp_path}/socket")
    server = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)

    with pytest.raises(FileNotFoundError):
        server.supervisor.getState()
    transport.connection.sock.close()  # supervisor leaves it open when it cannot connect
