"""Freeing tombstones by agreement (rules 16 to 19): nothing is ever freed by its age alone.

Sans-I/O. Theory of operation. The first member of a unit's set leads. In a ``stable`` record it asks all members,
itself included, to *seal* the unit below G = its clock less `gc_min_age_s` (`memory_gc_min_age_s` of one in memory):
each takes no coordinator's write, hint or read repair below G from then on, durably, and answers a digest of what it
holds there. The door is closed before
the digest is taken, and whatever the digest covers is in the log before the answer leaves. If all digests are equal,
everybody holds the same below G and nobody can come to hold anything else; so each may free its tombstones there and
takes G as its *purge floor*: what all had and it does not have is dead. Otherwise leader and members exchange what
differs, and the unit has its turn again later.

One member that is down, incomplete, or whose clock is behind G stops this for its units, until it returns or is removed
(rule 19). Then tombstones pile up; `waits_for` names it, and since when. With the first member down nobody leads, which
costs nothing: its agreement would be needed anyway. The first one of the others that is up names it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from typing import NamedTuple

from balancer.placement import Placement
from balancer.record import STABLE
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.replication import Version
from frys_node.kernel.services.topology import UnitSets
from frys_node.replication.effects import Effect, Send
from frys_node.replication.messages import FloorsRecord, Purge, Purged, PurgeReply, Seal, Sealed
from frys_node.replication.unit import HeldUnit, UnitTable
from frys_node.replication.version import highest

ROUND_S = 5.0
"""A round that is not over after this is given up; the unit has its turn again."""

RESEND_S = 1.0
"""Members that have not answered are asked again after this."""

ROUNDS_MAX = 8
"""Units under way at a time at one leader."""

AGAIN_SHARE = 0.25
"""A unit has its next round after this share of that least age: each costs every member a pass over all it holds."""

AGAIN_MAX_S = 30.0
"""The same after a round that did not end in a purge, at most."""

UNITS_PER_TURN = 16
"""Units looked at in one turn."""

Sync = Callable[[UnitId, NodeId, Epoch, float], list[Effect]]
"""Begins an exchange: takes from a member what is newer there."""


class Wait(NamedTuple):
    """What waits for one member."""

    units: list[UnitId]
    since_unix_ms: int
    """Wall clock of the node that names it, when it first saw one of the units wait."""


def floor_at(wall_ms: int, min_age_s: float) -> Version:
    """Return the floor G of a round that begins now; the zero version if the clock is not that old."""
    return Version(max(0, wall_ms - int(min_age_s * 1_000)), 0, NodeId(""), 0)


class Round:
    """One unit's way to a purge."""

    __slots__ = (
        "answered",
        "epoch",
        "floor",
        "is_purging",
        "members",
        "purged",
        "request",
        "retry_s",
        "unit",
        "until_s",
    )

    def __init__(
        self, request: int, unit: UnitId, epoch: Epoch, members: tuple[NodeId, ...], floor: Version, now_s: float
    ) -> None:
        self.request = request
        self.unit = unit
        self.epoch = epoch
        self.members = members
        self.floor = floor
        self.purged: Version | None = None
        """The highest purge floor that any member has told."""
        self.answered: dict[NodeId, bytes] = {}
        """Digests while sealing; then who has purged."""
        self.is_purging = False
        self.retry_s = now_s + RESEND_S
        self.until_s = now_s + ROUND_S

    def message(self) -> Seal | Purge:
        """Return what members that have not answered are asked."""
        if self.is_purging:
            return Purge(self.epoch, self.unit, self.request, self.floor)
        return Seal(self.epoch, self.unit, self.request, self.floor, self.purged)

    def ask(self) -> list[Effect]:
        """Ask whoever has not answered."""
        message = self.message()
        return [Send(node, message) for node in self.members if node not in self.answered]


