"""What a replica has evicted stays gone when another one is filled from it: its floor comes with its data."""

from __future__ import annotations

import random

from frys_node.base.types import Consistency, NodeId, UnitId
from frys_node.kernel.services.replication import Version
from frys_node.plugins.cache.cache import pack_plain, plain_body
from frys_node.plugins.cache.memory import CacheMemory
from frys_node.plugins.cache.policy import PolicyName
from frys_node.plugins.cache.tombstones import Standing
from frys_node.plugins.cache.unit import CacheUnit
from frys_node.replication import effects as fx
from frys_node.replication.coordinator import CoordinatorConfig
from frys_node.replication.knobs import ReplicaConfig
from frys_node.replication.messages import LeafPage, Tree, Write
from frys_node.replication.replica import ReplicaMachine
from frys_node.replication.unit import EARLY_MAX
from frys_node.testing.replica_desk import UNIT, Desk, record_of

CONFIG = ReplicaConfig(bulk_by_messages=True, sync_interval_s=3_600.0, catches_up=False)
MEMORY_BYTES = 1 << 20
STABLE_3 = record_of(2, ["n1", "n2", "n3"])
N1, N2, N3, N4 = (NodeId(f"n{number}") for number in (1, 2, 3, 4))


class CacheDesk(Desk):
    """Nodes that hold the unit in the memory of the cache."""

    def __init__(
        self, count: int, config: ReplicaConfig = CONFIG, coordinating: CoordinatorConfig | None = None
    ) -> None:
        self.memories: dict[NodeId, CacheMemory] = {}
        super().__init__(count, config, durable=False, coordinating=coordinating, store=self._open)
        self.adopt(STABLE_3)
        self.pass_time(4.0)  # a unit in memory looks for others first

    def _open(self, node: NodeId, unit: UnitId) -> CacheUnit:
        return self.memories[node].open(unit)

    def boot(self, name: str, boot: int = 1) -> ReplicaMachine:
        """Put an empty replica, with a memory of its own, in the place of a node's."""
        node = NodeId(name)
        self.done.clear()  # a coordinator's next life counts its requests from the same number
        memory = self.memories[node] = CacheMemory(MEMORY_BYTES, lambda: self.wall_ms[node])
        replica = super().boot(name, boot)

        def standing(_unit: UnitId) -> Standing:
            return Standing.WHOLE if replica.local(UNIT) is not None else Standing.FILLING

        memory.standing = standing
        return replica

    def set(self, name: str, key: bytes, body: bytes | None, consistency: Consistency = Consistency.QUORUM) -> bool:
        """Write a value, None to delete it; False if too few acknowledged."""
        packed = None if body is None else pack_plain(body)
        return isinstance(self.write(name, packed, key, consistency), fx.WriteDone)

    def evict(self, name: str, bytes_max: int = 1) -> None:
        """Have a node's memory be short for a moment."""
        memory = self.memories[NodeId(name)]
        for size_bytes in (bytes_max, MEMORY_BYTES):
            memory.configure(size_bytes, PolicyName.LRU, {}, keeps_replies=False)

    def cut_off(self, *names: str) -> None:
        """Have nothing reach these nodes, or leave them."""
        self.cut = {(a, b) for a in self.names for b in self.names if a != b and {a, b} & set(names)}

    def found(self, name: str, key: bytes) -> bytes | None:
        """Return what a client reads at a quorum."""
        packed = self.read(name, key)
        return None if packed is None else plain_body(packed)

    def restart(self, name: str, boot: int = 2, seconds: float = 2.5) -> None:
        """Have a node lose its memory, and be filled by the others, before its patience is over."""
        self.boot(name, boot)
        self.adopt(STABLE_3, name)
        self.pass_time(seconds)


