"""Moving units between nodes over the in-process Rpc, in virtual time, with faults."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from frys_node.base.errors import NodeUnreachable, NotFound, NotReady, StorageError
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.snapshots import Captured, MoveProgress, Snapshots
from frys_node.observe.metrics import Counter, Metrics
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import Failure, FakeDisk
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.rpc import LoopbackRpc, RpcNetwork, open_rpc_network
from snapshots.config import SnapshotsConfig
from snapshots.driver import SnapshotComponent
from snapshots.errors import ChunkStoreFull, NotPinned, TransferAborted
from snapshots.manifest import CHUNK_BYTES
from snapshots.messages import CHUNK, OFFER, ChunkRequest, OfferRequest

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
UNIT = UnitId("blob/1")


class Frozen:
    """A captured blob."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def parts(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._data), 100_000):
            await trio.lowlevel.checkpoint()
            yield self._data[start : start + 100_000]


class Blobs:
    """Units that are byte strings."""

    def __init__(self) -> None:
        self.held: dict[UnitId, bytes] = {}
        self.captures = self.restores = 0

    def units(self) -> Sequence[UnitId]:
        return sorted(self.held)

    async def capture(self, unit: UnitId) -> Captured:
        await trio.lowlevel.checkpoint()
        self.captures += 1
        if unit not in self.held:
            raise NotFound(f"no unit {unit}")
        return Frozen(self.held[unit])

    async def restore(self, unit: UnitId, parts: AsyncIterator[bytes]) -> None:
        data = b"".join([part async for part in parts])
        self.restores += 1
        self.held[unit] = data


class Node:
    """A node with snapshots."""

    def __init__(self, rpc: LoopbackRpc, config: SnapshotsConfig, disk: FakeDisk | None = None) -> None:
        self.disk = disk or FakeDisk()
        self.blobs = Blobs()
        self.metrics = Metrics()
        self.snapshots = SnapshotComponent(
            rpc=rpc,
            clock=FakeClock(),
            disk=self.disk,
            executor=InlineExecutor(),
            metrics=self.metrics,
            config=config,
        )
        self.snapshots.register("blob", self.blobs)

    def total(self, name: str, *labels: str) -> float:
        metric = next(metric for metric in self.metrics if metric.name == name)
        assert isinstance(metric, Counter)
        return metric.values.get(labels, 0)


class Cluster:
    """Nodes on one in-process network."""

    def __init__(self, network: RpcNetwork, nursery: trio.Nursery) -> None:
        self.network = network
        self._nursery = nursery
        self.nodes: dict[NodeId, Node] = {}

    async def add(self, name: NodeId, config: SnapshotsConfig | None = None, disk: FakeDisk | None = None) -> Node:
        node = self.nodes[name] = Node(self.network.node(name), config or SnapshotsConfig(), disk)
        await self._nursery.start(lambda task_status: node.snapshots.run(task_status=task_status))
        return node


@asynccontextmanager
async def _cluster(delay_s: float = 0.001) -> AsyncIterator[Cluster]:
    async with open_rpc_network(delay_s=delay_s) as network, trio.open_nursery() as nursery:
        yield Cluster(network, nursery)
        nursery.cancel_scope.cancel()


