"""Which members' conditions are not, or may no longer be, what was last published of them.

Sans-I/O. A condition follows from several facts, some of which pass with time. Only the few members for which there is
such a fact are looked at in each turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Condition
from membership.edges import EDGE_TTL_S, EdgeKind
from membership.suspicion import VETO_S
from membership.testimony import VouchKind

if TYPE_CHECKING:
    from membership.claims import Claims
    from membership.member import Member


class Conditions:
    """The last published condition of every member that is not ok, and of those that may have changed."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[NodeId, Condition] = {}

    def __len__(self) -> int:
        return len(self._known)

    def touch(self, node: NodeId) -> None:
        """Look at a member at the end of this turn."""
        self._known.setdefault(node, Condition.OK)

    def watched(self) -> tuple[NodeId, ...]:
        """Return whom to look at."""
        return tuple(self._known)

    def of(self, node: NodeId) -> Condition:
        """Return what was last published of a member."""
        return self._known.get(node, Condition.OK)

    def settle(self, node: NodeId, condition: Condition) -> Condition:
        """Take what a member's condition is now; returns what it was."""
        old = self._known.pop(node, Condition.OK)
        if condition is not Condition.OK:
            self._known[node] = condition
        return old


def condition_of(claims: Claims, member: Member) -> Condition:
    """Return how well a member does, as one node knows it: what speaks against it most comes first."""
    node, now_s = member.node, claims.now_s
    if node == claims.node and claims.is_isolated:
        return Condition.ISOLATED
    if not member.is_live:
        return Condition.OK
    if now_s - claims.suspicions.vouched_at_s(node, VouchKind.KERNEL_ACK) < VETO_S:
        return Condition.STALLED
    has_no_channel = now_s - claims.suspicions.vouched_at_s(node, VouchKind.DATAGRAM) < VETO_S
    is_degraded = has_no_channel or claims.damping.is_damped(node) or _is_hard_to_reach(claims, node)
    if is_degraded or claims.refusals.since_s(node, now_s) is not None:
        return Condition.DEGRADED
    return Condition.SLOW if member.vitals.is_slow else Condition.OK


def _is_hard_to_reach(claims: Claims, node: NodeId) -> bool:
    """True if more than half of those who probe or watch a member get no answer from it although it lives."""
    if not claims.edges:
        return False
    others = len(claims.table.live)
    probers = min(others, max(1, int(EDGE_TTL_S / claims.config.probe_interval_s)))
    watchers = claims.watchers(node)
    return probers < 2 * claims.edges.count_to(node, claims.now_s) < 2 * others or any(
        claims.edges.is_found_so(node, kind, watchers, claims.now_s)
        for kind in (EdgeKind.PACKETS_ALONE, EdgeKind.CONNECTIONS)
    )