def desk_with_a_member_that_missed_a_deletion() -> CacheDesk:
    """Return three members: n1 gave the tombstone up for its floor, n2 has it, and n3 still has the value."""
    desk = CacheDesk(3)
    assert desk.set("n1", b"hot", b"kept", Consistency.ALL)
    assert desk.set("n1", b"k", b"old", Consistency.ALL)
    desk.cut_off("n3")
    assert desk.set("n1", b"k", None)
    desk.cut_off()
    desk.evict("n1")
    assert desk.set("n1", b"more", b"kept", Consistency.ALL)
    assert desk.held("n3", b"k") is not None
    return desk


def test_what_a_source_has_evicted_does_not_come_back_through_another_one_that_missed_it() -> None:
    """A refilled member reads what the first source's floor covers as a miss, and refuses it as a repair."""
    desk = desk_with_a_member_that_missed_a_deletion()
    desk.restart("n2")
    assert desk.replicas[N2].local(UNIT) is not None
    desk.cut_off("n1")
    assert desk.found("n2", b"k") is None
    assert desk.found("n3", b"k") is None
    desk.replicas[N2].sync_soon(desk.now_s)
    desk.pass_time(2.0)
    assert desk.found("n2", b"k") is None


def test_the_order_in_which_sources_answer_makes_no_difference() -> None:
    """The floor counts for what others gave before, and for what they give afterwards."""
    for late in ("n1", "n3"):
        for kind in (Tree, LeafPage):
            desk = desk_with_a_member_that_missed_a_deletion()
            desk.keeps = lambda a, b, message, late=late, kind=kind: (a, b) == (late, N2) and isinstance(message, kind)
            desk.restart("n2", seconds=0.5)
            assert desk.replicas[N2].local(UNIT) is None, (late, kind)
            desk.release()
            desk.pass_time(1.0)
            assert desk.replicas[N2].local(UNIT) is not None
            desk.cut_off("n1")
            assert desk.found("n2", b"k") is None, (late, kind)


def test_a_newcomer_takes_the_floors_with_its_pass() -> None:
    """A node that joins the unit does not serve what one of its sources had deleted and evicted."""
    desk = desk_with_a_member_that_missed_a_deletion()
    joiner = desk.boot("n4")
    desk.names.append(N4)
    desk.wall_ms[N4] = desk.wall_ms[N1]
    before, after = ["n1", "n2", "n3"], ["n1", "n3", "n4"]
    desk.cut_off("n2")  # which alone has the tombstone still
    desk.adopt(record_of(3, before, after, "joining"))
    desk.pass_time(2.0)
    desk.adopt(record_of(4, before, after, "joint"))
    desk.pass_time(2.0)
    desk.adopt(record_of(5, after), *after)
    assert joiner.local(UNIT) is not None
    desk.cut_off("n1")
    assert desk.found("n4", b"k") is None
    assert desk.found("n4", b"hot") is None  # n1 had to evict that too: a miss is always legal
    assert desk.set("n4", b"k", b"new")
    assert desk.found("n3", b"k") == b"new"


def test_values_older_than_the_floors_of_their_holders_are_filled_in_all_the_same() -> None:
    """An old value that is read often outlives newer ones, at each member; who is filled gets it, and it is a hit."""
    desk = CacheDesk(3)
    assert desk.set("n1", b"hot", b"kept", Consistency.ALL)
    for number in range(40):
        assert desk.set("n1", b"cold-%d" % number, b"gone", Consistency.ALL)
    for name in ("n1", "n3"):
        assert desk.read(name, b"hot", Consistency.ONE) is not None
        desk.evict(name, 1_000)
        held = desk.held(name, b"hot")
        floor = desk.memories[NodeId(name)].units[UNIT].evict_floor
        assert held is not None
        assert floor is not None
        assert held.version < floor
    desk.restart("n2")
    desk.cut_off("n1")
    assert desk.found("n2", b"hot") == b"kept"
    assert desk.memories[N2].units[UNIT].evict_floor is not None


