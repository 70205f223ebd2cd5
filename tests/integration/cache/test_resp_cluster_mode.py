"""redis-py against three nodes in one process, over real sockets: what clients in cluster mode add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import redis
import trio
from redis.cluster import PRIMARY, RedisCluster

from frys_node.base.types import Address
from frys_node.plugins.cache.config import CacheConfig, ScanScope
from frys_node.plugins.cache.resp.server import RespServer
from frys_node.testing.rpc import open_rpc_network
from frys_node.transport.network import SystemNetwork
from frys_node.transport.stream import SocketListener
from tests.integration.cache.resp_rig import CacheNode, RespCluster

KEYS = 60
LIMIT_S = 30.0


class Seen(NamedTuple):
    """What clients made of `KEYS` keys."""

    masters: int
    size: int
    """By `dbsize()`, which asks one node."""
    summed: int
    scanned: Counter[bytes]
    plain_sizes: list[int]
    plain_scanned: list[int]


async def serve(rig: RespCluster, node: CacheNode, nursery: trio.Nursery) -> SocketListener:
    """Give a node a listener."""
    listener = await SystemNetwork().listen(Address("127.0.0.1", 0))
    rig.listeners[node.rpc.self_id] = listener.address
    server = RespServer(
        limits=lambda: rig.config.resp_limits,
        around=node.around,
        hub=node.hub,
        executor=node.executor,
        must_authenticate=False,
        nursery=nursery,
        metrics=node.metrics,
    )
    nursery.start_soon(server.serve, listener)
    nursery.start_soon(server.outbox.run)
    return listener


def look(ports: list[int], protocol: int) -> Seen:
    """Write and look through a client in cluster mode, then through a plain one of each node."""
    client = RedisCluster(host="127.0.0.1", port=ports[1], protocol=protocol, socket_timeout=LIMIT_S)
    for number in range(KEYS):
        assert client.set(f"k{number}", number)
    scanned: Iterator[bytes] = client.scan_iter(count=1_000)
    summed = client.dbsize(target_nodes=RedisCluster.PRIMARIES)
    masters = sum(node.server_type == PRIMARY for node in client.get_nodes())
    seen = Seen(masters, client.dbsize(), summed, Counter(scanned), [], [])
    client.close()
    for port in ports:
        with redis.Redis(port=port, socket_timeout=LIMIT_S) as plain:
            seen.plain_sizes.append(plain.dbsize())
            seen.plain_scanned.append(sum(1 for _ in plain.scan_iter(count=1_000)))
    return seen


async def seen_with(scope: ScanScope, protocol: int) -> Seen:
    """Return what clients make of nodes that have the setting."""
    with trio.fail_after(LIMIT_S):
        async with open_rpc_network() as network, trio.open_nursery() as nursery:
            rig = RespCluster("abc", network, nursery, CacheConfig(resp_scan=scope))
            listeners = [await serve(rig, node, nursery) for node in rig.nodes.values()]
            ports = [address.port for address in rig.listeners.values()]
            seen = await trio.to_thread.run_sync(look, ports, protocol)
            for listener in listeners:
                await listener.aclose()
            nursery.cancel_scope.cancel()
    return seen


@pytest.mark.parametrize("protocol", [2, 3])
async def test_with_resp_scan_own_a_client_in_cluster_mode_counts_and_finds_each_key_once(protocol: int) -> None:
    """DBSIZE is summed over the masters and SCAN walks each: together they have every key once, as in Redis."""
    seen = await seen_with(ScanScope.OWN, protocol)
    assert seen.masters == 3
    assert seen.summed == KEYS
    assert seen.scanned == {b"k%d" % number: 1 for number in range(KEYS)}
    assert sum(seen.plain_sizes) == sum(seen.plain_scanned) == KEYS
    assert min(seen.plain_sizes) > 0
    assert seen.size in seen.plain_sizes


async def test_without_it_each_node_answers_for_the_whole_cluster() -> None:
    """What plain clients expect: every key at any node; in cluster mode each comes as often as there are masters."""
    seen = await seen_with(ScanScope.CLUSTER, 2)
    assert seen.plain_sizes == seen.plain_scanned == [KEYS] * 3
    assert seen.size == KEYS
    assert (seen.summed, {*seen.scanned.values()}) == (seen.masters * KEYS, {seen.masters})
