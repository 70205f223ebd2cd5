"""What one node believes of the others, and how a claim changes it.

Sans-I/O. `Claims` joins the table, the running suspicions and the piggyback queue: whatever wins in the table is passed
on, published and, where it matters for the next start, remembered. It never sends by itself.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from msgspec.structs import replace

from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import UNUSABLE, UNWELL, WELL, Condition, MemberView, not_sole
from membership.awareness import Awareness
from membership.conditions import condition_of
from membership.config import MembershipConfig
from membership.dissemination import Dissemination
from membership.edges import Edge, EdgeKind, Edges
from membership.effects import Effect, SendRefused, SuspicionEnded, Tallies, TryPort
from membership.hearing import Hearing
from membership.hearsay import weighed
from membership.isolation import HOST_HEARD_S, NODES_MIN, Isolation
from membership.member import Member, view_of
from membership.messages import Accusation, Attributes, Evidence, Standing, Update
from membership.peers import Unmet
from membership.probe import ProbeOrder
from membership.publishing import Publishing
from membership.refusals import Refusals
from membership.rumours import Introduction, Rumours
from membership.scrutiny import ended
from membership.story import Entry
from membership.suspicions import Suspicions
from membership.table import Merge, Table
from membership.telling import source_told, turns
from membership.testimony import VouchKind
from membership.voices import Signing, Voices, life_of, told_to_itself

HEADER_BYTES_MAX = 160
"""Room kept in every packet for what is not an update."""

RUMOUR_HEADER_BYTES_MAX = 16
"""Room that a packet of gossip needs beside a single rumour."""


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
        voices: Voices,
    ) -> None:
        self.node = node
        self.boot = boot
        self.tallies = Tallies()
        self.signing = Signing(node, voices)
        self.table = Table(node)
        self.queue = Dissemination(config.payload_bytes_max - HEADER_BYTES_MAX)
        self.rumours = Rumours(config.payload_bytes_max - RUMOUR_HEADER_BYTES_MAX, self.tallies, self.signing)
        self.order = ProbeOrder(rng)
        self.unmet = Unmet()
        self.is_leaving = False
        self.is_peers_changed = False
        self.out: list[Effect] = []
        """Effects of this turn, in order; the machine hands them out."""
        self.config = config
        self._unix_offset_ns = unix_offset_ns
        self.health = Awareness(is_on=config.lha_probe)
        self.suspicions = Suspicions(node, self.table, config, self.health)
        """Running suspicions of other members."""
        self._isolation = Isolation()
        self.publishing = Publishing(self)
        self.damping = self.publishing.damping
        self._conditions = self.publishing.conditions
        self.edges = Edges()
        self.refusals = Refusals()
        """To whom this node's own system refuses to send."""
        self.rumours.handle(Edge, self._take_edge)
        self._host_heard_s = -math.inf
        """When the host of a member last refused a connection from here."""
        self.quiet_until_s = -math.inf
        """Until then this node accuses nobody and buries nobody: it stood still itself."""
        self.now_s = now_s
        """When this turn began: views of conditions that pass with time are as of then."""
        self.hearing = Hearing(self)
        self.rumours.ask = self.hearing.held.want
        self.rumours.handle(Introduction, self.hearing.take_introduction)
        self.table.merge(self.signing.claimed(Update(node, boot, 0, Standing.ALIVE, attributes)), now_s)

    def merge(self, update: Update, now_s: float, *, is_heard: bool = False) -> Merge | None:
        """Put a claim, this node's own or one that `is_heard`, into the table; if it wins, tell members and others."""
        if update.node == self.node:
            update = self.signing.claimed(update)
        merge = self.table.merge(update, now_s)
        if merge is None:
            return None
        old, member = merge
        update = member.update
        node = update.node
        self.queue.put(update)
        if node != self.node:
            self.unmet.met(node, member.address)
            self._tell_change(old, member, now_s, is_heard=is_heard)
            running = self.suspicions.get(node)
            if running is not None and update.standing is not Standing.SUSPECT:
                self.out.append(SuspicionEnded(now_s - running.since_s))
            if self.suspicions.track(update, now_s):
                self.tallies.add(self.tallies.events, "suspicion")
            if member.is_live and (old is None or old.standing >= Standing.DEAD):
                self.order.add(node)
            if old is not None and old.boot < update.boot:
                self.tallies.add(self.tallies.events, "restarted")
                member.vitals = type(member.vitals)()
            if old is None or old.attributes != update.attributes or old.standing != update.standing:
                self.is_peers_changed = True
        old_view = None if old is None else self.view(old, member)
        self.publishing.publish(old_view, self.view(update, member), now_s)
        return merge

    def _tell_change(self, old: Update | None, member: Member, now_s: float, *, is_heard: bool) -> None:
        """Add what a claim that won means to the member's story."""
        update = member.update
        is_back = old is not None and old.boot == update.boot and old.standing < Standing.LEFT
        if is_back and update.standing is Standing.ALIVE and old is not None and old.standing is not Standing.ALIVE:
            was_suspect = old.standing is Standing.SUSPECT
            self.tallies.add(self.tallies.events, "false_suspicion" if was_suspect else "false_death")
        accuser = self.table.get(update.accuser)
        is_namesake = accuser is not None and accuser.update.attributes.name == update.attributes.name
        for entry in turns(
            old,
            update,
            now_s=now_s,
            changed_s=member.changed_s,
            suspicion=self.suspicions.get(member.node),
            is_heard=is_heard,
            is_heir=is_namesake and update.accuser != member.node,
        ):
            member.tell(entry)

    def confirm(self, member: Member, accusation: Accusation, now_s: float, *, is_heard: bool = False) -> None:
        """Count an independent accuser of a suspect, and pass it on while it matters. Only members have a voice."""
        accuser, evidence, word = accusation.accuser, accusation.evidence, accusation.word
        if accuser != self.node and accuser not in self.table.live:
            return
        counted = replace(accusation, evidence=weighed(evidence)) if is_heard else accusation
        if self.suspicions.confirm(member.node, counted, now_s):
            self.tallies.add(self.tallies.events, "confirmation")
            detail = source_told(evidence, is_heard=is_heard)
            self.tell(member.node, Entry(now_s, "confirmed", accuser, evidence, detail))
            verdicts = self.suspicions.verdicts(life_of(member.update))
            others = tuple(one for one in verdicts if one.accuser != accuser)
            self.queue.put(replace(member.update, accuser=accuser, evidence=evidence, word=word, accusations=others))

    def accuse(
        self,
        node: NodeId,
        identity: tuple[int, int],
        accusations: Sequence[Accusation],
        now_s: float,
        evidence: Evidence = Evidence.SILENCE,
    ) -> bool:
        """Suspect a member that failed a probe or a watcher; helpers that failed too are independent accusers.

        Nothing happens if it has a later (boot, incarnation) by now: it has restarted or refuted meanwhile. Returns
        False if this node's own voice was withheld, because it has just stood still, or is cut off and has no crash to
        tell of. Helpers fail with it, for it was this node's doubt that made them look; other observers of a crash saw
        for themselves, and their voices count.
        """
        others = [one for one in accusations if one.accuser != self.node]
        is_own = len(others) < len(accusations)
        is_withheld = is_own and self._is_unfit(evidence, now_s)
        if is_withheld:
            self.tallies.add(self.tallies.events, "accusation_withheld")
            accusations = others if evidence is Evidence.CRASH else ()
        elif is_own and evidence is Evidence.SILENCE and self.is_unasked(node, now_s):
            is_withheld = True
            self.tallies.add(self.tallies.events, "accusation_withheld")
            accusations = others
        if not accusations:
            return False
        member = self.table.get(node)
        if member is None or not member.is_live or (member.update.boot, member.update.incarnation) != identity:
            return not is_withheld
        if member.standing is Standing.ALIVE:
            accuser, word = accusations[0].accuser, accusations[0].word
            suspect = replace(
                member.update, standing=Standing.SUSPECT, accuser=accuser, evidence=evidence, word=word, accusations=()
            )
            self.merge(suspect, now_s)
        for accusation in accusations:
            self.confirm(member, replace(accusation, evidence=evidence), now_s)
        return not is_withheld

    def vouch(self, node: NodeId, identity: tuple[int, int], voucher: NodeId, kind: VouchKind, now_s: float) -> None:
        """Take that `voucher` knows this boot of the member to be there, whatever others miss.

        What was seen of a crash is void, for `VETO_S` at least, and the suspicion goes on as one of silence. If the
        member's kernel acknowledges (`KERNEL_ACK`), only what was seen before is, and it does not die of silence while
        a voucher is younger than `VETO_S`, up to `stall_max_s` from the suspicion's start.
        """
        member = self.table.get(node)
        # What others made of this node while it stood still is past when it hears of it.
        if node == self.node or member is None or not member.is_live or member.update.boot != identity[0]:
            return
        if self.suspicions.vouch(node, identity[0], voucher, kind, now_s):
            self.tallies.add(self.tallies.events, f"vouched_{kind.name.lower()}")
            self.tell(node, Entry(now_s, "vouched", voucher, detail=kind.name.lower()))
            self._conditions.touch(node)

    def _is_unfit(self, evidence: Evidence, now_s: float) -> bool:
        """True if what this node misses may be its own fault."""
        return now_s < self.quiet_until_s or (self.is_isolated and evidence is not Evidence.CRASH)

    def is_unasked(self, node: NodeId, now_s: float, *, is_refused: bool = False) -> bool:
        """True if a member does not answer because this node cannot send to it, as of a moment ago or `is_refused`."""
        if not (is_refused or self.refusals.is_recent(node, now_s)):
            return False
        rounds_s = 3 * self.node_count * self.config.probe_interval_s
        return self.refusals.excuses(node, now_s, max(self.config.stall_max_s, rounds_s))

    @property
    def is_quiet(self) -> bool:
        """True while this node accuses and buries nobody, because it stood still itself."""
        return self.now_s < self.quiet_until_s

    @property
    def is_isolated(self) -> bool:
        """True while this node takes itself to be cut off (see `membership.isolation`)."""
        return self._isolation.is_isolated

    @property
    def node_count(self) -> int:
        """This node and those that it takes to be live."""
        return len(self.table.live) + 1

    def observe_probe(self, node: NodeId, *, is_mute: bool, now_s: float) -> None:
        """Take how a probe ended: with neither ack nor nack it is mute."""
        if self._isolation.observe(node, is_mute=is_mute, node_count=self.node_count):
            self._tell_isolation(now_s)
        member = self.table.get(node)
        is_doubtful = is_mute and self.node_count >= NODES_MIN
        # Where somebody stands between, a refusal is not the member's host's.
        if is_doubtful and member is not None and self.config.crash_evidence != "off":
            self.out.append(TryPort(node, member.update.boot, member.address))

    def observe_refusal(self, node: NodeId, now_s: float) -> None:
        """Take that the host of a member refused a connection: so this node reaches hosts."""
        self._host_heard_s = now_s
        if self._isolation.observe_refusal(node, node_count=self.node_count):
            self._tell_isolation(now_s)

    def observe_send_refusal(self, address: Address, now_s: float) -> None:
        """Take that this node's own system refused to send to an address."""
        for member in self.table:
            if member.node == self.node or not member.is_live or member.address != address:
                continue
            self._conditions.touch(member.node)
            if self.refusals.note(member.node, now_s):
                member.tell(Entry(now_s, "unsendable"))
                self.out.append(SendRefused(member.node, address))

    def observe_stop(self, node: NodeId, boot: int, now_s: float) -> None:
        """Take that a member has announced the end of its process: no evidence, since it may be back in a moment."""
        member = self.table.get(node)
        if member is not None and member.is_live and member.update.boot == boot:
            self.tallies.add(self.tallies.events, "stop_announced")
            member.stopped_boot = boot
            member.tell(Entry(now_s, "stopped"))

    def observe_hush(self, hush_s: float, now_s: float) -> None:
        """Take that nobody at all has spoken for so long, when this node is about to accuse one of them of silence."""
        is_host_heard = now_s - self._host_heard_s < HOST_HEARD_S
        if not is_host_heard and self._isolation.observe_hush(hush_s, node_count=self.node_count):
            self._tell_isolation(now_s)

    def _tell_isolation(self, now_s: float) -> None:
        what = "isolated" if self.is_isolated else "rejoined"
        self.tallies.add(self.tallies.events, what)
        self.tell(self.node, Entry(now_s, what, detail=self._isolation.account if self.is_isolated else ""))
        self._conditions.touch(self.node)
        if not self.is_isolated:
            self.suspicions.restart(now_s)

    def catch_up(self, gap_s: float, now_s: float) -> None:
        """After this node itself stood still: move the clocks, and accuse nobody for one shortest suspicion."""
        for account in (self.suspicions, self.edges, self.refusals):
            account.shift(gap_s)
        self.quiet_until_s = now_s + self.suspicions.floors().silence_s
        self.tell(self.node, Entry(now_s, "paused", detail=f"for {gap_s:.1f} s"))

    def rank(self, node: NodeId) -> int:
        """Return how gladly to send new work to a member; see `Members.rank`. This node is always well to itself."""
        member = self.table.get(node)
        if member is None or not member.is_live:
            return UNUSABLE
        is_well = member.standing is Standing.ALIVE and self._conditions.of(node) is Condition.OK
        return WELL if node == self.node or (is_well and not self.is_isolated) else UNWELL

    def touch(self, node: NodeId) -> None:
        """Look at the end of this turn whether a member's condition has changed."""
        self._conditions.touch(node)

    def tell(self, node: NodeId, entry: Entry) -> None:
        """Add a turn to a member's story; nothing happens if it is unknown."""
        member = self.table.get(node)
        if member is not None:
            member.tell(entry)

    @property
    def suspicion_deadline_s(self) -> float:
        """When the next suspicion may end in death, infinity if none does."""
        if not self.suspicions:
            return math.inf
        deadline_s = self.suspicions.deadline_s(is_silence_enough=not self.is_isolated)
        return max(deadline_s, self.quiet_until_s)

    def end_suspicions(self, now_s: float) -> None:
        """Declare dead whoever has not refuted in time."""
        if now_s < self.quiet_until_s:
            return
        for node in self.suspicions.due(now_s, is_silence_enough=not self.is_isolated):
            member = self.table.get(node)
            if member is not None:
                self.tallies.add(self.tallies.events, "death")
                life, suspicion = life_of(member.update), self.suspicions.get(node)
                evidence = Evidence.SILENCE if suspicion is None else suspicion.evidence
                verdicts = (self.signing.verdict(life, evidence), *self.suspicions.verdicts(life))
                self.merge(ended(member.update, verdicts), now_s)

    def forget(self, node: NodeId) -> None:
        """Drop a member that is dead or has left; its time is up."""
        self.table.forget(node)
        self.queue.drop(node)
        self.suspicions.forget(node)
        self.refusals.forget(node)
        self.signing.forget(node)
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
            raise not_sole(name, [self.view(member.update, member) for member in self.table.sorted()])
        return members[0]

    def view(self, update: Update, member: Member) -> MemberView:
        """Return the public view of a claim about a member."""
        changed_unix_ns = self._unix_offset_ns + int(member.changed_s * 1e9)
        return view_of(update, member.vitals, changed_unix_ns, condition_of(self, member), self.now_s)

    def publish_edge(self, node: NodeId, *, is_up: bool, now_s: float, kind: EdgeKind = EdgeKind.PACKETS) -> None:
        """Tell everybody that this node gets no answer from a member that lives, or gets one again."""
        if is_up and not self.edges.has(self.node, node, now_s, kind):
            return
        edge = self.rumours.signed(Edge(self.node, node, int(self._unix_offset_ns / 1e9 + now_s), is_up, kind))
        self.tallies.add(self.tallies.events, "edge_up" if is_up else "edge_down")
        self._take_edge(edge, self.node, now_s)

    def _take_edge(self, edge: Edge, source: NodeId, now_s: float) -> None:
        """Take an edge, and pass it on if it is news."""
        if any(node != self.node and node not in self.table.live for node in (edge.a, edge.b)):
            return
        was_down = self.edges.has(edge.a, edge.b, now_s, edge.kind)
        if self.edges.take(edge, now_s):
            if was_down is edge.is_up:
                self.tell(edge.b, Entry(now_s, edge.turn, edge.a))
            self.rumours.queue.put(edge)
            self._conditions.touch(edge.b)

    def watchers(self, node: NodeId) -> list[NodeId]:
        """Return who watches a member."""
        return self.table.circle.watchers(node, self.config.watchers)

    def about(self, node: NodeId) -> Sequence[Update]:
        """Return what a packet to a node must tell it about itself: a suspicion or a death to refute.

        This is Lifeguard's buddy system. Without it (`buddy`), a suspect hears of it as everybody does.
        """
        member = self.table.get(node)
        if member is None or member.standing is Standing.ALIVE:
            return ()
        return (told_to_itself(member.update),) if self.config.buddy or member.standing >= Standing.DEAD else ()

    def reap_after_s(self, standing: Standing) -> float:
        """Return how long a member of that standing is remembered."""
        if standing is Standing.DEAD:
            return self.config.dead_reap_s
        return self.config.left_reap_s if standing is Standing.LEFT else math.inf

    def drop(self, reason: str) -> None:
        """Count what was not used."""
        self.tallies.add(self.tallies.dropped, reason)
