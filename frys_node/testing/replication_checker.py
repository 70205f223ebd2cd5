"""The checker of the replication scenario: what a client may have seen, judged as it happens.

Sans-I/O. Every write has a value of its own, so a version and a value name one write. The letters are those of the
study: (a) a quorum read begun after an acknowledgement returns that version or a newer one; (b) nothing older comes
back after an acknowledged delete; (c) an acknowledged write is ordered after every write acknowledged before it began;
(d) one version has one value; (e) records under which something may have been acknowledged form a chain: two of which
neither follows from the other are two moves at once; (f) a node's record never goes back, and one key names one record.

A unit in memory keeps the same rules (D6, section 4 of the study) until a replica must start empty, because too few
members were left to refill from. Then what was acknowledged before may be *missing*, for good; a value that was
overwritten or deleted never comes back, unless it is newer than the clock by which the replica set its floor.
Not judged are writes during which some node restarted (an acknowledgement may be worth nothing by the time it counts),
nor, with clocks apart, the order of writes to either side of a restart: a replica that has forgotten a version cannot
tell the coordinator to stamp above it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Sequence
from typing import NamedTuple

from balancer.placement import Placement, majority
from balancer.promotion import count_in
from balancer.record import JOINT
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.kernel.services.topology import UnitSets

Place = tuple[UnitId, bytes]


class Acked(NamedTuple):
    """An acknowledged write; how often its unit had started empty, and any node restarted, when it began."""

    version: Version
    value: bytes | None
    losses: int
    restarts: int


class OpenRequest:
    """A request under way: what was acknowledged before it began."""

    __slots__ = ("floors", "is_lost", "key", "kind", "losses", "restarts", "unit", "value")

    def __init__(self, kind: str, unit: UnitId, key: bytes, value: bytes | None, floors: dict[bytes, Acked]) -> None:
        self.is_lost = False
        """The only replica lost its disk meanwhile: an acknowledgement on its way is of what is gone."""
        self.losses = 0
        self.restarts = 0
        self.kind = kind
        self.unit = unit
        self.key = key
        self.value = value
        self.floors = floors


class Checker:
    """Everything acknowledged so far, and every rule broken."""

    def __init__(self, memory: Collection[UnitId] = (), *, evicts: bool = False) -> None:
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self._memory = frozenset(memory)
        self._evicts = evicts
        """Units in memory forget what they have no room for: a scan may miss it, and a read finds something newer."""
        self._empties: dict[UnitId, list[Version]] = {unit: [] for unit in memory}
        """Floors with which replicas of a unit in memory started empty, in order."""
        self._restarts = 0
        self.acked: dict[Place, Acked] = {}
        """Highest acknowledged write of each key."""
        self._values: dict[tuple[UnitId, bytes, Version], bytes | None] = {}
        self._deletes: Counter[Place] = Counter()
        """Deletes begun of each key, acknowledged or not."""
        self._freed: dict[Place, Version] = {}
        """The highest tombstone freed of each key."""
        self._open: dict[int, OpenRequest] = {}
        self._records: dict[Epoch, bytes] = {}
        self._epochs: dict[str, Epoch] = {}
        self._before: dict[Epoch, Epoch] = {}
        """The record whose content each record was made from."""
        self._adopters: dict[Epoch, dict[NodeId, None]] = {}
        self._effective: list[Epoch] = []

    def violate(self, text: str) -> None:
        """Note a broken rule."""
        if len(self.violations) < 20:
            self.violations.append(text)

    def begin(self, number: int, kind: str, unit: UnitId, key: bytes, value: bytes | None) -> None:
        """A client sends a request."""
        keys = [key] if kind != "scan" else [held for place, held in self.acked if place == unit]
        floors = {held: self.acked[unit, held] for held in keys if (unit, held) in self.acked}
        request = self._open[number] = OpenRequest(kind, unit, key, value, floors)
        request.losses = len(self._empties.get(unit, ()))
        request.restarts = self._restarts
        if kind == "write" and value is None:
            self._deletes[unit, key] += 1
        self.counts["operations"] += 1

    def restarted(self) -> None:
        """A node has lost its memory; its replicas are refilled before they count again."""
        self._restarts += 1

    def emptied(self, unit: UnitId, floor: Version) -> None:
        """A replica of a unit in memory started empty, below a floor."""
        self._empties[unit].append(floor)

    def forget(self, unit: UnitId) -> None:
        """The only replica of a unit lost its disk: what was acknowledged is gone, and nobody may ask for it."""
        self.acked = {place: acked for place, acked in self.acked.items() if place[0] != unit}
        for request in self._open.values():
            if request.unit == unit:
                request.floors, request.is_lost = {}, True
        self.counts["lost_for_good"] += 1

    def freed(self, unit: UnitId, entry: Entry) -> None:
        """A replica has freed a tombstone: from now on nothing at all may be read where it stood."""
        place = (unit, entry.key)
        held = self._freed.get(place)
        self._freed[place] = entry.version if held is None else max(held, entry.version)

    def _is_freed(self, place: Place, acked: Acked) -> bool:
        """True if a tombstone at least as new as the write has been freed."""
        freed = self._freed.get(place)
        return freed is not None and freed >= acked.version

    def _may_be_missing(self, unit: UnitId, acked: Acked) -> bool:
        """True if a replica of a cache has started empty since, or with a floor that is ahead of the write."""
        floors = self._empties.get(unit, [])
        return len(floors) > acked.losses or any(floor > acked.version for floor in floors)

    def _may_be_back(self, unit: UnitId, acked: Acked, entry: Entry) -> bool:
        """True if what was lost had been written by a clock ahead of the one that set the floor."""
        return any(floor < entry.version for floor in self._empties.get(unit, ())[acked.losses :])

    def fail(self, number: int) -> None:
        """A request found no quorum in time; a write may have happened all the same."""
        request = self._open.pop(number, None)
        self.counts["failed_memory" if request is not None and request.unit in self._memory else "failed"] += 1

    def written(self, number: int, version: Version) -> None:
        """A write was acknowledged under a version."""
        request = self._open.pop(number)
        self.counts["acked"] += 1
        self._one_value(request.unit, request.key, version, request.value)
        is_memory = request.unit in self._memory
        if request.is_lost or (is_memory and request.restarts != self._restarts):
            self.counts["unjudged"] += 1
            return
        floor = request.floors.get(request.key)
        if floor is not None and version <= floor.version and not (is_memory and floor.restarts != self._restarts):
            self.violate(
                f"(c) write {number} of {request.key!r} got {version}, below {floor.version} acknowledged before it"
            )
        place = (request.unit, request.key)
        held = self.acked.get(place)
        if held is None or held.version < version:
            self.acked[place] = Acked(version, request.value, request.losses, request.restarts)

    def read(self, number: int, entry: Entry | None) -> None:
        """A quorum read was answered."""
        request = self._open.pop(number)
        self.counts["reads"] += 1
        if entry is not None:
            self._one_value(request.unit, request.key, entry.version, entry.value)
        self._judge(number, request, request.key, entry)

    def scanned(self, number: int, entries: list[Entry], *, is_whole: bool) -> None:
        """A verified scan was answered with live entries."""
        request = self._open.pop(number)
        self.counts["scans"] += 1
        found = {entry.key: entry for entry in entries}
        for key, entry in found.items():
            self._one_value(request.unit, key, entry.version, entry.value)
            self._judge(number, request, key, entry)
        if not is_whole:
            return
        for key, floor in request.floors.items():
            if self._may_be_missing(request.unit, floor) or (self._evicts and request.unit in self._memory):
                continue
            if key not in found and floor.value is not None and not self._deletes[request.unit, key]:
                self.violate(f"(a) scan {number} misses {key!r} of {floor.version}, which nobody deleted")

    def _judge(self, number: int, request: OpenRequest, key: bytes, entry: Entry | None) -> None:
        floor = request.floors.get(key)
        if floor is None or (entry is not None and entry.version >= floor.version):
            return
        is_miss = entry is None or entry.value is None
        is_memory = request.unit in self._memory
        # In memory one that started empty answers with its floor.
        is_nothing = entry is None or (is_miss and is_memory)
        if is_nothing and (self._is_freed((request.unit, key), floor) or (is_memory and floor.value is None)):
            return
        if is_miss and self._may_be_missing(request.unit, floor):
            self.counts["missed"] += 1
            return
        if entry is not None and self._may_be_back(request.unit, floor, entry):
            self.counts["back_by_clock"] += 1
            return
        letter = "(b) deleted and back" if floor.value is None else "(a) lost"
        got = None if entry is None else entry.version
        self.violate(
            f"{letter}: {request.kind} {number} of {key!r} in {request.unit} returns {got},"
            f" {floor.version} was acknowledged before"
        )

    def _one_value(self, unit: UnitId, key: bytes, version: Version, value: bytes | None) -> None:
        held = self._values.setdefault((unit, key, version), value)
        if held != value:
            self.violate(f"(d) {version} of {key!r} has two values")

    def adopted(self, node: str, epoch: Epoch, data: bytes) -> None:
        """A node works under a record; called at each boot too."""
        before = self._epochs.get(node)
        if before is not None and epoch < before:
            self.violate(f"(f) {node} went back from {before} to {epoch}")
        self._epochs[node] = epoch
        if self._records.setdefault(epoch, data) != data:
            self.violate(f"(f) two records with key {epoch}")

    def signed(self, epoch: Epoch, before: Epoch) -> None:
        """A record was written, from the content of another one."""
        self._before[epoch] = before

    def in_force(self, node: NodeId, placement: Placement, units: Sequence[UnitId]) -> None:
        """A node works under a record: judge whether requests can be acknowledged under it, and what that means."""
        epoch = placement.record.epoch
        adopters = self._adopters.setdefault(epoch, {})
        adopters[node] = None
        if epoch in self._effective or not any(_has_quorum(placement.sets(unit), adopters) for unit in units):
            return
        for other in self._effective:
            low, high = min(epoch, other), max(epoch, other)
            if low not in self._ancestors(high):
                self.violate(f"(e) {low} of {low.term.node} and {high} of {high.term.node} are two moves at once")
        self._effective.append(epoch)
        self.counts["effective"] += 1

    def _ancestors(self, epoch: Epoch) -> set[Epoch]:
        found: set[Epoch] = set()
        while epoch in self._before:
            epoch = self._before[epoch]
            found.add(epoch)
        return found

    def is_superseded(self, place: Place, entry: Entry | None) -> bool:
        """True if the entry is at least as new as every acknowledged write of its key, or its tombstone was freed."""
        held = self.acked.get(place)
        if held is None or (entry is None and self._is_freed(place, held)):
            return True
        return entry is not None and entry.version >= held.version


def _has_quorum(sets: UnitSets, adopters: Container[NodeId]) -> bool:
    """True if a request could be acknowledged: a majority of the set, of both in ``joint``, works under the record."""
    wanted = (sets.current, sets.next) if sets.phase == JOINT else (sets.current,)
    return all(count_in(nodes, adopters) >= majority(len(nodes)) for nodes in wanted)
