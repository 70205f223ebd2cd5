"""Whom to probe next, and how one probe goes.

Sans-I/O. Members are probed in a shuffled round robin, so that each is probed once per round and first detection is
bounded by 2n - 1 intervals (SWIM, section 4.3). One probe runs at a time: direct ping, after the ack timeout k helpers,
at the end of the interval a verdict.
"""

from __future__ import annotations

import random

from frys_node.base.types import NodeId
from membership.messages import Accusation, NackReason
from membership.table import Roster


class ProbeOrder:
    """The shuffled round robin."""

    __slots__ = ("_pending", "_rng")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._pending: list[NodeId] = []
        """Nodes not yet probed in this round; the last one is next."""

    def add(self, node: NodeId) -> None:
        """Place a newcomer at random among those still to come: hearsay is verified within this round."""
        self._pending.insert(self._rng.randint(0, len(self._pending)), node)

    def next(self, live: Roster) -> NodeId | None:
        """Return the next live node, None if there is none."""
        while self._pending:
            node = self._pending.pop()
            if node in live:
                return node
        self._pending = list(live)
        self._rng.shuffle(self._pending)
        return self._pending.pop() if self._pending else None


class Probe:
    """One check of one member."""

    __slots__ = (
        "_accusations",
        "ack_due_s",
        "asked",
        "identity",
        "is_acked",
        "is_helped",
        "is_refused",
        "nacks",
        "node",
        "sequence",
        "started_s",
    )

    def __init__(
        self, node: NodeId, identity: tuple[int, int], sequence: int, now_s: float, ack_timeout_s: float
    ) -> None:
        self.node = node
        self.identity = identity
        """Boot and incarnation that are probed: silence says nothing about any later ones."""
        self.sequence = sequence
        self.started_s = now_s
        self.ack_due_s = now_s + ack_timeout_s
        """When the helpers are asked; infinite once that is done or not needed."""
        self.asked: list[NodeId] = []
        self.nacks: dict[NodeId, NackReason] = {}
        """Helpers that said why they got no answer either."""
        self._accusations: dict[NodeId, Accusation] = {}
        self.is_acked = False
        self.is_helped = False
        """True if a helper brought the ack."""
        self.is_refused = False
        """True if this node's own system refused to send it."""

    def nack(self, helper: NodeId, reason: NackReason, accusation: Accusation | None) -> None:
        """Note that a helper that was asked got no answer either, and whether it accuses the member of that."""
        if helper in self.asked and helper not in self.nacks:
            self.nacks[helper] = reason
            # If its own way out was the reason, its nack says nothing about the member.
            if accusation is not None and reason is not NackReason.UNREACHABLE:
                self._accusations[helper] = accusation

    @property
    def accusations(self) -> list[Accusation]:
        """What helpers accuse the member of."""
        return list(self._accusations.values())


class Relay:
    """An indirect ping that this node makes for another one."""

    __slots__ = ("asker", "asker_sequence", "due_s", "target")

    def __init__(self, asker: NodeId, asker_sequence: int, target: NodeId, due_s: float) -> None:
        self.asker = asker
        self.asker_sequence = asker_sequence
        self.target = target
        self.due_s = due_s
