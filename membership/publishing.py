"""What one node publishes of its members: changes, unless the member flaps, and how each does.

Sans-I/O. Events go into the turn's effects. What damping holds back is published when the member has come to rest, and
a condition, some of whose reasons pass with time, at the end of the turn in which it is another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from frys_node.kernel.services.members import Condition, MemberChanged, MemberView
from membership.conditions import Conditions, condition_of
from membership.damping import Damping
from membership.effects import Emit
from membership.story import Entry

if TYPE_CHECKING:
    from membership.claims import Claims


class Publishing:
    """The publisher of one node."""

    __slots__ = ("_claims", "conditions", "damping")

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self.conditions = Conditions()
        self.damping = Damping()

    def publish(self, old: MemberView | None, new: MemberView, now_s: float) -> None:
        """Hand out a change; what a flapping member does is not for subscribers."""
        claims, damping = self._claims, self.damping
        was_damped = damping.is_damped(new.id)
        is_turn = old is None or old.status is not new.status
        old, is_damped = damping.observe(old, new, now_s)
        claims.out.append(Emit(MemberChanged(old=old, new=new), is_damped, is_turn))
        if is_damped:
            claims.tallies.add(claims.tallies.events, "change_damped")
        if damping.is_damped(new.id) and not was_damped:
            claims.tallies.add(claims.tallies.events, "damped")
            claims.tell(new.id, Entry(now_s, "flaps"))
            self.conditions.touch(new.id)

    def release(self, now_s: float) -> None:
        """Publish what was held back of members that have come to rest."""
        claims = self._claims
        for node, known in self.damping.release(now_s):
            member = claims.table.get(node)
            if member is None:
                continue
            new = claims.view(member.update, member)
            if known is not None and (known.status, known.incarnation, known.boot, known.tags) != (
                new.status,
                new.incarnation,
                new.boot,
                new.tags,
            ):
                claims.out.append(Emit(MemberChanged(old=known, new=new)))
            self.conditions.touch(node)

    def settle(self) -> None:
        """Publish what has changed about how members do; with the last voucher's time a stall ends without a word."""
        claims = self._claims
        if not self.conditions:
            return
        for node in self.conditions.watched():
            member = claims.table.get(node)
            new = Condition.OK if member is None else condition_of(claims, member)
            old = self.conditions.settle(node, new)
            if member is None or old is new:
                continue
            if member.is_live:
                claims.tell(node, Entry(claims.now_s, new.value, detail=f"was {old.value}"))
            view = claims.view(member.update, member)
            claims.out.append(Emit(MemberChanged(old=replace(view, condition=old), new=view)))
