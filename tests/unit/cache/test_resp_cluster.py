"""Who serves Redis clients, as one node sees it: the map, MOVED, and whom messages go to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from frys_node.base.types import Address, NodeId, UnitId
from frys_node.base.units import cache_unit_of, slot_of
from frys_node.kernel.services.gossip import StateValue
from frys_node.kernel.services.members import Condition, MemberView, Status
from frys_node.observe.metrics import Counter, Metrics
from frys_node.plugins.cache.resp.cluster import KEY, ClusterView
from frys_node.plugins.cache.resp.hub import NOTE, PUBLISHED, Hub
from frys_node.testing.services import ServiceCluster

NAMES = ("a", "b", "c", "d")


class Table:
    """The member table of one node; member number n is at 10.0.0.n."""

    def __init__(self, node: str, hosts: Mapping[str, str]) -> None:
        self.self_id = NodeId(node)
        self.hosts = hosts
        self.unusable: set[str] = set()

    def all(self) -> list[MemberView]:
        """Everybody."""
        return [view for view in map(self.get, map(NodeId, self.hosts)) if view is not None]

    def get(self, node: NodeId) -> MemberView | None:
        """One member."""
        if node not in self.hosts:
            return None
        return MemberView(
            name=node,
            id=node,
            address=Address(self.hosts[node], 7_946),
            status=Status.ALIVE,
            condition=Condition.OK,
            incarnation=0,
            boot=1,
            tags={},
        )

    def is_usable(self, node: NodeId) -> bool:
        """True unless the test says otherwise."""
        return node not in self.unusable


class State:
    """The gossiped state, the same at every node."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, bytes]] = {name: {"other": b"x"} for name in NAMES}
        self.asked: list[str] = []
        """Of whom, in order."""

    def of(self, node: str) -> State.Handle:
        """Return what one node has of it."""
        return State.Handle(self, node)

    class Handle:
        """One node's."""

        def __init__(self, state: State, node: str) -> None:
            self._state = state
            self._node = node

        def put(self, key: str, value: bytes) -> None:
            """Tell the others."""
            self._state.values[self._node][key] = value

        def delete(self, key: str) -> None:
            """Tell it no more."""
            self._state.values[self._node].pop(key, None)

        def state(self, node: NodeId) -> list[StateValue]:
            """What a node tells."""
            self._state.asked.append(node)
            return [StateValue(key=key, value=value, version=1) for key, value in self._state.values[node].items()]


class House:
    """Four nodes with Redis listeners, and the view of each."""

    def __init__(self, listeners: Mapping[str, str], *, hosts: Mapping[str, str] | None = None) -> None:
        self.cluster = ServiceCluster(NAMES, replication_factor=2)
        self.state = State()
        hosts = hosts or {name: f"10.0.0.{number}" for number, name in enumerate(NAMES, 1)}
        self.tables = {name: Table(name, hosts) for name in NAMES}
        self.views = {name: self.view(name, host) for name, host in listeners.items()}

    def view(self, name: str, host: str) -> ClusterView:
        """Return the view of a node that listens there."""
        gossip: Any = self.state.of(name)
        members: Any = self.tables[name]
        topology: Any = self.cluster.topology[NodeId(name)]
        bound = Address(host, 6_379)
        return ClusterView(bound=bound, members=members, topology=topology, gossip=gossip)

    def die(self, node: str) -> None:
        """Have everybody take a node for dead."""
        for table in self.tables.values():
            table.unusable.add(node)

    def key_of(self, first: str) -> bytes:
        """Return a key whose unit has that node first."""
        keys = (b"k%d" % number for number in range(10_000))
        return next(key for key in keys if self.members_of(key)[0] == first)

    def members_of(self, key: bytes) -> tuple[NodeId, ...]:
        """Return the set of a key."""
        return self.cluster.members_of(cache_unit_of(key, self.cluster.partitions))


@pytest.fixture
def house() -> House:
    """Every node listens where all can reach it."""
    return House({name: f"10.0.0.{number}" for number, name in enumerate(NAMES, 1)})


def test_messages_go_to_every_node_with_clients_also_where_those_come_by_loopback() -> None:
    """Three machines that listen on 127.0.0.1 name each other to nobody, and yet each sends what is published."""
    house = House({"a": "127.0.0.1", "b": "127.0.0.1", "c": "127.0.0.1"})
    view = house.views["a"]
    assert [server.node for server in view.servers()] == ["a"]
    assert view.peers() == ["b", "c"]  # `d` has no listener
    house.die("c")
    assert view.peers() == ["b"]
    house.views["b"].close()
    assert view.peers() == []