def _data(size_bytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


async def test_a_unit_arrives_whole_with_progress(autojump_clock: trio.testing.MockClock) -> None:
    """The restored bytes are the captured ones; progress grows to the total; the source forgets its pin."""
    async with _cluster() as cluster:
        a, b = await cluster.add(A), await cluster.add(B)
        a.blobs.held[UNIT] = data = _data(20 * CHUNK_BYTES + 5)
        seen: list[MoveProgress] = []
        service: Snapshots = b.snapshots
        assert await service.pull(UNIT, A, seen.append) == len(data)
        assert b.blobs.held[UNIT] == data
        states = list(dict.fromkeys(move.state for move in seen))
        assert states == ["offered", "transferring", "verifying", "installed"]
        done = [move.bytes_done for move in seen if move.state != "offered"]
        assert done == sorted(done)
        assert done[-1] == seen[-1].bytes_total == len(data)
        assert any(move.rate_bytes_s > 0 and move.eta_s for move in seen)
        [move] = service.moves()
        assert (move.state, move.unit, move.source) == ("installed", UNIT, A)
        assert a.total("frys_snapshots_transfer_bytes_total", "sent") == len(data)
        assert b.total("frys_snapshots_transfer_bytes_total", "received") == len(data)
        assert a.snapshots._store.memory_bytes == b.snapshots._store.memory_bytes == 0
        assert a.snapshots._store.pinned == b.snapshots._store.pinned == 0


async def test_an_empty_unit_moves_without_a_chunk(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing is a state too."""
    async with _cluster() as cluster:
        a, b = await cluster.add(A), await cluster.add(B)
        a.blobs.held[UNIT] = b""
        assert await b.snapshots.pull(UNIT, A) == 0
        assert b.blobs.held[UNIT] == b""


async def test_a_broken_connection_resumes_without_asking_again(autojump_clock: trio.testing.MockClock) -> None:
    """After a cut in the middle only missing chunks travel, and the capture is the same one."""
    async with _cluster(delay_s=0.1) as cluster:
        a, b = await cluster.add(A), await cluster.add(B)
        a.blobs.held[UNIT] = data = _data(40 * CHUNK_BYTES)

        async def cut() -> None:
            await trio.sleep(0.75)
            cluster.network.partition([A], [B])
            await trio.sleep(1.0)
            cluster.network.heal()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            transferred = await b.snapshots.pull(UNIT, A)
        assert b.blobs.held[UNIT] == data
        assert transferred == len(data)
        assert a.blobs.captures == 1
        assert cluster.network.counts["unreachable"] > 0


async def test_the_next_pull_reuses_chunks_of_a_failed_one(autojump_clock: trio.testing.MockClock) -> None:
    """A source that dies ends the pull with a clear error; chunks that came are not asked for again."""
    async with _cluster(delay_s=0.1) as cluster:
        a, b = await cluster.add(A), await cluster.add(B)
        a.blobs.held[UNIT] = data = _data(40 * CHUNK_BYTES)

        async def stop() -> None:
            await trio.sleep(0.75)
            cluster.network.stop(A)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            with pytest.raises(TransferAborted):
                await b.snapshots.pull(UNIT, A)
        assert UNIT not in b.blobs.held
        assert b.snapshots.moves()[0].state == "aborted"
        assert b.total("frys_snapshots_moves_total", "aborted") == 1
        cluster.network.resume(A)
        transferred = await b.snapshots.pull(UNIT, A)
        assert 0 < transferred < len(data)
        assert b.blobs.held[UNIT] == data
        assert b.total("frys_snapshots_reused_bytes_total") >= len(data) - transferred


async def test_an_unreachable_source_and_an_unknown_kind_are_refused(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing is changed by either."""
    async with _cluster() as cluster:
        a, b = await cluster.add(A), await cluster.add(B)
        with pytest.raises(NodeUnreachable):
            await b.snapshots.pull(UNIT, C)
        with pytest.raises(NotFound) as caught:
            await b.snapshots.pull(UnitId("nope/1"), A)
        assert "blob" in caught.value.hint
        with pytest.raises(NotFound):
            await b.snapshots.pull(UNIT, A)
        a.snapshots.unregister("blob")
        with pytest.raises(NotFound):
            await b.snapshots.pull(UNIT, A)
        assert b.blobs.held == {}


async def test_corrupt_chunks_are_asked_for_again_and_never_installed(autojump_clock: trio.testing.MockClock) -> None:
    """A source whose disk rots re-captures; the receiver installs only what matches the root."""
    async with _cluster() as cluster:
        config = SnapshotsConfig(memory_bytes_max=1 << 20)
        a, b = await cluster.add(A, config), await cluster.add(B, config)
        a.blobs.held[UNIT] = data = _data(12 * CHUNK_BYTES)

        async def rot() -> None:
            while not a.disk.list("snapshots/chunks"):  # noqa: ASYNC110  (a disk has no event)
                await trio.sleep(0.0005)
            a.disk.flip_bit(f"snapshots/chunks/{a.disk.list('snapshots/chunks')[0]}", 12_345)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rot)
            await b.snapshots.pull(UNIT, A)
        assert b.blobs.held[UNIT] == data
        assert a.blobs.captures == 2


async def test_a_spoiled_leftover_on_the_receiver_is_fetched_anew(autojump_clock: trio.testing.MockClock) -> None:
    """What an earlier process left on disk is checked before it is used."""
    disk = FakeDisk()
    async with _cluster() as cluster:
        a = await cluster.add(A)
        a.blobs.held[UNIT] = data = _data(3 * CHUNK_BYTES)
        offer = await cluster.network.node(C).call(A, OFFER, OfferRequest(UNIT))
        for chunk, start in zip(offer.chunks, range(0, len(data), CHUNK_BYTES), strict=True):
            disk.write(f"snapshots/chunks/{chunk.digest.hex()}", data[start : start + CHUNK_BYTES])
        disk.flip_bit(f"snapshots/chunks/{offer.chunks[1].digest.hex()}", 99)
        b = await cluster.add(B, disk=disk)
        assert await b.snapshots.pull(UNIT, A) == CHUNK_BYTES
        assert b.blobs.held[UNIT] == data
        assert list(disk.list("snapshots/chunks")) == []


async def test_only_pinned_chunks_of_the_caller_are_served(autojump_clock: trio.testing.MockClock) -> None:
    """A member cannot read chunks that were offered to another one."""
    async with _cluster() as cluster:
        a = await cluster.add(A)
        a.blobs.held[UNIT] = _data(CHUNK_BYTES)
        reader, other = cluster.network.node(B), cluster.network.node(C)
        offer = await reader.call(A, OFFER, OfferRequest(UNIT))
        request = ChunkRequest(offer.root, offer.chunks[0].digest)
        assert len((await reader.call(A, CHUNK, request)).data) == CHUNK_BYTES
        with pytest.raises(NotPinned):
            await other.call(A, CHUNK, request)
        with pytest.raises(NotPinned):
            await reader.call(A, CHUNK, ChunkRequest(offer.root, b"\0" * 32))
        await trio.sleep(SnapshotsConfig().pin_ttl_s + 10)
        with pytest.raises(NotPinned):
            await reader.call(A, CHUNK, request)
        assert a.snapshots._store.memory_bytes == 0


async def test_pins_are_bounded_and_a_dropped_one_is_offered_again(autojump_clock: trio.testing.MockClock) -> None:
    """Two slow receivers and room for one pin: both end with the state."""
    async with _cluster(delay_s=0.05) as cluster:
        a = await cluster.add(A, SnapshotsConfig(pins_max=1))
        units = [UnitId(f"blob/{number}") for number in range(2)]
        for number, unit in enumerate(units):
            a.blobs.held[unit] = _data(4 * CHUNK_BYTES, number)
        b, c = await cluster.add(B), await cluster.add(C)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.snapshots.pull, units[0], A)
            await trio.sleep(0.06)
            nursery.start_soon(c.snapshots.pull, units[1], A)
        assert b.blobs.held[units[0]] == a.blobs.held[units[0]]
        assert c.blobs.held[units[1]] == a.blobs.held[units[1]]
        assert a.blobs.captures == 3


