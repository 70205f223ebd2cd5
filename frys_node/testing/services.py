"""Shipped fakes of the services that plugins meet: replication, topology and HTTP, in one process without sockets.

They obey the Protocols honestly: a write counts the replicas that took it, a quorum that cannot be reached is
`NoReplica`, a node that is down takes and gives nothing and remembers what it held. There is no repair and no move:
those belong to the real engine. `ServiceCluster` holds what several nodes share; calls between them are in
`frys_node.testing.rpc`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import mmh3
import msgspec
import trio

from frys_node.base.access import LOCAL
from frys_node.base.errors import AlreadyExists, FrysError, NoReplica, NotFound
from frys_node.base.types import Consistency, Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.http import ErrorShape, HttpRequest, HttpResponse, shaped
from frys_node.kernel.services.replication import Entry, UnitStore, Version
from frys_node.kernel.services.topology import Collection, Forward, Local, Route, Unavailable, UnitSets
from frys_node.plugins.network.respond import error_response
from frys_node.plugins.network.router import Router, split_target

Factory = Callable[[UnitId], UnitStore]


class ServiceCluster:
    """What the nodes of one fake cluster share: who is there, who is down, the catalogue, the epoch and a clock."""

    def __init__(self, names: Sequence[str], *, replication_factor: int = 3, partitions: int = 256) -> None:
        self.nodes = tuple(NodeId(name) for name in names)
        self.replication_factor = replication_factor
        self.partitions = partitions
        self.down: set[NodeId] = set()
        self.catalogue: dict[str, Collection] = {}
        self.seq = 1
        self.ticks = count(1_000)
        self.replication = {node: FakeReplication(self, node) for node in self.nodes}
        self.topology = {node: FakeTopology(self, node) for node in self.nodes}

    @property
    def epoch(self) -> Epoch:
        """Key of the record that all nodes have adopted."""
        return Epoch(Term(1, self.nodes[0]), self.seq)

    def members_of(self, unit: UnitId) -> tuple[NodeId, ...]:
        """The unit's set: the first nodes in the order of a hash of (unit, node)."""
        ranked = sorted(self.nodes, key=lambda node: (mmh3.hash(f"{unit}@{node}", signed=False), node))
        return tuple(ranked[: self.replication_factor])


