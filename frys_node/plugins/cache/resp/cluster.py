"""Which nodes serve Redis clients, and which slots each serves best, as this node sees it.

Each node tells the others by gossip where its clients connect (`KEY`). One that listens on loopback only is told to the
clients of its own machine, and nobody else.
"""

from __future__ import annotations

import ipaddress

from frys_node.base.errors import FrysError
from frys_node.base.types import Address, NodeId, UnitId
from frys_node.base.units import cache_unit_of, slot_of
from frys_node.kernel.services.gossip import Gossip
from frys_node.kernel.services.members import Members
from frys_node.kernel.services.topology import Topology
from frys_node.plugins.cache.resp.session import Redirect
from frys_node.plugins.cache.resp.slots import Server, SlotRange, ranges

KEY = "cache.resp"
"""The key of a node's gossiped state that holds ``host:port`` of its Redis listener."""

_WILD = ("0.0.0.0", "::", "[::]")  # noqa: S104 (names the address, binds nothing)


def is_loopback(host: str) -> bool:
    """True if the host can only be this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ClusterView:
    """The cluster as CLUSTER shows it."""

    def __init__(self, *, bound: Address, members: Members, topology: Topology, gossip: Gossip | None) -> None:
        self._members = members
        self._topology = topology
        self._gossip = gossip
        me = members.get(members.self_id)
        host = bound.host
        if host in _WILD and me is not None:
            host = me.address.host
        self.myself = Server(members.self_id, Address(host, bound.port), is_up=True)
        if gossip is not None:
            gossip.put(KEY, str(self.myself.address).encode())

    def close(self) -> None:
        """Tell the others that nobody listens here any more."""
        if self._gossip is not None:
            try:
                self._gossip.delete(KEY)
            except FrysError:
                return

    @property
    def epoch(self) -> int:
        """Sequence number of the topology record."""
        return self._topology.epoch.seq

    def peers(self) -> list[NodeId]:
        """Other nodes that have Redis clients and are up, wherever those connect: messages go by the cluster's bus."""
        nodes = [view.id for view in self._members.all() if view.id != self.myself.node]
        return [node for node in nodes if self._members.is_usable(node) and self._told(node) is not None]

    def servers(self) -> list[Server]:
        """Every node that serves Redis clients which can be reached from where this one's are."""
        found = (self._server(view.id) for view in self._members.all() if view.id != self.myself.node)
        return [self.myself, *(server for server in found if server is not None)]

    def _server(self, node: NodeId) -> Server | None:
        """Return a node as the clients of this one may reach it, None if they cannot."""
        if node == self.myself.node:
            return self.myself
        view, told = self._members.get(node), self._told(node)
        if view is None or told is None:
            return None
        try:
            address = Address.parse(told.decode())
        except (FrysError, UnicodeDecodeError):
            return None
        if is_loopback(address.host) and not is_loopback(view.address.host):
            return None
        return Server(node, address, self._members.is_usable(node))

    def _told(self, node: NodeId) -> bytes | None:
        """Return what a node says of its listener, None if it has none."""
        state = () if self._gossip is None else self._gossip.state(node)
        return next((item.value for item in state if item.key == KEY), None)

    def ranges(self) -> list[SlotRange]:
        """Return who serves which slots: the members of each unit's set in their order, those that are up first."""
        return ranges(self._sets())

    def own(self) -> frozenset[UnitId]:
        """Return the units whose slots `ranges` gives to this node first."""
        sets = self._sets()
        return frozenset(
            UnitId(f"cache/{number}") for number, servers in enumerate(sets) if servers[0].node == self.myself.node
        )

    def _sets(self) -> list[tuple[Server, ...]]:
        by_node = {server.node: server for server in self.servers()}
        # A unit none of whose living members has clients is served through another node: every node names the same
        # one, so that none of its keys is counted twice.
        others = sorted(server for server in by_node.values() if server.is_up)
        sets: list[tuple[Server, ...]] = []
        for number in range(self._topology.partitions):
            current = self._topology.sets(UnitId(f"cache/{number}")).current
            servers = [by_node[node] for node in current if node in by_node]
            servers.sort(key=lambda server: not server.is_up)
            if not servers or (not servers[0].is_up and any(map(self._members.is_usable, current))):
                servers.insert(0, others[number % len(others)])
            sets.append(tuple(servers))
        return sets

    def redirect(self, key: bytes) -> Redirect | None:
        """Return where a key is served best, if that is not here."""
        for node in self._topology.sets(cache_unit_of(key, self._topology.partitions)).current:
            server = self._server(node)
            if server is None or not server.is_up:
                continue
            if node == self.myself.node:
                return None
            return Redirect(slot_of(key), f"{server.address.host}:{server.address.port}")
        return None