class Purger:
    """Both sides of the agreement at one node."""

    def __init__(
        self,
        node: NodeId,
        table: UnitTable,
        rng: Random,
        *,
        wall_ms: Callable[[], int],
        min_age_s: float,
        memory_min_age_s: float,
        interval_s: float,
        sync: Sync,
        is_usable: Callable[[NodeId], bool] = lambda _node: True,
    ) -> None:
        self.node = node
        self.freed_count = 0
        self.outcomes: Counter[str] = Counter()
        """Rounds led here, by how they ended: ``agreed``, ``differed`` or ``stopped``."""
        self._table = table
        self._wall_ms = wall_ms
        self._min_age_s = min_age_s
        self._memory_min_age_s = memory_min_age_s
        self._interval_s = interval_s
        self._sync = sync
        self._is_usable = is_usable
        self._next_request = rng.getrandbits(40) << 20
        self._placement: Placement | None = None
        self._rounds: dict[UnitId, Round] = {}
        self._turn: list[UnitId] = []
        self._not_before_s: dict[UnitId, float] = {}
        """When a unit may have its next round; set when one begins and when one has agreed."""
        self._turn_at_s = math.inf
        self.stopped: dict[UnitId, dict[NodeId, int]] = {}
        """Units with tombstones that are old enough and must stay, with the members that they wait for, each with the
        wall clock in milliseconds when that was seen first: units led here, and those that nobody leads."""

    def adopt(self, placement: Placement, now_s: float) -> None:
        """Work under a record from now on: rounds are bound to the one under which they began."""
        self._placement = placement
        self._rounds.clear()
        self._not_before_s.clear()
        # Another record brings nobody back who is down, and is a member still.
        kept = ((unit, self._members(unit), waits) for unit, waits in self.stopped.items())
        self.stopped = {
            unit: {node: at_ms for node, at_ms in waits.items() if node in members and not self._is_usable(node)}
            for unit, members, waits in kept
            if self.node in members
        }
        if self._turn_at_s == math.inf and self._interval_s < math.inf:
            self._turn_at_s = now_s + self._interval_s

    def _members(self, unit: UnitId) -> tuple[NodeId, ...]:
        placement = self._placement
        return placement.sets(unit).current if placement is not None and unit in placement else ()

    def waits_for(self) -> Mapping[NodeId, Wait]:
        """Return the members that stop the freeing of tombstones, each with what of it this node has to name.

        Of units that this node does not lead, it names only members that are down, and only while they are.
        """
        found: dict[NodeId, Wait] = {}
        for unit, waits in sorted(self.stopped.items()):
            leads = self._members(unit)[:1] == (self.node,)
            for node, since_ms in waits.items():
                if leads or node == self.node or not self._is_usable(node):
                    wait = found.setdefault(node, Wait([], since_ms))
                    wait.units.append(unit)
                    found[node] = wait._replace(since_unix_ms=min(wait.since_unix_ms, since_ms))
        return found

    # ------------------------------------------------------------------ the members' side

    def answer(self, source: NodeId, held: HeldUnit, message: Seal | Purge, now_s: float) -> list[Effect]:
        """Do what the leader asks of this member."""
        if isinstance(message, Seal):
            return self._seal(source, held, message, now_s)
        return self._purge(source, held, message, now_s)

    def _seal(self, source: NodeId, held: HeldUnit, message: Seal, now_s: float) -> list[Effect]:
        """Close the door below the floor durably, and say what lies there."""
        is_ready = held.complete and self._is_stable and message.floor.hlc_ms <= self._wall_ms()
        if not is_ready:
            return [Send(source, Sealed(message.epoch, message.unit, message.request, False))]
        held.raise_floors(message.floor, None)
        self._table.note_floor(held)
        digest, purged = held.digest_below(message.floor, message.purged), held.purge_floor
        answer = Sealed(message.epoch, message.unit, message.request, True, digest, purged)
        return self._persist(held, lambda _at_s: [Send(source, answer)], now_s)

    def _purge(self, source: NodeId, held: HeldUnit, message: Purge, now_s: float) -> list[Effect]:
        """Free what all agreed on; only a member that has sealed the unit there has agreed."""
        if not held.complete or not self._is_stable or not held.is_sealed_at(message.floor):
            return []
        self.freed_count += held.raise_floors(None, message.floor)
        answer = Purged(message.epoch, message.unit, message.request)
        return self._persist(held, lambda _at_s: [Send(source, answer)], now_s)

    def _persist(self, held: HeldUnit, then: Callable[[float], list[Effect]], now_s: float) -> list[Effect]:
        record = FloorsRecord(held.unit, held.write_floor, held.purge_floor)
        return self._table.persist(held, (record,), then, now_s)

    @property
    def _is_stable(self) -> bool:
        return self._placement is not None and self._placement.record.phase == STABLE

    # ------------------------------------------------------------------ the leader's side

    def receive(self, source: NodeId, reply: PurgeReply, now_s: float) -> list[Effect]:
        """Count an answer to a round that is under way."""
        found = self._rounds.get(reply.unit)
        if found is None or reply.request != found.request or source not in found.members:
            return []
        if isinstance(reply, Purged):
            if found.is_purging:
                found.answered[source] = b""
                self._end_if_all(found)
            return []
        if found.is_purging or not reply.is_ready:
            return []
        known = highest(found.purged, reply.purge_floor)
        if known != found.purged:
            # Some have freed tombstones that others still hold: compare without them.
            found.purged = known
            found.answered.clear()
            self._next_request += 1
            found.request = self._next_request
            return found.ask()
        found.answered[source] = reply.digest
        return self._compare(found, now_s) if len(found.answered) == len(found.members) else []

    def _compare(self, found: Round, now_s: float) -> list[Effect]:
        self.stopped.pop(found.unit, None)
        mine = found.answered.get(self.node)
        others = [node for node, digest in found.answered.items() if digest != mine]
        if not others:
            found.is_purging = True
            found.answered.clear()
            self.outcomes["agreed"] += 1
            self._not_before_s[found.unit] = now_s + AGAIN_SHARE * self._age_s(found.unit)
            return found.ask()
        self.outcomes["differed"] += 1
        del self._rounds[found.unit]
        effects: list[Effect] = []
        for node in others:
            effects += self._sync(found.unit, node, found.epoch, now_s)
        return effects

    def _end_if_all(self, found: Round) -> None:
        if len(found.answered) == len(found.members):
            del self._rounds[found.unit]

    # ------------------------------------------------------------------ time

    @property
    def next_deadline_s(self) -> float:
        """When `advance` has something to do."""
        rounds = (min(found.retry_s, found.until_s) for found in self._rounds.values())
        return min(self._turn_at_s, *rounds) if self._rounds else self._turn_at_s

    def soon(self, now_s: float) -> None:
        """Take the next turn at once."""
        self._turn_at_s = now_s

    def advance(self, now_s: float) -> list[Effect]:
        """Ask silent members again, give up, and begin rounds for the next units."""
        effects: list[Effect] = []
        for found in list(self._rounds.values()):
            if now_s >= found.until_s:
                self._give_up(found)
            elif now_s >= found.retry_s:
                found.retry_s = now_s + RESEND_S
                effects += found.ask()
        if now_s >= self._turn_at_s:
            self._turn_at_s = now_s + self._interval_s
            effects += self._take_turn(now_s)
        return effects

    def _give_up(self, found: Round) -> None:
        del self._rounds[found.unit]
        if not found.is_purging:
            self.outcomes["stopped"] += 1
            self._note_stopped(found.unit, [node for node in found.members if node not in found.answered])

    def _note_stopped(self, unit: UnitId, nodes: list[NodeId]) -> None:
        before, now_ms = self.stopped.get(unit, {}), self._wall_ms()
        self.stopped[unit] = {node: before.get(node, now_ms) for node in nodes}

    def _take_turn(self, now_s: float) -> list[Effect]:
        if not self._is_stable:
            return []
        effects: list[Effect] = []
        wall_ms = self._wall_ms()
        self._turn = self._turn or list(self._table.units)
        for _ in range(min(UNITS_PER_TURN, len(self._turn))):
            if len(self._rounds) >= ROUNDS_MAX:
                break
            effects += self._begin(self._turn.pop(), wall_ms, now_s)
        return effects

    def _age_s(self, unit: UnitId) -> float:
        """Return the age below which tombstones of a unit are kept."""
        held = self._table.units.get(unit)
        return self._memory_min_age_s if held is not None and not held.durable else self._min_age_s

    def _missing(self, held: HeldUnit, sets: UnitSets) -> list[NodeId]:
        """Return whom a unit without a leader waits for, if this node is the one to say so; else nobody."""
        up = [node for node in sets.current if node == self.node or self._is_usable(node)]
        if up[:1] != [self.node]:
            return []
        missing = [node for node in sets.current if node != self.node and not self._is_usable(node)]
        return missing if held.complete else [self.node, *missing]

    def _begin(self, unit: UnitId, wall_ms: int, now_s: float) -> list[Effect]:
        """Begin a round if this node leads the unit and has something to free."""
        held, placement = self._table.units.get(unit), self._placement
        if held is None or placement is None or unit not in placement or unit in self._rounds:
            return []
        sets = placement.sets(unit)
        leads = sets.current[:1] == (self.node,) and held.complete
        missing = [] if leads else self._missing(held, sets)
        if not leads and not missing:
            self.stopped.pop(unit, None)
            return []
        if now_s < self._not_before_s.get(unit, 0.0):
            return []
        floor = floor_at(wall_ms, self._age_s(unit))
        if not held.tombstones_below(floor):
            self.stopped.pop(unit, None)
            return []
        self._not_before_s[unit] = now_s + min(AGAIN_SHARE * self._age_s(unit), AGAIN_MAX_S)
        if not leads:
            self._note_stopped(unit, missing)
            return []
        self._next_request += 1
        found = self._rounds[unit] = Round(self._next_request, unit, sets.epoch, sets.current, floor, now_s)
        found.purged = held.purge_floor
        return found.ask()
