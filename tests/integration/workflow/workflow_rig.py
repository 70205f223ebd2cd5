"""Several nodes in one process, each with the real plugin on a real SQLite file; topology and members are fakes."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio

from frys_node.base.types import Address, Epoch, NodeId, Term, UnitId
from frys_node.kernel.bus import Bus
from frys_node.kernel.context import PluginContext, Services
from frys_node.kernel.services.http import HTTP
from frys_node.kernel.services.members import MEMBERS, UNUSABLE, WELL, Condition, MemberView, Status
from frys_node.kernel.services.rpc import RPC
from frys_node.kernel.services.snapshots import SNAPSHOTS, MoveProgress, Snapshottable
from frys_node.kernel.services.topology import TOPOLOGY, Forward, Local, Route, Unavailable, UnitMover, UnitSets
from frys_node.observe.metrics import Metrics
from frys_node.plugins.workflow.config import WorkflowConfig
from frys_node.plugins.workflow.plugin import WorkflowPlugin
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.rpc import RpcNetwork, open_rpc_network
from frys_node.testing.services import FakeHttp


class WallClock:
    """Real time."""

    def now_s(self) -> float:
        """Monotonic seconds."""
        return trio.current_time()

    def unix_ns(self) -> int:
        """Wall time."""
        return time.time_ns()


class Record:
    """What all nodes have adopted: the owner of each partition."""

    def __init__(self, nodes: Sequence[str], partitions: int) -> None:
        self.owners = {number: NodeId(nodes[number % len(nodes)]) for number in range(partitions)}
        self.partitions = partitions
        self.down: set[NodeId] = set()
        self.seq = 1

    @property
    def epoch(self) -> Epoch:
        """Key of the record."""
        return Epoch(Term(1, NodeId("n1")), self.seq)


class OwnedTopology:
    """One node's view of the record; `stale` freezes it at an older owner map."""

    def __init__(self, record: Record, node: NodeId) -> None:
        self.record = record
        self.node = node
        self.stale: dict[int, NodeId] = {}
        self.movers: dict[str, UnitMover] = {}

    @property
    def epoch(self) -> Epoch:
        """Key of the adopted record."""
        return self.record.epoch

    @property
    def partitions(self) -> int:
        """Number of partitions."""
        return self.record.partitions

    def owner(self, unit: UnitId) -> NodeId:
        """The owner in this view."""
        number = int(unit.partition("/")[2])
        return self.stale.get(number, self.record.owners[number])

    def sets(self, unit: UnitId) -> UnitSets:
        """A set of one node."""
        return UnitSets(self.epoch, "stable", (self.owner(unit),), (self.owner(unit),))

    def route(self, unit: UnitId) -> Route:
        """Here, or its owner if it is up."""
        owner = self.owner(unit)
        if owner == self.node:
            return Local(self.epoch)
        return Unavailable(self.epoch, (owner,)) if owner in self.record.down else Forward(owner, self.epoch)

    def register_mover(self, kind: str, mover: UnitMover) -> None:
        """Take the mover; the rig calls it."""
        self.movers[kind] = mover


class FixedMembers:
    """A member table that never changes but for who is down."""

    def __init__(self, record: Record, nodes: Sequence[str], node: str) -> None:
        self._record = record
        self._nodes = nodes
        self.self_id = NodeId(node)

    def all(self) -> list[MemberView]:
        """Everybody."""
        return [self._view(name) for name in self._nodes]

    def get(self, node: NodeId) -> MemberView | None:
        """One member."""
        return self._view(node) if node in self._nodes else None

    def is_usable(self, node: NodeId) -> bool:
        """True unless the rig stopped it."""
        return node not in self._record.down

    def rank(self, node: NodeId) -> int:
        """Well unless the rig stopped it."""
        return UNUSABLE if node in self._record.down else WELL

    def _view(self, name: str) -> MemberView:
        status = Status.DEAD if name in self._record.down else Status.ALIVE
        return MemberView(
            name=f"node-{name}",
            id=NodeId(name),
            address=Address("127.0.0.1", 1),
            status=status,
            condition=Condition.OK,
            incarnation=1,
            boot=1,
            tags={},
            http=f"127.0.0.1:{name[1:]}",
        )


class DirectSnapshots:
    """Copies units between the nodes of the rig, in chunks, without the chunk protocol."""

    def __init__(self, rig: Rig, node: NodeId) -> None:
        self._rig = rig
        self._node = node
        self.sources: dict[str, Snapshottable] = {}

    def register(self, kind: str, source: Snapshottable, *, replaces: bool = False) -> None:
        """Remember how units of a kind are captured."""
        self.sources[kind] = source

    async def pull(self, unit: UnitId, source: NodeId, progress: Any = None) -> int:
        """Capture there, restore here."""
        del progress
        captured = await self._rig.nodes[source].snapshots.sources["workflow"].capture(unit)
        size = 0

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal size
            async for part in captured.parts():
                for at in range(0, len(part), 1_000):
                    size += len(part[at : at + 1_000])
                    yield part[at : at + 1_000]

        async with contextlib.aclosing(chunks()) as parts:
            await self.sources["workflow"].restore(unit, parts)
        return size

    def moves(self) -> Sequence[MoveProgress]:
        """None are remembered."""
        return ()


