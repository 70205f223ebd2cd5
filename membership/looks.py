"""Looks at the ports of suspects, by those who stand beyond their watchers.

Sans-I/O. A stopped process whose watchers have all lost their connections, and cannot dial it either, has nobody who
could tell it from a dead one. Its helpers can: while a suspicion runs they look at its port, and one that accepts and
holds a connection, and leaves a greeting unanswered, has a kernel that does so for a process. They vouch for it then,
as a watcher does: it is stalled. Somebody else who answers is neither evidence nor life. A refused look is no evidence;
whoever lost a lifeline asks for that by itself (`membership.evidence`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from frys_node.base.types import NodeId
from membership.circle import HELPERS
from membership.claims import Claims
from membership.config import MembershipConfig
from membership.effects import TryPort
from membership.findings import PortState
from membership.outbox import Outbox
from membership.testimony import Vouch, VouchKind

LOOK_INTERVAL_S = 2.0
"""How often a suspect's port is looked at. Well below the time for which a voucher counts."""

PATIENCE_S = 0.3
"""How long a process that runs may take to answer a greeting."""


class Looks:
    """What one node does for suspects that it does not watch."""

    __slots__ = (
        "_asked",
        "_claims",
        "_config",
        "_due_s",
        "_helped",
        "_outbox",
        "_testify",
        "_version",
        "next_deadline_s",
    )

    def __init__(
        self, claims: Claims, outbox: Outbox, config: MembershipConfig, testify: Callable[[Vouch, float], None]
    ) -> None:
        """`testify` spreads a vouch and takes it into this node's own account."""
        self._claims = claims
        self._outbox = outbox
        self._config = config
        self._testify = testify
        self._helped: list[NodeId] = []
        """Whom this node is a helper of."""
        self._version = -1
        self._due_s: dict[NodeId, float] = {}
        """When each of them that is suspect is looked at next."""
        self._asked: dict[NodeId, int] = {}
        """Boots of those that are being looked at."""
        self.next_deadline_s = math.inf
        """When `advance` must be called next."""

    def turn(self, now_s: float) -> None:
        """Follow the circle, and who of it is suspect."""
        claims, circle, count = self._claims, self._claims.table.circle, self._config.watchers
        if self._version != circle.version:
            self._version = circle.version
            self._helped = circle.before(claims.node, count + HELPERS)[count:] if count else []
        if not self._due_s and not claims.suspicions:
            return
        is_on = self._config.crash_evidence != "off" and not claims.is_leaving
        suspects = [node for node in self._helped if is_on and claims.suspicions.get(node) is not None]
        first_s = now_s + claims.suspicions.floors().gone_s / 2
        # A refutation comes in less; and nobody dies of silence in less.
        self._due_s = {node: self._due_s.get(node, first_s) for node in suspects}
        self.next_deadline_s = min(self._due_s.values(), default=math.inf)

    def advance(self, now_s: float) -> None:
        """Look at those who are due."""
        if self.next_deadline_s > now_s:
            return
        for node, due_s in self._due_s.items():
            member = self._claims.table.get(node)
            if due_s <= now_s and member is not None:
                self._due_s[node] = now_s + LOOK_INTERVAL_S
                self._asked[node] = member.update.boot
                self._claims.out.append(TryPort(node, member.update.boot, member.address, PATIENCE_S))
        self.next_deadline_s = min(self._due_s.values(), default=math.inf)

    def tried(self, node: NodeId, boot: int, state: PortState, now_s: float) -> bool:
        """Take what a port did; True if it was this node's look, and means nothing to anybody else."""
        if self._asked.get(node) != boot:
            return False
        del self._asked[node]
        claims = self._claims
        member, suspicion = claims.table.get(node), claims.suspicions.get(node)
        if (
            state in (PortState.OPEN, PortState.GREETED)
            and member is not None
            and suspicion is not None
            and suspicion.boot == boot
            and not member.has_stopped
            and not claims.table.has_other_at(member)
        ):
            claims.tallies.add(claims.tallies.events, "vouch_port")
            word = self._outbox.next_word()
            vouch = Vouch(node, boot, suspicion.incarnation, claims.node, VouchKind.KERNEL_ACK, word)
            self._testify(vouch, now_s)
        return True
