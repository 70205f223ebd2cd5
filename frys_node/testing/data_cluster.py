"""Nodes with only balancer and replication, in one process on loopback calls: for tests of the data path's drivers.

Open it so, under trio's mock clock::

    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await cluster.settle()
        await cluster.nodes["n1"].replication.write(unit, [(b"k", b"v")])
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from balancer.driver import BalancerComponent
from balancer.settings import BalancerSettings
from frys_node.base.errors import FrysError
from frys_node.base.types import Address, ClusterId, NodeId, UnitId
from frys_node.kernel.bus import Bus
from frys_node.kernel.services.members import UNUSABLE, WELL, Condition, MemberView, Status
from frys_node.kernel.services.replication import Changes, Entry
from frys_node.observe.metrics import Metrics
from frys_node.replication.config import ReplicationConfig
from frys_node.replication.driver import ReplicationComponent
from frys_node.replication.log import CHECKPOINT_BYTES
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.rpc import RpcNetwork
from snapshots.driver import SnapshotComponent


class DictStore:
    """The simplest `UnitStore`: a dictionary."""

    def __init__(self) -> None:
        self.held: dict[bytes, Entry] = {}

    def get(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """Return the entries held."""
        return [self.held.get(key) for key in keys]

    def put(self, entries: Sequence[Entry]) -> None:
        """Apply entries."""
        for entry in entries:
            self.held[entry.key] = entry

    def keys(self) -> Iterable[bytes]:
        """Return every key held."""
        return list(self.held)

    def changed(self) -> Changes:
        """Return everything."""
        return Changes(True, [(None, entry) for entry in self.held.values()])

    def size_bytes(self) -> int:
        """What the entries take when they travel."""
        return sum(entry.size_bytes for entry in self.entries())

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget entries."""
        for key in keys:
            self.held.pop(key, None)

    def entries(self) -> Iterable[Entry]:
        """Return every entry in the order of first writes."""
        return list(self.held.values())

    def clear(self) -> None:
        """Forget everything."""
        self.held.clear()


class HashProofs:
    """Proofs that anyone could make, for tests: a hash over node and bytes."""

    def __init__(self, node: NodeId) -> None:
        self._node = node

    def prove(self, data: bytes) -> bytes:
        """Return the proof of this node."""
        return _proof(self._node, data)

    def is_proof_of(self, node: NodeId, data: bytes, proof: bytes) -> bool:
        """True if the proof is that node's."""
        return proof == _proof(node, data)


def _proof(node: NodeId, data: bytes) -> bytes:
    return hashlib.sha256(node.encode() + b"\0" + data).digest()


class ClusterMembers:
    """`Members` of one node: everybody who runs."""

    def __init__(self, cluster: DataCluster, node: NodeId) -> None:
        self._cluster = cluster
        self._node = node

    @property
    def self_id(self) -> NodeId:
        """This node."""
        return self._node

    def all(self) -> Sequence[MemberView]:
        """Everybody that ever ran, by name."""
        return [self._view(node) for node in sorted(self._cluster.nodes)]

    def get(self, node: NodeId) -> MemberView | None:
        """One member."""
        return self._view(node) if node in self._cluster.nodes else None

    def is_usable(self, node: NodeId) -> bool:
        """True if it runs."""
        return node in self._cluster.nodes and self._cluster.nodes[node].is_running

    def rank(self, node: NodeId) -> int:
        """Well if it runs."""
        return WELL if self.is_usable(node) else UNUSABLE

    def _view(self, node: NodeId) -> MemberView:
        return MemberView(
            name=node,
            id=node,
            address=Address("127.0.0.1", 7946),
            status=Status.ALIVE if self.is_usable(node) else Status.DEAD,
            condition=Condition.OK,
            incarnation=1,
            boot=1,
            tags={},
        )