class FakeReplication:
    """One node's `Replication`: writes reach every live member of the set in the same instant."""

    def __init__(self, cluster: ServiceCluster, node: NodeId) -> None:
        self._cluster = cluster
        self._node = node
        self._factories: dict[str, Factory] = {}
        self.stores: dict[UnitId, UnitStore] = {}

    def register(self, kind: str, factory: Factory, *, durable: bool) -> None:
        """Declare a kind; nothing is durable here, whatever is asked."""
        del durable
        self._factories[kind] = factory

    async def write(
        self,
        unit: UnitId,
        items: Sequence[tuple[bytes, bytes | None]],
        consistency: Consistency = Consistency.QUORUM,
    ) -> Version:
        """Apply to every live member, then count them."""
        await trio.lowlevel.checkpoint()
        version = Version(next(self._cluster.ticks), 0, self._node, 1)
        members = self._cluster.members_of(unit)
        live = [node for node in members if node not in self._cluster.down]
        for node in live:
            self._cluster.replication[node].take(unit, [Entry(key, version, value) for key, value in items])
        self._need(unit, len(live), len(members), consistency)
        return version

    async def write_units(
        self,
        parts: Mapping[UnitId, Sequence[tuple[bytes, bytes | None]]],
        consistency: Consistency = Consistency.QUORUM,
    ) -> dict[UnitId, Version]:
        """Write unit by unit."""
        return {unit: await self.write(unit, items, consistency) for unit, items in parts.items()}

    def stamp_alone(self, kind: str) -> Version | None:
        """Return the next version if this node is the whole cluster."""
        is_alone = kind in self._factories and self._cluster.nodes == (self._node,)
        return Version(next(self._cluster.ticks), 0, self._node, 1) if is_alone else None

    async def read(
        self, unit: UnitId, keys: Sequence[bytes], consistency: Consistency = Consistency.ONE
    ) -> list[Entry | None]:
        """Merge what as many replicas hold as the level asks for, the best one first."""
        await trio.lowlevel.checkpoint()
        members = self._cluster.members_of(unit)
        live = self.replicas(unit)
        asked = live[: self._need(unit, len(live), len(members), consistency)]
        newest: list[Entry | None] = [None] * len(keys)
        for node in asked:
            for position, entry in enumerate(self._cluster.replication[node].open(unit).get(keys)):
                held = newest[position]
                if entry is not None and (held is None or held.version < entry.version):
                    newest[position] = entry
        return newest

    def local(self, unit: UnitId) -> UnitStore | None:
        """This node's store if it is a member and the kind is declared."""
        is_here = unit.split("/", 1)[0] in self._factories and self._node in self._cluster.members_of(unit)
        return self.open(unit) if is_here else None

    def replicas(self, unit: UnitId) -> Sequence[NodeId]:
        """Live members, this node first."""
        live = [node for node in self._cluster.members_of(unit) if node not in self._cluster.down]
        return sorted(live, key=lambda node: node != self._node)

    def open(self, unit: UnitId) -> UnitStore:
        """This node's store of a unit, made when it is first needed."""
        if unit not in self.stores:
            self.stores[unit] = self._factories[unit.split("/", 1)[0]](unit)
        return self.stores[unit]

    def take(self, unit: UnitId, entries: Sequence[Entry]) -> None:
        """Merge entries as a replica does: only what is newer than what is held."""
        store = self.open(unit)
        held = store.get([entry.key for entry in entries])
        newer = [entry for entry, old in zip(entries, held, strict=True) if old is None or old.version < entry.version]
        if newer:
            store.put(newer)

    def _need(self, unit: UnitId, live: int, members: int, consistency: Consistency) -> int:
        need = {Consistency.ONE: 1, Consistency.QUORUM: members // 2 + 1, Consistency.ALL: members}[consistency]
        if live < need:
            raise NoReplica(f"{live} of the {need} replicas needed answer for {unit}")
        return need


class FakeTopology:
    """One node's `Topology`: every node adopts every change in the same instant."""

    def __init__(self, cluster: ServiceCluster, node: NodeId) -> None:
        self._cluster = cluster
        self._node = node

    @property
    def epoch(self) -> Epoch:
        """Key of the adopted record."""
        return self._cluster.epoch

    @property
    def partitions(self) -> int:
        """Number of cache units."""
        return self._cluster.partitions

    def sets(self, unit: UnitId) -> UnitSets:
        """The unit's set; the record is always stable."""
        members = self._cluster.members_of(unit)
        return UnitSets(self.epoch, "stable", members, members)

    def route(self, unit: UnitId) -> Route:
        """This node if it is a member, else the first live one."""
        members = self._cluster.members_of(unit)
        if self._node in members:
            return Local(self.epoch)
        live = [node for node in members if node not in self._cluster.down]
        return Forward(live[0], self.epoch) if live else Unavailable(self.epoch, members)

    def collections(self) -> Sequence[Collection]:
        """The catalogue, sorted by name."""
        return [self._cluster.catalogue[name] for name in sorted(self._cluster.catalogue)]

    async def refresh(self) -> None:
        """Every node sees the one catalogue at once."""
        await trio.lowlevel.checkpoint()

    async def create_collection(self, collection: Collection) -> None:
        """Add to the catalogue."""
        await trio.lowlevel.checkpoint()
        if collection.name in self._cluster.catalogue:
            raise AlreadyExists(f"collection '{collection.name}' exists")
        self._cluster.catalogue[collection.name] = collection
        self._cluster.seq += 1

    async def delete_collection(self, name: str) -> None:
        """Remove from the catalogue and from every node."""
        await trio.lowlevel.checkpoint()
        collection = self._cluster.catalogue.pop(name, None)
        if collection is None:
            raise NotFound(f"there is no collection '{name}'")
        self._cluster.seq += 1
        for replication in self._cluster.replication.values():
            for unit in [unit for unit in replication.stores if unit.startswith(f"vector/{collection.id}/")]:
                del replication.stores[unit]


class FakeHttp:
    """The real route table, called instead of listened to."""

    def __init__(self) -> None:
        self._router = Router()
        self.route = self._router.route
        self.unroute = self._router.unroute

    async def request(
        self, method: str, target: str, body: bytes | Any = b"", headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Serve one request; a body that is not bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        shape: ErrorShape = error_response
        try:
            path, query = split_target(target)
            match = self._router.find(method, path)
            shape = match.route.error_shape or error_response
            assert len(raw) <= match.route.body_bytes_max, "over the route's limit"
            request = HttpRequest(
                method=method,
                path=path,
                params=match.params,
                query=query,
                headers=headers or {},
                body=raw,
                principal=LOCAL,
            )
            return await match.route.handler(request)
        except FrysError as error:
            return shaped(error, shape)
