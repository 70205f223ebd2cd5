"""Saved snapshots without a cluster: units that are bytes, places in memory that fail on demand, nodes with a desk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum

import trio

from frys_node.base.errors import AlreadyExists, NotFound
from frys_node.base.types import Address, Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.members import Condition, MemberView, Status
from frys_node.kernel.services.snapshots import Captured, Piece, Rerouting, SavedState
from frys_node.kernel.services.topology import Collection as Definition
from frys_node.kernel.services.topology import UnitSets
from frys_node.observe.metrics import Metrics
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.rpc import RpcNetwork
from snapshots.config import SnapshotsConfig
from snapshots.desk import Desk
from snapshots.driver import SnapshotComponent
from snapshots.errors import StoreUnreachable
from snapshots.objects import DirectoryObjects, check_size
from snapshots.places import Places
from snapshots.reception import Reception


class _Dump:
    """A captured state in memory."""

    def __init__(self, data: bytes, part_bytes: int) -> None:
        self._data = data
        self._part_bytes = part_bytes

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the bytes in parts of one size."""
        for start in range(0, len(self._data), self._part_bytes):
            await trio.lowlevel.checkpoint()
            yield self._data[start : start + self._part_bytes]


class ByteUnits:
    """`Snapshottable` of units that are byte strings; `restore` replaces."""

    def __init__(self, held: dict[UnitId, bytes], *, part_bytes: int = 100_000) -> None:
        self.held = held
        self.incomplete: set[UnitId] = set()
        self.whole: list[UnitId] = []
        """Units of which a restore said that all is in."""
        self._part_bytes = part_bytes

    def units(self) -> Sequence[UnitId]:
        """Units held here."""
        return sorted(self.held)

    async def sizes(self) -> Mapping[UnitId, int]:
        """Return the bytes of each unit."""
        await trio.lowlevel.checkpoint()
        return {unit: len(data) for unit, data in self.held.items()}

    def is_whole(self, unit: UnitId) -> bool:
        """True unless a test says otherwise."""
        return unit in self.held and unit not in self.incomplete

    async def has_data(self, unit: UnitId) -> bool:
        """True if it is not empty."""
        await trio.lowlevel.checkpoint()
        return bool(self.held[unit])

    async def capture(self, unit: UnitId) -> Captured:
        """Fix the bytes."""
        await trio.lowlevel.checkpoint()
        return _Dump(self.held[unit], self._part_bytes)

    async def has_keys(self, unit: UnitId, keys: Sequence[bytes]) -> bool:
        """Return True if each key, which is the bytes of a state, is what the unit begins with: it went on since."""
        await trio.lowlevel.checkpoint()
        return all(self.held[unit].startswith(key) for key in keys)

    async def restore(self, unit: UnitId, parts: AsyncIterator[bytes], *, only_empty: bool = False) -> None:
        """Replace the bytes, all at once."""
        data = b"".join([part async for part in parts])
        if only_empty and self.held.get(unit):
            raise AlreadyExists(f"{unit} has something by now")
        self.held[unit] = data

    async def regroup(self, states: AsyncIterator[SavedState], routing: Rerouting) -> AsyncIterator[Piece]:
        """Yield each unit as it was."""
        async for state in states:
            unit = routing.unit_of(state.unit, b"")
            if unit is not None:
                data = b"".join([part async for part in state.parts])
                yield Piece(unit, data, 1 if data else 0, [data] if data else [])

    async def restored(self, unit: UnitId) -> None:
        """Note it."""
        await trio.lowlevel.checkpoint()
        self.whole.append(unit)

    async def revive(self, piece: Piece) -> int | None:
        """Leave it to the members."""
        await trio.lowlevel.checkpoint()
        return None


class Fault(StrEnum):
    """What goes wrong with a changing request to a place."""

    BEFORE = "before"
    """The process dies, and nothing was done."""
    AFTER = "after"
    """It is done, and the process dies before it hears of that."""
    TORN = "torn"
    """Half of it is done and stays so: a store that breaks its promise, or half of a batch. The process dies."""
    LOST_ANSWER = "lost_answer"
    """It is done, and the answer is an error."""
    REFUSED = "refused"
    """Nothing was done, and the answer is an error."""


