"""What one node believes of the others, and how a claim changes it.

Sans-I/O. `Claims` joins the table, the running suspicions and the piggyback queue: whatever wins in the table is passed
on, published and, where it matters for the next start, remembered. It never sends by itself.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from msgspec.structs import replace

from frys_node.base.errors import NotFound
from frys_node.base.types import NodeId
from frys_node.kernel.services.members import MemberChanged, MemberView
from membership.config import MembershipConfig
from membership.dissemination import Dissemination
from membership.effects import Effect, Emit, Superseded, Tallies
from membership.member import Member, is_acceptable, view_of
from membership.messages import Attributes, Standing, Update
from membership.peers import Unmet
from membership.probe import ProbeOrder
from membership.suspicion import Suspicion, suspicion_floor_s
from membership.table import Merge, Table

HEADER_BYTES_MAX = 160
"""Room kept in every packet for what is not an update."""


class Claims:
    """The beliefs of one node."""

    def __init__(
        self,
        *,
        node: NodeId,
        boot: int,
        attributes: Attributes,
        config: MembershipConfig,
        rng: random.Random,
        now_s: float,
        unix_offset_ns: int,
    ) -> None:
        self.node = node
        self.boot = boot
        self.tallies = Tallies()
        self.table = Table(node)
        self.queue = Dissemination(config.payload_bytes_max - HEADER_BYTES_MAX)
        self.order = ProbeOrder(rng)
        self.unmet = Unmet()
        self.is_leaving = False
        self.is_peers_changed = False
        self.out: list[Effect] = []
        """Effects of this turn, in order; the machine hands them out."""
        self._config = config
        self._unix_offset_ns = unix_offset_ns
        self.suspicions: dict[NodeId, Suspicion] = {}
        """Running suspicions of other members."""
        self._superseded_by = boot
        self.table.merge(Update(node, boot, 0, Standing.ALIVE, attributes), now_s)

    def take(self, update: Update, now_s: float) -> bool:
        """Settle one claim from another member; True if it brought a dead or departed member back."""
        if not is_acceptable(update):
            self._drop("unacceptable")
            return False
        if update.node == self.node:
            self._answer(update, now_s)
            return False
        member = self.table.get(update.node)
        if member is None and not self._is_welcome(update):
            return False
        if member is not None and update.standing is Standing.SUSPECT:
            held = member.update
            if (held.boot, held.incarnation, held.standing) == (update.boot, update.incarnation, update.standing):
                self._confirm(member, update.accuser)
                return False
        was_live = member is None or member.is_live
        merge = self.merge(update, now_s)
        if merge is None or was_live or not merge.member.is_live:
            return False
        self.tallies.add(self.tallies.events, "returned")
        return True

    def _is_welcome(self, update: Update) -> bool:
        """True if an unknown node may enter the table."""
        reap_s = self._reap_after_s(update.standing)
        if update.age_s >= reap_s:
            return False
        if len(self.table) >= self._config.members_max:
            self._drop("table_full")
            return False
        return True

    def _answer(self, update: Update, now_s: float) -> None:
        """Answer a claim about this node: whatever is not what it says of itself is refuted."""
        own = self.own
        if update.boot > self._superseded_by:
            self._superseded_by = update.boot
            self.out.append(Superseded(update.boot))
        if update.boot > self.boot or self.is_leaving:
            return
        if (update.boot, update.incarnation) < (own.boot, own.incarnation):
            if update.standing > Standing.ALIVE:
                # Refuted long ago, but whoever says it has not heard: two sides of a partition would stay apart.
                self.queue.put(own)
            return
        if update.standing is Standing.ALIVE and update.incarnation == own.incarnation:
            return
        self.tallies.add(self.tallies.events, "refutation")
        self.merge(replace(own, incarnation=update.incarnation + 1), now_s)

    def merge(self, update: Update, now_s: float) -> Merge | None:
        """Put a claim into the table and, if it won, tell everybody: members, subscribers, disk."""
        merge = self.table.merge(update, now_s)
        if merge is None:
            return None
        old, member = merge
        update = member.update
        node = update.node
        self.queue.put(update)
        if node != self.node:
            self.unmet.met(node, member.address)
            self._track_suspicion(update, now_s)
            if member.is_live and (old is None or old.standing >= Standing.DEAD):
                self.order.add(node)
            if old is not None and old.boot < update.boot:
                self.tallies.add(self.tallies.events, "restarted")
                member.vitals = type(member.vitals)()
            if old is None or old.attributes != update.attributes or old.standing != update.standing:
                self.is_peers_changed = True
        old_view = None if old is None else self.view(old, member)
        self.out.append(Emit(MemberChanged(old=old_view, new=self.view(update, member))))
        return merge

    def _track_suspicion(self, update: Update, now_s: float) -> None:
        """Start, restart or end the suspicion that goes with a claim."""
        if update.standing is not Standing.SUSPECT:
            self.suspicions.pop(update.node, None)
            return
        config = self._config
        floor_s = suspicion_floor_s(config.suspicion_multiplier, len(self.table.live) + 1, config.probe_interval_s)
        self.suspicions[update.node] = Suspicion(
            update.boot,
            update.incarnation,
            update.accuser,
            now_s,
            floor_s=floor_s,
            ceiling_s=floor_s * config.suspicion_max_multiplier,
        )
        self.tallies.add(self.tallies.events, "suspicion")

    def _confirm(self, member: Member, accuser: NodeId) -> None:
        """Count an independent accuser of a suspect, and pass it on while it matters."""
        suspicion = self.suspicions.get(member.node)
        if suspicion is not None and suspicion.confirm(accuser, self._confirmations_expected()):
            self.tallies.add(self.tallies.events, "confirmation")
            self.queue.put(replace(member.update, accuser=accuser))

    def _confirmations_expected(self) -> int:
        """How many more could confirm: the members not under suspicion themselves, less the first accuser."""
        return max(0, min(self._config.confirmations, self.table.counts[Standing.ALIVE] - 1))

    def accuse(self, node: NodeId, identity: tuple[int, int], accusers: Sequence[NodeId], now_s: float) -> None:
        """Suspect a member that failed a probe; the helpers that failed too are independent accusers.

        Nothing happens if it has a later (boot, incarnation) by now: it has restarted or refuted meanwhile.
        """
        member = self.table.get(node)
        if member is None or not member.is_live or (member.update.boot, member.update.incarnation) != identity:
            return
        if member.standing is Standing.ALIVE:
            self.merge(replace(member.update, standing=Standing.SUSPECT, accuser=self.node), now_s)
        for accuser in accusers:
            self._confirm(member, accuser)

    @property
    def suspicion_deadline_s(self) -> float:
        """When the next suspicion runs out, infinity if none does."""
        if not self.suspicions:
            return math.inf
        expected = self._confirmations_expected()
        return min(suspicion.deadline_s(expected) for suspicion in self.suspicions.values())

    def end_suspicions(self, now_s: float) -> None:
        """Declare dead whoever has not refuted in time."""
        expected = self._confirmations_expected()
        due = [node for node, s in self.suspicions.items() if s.deadline_s(expected) <= now_s]
        for node in due:
            member = self.table.get(node)
            if member is not None:
                self.tallies.add(self.tallies.events, "death")
                self.merge(replace(member.update, standing=Standing.DEAD, accuser=NodeId("")), now_s)

    def reap(self, now_s: float) -> None:
        """Forget members whose time is up."""
        for member in list(self.table):
            if member.node != self.node and now_s - member.changed_s >= self._reap_after_s(member.standing):
                self.table.forget(member.node)
                self.queue.drop(member.node)
                self.is_peers_changed = True

    @property
    def own(self) -> Update:
        """What this node says of itself."""
        member = self.table.get(self.node)
        assert member is not None
        return member.update

    def sole(self, name: str) -> Member:
        """Return the one member of that name or id.

        Raises:
            NotFound: There is none, or several. State is unchanged.
        """
        members = self.table.named(name)
        if len(members) != 1:
            what = "there is no member" if not members else f"{len(members)} members are named"
            raise NotFound(f"{what} '{name}'", hint="name it by its id; see `frys-node members`")
        return members[0]

    def view(self, update: Update, member: Member) -> MemberView:
        """Return the public view of a claim about a member."""
        return view_of(update, member.vitals, self._unix_offset_ns + int(member.changed_s * 1e9))

    def aged(self, member: Member, now_s: float) -> Update:
        """Return a member's claim with its age, if it is dead or has left."""
        if member.is_live:
            return member.update
        return replace(member.update, age_s=max(0, int(now_s - member.changed_s)))

    def piece(self, after: NodeId, count_max: int, now_s: float) -> tuple[tuple[Update, ...], bool]:
        """Return the claims about members beyond `after`, in order of id, and whether there are more."""
        members = sorted((m for m in self.table if m.node > after), key=lambda member: member.node)
        return tuple(self.aged(member, now_s) for member in members[:count_max]), len(members) > count_max

    def about(self, node: NodeId) -> Sequence[Update]:
        """Return what a packet to a node must tell it about itself: a suspicion or a death to refute."""
        member = self.table.get(node)
        return () if member is None or member.standing is Standing.ALIVE else (member.update,)

    def _reap_after_s(self, standing: Standing) -> float:
        if standing is Standing.DEAD:
            return self._config.dead_reap_s
        return self._config.left_reap_s if standing is Standing.LEFT else math.inf

    def _drop(self, reason: str) -> None:
        self.tallies.add(self.tallies.dropped, reason)
