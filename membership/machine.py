"""The membership machine: SWIM, as bytes and commands in, effects out.

Sans-I/O: time comes as `now_s` (monotonic), randomness as a `random.Random`. Control flow only; each concept has its
own object (`claims` over `table`, `suspicions` and `dissemination`; `probing`; `peers`).

Theory of operation. Once per interval the machine pings the next member of a shuffled round robin; without an ack in
time it asks k helpers; without any by the end of the interval it *suspects* the member and says so. The accused hears
of it, because each packet to it carries what the sender believes of it, and *refutes* with a higher incarnation. If it
does not before the suspicion runs out, it is *dead*, until it comes back with a higher (boot, incarnation). Claims
travel on the back of every packet, and in rounds of gossip that run only while there is something to say. Whoever
speaks and is unknown here, or known with a lower boot, is asked for its whole state; so is a random member now and
then, and whoever returns from the dead. Hence two sides of a healed partition need a single packet to become one.

Source: Das, Gupta, Motivala, "SWIM", DSN 2002; suspicion timing by Lifeguard (arXiv:1707.00788).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import partial
from typing import assert_never

from msgspec.structs import replace

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import MemberView
from membership.awareness import LAG_S
from membership.briefs import unfold
from membership.claims import Claims
from membership.config import MembershipConfig
from membership.departed import Departed
from membership.edges import Seen
from membership.effects import Effect, Peer, PersistPeers, PushPull
from membership.exchange import Exchange
from membership.farewell import Farewell
from membership.findings import Finding, LifelineDown, LifelineEnd
from membership.guard import Guard
from membership.insight import Insight
from membership.member import make_attributes
from membership.messages import (
    NOBODY,
    PACKET_NAMES,
    PACKETS,
    Ack,
    Attributes,
    Beat,
    BeatAck,
    Gossip,
    Nack,
    Ping,
    PingReq,
    Source,
    Standing,
    Sync,
    Update,
    raised,
)
from membership.outbox import Outbox
from membership.peers import Introductions, peers_to_keep
from membership.probing import Probing
from membership.reunion import Reunion
from membership.story import Entry
from membership.talk import Talk
from membership.timers import Timers
from membership.voices import Voices, told_to_itself

PAUSE_S = 0.5
"""A machine that is called this much later than it asked for has stood still."""

REAP_INTERVAL_S = 30.0
"""Pause between looks for members to forget."""


class Membership:
    """One node's view of who is here."""

    def __init__(
        self,
        *,
        node: NodeId,
        boot: int,
        attributes: Attributes,
        config: MembershipConfig,
        rng: random.Random,
        now_s: float,
        voices: Voices,
        unix_offset_ns: int = 0,
    ) -> None:
        self.node = node
        self.boot = boot
        self._config = config
        self._rng = rng
        self._claims = Claims(
            node=node,
            boot=boot,
            attributes=attributes,
            config=config,
            rng=rng,
            now_s=now_s,
            unix_offset_ns=unix_offset_ns,
            voices=voices,
        )
        self.tallies = self._claims.tallies
        self._table = self._claims.table
        self.rumours = self._claims.rumours
        self.insight = Insight(self._claims)
        self._outbox = Outbox(self._claims, config)
        self.talk = Talk(self._claims, self._outbox, config, now_s=now_s, unix_offset_ns=unix_offset_ns)
        self._probing = Probing(self._claims, self._outbox, config, rng)
        self._guard = Guard(self._claims, self._outbox, config, rng)
        self._departed = Departed(self._claims, config)
        self._introductions = Introductions(config.probe_interval_s)
        self._timers = Timers()
        self._farewell = Farewell(self._claims, self._outbox, config, rng)
        self._reunion = Reunion(self._claims, self._outbox, self._timers, config, rng)
        self.exchange = Exchange(self._claims, self._reunion, self.talk)
        self._timers.reap_s = now_s + REAP_INTERVAL_S
        self._suspicion_at_s = self._damped_s = math.inf
        self._due_s = self._timers.reap_s

    # Reading.

    @property
    def next_deadline_s(self) -> float:
        """When `advance` must be called next."""
        return self._due_s

    @property
    def queue_length(self) -> int:
        """Updates waiting to be passed on."""
        return len(self._claims.queue)

    @property
    def has_said_all(self) -> bool:
        """True while there is nothing to pass on, nobody to tell that this node leaves, or nobody at all."""
        return not self.live_count or not (len(self._claims.queue) or self._farewell.is_under_way)

    @property
    def is_leaving(self) -> bool:
        """True once `leave` was called."""
        return self._claims.is_leaving

    @property
    def live_count(self) -> int:
        """Live members other than this node."""
        return len(self._table.live)

    @property
    def members_max(self) -> int:
        """Members that the table holds at most."""
        return self._config.members_max

    def count(self, standing: Standing) -> int:
        """Members of a standing, this node included."""
        return self._table.counts[standing]

    def view(self, node: NodeId, now_s: float | None = None) -> MemberView | None:
        """One member as seen here, now or at the last turn."""
        self._claims.now_s = self._claims.now_s if now_s is None else now_s
        member = self._table.get(node)
        return None if member is None else self._claims.view(member.update, member)

    def views(self, now_s: float | None = None) -> list[MemberView]:
        """Every member as seen here, by name, now or at the last turn."""
        self._claims.now_s = self._claims.now_s if now_s is None else now_s
        return [self._claims.view(member.update, member) for member in self._table.sorted()]

    @property
    def health_score(self) -> int:
        """This node's trust in its own senses: 0 is well, 8 is worst (Lifeguard's local health)."""
        return self._claims.health.score

    def story(self, node: NodeId) -> tuple[Entry, ...]:
        """What made this node think of a member as it does, oldest first; empty if it is unknown."""
        member = self._table.get(node)
        return () if member is None else member.story

    def edges(self, now_s: float) -> list[Seen]:
        """Who cannot reach whom directly, as far as this node has heard; the latest last."""
        return self._claims.edges.down(now_s)

    def is_usable(self, node: NodeId) -> bool:
        """True if the member is alive or suspect."""
        member = self._table.get(node)
        return member is not None and member.is_live

    def is_lost(self, node: NodeId, now_s: float) -> bool:
        """True if the member has been dead for so long that another one may have its name."""
        member = self._table.get(node)
        return member is not None and self._departed.is_reclaimable(member, now_s)

    def rank(self, node: NodeId) -> int:
        """How gladly to send new work to a member; see `Members.rank`."""
        return self._claims.rank(node)

    def trip_s(self, node: NodeId) -> float:
        """What one round trip to a node takes at most, as far as that is known."""
        return self._table.trip_s(node, self._config.ack_timeout_min_s)

    def peers(self) -> tuple[Peer, ...]:
        """Peers worth keeping for the next start."""
        return peers_to_keep(self.node, self._table, self._claims.unmet, self._config.peers_max)

    # Commands.

    def join(self, peers: Sequence[Peer], now_s: float) -> list[Effect]:
        """Remember peers and ask some of them at once; the others follow until somebody answers."""
        self._reunion.join(peers, now_s)
        return self._turn(now_s)

    def set_attributes(self, attributes: Attributes, now_s: float) -> list[Effect]:
        """Change what this node says of itself; a new incarnation carries it to everybody."""
        own = self._claims.own
        if attributes != own.attributes and not self.is_leaving:
            self._claims.merge(replace(raised(own, own.incarnation), attributes=attributes), now_s)
        return self._turn(now_s)

    def set_tags(self, tags: dict[str, str], now_s: float) -> list[Effect]:
        """Replace this node's tags.

        Raises:
            TagsTooLarge: Over the limit. The former tags stand.
        """
        own = self._claims.own.attributes
        return self.set_attributes(make_attributes(own.name, own.address, own.http, tags), now_s)

    def leave(self, now_s: float) -> list[Effect]:
        """Say goodbye: others will see LEFT, never DEAD. Everybody is told, again until somebody acknowledges."""
        if not self.is_leaving:
            self._probing.stop()
            self._farewell.begin(now_s)
        return self._turn(now_s)

    def force_leave(self, name: str, now_s: float) -> list[Effect]:
        """Declare a dead member, given by name or id, to have left; see `Departed.force_leave` for what is refused."""
        self._departed.force_leave(name, now_s)
        return self._turn(now_s)

    def sync(self, after: NodeId, now_s: float, *, wants_after: NodeId = NOBODY) -> Sync:
        """Return the members beyond `after`, in order of id; `wants_after` asks the other side likewise."""
        return self.exchange.piece(after, wants_after, now_s)

    def merge_sync(self, sync: Sync, source: NodeId, now_s: float) -> list[Effect]:
        """Take a piece of another member's table."""
        self._catch_up(now_s)
        self.exchange.merge(sync, source, now_s)
        return self._turn(now_s)

    def learn_voices(self, statements: Sequence[bytes], now_s: float) -> list[Effect]:
        """Take what another member knows of voices that this one asked it for."""
        self._catch_up(now_s)
        self.exchange.learn(statements, now_s)
        return self._turn(now_s)

    def hear(self, data: bytes, source: NodeId, now_s: float) -> list[Effect]:
        """Take a rumour that came over the channel, because it fits into no packet."""
        self._catch_up(now_s)
        self.rumours.take(data, source, now_s)
        return self._turn(now_s)

    def end_turn(self, now_s: float) -> list[Effect]:
        """Return what commands to `talk` have brought about."""
        self._catch_up(now_s)
        return self._turn(now_s)

    # What the driver notices.

    def found(self, finding: Finding, now_s: float) -> list[Effect]:
        """Take what was found out about a member by TCP."""
        self._catch_up(now_s)
        if isinstance(finding, LifelineDown) and finding.end is LifelineEnd.STOPPED:
            self._claims.observe_stop(finding.node, finding.boot, now_s)
        self._guard.take(finding, now_s)
        return self._turn(now_s)

    def send_refused(self, address: Address, now_s: float) -> list[Effect]:
        """Take that this machine's own network refused to send to an address."""
        self._catch_up(now_s)
        self._claims.observe_send_refusal(address, now_s)
        self._probing.refused(address)
        return self._turn(now_s)

    # Packets.

    def receive(
        self,
        payload: bytes,
        source_node: NodeId,
        source_address: Address,
        now_s: float,
        *,
        source_boot: int,
        is_short: bool = False,
    ) -> list[Effect]:
        """Take one opened datagram; one with a short header is answered with one. Junk is dropped and counted."""
        self._catch_up(now_s)
        try:
            message = PACKETS.decode(payload)
        except MalformedFrame:
            self._claims.drop("malformed")
            return self._turn(now_s)
        self.tallies.add(self.tallies.packets, "received", PACKET_NAMES[type(message)])
        if source_node == self.node:
            self._claims.unmet.met(self.node, source_address)
            self._claims.drop("own")
            return self._turn(now_s)
        updates, is_wanting = unfold(message, self._table, self.node)
        if is_wanting:
            self.tallies.add(self.tallies.events, "brief_unknown")
            self._introduce(source_node, source_address, now_s)
        for update in updates:
            if self._claims.hearing.take(update, source_node, now_s):
                self._reunion.hasten(now_s)
                if update.node == source_node:
                    self._introduce(source_node, source_address, now_s)
        tell = self._meet(source_node, source_boot, source_address, now_s)
        self._guard.heard(source_node, source_boot, now_s)
        self._claims.refusals.heard(source_node, now_s, is_answer=isinstance(message, Ack | BeatAck))
        if isinstance(message, BeatAck):
            self._guard.take_ack(message, source_node, source_boot, now_s)
        else:
            self._handle(message, Source(source_node, source_boot, source_address, is_short), tell, now_s)
        return self._turn(now_s)

    def _handle(
        self,
        message: Ping | Ack | PingReq | Nack | Gossip | Beat,
        source: Source,
        tell: list[Update],
        now_s: float,
    ) -> None:
        answer = partial(self._outbox.send, source.address, first=tell, is_short=source.is_short)
        match message:
            case Beat():
                answer(BeatAck(message.sequence))
            case Ping():
                if message.target in ("", self.node):
                    answer(Ack(message.sequence, self.node, (), self.talk.digest))
                else:
                    self._claims.drop("misaddressed")
            case Ack():
                self._take_ack(message, source, now_s)
            case PingReq():
                self._probing.take_request(message, source.node, now_s)
            case Nack():
                self._probing.take_nack(message, source.node)
            case Gossip():
                for data in message.rumours:
                    self.rumours.take(data, source.node, now_s)
                if tell:
                    answer(Gossip())
            case _:
                assert_never(message)

    def _meet(self, source: NodeId, boot: int, address: Address, now_s: float) -> list[Update]:
        """Settle who speaks; returns what it should hear about itself."""
        member = self._table.get(source)
        if member is None or member.update.boot < boot:
            self._introduce(source, address, now_s)
            return []
        self._claims.unmet.met(source, address)
        if member.update.boot > boot:
            self._claims.drop("stale_boot")
        elif member.standing is Standing.ALIVE or (member.is_live and not self._config.buddy):
            return []
        return [told_to_itself(member.aged(now_s), boot)]

    def _introduce(self, node: NodeId, address: Address, now_s: float) -> None:
        """Exchange states with a node, at most once per interval."""
        if not self.is_leaving and self._introductions.may(node, now_s):
            self._claims.out.append(PushPull(node, address))

    def _take_ack(self, ack: Ack, source: Source, now_s: float) -> None:
        self._farewell.take_ack(ack.sequence)
        member = self._probing.take_ack(ack, source.node, now_s)
        if member is not None:
            member.acquainted_boot = source.boot
        if member is not None and self.talk.differs(ack.digest):
            self.tallies.add(self.tallies.events, "digest_differs")
            self._introduce(member.node, member.address, now_s)

    # Time.

    def advance(self, now_s: float) -> list[Effect]:
        """Do what is due."""
        self._catch_up(now_s)
        if self._suspicion_at_s <= now_s:
            self._claims.end_suspicions(now_s)
        if self._damped_s <= now_s:
            self._claims.publishing.release(now_s)
        self._probing.advance(now_s)
        self._guard.advance(now_s)
        if self.talk.next_deadline_s <= now_s:
            self.talk.advance(now_s)
        if self._timers.gossip_s <= now_s:
            self._gossip(now_s)
        if self._timers.push_pull_s <= now_s:
            self._push_pull(now_s)
        if self._timers.reconnect_s <= now_s:
            self._reunion.advance(now_s)
        if self._timers.persist_s <= now_s:
            self._timers.persist_s = math.inf
            self._claims.out.append(PersistPeers(self.peers()))
        if self._timers.reap_s <= now_s:
            self._timers.reap_s = now_s + REAP_INTERVAL_S
            self._departed.reap(now_s)
            self.talk.forget(now_s)
        return self._turn(now_s)

    def _catch_up(self, now_s: float) -> None:
        """After this node itself stood still, accuse nobody of silence: its verdicts rest on acks it could not read.

        Lag is seen here, at whatever comes first: a driver that was held up reads packets before it looks at the time.
        """
        self._claims.now_s = now_s
        gap_s = now_s - self._due_s
        if gap_s > LAG_S:
            self.tallies.add(self.tallies.events, "lag")
            self._claims.health.worsen()
        if gap_s <= max(PAUSE_S, self._config.pulse_s / 2):
            return
        self.tallies.add(self.tallies.events, "pause")
        self._probing.catch_up(now_s)
        self._claims.catch_up(gap_s, now_s)
        self._guard.shift(gap_s, now_s)
        self._claims.hearing.held.shift(gap_s)
        self._timers.catch_up(now_s)
        self._due_s = now_s

    def _gossip(self, now_s: float) -> None:
        """Tell a few members what is new."""
        self._timers.gossip_s = math.inf
        for node in self._table.live.sample(self._rng, self._claims.queue.fanout(self._config.gossip_fanout)):
            if not len(self._claims.queue) and not len(self.rumours.queue):
                break
            self._outbox.send_to(node, Gossip(), self._claims.about(node))
        if self._farewell.is_under_way:
            self._farewell.say()
        if self._has_news:
            self._timers.gossip_s = now_s + self._config.gossip_interval_s

    def _push_pull(self, now_s: float) -> None:
        """Exchange states with a random member."""
        scale = max(1.0, math.log2(self.live_count + 1) - 4.0)
        self._timers.push_pull_s = now_s + self._config.push_pull_interval_s * scale * self._rng.uniform(0.9, 1.1)
        for node in self._table.live.sample(self._rng, 1):
            member = self._table.get(node)
            if member is not None and not self.is_leaving:
                self._claims.out.append(PushPull(node, member.address))

    @property
    def _has_news(self) -> bool:
        """True while a round of gossip would say something."""
        return bool(len(self._claims.queue) or len(self.rumours.queue) or self._farewell.is_under_way)

    def _turn(self, now_s: float) -> list[Effect]:
        """End a turn: arm timers for what has become necessary and hand out the effects."""
        config = self._config
        held = self._claims.hearing.held
        self._claims.out += held.flush(now_s)
        self.talk.flush()
        self._guard.turn(now_s)
        self._probing.arm(now_s, self._guard.beat_s)
        if not self.live_count:
            # Nobody hears it. Who comes later is told what matters by an exchange, and old events do not matter.
            self.rumours.queue.clear()
            self._timers.gossip_s = self._timers.push_pull_s = math.inf
        else:
            if self._timers.push_pull_s == math.inf:
                self._timers.push_pull_s = now_s + self._rng.random() * config.push_pull_interval_s
            if self._timers.gossip_s == math.inf and self._has_news:
                self._timers.gossip_s = now_s + config.gossip_interval_s / 4
        is_somebody_lost = self._table.counts[Standing.DEAD] or len(self._claims.unmet)
        if not is_somebody_lost:
            self._timers.reconnect_s = math.inf
        elif self._timers.reconnect_s == math.inf:
            self._timers.reconnect_s = now_s + config.reconnect_interval_s
        if self._claims.is_peers_changed:
            self._claims.is_peers_changed = False
            self._timers.persist_s = min(self._timers.persist_s, now_s + config.persist_interval_s)
        self._claims.publishing.settle()
        self._suspicion_at_s = self._claims.suspicion_deadline_s
        self._damped_s = self._claims.damping.next_deadline_s
        due_s = min(
            self._timers.next_s,
            self._suspicion_at_s,
            self._damped_s,
            self._probing.next_deadline_s,
            self._guard.next_deadline_s,
            self.talk.next_deadline_s,
            held.next_deadline_s,
        )
        # A confirmation may set a suspicion's end into the past. That is due now; it is no time that this node slept.
        self._due_s = max(now_s, due_s)
        out = list(self._claims.out)
        self._claims.out.clear()
        return out
