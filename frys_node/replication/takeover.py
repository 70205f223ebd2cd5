"""What is taken over of one unit, from which sources, and when enough of them have been pulled to the end.

Sans-I/O. A takeover is finished when enough sources are done and everything taken is durable. It is bound to the record
under which it began (rule 15).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random

from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.replication import Version
from frys_node.replication.effects import Effect
from frys_node.replication.evictions import Listing
from frys_node.replication.pull import Purpose
from frys_node.replication.unit import HeldUnit

QUIET_S = 1.0
"""A refill is given up only when every source was asked and nothing came from any for so long."""


class Takeover:
    """One unit's takeover from several sources."""

    __slots__ = (
        "done",
        "epoch",
        "heard_s",
        "known",
        "listings",
        "needed",
        "purge_floor",
        "purpose",
        "reserve",
        "rounds",
        "silent",
        "sources",
        "started_s",
        "then",
        "unasked",
        "unit",
        "wants_all",
        "write_floor",
    )

    def __init__(
        self,
        unit: UnitId,
        *,
        epoch: Epoch,
        purpose: Purpose,
        sources: tuple[NodeId, ...],
        needed: int,
        then: Callable[[float], list[Effect]],
        started_s: float,
        wants_all: bool = False,
    ) -> None:
        self.unit = unit
        self.epoch = epoch
        self.purpose = purpose
        self.sources = sources
        self.needed = needed
        self.wants_all = wants_all
        """It also waits for the sources beyond the needed ones, unless they look down or have nothing to say."""
        self.silent: set[NodeId] = set()
        """Sources that have left a question without an answer, or have no data."""
        self.then = then
        self.started_s = started_s
        self.known: dict[bytes, Version] = {}
        """What was written here early and is at a source as well."""
        self.rounds = 1
        self.done: set[NodeId] = set()
        self.unasked = set(sources)
        self.reserve: deque[NodeId] = deque()
        """Sources that are asked only when one of those that were asked has nothing to say."""
        self.write_floor: Version | None = None
        self.purge_floor: Version | None = None
        """The highest floors of the sources that are done: they come into force together with the data (rule 18)."""
        self.listings: dict[NodeId, Listing] = {}
        """What the sources that are done hold, of a unit whose store evicts."""
        self.heard_s = started_s
        """When a source was asked for the first time, or gave something, last."""

    def hand_over(self, held: HeldUnit) -> None:
        """The unit is complete: the sources' floors come into force with the data, and what they say is gone goes."""
        held.raise_floors(self.write_floor, self.purge_floor)
        held.drop_strays(self.known)
        held.forget_evicted(self.listings.values())

    def first_asked(self, rng: Random, is_usable: Callable[[NodeId], bool]) -> Sequence[NodeId]:
        """Return the sources to ask now.

        A copy, and the pass of a member that stays, ask as many as they need, of those that look usable at random: a
        third one would do the same work for nothing, on a node that has requests to serve. A newcomer's pass asks all,
        and after a restart, when nobody knows who is there, all are asked.
        """
        if self.wants_all or self.purpose not in (Purpose.BULK, Purpose.FENCED):
            return self.sources
        order = sorted(rng.sample(self.sources, len(self.sources)), key=is_usable, reverse=True)
        self.reserve = deque(order[self.needed :])
        return order[: self.needed]

    def instead_of(self, source: NodeId) -> NodeId:
        """Return the source to copy from when one is silent: the next, and that one again after all others."""
        self.reserve.append(source)
        return self.reserve.popleft()

    def is_finished(self, is_usable: Callable[[NodeId], bool]) -> bool:
        """True if enough sources are done: the needed ones, and whoever else is wanted and there.

        A write that one member alone acknowledged is at that member, and a move should not lose it (rule 10).
        """
        if len(self.done) < self.needed:
            return False
        missing = set(self.sources) - self.done - self.silent if self.wants_all else ()
        return not any(is_usable(node) for node in missing)

    def begin_again(self) -> None:
        """Ask every source once more; what was taken, and what is known, stays."""
        self.rounds += 1
        self.done.clear()
        self.silent.clear()
        self.unasked = set(self.sources)

    def is_hopeless(self, now_s: float) -> bool:
        """True if every source was asked, and none has anything to give or finishes giving it."""
        return not self.unasked and self.heard_s <= now_s - QUIET_S