class ProcessDied(BaseException):
    """The process that used a place died inside a request. Not an error that code may catch."""


class MemoryObjects:
    """`Objects` in memory, as an object store keeps them; requests fail as planned."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.calls = 0
        """Requests that change something, so far."""
        self.is_dead = False
        self.ignores_conditions = False
        self._planned: dict[int, Fault] = {}

    def plan(self, number: int, fault: Fault) -> None:
        """Have the changing request of that number meet a fault."""
        self._planned[number] = fault

    def reboot(self) -> None:
        """Let a new process use it."""
        self.is_dead = False
        self._planned.clear()

    @property
    def place(self) -> str:
        """A name."""
        return "s3://memory"

    async def get(self, key: str) -> bytes | None:
        """Return an object."""
        await self._arrive()
        return self.held.get(key)

    async def put(self, key: str, data: bytes) -> None:
        """Write an object."""
        check_size(key, data)
        fault = await self._begin()
        self.held[key] = data[: len(data) // 2] if fault is Fault.TORN else data
        self._end(fault)

    async def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none of that key."""
        check_size(key, data)
        fault = await self._begin()
        is_free = key not in self.held or self.ignores_conditions
        if is_free:
            self.held[key] = data
        self._end(fault)
        return is_free

    async def list(self, folder: str) -> Mapping[str, int]:
        """Names and sizes."""
        await self._arrive()
        prefix = f"{folder}/"
        return {
            key.removeprefix(prefix): len(data) for key, data in sorted(self.held.items()) if key.startswith(prefix)
        }

    async def folders(self) -> Sequence[str]:
        """Nothing, as object stores say."""
        await self._arrive()
        return ()

    async def remove(self, keys: Sequence[str]) -> None:
        """Remove objects."""
        fault = await self._begin()
        for key in keys[: len(keys) // 2] if fault is Fault.TORN else keys:
            self.held.pop(key, None)
        self._end(fault)

    async def _arrive(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_dead:
            raise ProcessDied

    async def _begin(self) -> Fault | None:
        await self._arrive()
        self.calls += 1
        fault = self._planned.get(self.calls)
        if fault is Fault.BEFORE:
            self.is_dead = True
            raise ProcessDied
        if fault is Fault.REFUSED:
            raise StoreUnreachable("cannot write: HTTP 503")
        return fault

    def _end(self, fault: Fault | None) -> None:
        if fault is Fault.LOST_ANSWER:
            raise StoreUnreachable("cannot write: the connection broke")
        if fault is not None:
            self.is_dead = True
            raise ProcessDied


class FixedRing:
    """`Topology` whose record a test writes."""

    def __init__(self, nodes: Sequence[str], *, partitions: int = 4) -> None:
        self.seq = 1
        self.phase = "stable"
        self.partitions = partitions
        self.members: dict[UnitId, tuple[NodeId, ...]] = {}
        self.catalogue: dict[str, Definition] = {}
        self._everybody = tuple(NodeId(node) for node in nodes)

    @property
    def epoch(self) -> Epoch:
        """Key of the record."""
        return Epoch(Term(1, self._everybody[0]), self.seq)

    def sets(self, unit: UnitId) -> UnitSets:
        """The members that a test chose, or everybody."""
        members = self.members.get(unit, self._everybody)
        if not members:
            raise NotFound(f"no unit '{unit}' in the topology record {self.epoch}")
        return UnitSets(self.epoch, self.phase, members, members)

    def collections(self) -> Sequence[Definition]:
        """The catalogue, by name."""
        return [self.catalogue[name] for name in sorted(self.catalogue)]

    async def create_collection(self, collection: Definition) -> None:
        """Add to the catalogue."""
        await trio.lowlevel.checkpoint()
        self.catalogue[collection.name] = collection
        self.seq += 1


class _Names:
    """`Members`: everybody, by the name that is the id."""

    def __init__(self, nodes: Sequence[NodeId]) -> None:
        self._nodes = nodes

    def get(self, node: NodeId) -> MemberView | None:
        """One member."""
        if node not in self._nodes:
            return None
        return MemberView(
            name=node.upper(),
            id=node,
            address=Address("127.0.0.1", 7946),
            status=Status.ALIVE,
            condition=Condition.OK,
            incarnation=1,
            boot=1,
            tags={},
        )


class SavedNode:
    """One node's desk of snapshots, over a disk of its own and one that all share as ``/shared``."""

    def __init__(self, cluster: SavedCluster, node: NodeId, units: Mapping[str, ByteUnits]) -> None:
        self.id = node
        self.disk = FakeDisk()
        self.units = units
        self.metrics = Metrics()
        rpc, clock, executor = cluster.network.node(node), FakeClock(), InlineExecutor()
        self.component = SnapshotComponent(
            rpc=rpc,
            clock=clock,
            disk=self.disk,
            executor=executor,
            metrics=self.metrics,
            config=cluster.config,
        )
        for kind, source in units.items():
            self.component.register(kind, source, replaces=kind in cluster.replacing)
        self.desk = desk = Desk(
            self.component,
            rpc=rpc,
            topology=cluster.ring,  # type: ignore[arg-type]  # of `Topology`, what snapshots use
            members=_Names(cluster.names),  # type: ignore[arg-type]  # of `Members`, what snapshots use
            clock=clock,
            entropy=FakeEntropy(node),
            executor=executor,
            metrics=self.metrics,
            places=Places(
                disk=self.disk,
                executor=executor,
                environ=cluster.environ,
                open_directory=lambda path: cluster.shared if path.startswith("/shared") else self.disk,
                read_file=lambda path, _: None if (data := self.disk.read(path.strip("/"))) is None else (data, 0o600),
            ),
            cluster_name="frys",
            settings=lambda: [
                {"key": "system.name", "value": node, "origin": "flag"},
                {"key": "plugins.own.api_key", "value": "hush", "origin": "file"},
            ],
        )

        self.reception = Reception(rpc=rpc, executor=executor, metrics=self.metrics, load=lambda: lambda: desk)

    def saved(self, directory: str = "") -> DirectoryObjects:
        """The objects of the node's own place, or of the shared one."""
        if directory:
            return DirectoryObjects(self.disk, InlineExecutor(), place=directory)
        return DirectoryObjects(self.disk, InlineExecutor(), place="own", directory="snapshots/saved")


class SavedCluster:
    """Nodes with desks, in one process."""

    def __init__(
        self,
        network: RpcNetwork,
        names: Sequence[str],
        partitions: int,
        replacing: Collection[str],
        config: SnapshotsConfig,
        environ: Mapping[str, str],
    ) -> None:
        self.network = network
        self.config = config
        self.environ = environ
        self.names = [NodeId(name) for name in names]
        self.ring = FixedRing(names, partitions=partitions)
        self.shared = FakeDisk()
        self.replacing = replacing
        self.nodes: dict[str, SavedNode] = {}

    def __getitem__(self, name: str) -> SavedNode:
        return self.nodes[name]


@asynccontextmanager
async def open_saved_cluster(
    held: Mapping[str, dict[UnitId, bytes]],
    *,
    kinds: Sequence[str] = ("t",),
    partitions: int = 4,
    replacing: Collection[str] = (),
    config: SnapshotsConfig | None = None,
    environ: Mapping[str, str] = {},
) -> AsyncIterator[SavedCluster]:
    """Run nodes that hold these units, by name; all have the same settings and environment."""
    network = RpcNetwork()
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        cluster = SavedCluster(network, list(held), partitions, replacing, config or SnapshotsConfig(), environ)
        for name, units in held.items():
            sources = {
                kind: ByteUnits({unit: data for unit, data in units.items() if unit.startswith(f"{kind}/")})
                for kind in kinds
            }
            cluster.nodes[name] = SavedNode(cluster, NodeId(name), sources)
        yield cluster
        nursery.cancel_scope.cancel()