def test_a_source_that_evicts_between_two_pages_tells_its_new_floor() -> None:
    """A tombstone that goes after the tree was sent is covered by the page that no longer has it."""
    desk = CacheDesk(3)
    assert desk.set("n1", b"k", b"old", Consistency.ALL)
    desk.cut_off("n3")
    assert desk.set("n1", b"k", None)
    desk.cut_off()
    desk.keeps = lambda a, b, message: (a, b) == (N1, N2) and isinstance(message, Tree)
    desk.restart("n2", seconds=0.0)
    assert any(isinstance(message, Tree) for _a, _b, message in desk.kept)
    desk.evict("n1")
    desk.release()
    desk.pass_time(2.0)
    assert desk.replicas[N2].local(UNIT) is not None
    desk.cut_off("n1")
    assert desk.found("n2", b"k") is None


def test_what_is_noted_of_early_writes_is_bounded_by_what_is_held_of_them() -> None:
    """A unit that fills for minutes is written far more than it has room for; what it has evicted needs no note."""
    desk = CacheDesk(3)
    desk.cut_off("n2")
    replica = desk.boot("n2", 2)
    desk.adopt(STABLE_3, "n2")
    held = replica.table.units[UNIT]
    for number in range(0, 4 * EARLY_MAX, 64):
        keys = [(b"%d" % key, pack_plain(b"x")) for key in range(number, number + 64)]
        version = Version(desk.wall_ms[N2] + number, 0, N1, 1)
        desk.take(N2, replica.receive(N1, Write(STABLE_3.record.epoch, UNIT, number, 1, version, keys), desk.now_s))
        assert set(held.store.keys()) <= held.early.keys()
        assert len(held.early) <= held.early_max
    assert not held.complete
    assert desk.memories[N2].evicted > EARLY_MAX
    assert held.early_max < 3 * EARLY_MAX
    desk.cut_off()
    desk.pass_time(4.0)
    assert held.complete
    assert (held.early, held.early_max) == ({}, EARLY_MAX)


def _run(seed: int) -> int:
    """Write, delete, evict, cut off and restart at random; returns how many reads found something."""
    rng = random.Random(seed)
    repairs = rng.random() < 0.5
    desk = CacheDesk(3, coordinating=CoordinatorConfig(repairs_reads=repairs, keeps_hints=repairs))
    keys = [b"k%d" % number for number in range(3)]
    acked: dict[bytes, int] = {}
    boots, hits = 1, 0
    for number in range(1, 81):
        name, key, draw = rng.choice(desk.names), rng.choice(keys), rng.random()
        if draw < 0.45:
            is_deletion = rng.random() < 0.4
            if desk.set(name, key, None if is_deletion else b"%d" % number):
                acked[key] = number
            else:
                desk.pass_time(6.0)  # its coordinator goes on trying for five seconds
        elif draw < 0.6:
            desk.cut_off(*rng.choice([(), ("n1",), ("n2",), ("n3",)]))
        elif draw < 0.75:
            desk.evict(name, rng.choice((1, 1, 1_000)))
        elif draw < 0.85:
            desk.replicas[name].sync_soon(desk.now_s)
        else:
            desk.cut_off()
            desk.pass_time(0.5)
            boots += 1
            desk.restart(name, boots, 5.0)
            assert desk.replicas[name].local(UNIT) is not None
        desk.pass_time(0.5)
        for reader in desk.names:
            packed = None if any(reader in way for way in desk.cut) else desk.read(reader, key)
            if packed is not None:
                hits += 1
                assert int(plain_body(packed) or b"0") >= acked.get(key, 0), (seed, number, key)
    return hits


def test_at_random_nothing_overwritten_deleted_or_evicted_is_read_at_a_quorum() -> None:
    """While members lose their memory one at a time, and are refilled, what a quorum reads is the newest or a miss."""
    assert sum(_run(seed) for seed in range(40)) > 1_000
