"""A master dies: Sentinels or the cluster promote its replica, and no trade is lost or stored twice."""

from pathlib import Path

import pytest

from kraken_history.stream import wire
from tests.support.redis_servers import MASTER_NAME, cluster, master_and_replica, redis_node, sentinels
from tests.support.waiting import until
from tests.support.whole_chain import SYMBOLS, whole_chain

pytestmark = [
    pytest.mark.servers,
    pytest.mark.parametrize("database_server", ["postgresql"], indirect=True),
]

HOST = "127.0.0.1"
BACK_WITHIN_S = 20
"""Limit for a failover with a busy machine, in seconds. The servers count as dead after one second of silence."""


async def test_services_follow_the_sentinels_to_the_new_master(migrated_database_url: str, tmp_path: Path) -> None:
    with master_and_replica("p@ss") as (old, new), sentinels(old, password="p@ss") as watching:
        hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in watching)
        url = f"redis+sentinel://:p%40ss@{hosts}/{MASTER_NAME}/0"
        async with whole_chain(migrated_database_url, tmp_path, REDIS_URL=url) as chain:
            old.kill()
            back_s = await chain.stores_what_happens_now()
            await until(lambda: chain.said("worker", "going_on"))
            await chain.ends_equal()
            chain.all_run()
            await chain.becomes_healthy("worker")
            assert "kraken:trades:{0}" in await chain.command("status", "--json")

        assert new.is_master()
    assert back_s < BACK_WITHIN_S


async def test_a_cluster_holds_the_streams_and_loses_a_master(migrated_database_url: str, tmp_path: Path) -> None:
    with cluster(3, replicas=1, password="p@ss") as nodes, redis_node() as jobs:
        url = f"redis+cluster://:p%40ss@{HOST}:{nodes[0].port},{HOST}:{nodes[1].port}"
        async with whole_chain(
            migrated_database_url, tmp_path, REDIS_URL=url, JOBS_REDIS_URL=jobs.url, STREAM_SHARDS="4"
        ) as chain:
            used = {wire.trades_stream(wire.shard_of(symbol, 4)) for symbol in SYMBOLS}
            holding = [node for node in nodes[:3] if any(node.says(stream, "KEYS", "*") for stream in used)]
            assert len(holding) > 1  # else nothing is divided
            holding[0].kill()
            back_s = await chain.stores_what_happens_now()
            await chain.ends_equal()
            chain.all_run()
            assert jobs.says("kraken:health:worker", "KEYS", "*")
            await chain.becomes_healthy("producer")
            status = await chain.command("status", "--json")
            assert all(stream in status for stream in used)
            assert "[]" in await chain.command("dead-letters", "list", "--json")

    assert back_s < BACK_WITHIN_S