async def test_the_rate_bound_holds_for_all_moves_together(autojump_clock: trio.testing.MockClock) -> None:
    """8 MiB at 1 MiB/s take about eight seconds, whatever the number of moves."""
    async with _cluster() as cluster:
        a = await cluster.add(A)
        b = await cluster.add(B, SnapshotsConfig(rate_bytes_s_max=1 << 20))
        for number in range(4):
            a.blobs.held[UnitId(f"blob/{number}")] = _data(8 * CHUNK_BYTES, number)
        started_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for unit in a.blobs.units():
                nursery.start_soon(b.snapshots.pull, unit, A)
        assert 7.0 < trio.current_time() - started_s < 9.5
        assert b.blobs.held == a.blobs.held


async def test_two_pulls_of_one_unit_take_turns(autojump_clock: trio.testing.MockClock) -> None:
    """The second begins after the first, with a capture of its own."""
    async with _cluster() as cluster:
        a, b = await cluster.add(A), await cluster.add(B)
        a.blobs.held[UNIT] = _data(2 * CHUNK_BYTES)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(b.snapshots.pull, UNIT, A)
            await trio.testing.wait_all_tasks_blocked()
            assert [move.state for move in b.snapshots.moves()] == ["offered", "waiting"]
        assert a.blobs.captures == b.blobs.restores == 2


async def test_a_full_store_and_a_full_disk_end_a_move_cleanly(autojump_clock: trio.testing.MockClock) -> None:
    """Each says what to do, and gives all its room back."""
    async with _cluster() as cluster:
        a = await cluster.add(A)
        a.blobs.held[UNIT] = _data(30 * CHUNK_BYTES)
        small = SnapshotsConfig(memory_bytes_max=1 << 20, disk_bytes_max=2 << 20)
        b = await cluster.add(B, small)
        with pytest.raises(ChunkStoreFull) as caught:
            await b.snapshots.pull(UNIT, A)
        assert "disk_bytes_max" in caught.value.hint
        assert b.snapshots._store.pinned == 0
        c = await cluster.add(C, SnapshotsConfig(memory_bytes_max=1 << 20))
        c.disk.fail_next(Failure.FULL)
        with pytest.raises(StorageError):
            await c.snapshots.pull(UNIT, A)
        assert c.blobs.held == b.blobs.held == {}
        assert await c.snapshots.pull(UNIT, A) < 30 * CHUNK_BYTES
        assert c.blobs.held == a.blobs.held


