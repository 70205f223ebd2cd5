"""Read-modify-write over a cluster: one place for each key, one redirect, and what happens when nodes fail."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from frys_node.base.errors import NoReplica
from frys_node.base.types import Consistency, NodeId
from frys_node.plugins.cache.cache import CacheTooLarge, CacheValue, pack
from frys_node.plugins.cache.changer import CHANGE, CHANGES_BYTES_MAX, ChangeRequest
from frys_node.plugins.cache.changes import Change
from frys_node.testing.rpc import open_rpc_network
from tests.integration.cache.resp_rig import RespCluster, command

QUORUM = Consistency.QUORUM


@pytest.fixture
async def cluster() -> AsyncIterator[RespCluster]:
    """Four nodes, three replicas of each key."""
    async with open_rpc_network(delay_s=0.001) as network, trio.open_nursery() as nursery:
        yield RespCluster("abcd", network, nursery)
        nursery.cancel_scope.cancel()


def members(cluster: RespCluster, key: bytes) -> list[str]:
    """The set of a full key, in its order."""
    return list(cluster.cluster.members_of(cluster.nodes["a"].service.unit_of(key)))


async def test_no_increment_is_lost_however_many_nodes_take_them(cluster: RespCluster) -> None:
    """Four nodes count one key at once, in batches too; the sum is exact."""
    key = b"default\0counter"

    async def count(name: str) -> None:
        for _ in range(10):
            await cluster.nodes[name].changer.run([Change(key, "incr", [1])] * 3, QUORUM)

    async with trio.open_nursery() as nursery:
        for name in cluster.nodes:
            nursery.start_soon(count, name)
    client = cluster.nodes["b"].client()
    assert await client.do("GET", "counter") == b"$3\r\n120\r\n"
    assert all(not node.changer._locks for node in cluster.nodes.values())


async def test_exactly_one_of_many_sets_a_key_that_is_not_there(cluster: RespCluster) -> None:
    """SET NX through every node at once: one wins."""
    wins: list[bytes] = []

    async def attempt(name: str) -> None:
        wins.append(await cluster.nodes[name].client().do("SET", "k", name, "NX"))

    async with trio.open_nursery() as nursery:
        for name in cluster.nodes:
            nursery.start_soon(attempt, name)
    assert sorted(wins) == [b"$-1\r\n"] * 3 + [b"+OK\r\n"]


async def test_a_node_that_is_not_the_first_says_who_is_and_is_obeyed_once(cluster: RespCluster) -> None:
    """The first answer names another node; after that a member does it, and who is none refuses."""
    key = b"default\0k"
    first, second, _ = members(cluster, key)
    (outsider,) = set("abcd") - set(members(cluster, key))
    request = ChangeRequest([Change(key, "incr", [1])], QUORUM)
    rpc = cluster.nodes[outsider].rpc
    assert (await rpc.call(second, CHANGE, request)).ask == first
    insisted = ChangeRequest([Change(key, "incr", [1])], QUORUM, is_last=True)
    assert (await rpc.call(second, CHANGE, insisted)).outcomes[0].result == 1
    with pytest.raises(Exception, match="is not held here"):
        await cluster.nodes[first].rpc.call(outsider, CHANGE, insisted)


async def test_the_next_member_goes_on_from_what_a_quorum_knows(cluster: RespCluster) -> None:
    """The first member falls away: the second one counts on, and two of three missing are an error that says so."""
    key = b"default\0k"
    first, second, third = members(cluster, key)
    (outsider,) = set("abcd") - set(members(cluster, key))
    client = cluster.nodes[outsider].client()
    assert await client.do("INCRBY", "k", 5) == b":5\r\n"
    cluster.cluster.down.add(first)
    assert await client.do("INCR", "k") == b":6\r\n"
    cluster.cluster.down.add(third)
    assert (await client.do("INCR", "k")).startswith(b"-CLUSTERDOWN")
    cluster.cluster.down.add(second)
    with pytest.raises(NoReplica):
        await cluster.nodes[outsider].changer.run([Change(key, "incr", [1])], QUORUM)


BIG = b"x" * 400_000


def queued(*commands: tuple[bytes | str, ...]) -> bytes:
    """Commands in a transaction, as one pipeline."""
    return b"".join(command(*words) for words in [("MULTI",), *commands, ("EXEC",)])


async def test_values_that_are_taken_away_all_arrive_however_large_they_are_together(cluster: RespCluster) -> None:
    """Fourteen GETDEL of 400 kB: before, they were deleted and then did not fit into one reply between nodes."""
    client = cluster.nodes["a"].client()
    names = [f"big:{number}" for number in range(14)]
    for name in names:
        await client.do("SET", name, BIG)
    got = await client.send(queued(*[("GETDEL", name) for name in names]))
    expected = b"*14\r\n" + b"$400000\r\n%b\r\n" % BIG * 14
    assert got == b"+OK\r\n" + b"+QUEUED\r\n" * 14 + expected
    assert await client.do("EXISTS", *names) == b":0\r\n"


async def test_a_batch_of_large_values_is_cut_into_requests(cluster: RespCluster) -> None:
    """Fourteen SETNX of 400 kB, then as many SET ... GET: before, they were refused by the frame's limit."""
    client = cluster.nodes["a"].client()
    names = [f"big:{number}" for number in range(14)]
    got = await client.send(queued(*[("SETNX", name, BIG) for name in names]))
    assert got.endswith(b"*14\r\n" + b":1\r\n" * 14)
    got = await client.send(queued(*[("SET", name, b"y", "GET") for name in names]))
    assert got.endswith(b"*14\r\n" + b"$400000\r\n%b\r\n" % BIG * 14)
    assert await client.do("MGET", *names) == b"*14\r\n" + b"$1\r\ny\r\n" * 14