def test_a_node_whose_address_cannot_be_read_gets_messages_and_is_on_no_map(house: House) -> None:
    """What another version might tell of its listener."""
    house.state.values["b"][KEY] = b"\xff"
    assert "b" in house.views["a"].peers()
    assert "b" not in [server.node for server in house.views["a"].servers()]


def test_on_one_machine_nodes_on_loopback_name_each_other() -> None:
    """Their clients are on it too."""
    house = House(dict.fromkeys(NAMES, "127.0.0.1"), hosts=dict.fromkeys(NAMES, "127.0.0.1"))
    assert [server.node for server in house.views["c"].servers()] == ["c", "a", "b", "d"]


def test_a_node_that_listens_everywhere_tells_the_address_of_its_member(house: House) -> None:
    """0.0.0.0 is nowhere that a client could connect to."""
    assert str(house.view("a", "0.0.0.0").myself.address) == "10.0.0.1:6379"
    assert house.state.values["a"][KEY] == b"10.0.0.1:6379"


def test_a_key_is_served_best_by_the_first_living_member_of_its_set(house: House) -> None:
    """MOVED names it; when it is dead the next one; who is that itself sends nobody anywhere."""
    key = house.key_of("b")
    first, second = house.members_of(key)
    other = next(name for name in NAMES if name not in (first, second))
    redirect = house.views[other].redirect(key)
    assert redirect == (slot_of(key), f"10.0.0.{NAMES.index(first) + 1}:6379")
    assert house.views[first].redirect(key) is None
    assert house.views[second].redirect(key) == redirect
    house.die(first)
    assert house.views[second].redirect(key) is None
    moved = house.views[other].redirect(key)
    assert moved is not None
    assert moved.address == f"10.0.0.{NAMES.index(second) + 1}:6379"
    house.views[second].close()
    assert house.views[other].redirect(key) is None


def test_a_redirect_looks_at_the_members_of_the_set_alone(house: House) -> None:
    """A client in READWRITE asks for each key: that must not cost a look at every member of the cluster."""
    key = house.key_of("b")
    other = next(name for name in NAMES if name not in house.members_of(key))
    house.state.asked.clear()
    assert house.views[other].redirect(key) is not None
    assert house.state.asked == ["b"]


def test_redirects_and_the_map_agree(house: House) -> None:
    """For each of 300 keys, at each node, with one node dead and one without a listener."""
    house.die("b")
    house.views["d"].close()
    for name in ("a", "c"):
        view = house.views[name]
        found = view.ranges()
        for number in range(300):
            key = b"k%d" % number
            (part,) = [part for part in found if part.first <= slot_of(key) <= part.last]
            redirect = view.redirect(key)
            if redirect is not None:
                assert str(part.servers[0].address) == redirect.address
            elif any(node in ("a", "c") for node in house.members_of(key)):
                assert part.servers[0].node == name


def test_each_unit_is_the_own_one_of_one_node(house: House) -> None:
    """Also where the first member is dead, and where no member of the set has clients."""

    def owned(names: str) -> list[UnitId]:
        return sorted(unit for name in names for unit in house.views[name].own())

    units = sorted(UnitId(f"cache/{number}") for number in range(256))
    assert owned("abcd") == units
    house.die("b")
    assert owned("acd") == units
    house.views["d"].close()
    assert owned("ac") == units
    assert all(house.views[name].own() for name in "ac")


def test_a_node_that_only_its_own_machine_reaches_is_the_whole_map() -> None:
    """Its clients see no other node, so they find every key there."""
    house = House(dict.fromkeys(NAMES, "127.0.0.1"))
    assert len(house.views["a"].own()) == 256
    assert [part.servers[0].node for part in house.views["a"].ranges()] == ["a"]


def test_messages_keep_their_order_or_are_lost() -> None:
    """A queue that is full for a moment costs what comes then; nothing is sent behind what was published later."""

    class Notes:
        """Has room for every other message."""

        def __init__(self) -> None:
            self.sent: list[bytes] = []
            self.asked = 0

        def on_note(self, name: str, handler: object) -> None:
            assert name == NOTE
            assert callable(handler)

        def note(self, node: NodeId, name: str, payload: bytes) -> bool:
            assert (node, name) == ("b", NOTE)
            self.asked += 1
            if self.asked % 2:
                self.sent.append(PUBLISHED.decode(payload).body)
            return bool(self.asked % 2)

    notes, metrics = Notes(), Metrics()
    rpc: Any = notes
    hub = Hub(rpc=rpc, peers=lambda: [NodeId("b")], metrics=metrics)
    for number in range(6):
        hub.publish(b"c", b"%d" % number)
    assert notes.sent == [b"0", b"2", b"4"]
    counted = next(metric for metric in metrics if metric.name == "frys_cache_messages_total")
    assert isinstance(counted, Counter)
    assert counted.values[("lost",)] == counted.values[("sent",)] == 3