class DataNode:
    """One node: its disk and its clock outlive its processes."""

    def __init__(self, cluster: DataCluster, name: NodeId, *, is_founder: bool) -> None:
        self.name = name
        self.disk = FakeDisk()
        self.clock = FakeClock()
        self.boot = 0
        self.is_running = False
        self._cluster = cluster
        self._is_founder = is_founder
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self.balancer: BalancerComponent
        self.replication: ReplicationComponent
        self.snapshots: SnapshotComponent | None = None
        self.failure: BaseException | None = None
        """What ended the node's components, if something did."""

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the components on what the disk holds."""
        self.boot += 1
        cluster, name = self._cluster, self.name
        rpc = cluster.network.node(name)
        clock, executor, metrics = self.clock, InlineExecutor(), Metrics()
        entropy = FakeEntropy(f"{name}/{self.boot}")
        members = ClusterMembers(cluster, name)
        self.balancer = BalancerComponent(
            settings=BalancerSettings(
                cluster=ClusterId("c" * 32),
                kinds=cluster.kinds,
                is_founder=self._is_founder,
                partitions=cluster.partitions,
            ),
            rpc=rpc,
            members=members,
            clock=clock,
            entropy=entropy,
            disk=self.disk,
            executor=executor,
            bus=Bus(),
            metrics=metrics,
            proofs=HashProofs(name),
        )
        self.snapshots = None
        if cluster.with_snapshots:
            self.snapshots = SnapshotComponent(rpc=rpc, clock=clock, disk=self.disk, executor=executor, metrics=metrics)
        self.replication = ReplicationComponent(
            boot=self.boot,
            rpc=rpc,
            keeper=self.balancer,
            members=members,
            clock=clock,
            entropy=entropy,
            disk=self.disk,
            executor=executor,
            metrics=metrics,
            snapshots=self.snapshots,
            checkpoint_bytes=cluster.checkpoint_bytes,
            settings=cluster.settings,
        )
        self.balancer.machine.taken_bytes = lambda: self.replication.replica.bulks.pulled_bytes
        for kind in cluster.kinds:
            if kind != "workflow":
                self.replication.register(kind, lambda _unit: DictStore(), durable=kind in cluster.durable_kinds)
        self.is_running = True
        self._stopped = trio.Event()
        await nursery.start(self._run)

    async def _run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.CancelScope() as self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.balancer.run)
                    if self.snapshots is not None:
                        await nursery.start(self.snapshots.run)
                    await nursery.start(self.replication.run)
                    task_status.started()
            except* FrysError as group:
                failure: BaseException = group
                while isinstance(failure, BaseExceptionGroup):
                    failure = failure.exceptions[0]
                self.failure = failure
                self.is_running = False
        self._stopped.set()

    async def stop_components(self) -> None:
        """End the tasks of the components, as a crash inside them would; objects, network and disk stay."""
        self._scope.cancel()
        await self._stopped.wait()

    async def kill(self) -> None:
        """Stop at once; what the disk had not synced is lost."""
        self.is_running = False
        self._cluster.network.stop(self.name)
        await self.stop_components()
        self.disk.crash()


class DataCluster:
    """The nodes, their network and the nursery that runs them."""

    def __init__(
        self,
        nursery: trio.Nursery,
        network: RpcNetwork,
        *,
        kinds: tuple[str, ...],
        durable_kinds: tuple[str, ...],
        partitions: int,
        with_snapshots: bool = False,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
        settings: ReplicationConfig | None = None,
        disks: Mapping[str, FakeDisk] = {},
    ) -> None:
        self.network = network
        self.settings = settings or ReplicationConfig()
        self.disks = disks
        self.kinds = kinds
        self.durable_kinds = durable_kinds
        self.partitions = partitions
        self.with_snapshots = with_snapshots
        self.checkpoint_bytes = checkpoint_bytes
        self.nodes: dict[NodeId, DataNode] = {}
        self._nursery = nursery

    async def add(self, name: str) -> DataNode:
        """Start a new node; the first one founds the cluster."""
        node = NodeId(name)
        self.nodes[node] = DataNode(self, node, is_founder=not self.nodes)
        self.nodes[node].disk = self.disks.get(name, self.nodes[node].disk)
        await self.nodes[node].start(self._nursery)
        return self.nodes[node]

    async def restart(self, name: str) -> DataNode:
        """Start a killed node again on its disk."""
        node = self.nodes[NodeId(name)]
        self.network.restart(name)
        await node.start(self._nursery)
        return node

    def __getitem__(self, name: str) -> DataNode:
        return self.nodes[NodeId(name)]

    async def settle(self, members: Iterable[str] | None = None) -> None:
        """Wait until the running nodes hold one stable, settled record whose ring is `members` (or all)."""
        wanted = sorted(NodeId(name) for name in members) if members is not None else None
        while not self._is_settled(wanted):  # noqa: ASYNC110
            await trio.sleep(0.05)

    def _is_settled(self, wanted: Sequence[NodeId] | None) -> bool:
        running = [node for node in self.nodes.values() if node.is_running]
        names = wanted if wanted is not None else sorted(node.name for node in running)
        for node in running:
            machine = node.balancer.machine
            record = machine.record
            if record is None or machine.settled != record.epoch:
                return False
            if [member.node for member in record.ring] != list(names):
                return False
        return True

    def stores(self, unit: UnitId) -> Mapping[NodeId, dict[bytes, Entry]]:
        """Return what each running complete member of the unit's current set holds."""
        found: dict[NodeId, dict[bytes, Entry]] = {}
        for node in self.nodes.values():
            store = node.replication.local(unit) if node.is_running else None
            if store is not None:
                found[node.name] = {entry.key: entry for entry in store.entries()}
        return found


@asynccontextmanager
async def open_data_cluster(
    names: Sequence[str],
    *,
    seed: int = 0,
    delay_s: float = 0.001,
    note_loss: float = 0.0,
    kinds: tuple[str, ...] = ("cache", "vector"),
    durable_kinds: tuple[str, ...] = ("cache", "vector"),
    partitions: int = 4,
    with_snapshots: bool = False,
    checkpoint_bytes: int = CHECKPOINT_BYTES,
    settings: ReplicationConfig | None = None,
    disks: Mapping[str, FakeDisk] = {},
) -> AsyncIterator[DataCluster]:
    """Run a cluster of these nodes; the first one founds it. By default every kind is durable, the cache too.

    `disks` are what nodes start on, by name: those of an earlier cluster, say, whose process died.
    """
    network = RpcNetwork(seed, delay_s=delay_s, note_loss=note_loss)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        cluster = DataCluster(
            nursery,
            network,
            kinds=kinds,
            durable_kinds=durable_kinds,
            partitions=partitions,
            with_snapshots=with_snapshots,
            checkpoint_bytes=checkpoint_bytes,
            settings=settings,
            disks=disks,
        )
        for name in names:
            await cluster.add(name)
        yield cluster
        nursery.cancel_scope.cancel()