async def test_a_change_that_fits_no_message_is_refused_by_name_before_anything_is_done(cluster: RespCluster) -> None:
    """The limit is in the error, and what stood beside it in the batch was not made either."""
    keys = [b"default\0%d" % number for number in range(20)]
    large = Change(keys[-1], "hset", [part for number in range(300) for part in (b"%d" % number, b"z" * 4_000)])
    elsewhere = next(name for name in cluster.nodes if members(cluster, keys[-1])[0] != name)
    with pytest.raises(CacheTooLarge, match=str(CHANGES_BYTES_MAX)):
        await cluster.nodes[elsewhere].changer.run([*[Change(key, "incr", [1]) for key in keys], large], QUORUM)
    assert await cluster.nodes["a"].service.get(keys, QUORUM) == [None] * 20


async def test_a_node_that_does_not_know_of_partial_replies_gets_all_or_none(cluster: RespCluster) -> None:
    """A request of the version before has all outcomes in its reply."""
    keys = [b"default\0{t}%d" % number for number in range(3)]
    first = members(cluster, keys[0])[0]
    await cluster.nodes["a"].service.put({key: pack(CacheValue(0, "", BIG)) for key in keys}, QUORUM)
    rpc = cluster.nodes[next(name for name in cluster.nodes if name != first)].rpc
    changes = [Change(key, "getdel") for key in keys]
    reply = await rpc.call(NodeId(first), CHANGE, ChangeRequest(changes, QUORUM, may_stop=True))
    assert [outcome.result for outcome in reply.outcomes] == [BIG] * 2
    assert [found is not None for found in await cluster.nodes["a"].service.get(keys, QUORUM)] == [False, False, True]
    reply = await rpc.call(NodeId(first), CHANGE, ChangeRequest(changes, QUORUM))
    assert [outcome.result for outcome in reply.outcomes] == [None, None, BIG]


