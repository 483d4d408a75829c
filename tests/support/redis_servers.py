"""Several servers of Redis that belong together: a master with replicas, Sentinels, a cluster."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from kraken_history.embedded.process import HOST, free_port, port_is_free
from tests.support.neighbours import private_folder, program, running
from tests.support.waiting import until_now

MASTER_NAME = "history"

NOTICED_AFTER_MS = 1000
"""Silence after which Sentinels or a cluster take a server for dead."""


class RedisNode:
    """A running ``redis-server`` or ``redis-sentinel``."""

    def __init__(
        self, port: int, bus_port: int, process: subprocess.Popen[bytes], password: str | None, tls: Path | None
    ) -> None:
        self.port = port
        self.bus_port = bus_port
        self._process = process
        self._password = password
        self._tls = tls

    @property
    def url(self) -> str:
        account = f":{self._password}@" if self._password else ""
        if self._tls is None:
            return f"redis://{account}{HOST}:{self.port}/0"
        return f"rediss://{account}{HOST}:{self.port}/0?ssl_ca_certs={self._tls}/ca.crt"

    def ask(self, *command: str | int) -> str:
        """The answer to one command, as text."""
        with Redis.from_url(self.url, socket_timeout=10, decode_responses=True) as redis:
            return str(redis.execute_command(*command))

    def says(self, text: str, *command: str | int) -> bool:
        """True if the answer to a command contains this text."""
        with suppress(RedisError, OSError):
            return text in self.ask(*command)
        return False

    def is_connected_replica(self) -> bool:
        return self.says("'master_link_status': 'up'", "INFO", "replication")

    def is_master(self) -> bool:
        return self.says("'role': 'master'", "INFO", "replication")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._process.send_signal(signal.SIGSTOP)


@contextmanager
def redis_node(
    *lines: str, password: str | None = None, kind: str = "redis-server", tls: Path | None = None
) -> Iterator[RedisNode]:
    """Debian's Redis with these lines in its configuration, in a folder that is gone afterwards.

    Args:
        tls: The folder of its certificates; without TLS, it then takes no connection.
    """
    port, bus_port = free_port(), free_port()
    with private_folder() as folder:
        config = folder / "redis.conf"  # Sentinel rewrites it
        own = [f"bind {HOST}", f"port {0 if tls else port}", f"dir {folder}", *lines]
        if tls is not None:
            own += [f"tls-port {port}", "tls-auth-clients no", "tls-replication yes", f"tls-ca-cert-file {tls}/ca.crt"]
            own += [f"tls-cert-file {tls}/server.crt", f"tls-key-file {tls}/server.key"]
        if kind == "redis-server":
            own += ['save ""', "repl-diskless-sync-delay 0", f"cluster-port {bus_port}"]
            own += [] if password is None else [f"requirepass {password}", f"masterauth {password}"]
        config.write_text("\n".join([*own, ""]))
        if os.geteuid() == 0:
            os.chown(config, folder.stat().st_uid, folder.stat().st_gid)
        argv = [program(kind), str(config)]
        with running(argv, log=folder / "log", is_up=lambda: not port_is_free(port)) as process:
            yield RedisNode(port, bus_port, process, password, tls)
            process.send_signal(signal.SIGCONT)  # a frozen process does not end


@contextmanager
def master_and_replica(password: str | None = None) -> Iterator[tuple[RedisNode, RedisNode]]:
    """A master, and a replica that has its data."""
    with redis_node(password=password) as master, redis_node(password=password) as replica:
        replica.ask("REPLICAOF", HOST, master.port)
        until_now(replica.is_connected_replica)
        yield master, replica


@contextmanager
def sentinels(master: RedisNode, count: int = 3, *, password: str | None = None) -> Iterator[list[RedisNode]]:
    """Sentinels that watch a master with one replica under :data:`MASTER_NAME`, and know each other."""
    options: dict[str, str | int] = {"down-after-milliseconds": NOTICED_AFTER_MS, "failover-timeout": 3000}
    more: dict[str, str | int] = {} if password is None else {"auth-pass": password}
    with ExitStack() as stack:
        found = [stack.enter_context(redis_node(kind="redis-sentinel")) for _ in range(count)]
        for sentinel in found:
            sentinel.ask("SENTINEL", "MONITOR", MASTER_NAME, HOST, master.port, count // 2 + 1)
            for name, value in {**options, **more}.items():
                sentinel.ask("SENTINEL", "SET", MASTER_NAME, name, value)
        until_now(lambda: all(_state(sentinel)["num-other-sentinels"] == count - 1 for sentinel in found))
        until_now(lambda: all(_state(sentinel)["num-slaves"] == 1 for sentinel in found))
        yield found


def _state(sentinel: RedisNode) -> Mapping[str, object]:
    with Redis.from_url(sentinel.url) as redis:
        state: Mapping[str, object] = redis.sentinel_master(MASTER_NAME)
        return state


@contextmanager
def cluster(masters: int, *, replicas: int = 0, password: str | None = None) -> Iterator[list[RedisNode]]:
    """A cluster: first its masters, each with an equal part of the slots, then their replicas, in the same order."""
    lines = ["cluster-enabled yes", f"cluster-node-timeout {NOTICED_AFTER_MS}"]
    with ExitStack() as stack:
        nodes = [stack.enter_context(redis_node(*lines, password=password)) for _ in range(masters * (1 + replicas))]
        for at, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            if at < masters:
                node.ask("CLUSTER", "ADDSLOTSRANGE", 16384 * at // masters, 16384 * (at + 1) // masters - 1)
        for node in nodes[1:]:
            nodes[0].ask("CLUSTER", "MEET", HOST, node.port, node.bus_port)
        known = f"cluster_known_nodes:{len(nodes)}"
        until_now(lambda: all(node.says(known, "CLUSTER", "INFO") for node in nodes))
        for at, node in enumerate(nodes[masters:]):
            id_ = nodes[at % masters].ask("CLUSTER", "MYID")
            until_now(partial(_replicates, node, id_))
        until_now(lambda: all(node.says("cluster_state:ok", "CLUSTER", "INFO") for node in nodes))
        until_now(lambda: all(node.is_connected_replica() for node in nodes[masters:]))
        yield nodes


def _replicates(node: RedisNode, id_: str) -> bool:
    """Make it a replica; False if it does not know the master yet."""
    try:
        node.ask("CLUSTER", "REPLICATE", id_)
    except RedisError:
        return False
    return True
