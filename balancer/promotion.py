"""Taking over the writing of the record: a term above all known, promises of a majority, the highest record they hold.

Sans-I/O. Rules 20 to 22. A promise is durable and refuses *adoption* under lower terms; service under the record that
is held goes on. The survey is done when, for the highest record returned, a majority of the old and of the new set of
every replicated unit has promised, and a majority of the members of either ring; a higher record in a later answer
means to count again. Then nothing that the old issuer signs can be finished any more: each of its steps needs a fence
that meets those promises. A refusal by a higher promise carries it, and the next try goes above it.

In ``joining`` the new sets need not promise: a majority of the old ones meets every fence that ``joint`` would need, so
nothing later can be in force unseen, and a newcomer that died with the issuer does not stand in the way.

Units with one owner (workflow partitions) cannot be asked for by majority, as their owner may be the dead issuer. Only
a node that is being given one, in ``joint``, may serve under a record that nobody else has seen, so it must promise.
"""

from __future__ import annotations

from collections.abc import Collection, Container

import msgspec

from balancer.placement import Placement, majority
from balancer.record import JOINT, STABLE, TopologyRecord, aborted, taken_over
from balancer.spread import RingMember
from balancer.work import MOVED_KINDS, kind_of
from frys_node.base.types import NodeId, Term, UnitId

ASK_AGAIN_S = 0.5
"""Pause before a node that has not answered is asked again."""


STAND_BACK_S = 2.0
"""A node that promised a higher term to another one lets it finish for one to two times so long."""


class Promotion:
    """One node's try to become the issuer."""

    def __init__(self, node: NodeId, above: Term | None, now_s: float) -> None:
        self.node = node
        self.term = Term(1 if above is None else above.number + 1, node)
        self.record: TopologyRecord | None = None
        """The highest record that was returned."""
        self.promised: dict[NodeId, None] = {}
        self.ask_at_s = now_s
        self.is_signed = False
        """True once the survey's record was signed: a later answer must not make a second one with the same key."""
        self._placement: Placement | None = None

    def raise_above(self, term: Term, now_s: float) -> None:
        """A node has promised more to somebody else: begin anew above that."""
        if term >= self.term:
            self.term = Term(term.number + 1, self.node)
            self.promised.clear()
            self.is_signed = False
            self.ask_at_s = now_s

    def see(self, placement: Placement) -> None:
        """Take a record that a node holds; the sets to count in are those of the highest."""
        if self.record is None or placement.record.epoch > self.record.epoch:
            self._placement, self.record = placement, placement.record

    def take(self, node: NodeId, term: Term) -> None:
        """Count a durable promise; one for an earlier try says nothing."""
        if term == self.term:
            self.promised[node] = None

    def unasked(self, known: Collection[NodeId]) -> list[NodeId]:
        """Return the nodes to ask: members by the highest record, and whoever else may hold a higher one."""
        members = () if self.record is None else self.record.members()
        return [node for node in sorted({*known, *members}) if node not in self.promised]

    @property
    def silent(self) -> list[NodeId]:
        """Members of the highest record that have not promised."""
        return [node for node in self.record.members() if node not in self.promised] if self.record else []

    def missing(self) -> list[str]:
        """Say what a majority is missing of; empty when the survey is done."""
        if self._placement is None:
            return ["no node has answered with a record"]
        record = self._placement.record
        rings = [record.ring, record.next_ring] if record.phase == JOINT else [record.ring]
        found = [
            f"the members: {count_in(ring, self.promised)} of {len(ring)} have promised"
            for ring in dict.fromkeys(voters(ring, record.lost) for ring in rings)
            if count_in(ring, self.promised) < majority(len(ring))
        ]
        return found + [f"{unit}: too few of its members have promised" for unit in self.open_units()]

    def open_units(self) -> list[UnitId]:
        """Return the units of which too few members have promised."""
        assert self._placement is not None
        is_joint = self._placement.record.phase == JOINT
        found = []
        for unit in self._placement.units():
            sets = self._placement.sets(unit)
            if kind_of(unit) in MOVED_KINDS:
                is_short = is_joint and sets.next != sets.current and sets.next[0] not in self.promised
            else:
                asked = (sets.current, sets.next) if is_joint else (sets.current,)
                is_short = any(nodes and count_in(nodes, self.promised) < majority(len(nodes)) for nodes in asked)
            if is_short:
                found.append(unit)
        return found

    def outcome(self) -> TopologyRecord:
        """Return the record to sign: the content of the highest one under the new term."""
        assert self.record is not None
        return taken_over(self.record, self.term)

    def forced(self) -> TopologyRecord:
        """Return the record to sign when every silent member is destroyed and its data given up (rule 22)."""
        assert self.record is not None
        base = self.record if self.record.phase == STABLE else aborted(self.record)
        silent = tuple(self.silent)
        lost = tuple(dict.fromkeys((*base.lost, *(m.node for m in base.ring if m.node in silent))))
        removed = tuple(dict.fromkeys((*base.removed, *silent)))
        return taken_over(msgspec.structs.replace(base, lost=lost, removed=removed), self.term)


def voters(ring: Collection[RingMember], lost: Container[NodeId]) -> tuple[NodeId, ...]:
    """Return the members of a ring whose adoption counts: not those that only wait for their disk, nor the lost."""
    return tuple(member.node for member in ring if member.weight and member.node not in lost)


def count_in(members: Collection[NodeId], found: Container[NodeId]) -> int:
    """Return how many of the members are among the found."""
    return sum(1 for member in members if member in found)


def highest(*terms: Term | None) -> Term | None:
    """Return the highest of some terms, None if there is none."""
    return max((term for term in terms if term is not None), default=None)
