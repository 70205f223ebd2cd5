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
        """Other nodes that serve clients and can be reached, as far as anybody knows."""
        return [server.node for server in self.servers() if server.is_up and server.node != self.myself.node]

    def servers(self) -> list[Server]:
        """Every node that serves Redis clients which can be reached from where this one's are."""
        found = [self.myself]
        for view in self._members.all():
            address = self._address_of(view.id)
            if view.id == self.myself.node or address is None:
                continue
            if is_loopback(address.host) and not is_loopback(view.address.host):
                continue
            found.append(Server(view.id, address, self._members.is_usable(view.id)))
        return found

    def _address_of(self, node: NodeId) -> Address | None:
        if self._gossip is None:
            return None
        for item in self._gossip.state(node):
            if item.key == KEY:
                try:
                    return Address.parse(item.value.decode())
                except (FrysError, UnicodeDecodeError):
                    return None
        return None

    def ranges(self) -> list[SlotRange]:
        """Return who serves which slots: the members of each unit's set in their order, those that are up first."""
        by_node = {server.node: server for server in self.servers()}
        sets: list[tuple[Server, ...]] = []
        for number in range(self._topology.partitions):
            current = self._topology.sets(UnitId(f"cache/{number}")).current
            servers = [by_node[node] for node in current if node in by_node]
            servers.sort(key=lambda server: not server.is_up)
            sets.append(tuple(servers) or (self.myself,))
        return ranges(sets)

    def redirect(self, key: bytes) -> Redirect | None:
        """Return where a key is served best, if that is not here."""
        slot = slot_of(key)
        by_node = {server.node: server for server in self.servers() if server.is_up}
        for node in self._topology.sets(cache_unit_of(key, self._topology.partitions)).current:
            if node in by_node:
                server = by_node[node]
                return (
                    None
                    if server.node == self.myself.node
                    else Redirect(slot, f"{server.address.host}:{server.address.port}")
                )
        return None