class RigNode:
    """One node of the rig, up or down."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig = rig
        self.id = NodeId(name)
        self.http = FakeHttp()
        self.topology = OwnedTopology(rig.record, self.id)
        self.snapshots = DirectSnapshots(rig, self.id)
        self.plugin = WorkflowPlugin()
        self.boot = 0
        self.drains = False
        """Whether stopping unloads the plugin in order."""
        self._scope: trio.CancelScope | None = None
        self._done = trio.Event()

    async def up(self) -> None:
        """Start (or start again) on the node's directory."""
        self.boot += 1
        self.http = FakeHttp()
        self.topology.movers.clear()
        self.snapshots.sources.clear()
        self.rig.record.down.discard(self.id)
        await self.rig.nursery.start(self._run)

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        self._done = trio.Event()
        services = Services()
        services.provide(HTTP, self.http)
        services.provide(RPC, self.rig.network.node(self.id))
        services.provide(MEMBERS, FixedMembers(self.rig.record, list(self.rig.nodes), self.id))
        services.provide(TOPOLOGY, self.topology)
        services.provide(SNAPSHOTS, self.snapshots)
        plugin = self.plugin = WorkflowPlugin()
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                context = PluginContext(
                    node=self.id,
                    name="workflow",
                    boot=self.boot,
                    data_dir=self.rig.home / self.id,
                    clock=WallClock(),
                    entropy=FakeEntropy(f"{self.id}/{self.boot}"),
                    disk=FakeDisk(),
                    executor=InlineExecutor(),
                    bus=Bus(),
                    services=services,
                    metrics=Metrics(),
                    config=self.rig.config,
                    nursery=nursery,
                )
                await plugin.init(context)
                await plugin.on_load()
                for number, owner in self.rig.record.owners.items():
                    if owner == self.id:
                        await self.mover.start(UnitId(f"workflow/{number}"))
                task_status.started()
                await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                if self.drains:
                    await plugin.on_unload()
                await plugin.cleanup()
            self._done.set()

    @property
    def mover(self) -> UnitMover:
        """The plugin's mover."""
        return self.topology.movers["workflow"]

    async def down(self) -> None:
        """Stop without draining."""
        self.rig.record.down.add(self.id)
        self.rig.network.stop(self.id)
        assert self._scope is not None
        self._scope.cancel()
        await self._done.wait()
        self.rig.network.restart(self.id)

    async def call(self, method: str, target: str, body: Any = b"", expect: int | None = None) -> Any:
        """One HTTP request; returns the decoded body, after checking the status."""
        response = await self.http.request(method, target, body)
        decoded = json.loads(response.body) if response.body else None
        if expect is not None:
            assert response.status == expect, decoded
        else:
            assert response.status < 300, decoded
        return decoded


class Rig:
    """The nodes, the record and the wires."""

    def __init__(
        self,
        home: Path,
        names: Sequence[str],
        network: RpcNetwork,
        nursery: trio.Nursery,
        config: WorkflowConfig,
        partitions: int,
    ) -> None:
        self.home = home
        self.network = network
        self.nursery = nursery
        self.config = config
        self.record = Record(names, partitions)
        self.nodes: dict[str, RigNode] = {}
        for name in names:
            self.nodes[name] = RigNode(self, name)

    def run_on(self, owner: str, wanted: Callable[[int], bool] = lambda _: True) -> str:
        """A run id whose partition that node owns."""
        from frys_node.base.units import partition_of

        for n in itertools.count():
            number = partition_of(f"run-{n}", self.record.partitions)
            if self.record.owners[number] == owner and wanted(n):
                return f"run-{n}"
        raise AssertionError


@contextlib.asynccontextmanager
async def open_rig(
    home: Path, *, nodes: Sequence[str] = ("n1", "n2", "n3"), partitions: int = 8, **config: Any
) -> AsyncIterator[Rig]:
    """Open nodes that serve the workflows of `flows.py`."""
    values = msgspec.convert(
        {"files": [str(Path(__file__).with_name("flows.py"))], "wait_max_s": 20.0, **config}, WorkflowConfig
    )
    async with open_rpc_network() as network, trio.open_nursery() as nursery:
        rig = Rig(home, nodes, network, nursery, values, partitions)
        for node in rig.nodes.values():
            await node.up()
        yield rig
        nursery.cancel_scope.cancel()
