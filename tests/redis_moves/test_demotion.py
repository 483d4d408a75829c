"""A failover that keeps connections open: the old master becomes a replica, and goes on answering."""

from pathlib import Path

import pytest

from kraken_history.embedded.process import HOST
from tests.support.proxy import Proxy
from tests.support.redis_servers import master_and_replica
from tests.support.waiting import until
from tests.support.whole_chain import whole_chain

pytestmark = [
    pytest.mark.servers,
    pytest.mark.parametrize("database_server", ["postgresql"], indirect=True),
]


async def test_services_leave_a_master_that_became_a_replica(migrated_database_url: str, tmp_path: Path) -> None:
    # The producer published nothing any more, the consumer began to wait and went on twice a second, and the worker
    # ended with a ReadOnlyError.
    with master_and_replica() as (old, new):
        async with (
            Proxy(old.url) as proxy,
            whole_chain(migrated_database_url, tmp_path, REDIS_URL=proxy.url) as chain,
        ):
            new.ask("REPLICAOF", "NO", "ONE")
            old.ask("REPLICAOF", HOST, new.port)
            await until(lambda: chain.said("producer", "held_back"))
            await until(lambda: chain.said("consumer", "waiting"))
            await until(lambda: chain.said("worker", "waiting"))
            tries = proxy.connections + 15
            await until(lambda: proxy.connections > tries)
            proxy.lead_to(new.url)
            back_s = await chain.stores_what_happens_now()
            await until(lambda: chain.said("worker", "going_on"))
            await chain.ends_equal()
            chain.all_run()

    assert back_s < 20  # on a busy machine; else a second
    # A command that was on its way may be answered after another one was refused: then it is two.
    assert all(chain.said(name, "waiting") in (1, 2) for name in ("consumer", "worker"))
    assert chain.said("producer", "held_back") == 1