async def test_a_batch_of_changes_is_one_read_and_one_write(cluster: RespCluster) -> None:
    """A hundred increments of one key in a pipeline do not make a hundred rounds."""
    key = b"default\0k"
    first = members(cluster, key)[0]
    writes = 0
    replication = cluster.cluster.replication[first]
    original = replication.write

    async def counted(*args: object) -> object:
        nonlocal writes
        writes += 1
        return await original(*args)

    replication.write = counted
    outcomes = await cluster.nodes["a"].changer.run([Change(key, "incr", [1])] * 100, QUORUM)
    assert [outcome.result for outcome in outcomes] == list(range(1, 101))
    assert writes == 1


async def test_readers_of_one_replica_share_a_read_and_never_an_old_one(cluster: RespCluster) -> None:
    """Fifty readers of a hot key that lives elsewhere cost one request; one that comes after a write has its own."""
    key = b"default\0hot"
    (outsider,) = set("abcd") - set(members(cluster, key))
    node = cluster.nodes[outsider]
    await node.client().do("SET", "hot", "old")
    reads, gate = 0, trio.Event()
    replication = cluster.cluster.replication[outsider]
    original = replication.read

    async def slow(*args: object) -> object:
        nonlocal reads
        reads += 1
        found = await original(*args)
        await gate.wait()
        return found

    replication.read = slow
    answers: list[bytes] = []

    async def get() -> None:
        answers.append(await node.client().do("GET", "hot"))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(get)
            await trio.testing.wait_all_tasks_blocked()
            assert reads == 1
            await node.client().do("SET", "hot", "new")
            nursery.start_soon(get)
            await trio.testing.wait_all_tasks_blocked()
            assert reads == 2
            gate.set()
    assert answers.count(b"$3\r\nold\r\n") == 50
    assert answers.count(b"$3\r\nnew\r\n") == 1
    assert not node.service._flights


async def test_a_shared_read_that_is_given_up_fails_nobody_else(cluster: RespCluster) -> None:
    """Who began it goes away; the others read for themselves."""
    key = b"default\0hot"
    (outsider,) = set("abcd") - set(members(cluster, key))
    node = cluster.nodes[outsider]
    await node.client().do("SET", "hot", "v")
    replication, begun = cluster.cluster.replication[outsider], 0
    original = replication.read

    async def first_hangs(*args: object) -> object:
        nonlocal begun
        begun += 1
        if begun == 1:
            await trio.sleep_forever()
        return await original(*args)

    replication.read = first_hangs
    answers: list[bytes] = []

    async def get() -> None:
        answers.append(await node.client().do("GET", "hot"))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(get)
                await trio.testing.wait_all_tasks_blocked()
                del scope
            nursery.start_soon(get)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(get)
    assert answers == [b"$1\r\nv\r\n"]


async def test_metrics_are_by_namespace_up_to_a_limit(cluster: RespCluster) -> None:
    """Hits and misses of a namespace have their own numbers, also of GETEX and its like; the sixty-fifth shares one."""
    node = cluster.nodes["a"]
    client = node.client()
    await client.do("SET", "k", "v")
    for key in ("k", "k", "none"):
        await client.do("GET", key)
    await client.do("SELECT", 3)
    await client.do("GET", "none")
    lookups = next(metric for metric in node.metrics if metric.name == "frys_cache_lookups_total")
    assert lookups.values[("hit", "default")] == 2
    assert lookups.values[("miss", "default")] == 1
    assert lookups.values[("miss", "db3")] == 1
    await client.do("SET", "k", "v")
    for words in (("GETEX", "k", "PERSIST"), ("SET", "k", "w", "GET"), ("GETSET", "k", "x"), ("GETDEL", "k")):
        await client.do(*words)
        await client.do(*(words[0], "gone", *words[2:]))
        await client.do("DEL", "gone")
    assert (lookups.values[("hit", "db3")], lookups.values[("miss", "db3")]) == (4, 5)
    for number in range(100):
        node.service.label(b"ns%d\0" % number)
    assert node.service.label(b"one-more\0") == "other"
    assert node.service.lookups() == (6, 6)
