"""When a durable record comes into force: on all members at once, as nearly as messages allow.

Sans-I/O. Theory of operation. Between the first and the last adoption of a record no write has a quorum, since nodes
under different records refuse one another. How far these lie apart is how much the members differ in writing the
record and placing the units: on a busy machine a tenth of a second. So a record is adopted in two steps. The issuer
sends it out as soon as its register holds it. Each member makes it durable, places the units, tells the issuer
`RecordReady`, and waits. Once all usable members are ready, or `HOLD_S` after it is ready itself, the issuer says
`RecordGo` and adopts the record; a member adopts it when told so, when anybody shows that he has adopted it, or after
`WAIT_S`.

Safety does not rest on any of this: to the others a node that waits is one with a slow disk, and one that does not
wait has a fast one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from frys_node.base.types import Epoch, NodeId

HOLD_S = 0.15
"""How long the issuer, ready itself, waits for members that are usable and not ready."""

WAIT_S = 0.5
"""How long a member that is ready waits for the issuer: its write, its hold, and the way."""


class Unison:
    """What a node knows of the record that is about to come into force."""

    __slots__ = ("_adopted", "_epoch", "_unready")

    def __init__(self) -> None:
        self._epoch: Epoch | None = None
        self._unready: set[NodeId] = set()
        self._adopted: Epoch | None = None

    def sent(self, epoch: Epoch, members: Collection[NodeId]) -> None:
        """At the issuer: the record went out to these members, whose word is waited for."""
        self._epoch = epoch
        self._unready = set(members)

    def ready(self, node: NodeId, epoch: Epoch) -> None:
        """At the issuer: a member could adopt that record at once; of another one it says nothing."""
        if epoch == self._epoch:
            self._unready.discard(node)

    def is_ready(self, epoch: Epoch, is_usable: Callable[[NodeId], bool]) -> bool:
        """At the issuer: True if nobody usable has to be waited for; a record that it did not send waits for none."""
        return epoch != self._epoch or not any(is_usable(node) for node in self._unready)

    def go(self, epoch: Epoch) -> None:
        """Somebody has adopted this record: there is nothing to wait for with it, or with any before it."""
        if self._adopted is None or epoch > self._adopted:
            self._adopted = epoch

    def may_adopt(self, epoch: Epoch) -> bool:
        """At a member: True if somebody is known to have adopted that record or a later one."""
        return self._adopted is not None and epoch <= self._adopted