async def test_a_draining_node_gives_no_new_snapshots_and_waits_for_its_moves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Stopping is orderly on both sides."""
    async with _cluster(delay_s=0.1) as cluster:
        a, b = await cluster.add(A), await cluster.add(B)
        a.blobs.held[UNIT] = _data(10 * CHUNK_BYTES)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.snapshots.pull, UNIT, A)
            await trio.sleep(0.25)
            await a.snapshots.drain()
            await b.snapshots.drain()
        assert b.blobs.held == a.blobs.held
        with pytest.raises(NotReady):
            await cluster.network.node(C).call(A, OFFER, OfferRequest(UNIT))
        with pytest.raises(NotReady):
            await b.snapshots.pull(UNIT, A)


async def test_a_cancelled_pull_leaves_nothing_pinned(autojump_clock: trio.testing.MockClock) -> None:
    """Cancel at many instants: no state is half installed and nothing stays claimed on either side."""
    async with _cluster(delay_s=0.01) as cluster:
        a, b = await cluster.add(A), await cluster.add(B)
        a.blobs.held[UNIT] = data = _data(20 * CHUNK_BYTES)
        for step in range(1, 16):
            with trio.move_on_after(step * 0.006):
                await b.snapshots.pull(UNIT, A)
            await trio.sleep(0.1)
            assert b.blobs.held.get(UNIT, data) == data
            assert b.snapshots._store.pinned == 0
            assert a.snapshots._store.pinned == 0 or step < 4
        await b.snapshots.pull(UNIT, A)
        assert b.blobs.held[UNIT] == data


async def test_leftovers_of_a_failed_move_are_removed_in_time(autojump_clock: trio.testing.MockClock) -> None:
    """Chunks wait for the next try, not for ever; those on disk survive a restart of the component."""
    disk = FakeDisk()
    config = SnapshotsConfig(memory_bytes_max=1 << 20, leftover_ttl_s=600.0)
    async with _cluster(delay_s=0.1) as cluster:
        a, b = await cluster.add(A), await cluster.add(B, config, disk)
        a.blobs.held[UNIT] = data = _data(20 * CHUNK_BYTES)
        with trio.move_on_after(0.65):
            await b.snapshots.pull(UNIT, A)
        left = list(disk.list("snapshots/chunks"))
        assert left
        cluster.network.restart(B)
        again = await cluster.add(B, config, disk)
        assert again.snapshots._store.disk_bytes == len(left) * CHUNK_BYTES
        assert await again.snapshots.pull(UNIT, A) == len(data) - len(left) * CHUNK_BYTES
        disk.write(f"snapshots/chunks/{'ab' * 32}", b"a leftover")
        cluster.network.restart(C)
        other = await cluster.add(C, config, disk)
        await trio.sleep(590)
        assert disk.list("snapshots/chunks")
        await trio.sleep(30)
        assert not disk.list("snapshots/chunks")
        assert other.snapshots._store.disk_bytes == 0


async def test_a_stopping_node_gives_up_what_takes_too_long(autojump_clock: trio.testing.MockClock) -> None:
    """A large move does not hold the node; its chunks wait for the next try, and waiting moves end too."""
    async with _cluster(delay_s=1.0) as cluster:
        a, b = await cluster.add(A), await cluster.add(B, SnapshotsConfig(pulls_max=1))
        units = [UnitId(f"blob/{number}") for number in range(3)]
        for number, unit in enumerate(units):
            a.blobs.held[unit] = _data(40 * CHUNK_BYTES, number)
        aborted = 0

        async def pull(unit: UnitId) -> None:
            nonlocal aborted
            with pytest.raises((TransferAborted, NotReady)):
                await b.snapshots.pull(unit, A)
            aborted += 1

        async with trio.open_nursery() as nursery:
            for unit in units:
                nursery.start_soon(pull, unit)
            await trio.sleep(4.5)
            started_s = trio.current_time()
            await b.snapshots.drain()
            assert trio.current_time() - started_s < 10
        assert aborted == 3
        assert b.blobs.held == {}
        assert b.snapshots._store.pinned == 0
        assert b.snapshots._store.memory_bytes > 0
