"""The probe loop: one member per interval, helpers for the silent ones, and indirect pings made for others.

Sans-I/O. A probe is a direct ping; without an ack in time, k helpers are asked to ping too; without any by the end of
the interval the member is accused, by this node and by each helper that said nack. "In time" is what the member's round
trips were so far, srtt + 4 * rttvar as for TCP's retransmissions (RFC 6298), between two bounds; for one not yet
measured it is the 99th percentile of all that were. Both it and the interval are stretched by local health.
"""

from __future__ import annotations

import math
import random
from collections import deque

from msgspec.structs import replace

from frys_node.base.types import Address, NodeId
from membership.claims import Claims
from membership.config import MembershipConfig
from membership.edges import RECHECKS_MAX, SPOKEN_FOR_S, TRIES, EdgeKind, Recheck
from membership.effects import RoundTrip
from membership.member import Member
from membership.messages import Accusation, Ack, Evidence, Nack, NackReason, Ping, PingReq
from membership.outbox import Outbox
from membership.probe import Probe, Relay

RELAYS_MAX = 256
"""Indirect pings under way for others; more are refused and counted."""

PROBE_SHARE_MIN = 0.9
"""The share of its interval that a probe has at least, when the one before was started late."""

ROUND_TRIPS_KEPT = 128
"""Round trips of the whole fleet that are remembered, for members not yet measured."""

ROUND_TRIPS_MIN = 8
"""Fewer of them say nothing about the 99th percentile."""


REFUSED_S = 10.0
"""For so long a nack tells of a refused connection."""


class Probing:
    """One node's probes, and its help for those of others."""

    __slots__ = (
        "_claims",
        "_config",
        "_outbox",
        "_probe",
        "_rechecks",
        "_relays",
        "_rng",
        "_round_trips",
        "_table",
        "next_probe_s",
    )

    def __init__(self, claims: Claims, outbox: Outbox, config: MembershipConfig, rng: random.Random) -> None:
        self._claims = claims
        self._table = claims.table
        self._outbox = outbox
        self._config = config
        self._rng = rng
        self._probe: Probe | None = None
        self._relays: dict[int, Relay] = {}
        """Indirect pings under way, by the sequence of this node's own ping; the oldest comes first."""
        self._rechecks: list[Recheck] = []
        """Members that only a helper reached: is it the direct path?"""
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS_KEPT)
        self.next_probe_s = math.inf
        """When the running probe is judged and the next one starts; infinite while there is nobody to probe."""

    @property
    def next_deadline_s(self) -> float:
        """When `advance` must be called next."""
        due_s = self.next_probe_s
        if self._probe is not None and self._probe.ack_due_s < due_s:
            due_s = self._probe.ack_due_s
        if self._relays:
            due_s = min(due_s, next(iter(self._relays.values())).due_s)
        return due_s

    def arm(self, now_s: float, beat_s: float) -> None:
        """Start to probe, or stop, as there is somebody to probe or not; with the watch's next beat if there is one."""
        if not self._table.live:
            self.next_probe_s = math.inf
            self._probe = None
        elif self.next_probe_s == math.inf:
            is_watching = beat_s < math.inf
            self.next_probe_s = beat_s if is_watching else now_s + self._rng.random() * self._config.probe_interval_s

    def stop(self) -> None:
        """Drop the running probe: a node that leaves accuses nobody."""
        self._probe = None

    def catch_up(self, now_s: float) -> None:
        """After this node itself stood still, drop verdicts that rest on acks which it could not read."""
        self._probe = None
        self._rechecks.clear()
        self._relays.clear()
        self.next_probe_s = max(self.next_probe_s, now_s)

    def advance(self, now_s: float) -> None:
        """Do what is due."""
        self._end_relays(now_s)
        if self._probe is not None and self._probe.ack_due_s <= now_s:
            self._ask_helpers(self._probe)
        if self.next_probe_s <= now_s:
            self._next_probe(now_s)

    def ack_timeout_s(self, member: Member) -> float:
        """Return how long to wait for a member's ack before helpers are asked, local health not yet counted."""
        config, vitals = self._config, member.vitals
        if vitals.srtt_s is not None:
            expected_s = vitals.srtt_s + 4.0 * vitals.rttvar_s
        elif len(self._round_trips) >= ROUND_TRIPS_MIN:
            expected_s = sorted(self._round_trips)[len(self._round_trips) * 99 // 100]
        else:
            expected_s = config.ack_timeout_s
        return min(config.ack_timeout_s, max(config.ack_timeout_min_s, expected_s))

    def _next_probe(self, now_s: float) -> None:
        """Judge the probe that ends and start the next one."""
        claims = self._claims
        probe, self._probe = self._probe, None
        if probe is not None:
            self._judge(probe, now_s)
        self._recheck(now_s)
        # A node that is cut off has no use for slow probes: it wants to know when it is back.
        factor = 1 if claims.is_isolated else claims.health.factor
        # From when it was due, not from when this node came to it: probes stay in step with the beats of the watch.
        interval_s = self._config.probe_interval_s * factor
        self.next_probe_s = max(self.next_probe_s + interval_s, now_s + PROBE_SHARE_MIN * interval_s)
        node = None if claims.is_leaving else claims.order.next(self._table.live)
        member = None if node is None else self._table.get(node)
        if node is None or member is None:
            return
        sequence = self._outbox.next_sequence()
        self._probe = Probe(node, member.identity, sequence, now_s, self.ack_timeout_s(member) * factor)
        self._outbox.send_to(node, Ping(sequence, node), claims.about(node))

    def _judge(self, probe: Probe, now_s: float) -> None:
        """Draw what a probe says about the member and about this node."""
        claims = self._claims
        is_mute = not probe.is_acked and not probe.nacks
        claims.observe_probe(probe.node, is_mute=is_mute, now_s=now_s)
        if probe.is_acked:
            claims.health.improve()
            if probe.is_helped and all(recheck.node != probe.node for recheck in self._rechecks):
                self._rechecks.append(Recheck(probe.node, probe.sequence))
                del self._rechecks[:-RECHECKS_MAX]
            return
        claims.tallies.add(claims.tallies.events, "probe_failed")
        # A helper that may be dead itself is missed for its own sake.
        if any(helper not in probe.nacks and claims.suspicions.get(helper) is None for helper in probe.asked):
            claims.tallies.add(claims.tallies.events, "nack_missing")
            claims.health.worsen()
        is_answering = claims.edges.has(
            claims.node, probe.node, now_s, EdgeKind.PACKETS_ALONE, within_s=SPOKEN_FOR_S
        ) or claims.edges.is_spoken_for(probe.node, claims.watchers(probe.node), now_s)
        if is_answering:
            # It answers this node or most of its watchers, by connections: they are to say when it does no more.
            claims.tallies.add(claims.tallies.events, "probe_excused")
            return
        # What was never sent is no silence of the member: then only helpers that did ask it accuse it.
        is_unasked = probe.is_refused and claims.is_unasked(probe.node, now_s, is_refused=True)
        accusations = probe.accusations
        if not is_unasked:
            accusations = [claims.signing.accusation((probe.node, *probe.identity), Evidence.SILENCE), *accusations]
        if accusations:
            claims.accuse(probe.node, probe.identity, accusations, now_s)

    def _ask_helpers(self, probe: Probe) -> None:
        """Ask others to ping the member that has not answered."""
        probe.ack_due_s = math.inf
        member = self._table.get(probe.node)
        if member is None:
            return
        # Perhaps it is the short header that is not understood.
        member.acquainted_boot = None
        host, port = member.address
        probe.asked = self._helpers(probe.node)
        for helper in probe.asked:
            request = PingReq(probe.sequence, probe.node, host, port)
            self._outbox.send_to(helper, request, self._claims.about(helper))

    def _recheck(self, now_s: float) -> None:
        """Ping members that only helpers reached once more, or publish that the direct path is down."""
        for recheck in [*self._rechecks]:
            if recheck.missed >= TRIES or recheck.node not in self._table.live:
                self._rechecks.remove(recheck)
            if recheck.missed >= TRIES:
                self._claims.publish_edge(recheck.node, is_up=False, now_s=now_s)
            elif recheck in self._rechecks:
                recheck.missed += 1
                recheck.sequence = self._outbox.next_sequence()
                ping = Ping(recheck.sequence, recheck.node)
                self._outbox.send_to(recheck.node, ping, self._claims.about(recheck.node))

    def _helpers(self, target: NodeId) -> list[NodeId]:
        """Choose who pings the target too: members that are not suspect themselves, as far as there are enough."""
        count, live = self._config.helpers, self._table.live
        suspects = frozenset(self._claims.suspicions.nodes())
        chosen = live.sample(self._rng, count, suspects | {target})
        if len(chosen) < count and suspects:
            chosen += live.sample(self._rng, count - len(chosen), {target, *chosen})
        return chosen

    def take_ack(self, ack: Ack, source: NodeId, now_s: float) -> Member | None:
        """Take an answer to a probe or a relay; returns the probed member if it answered itself."""
        if self._pass_on(ack, source):
            return None
        if source == ack.node:
            self._rechecks = [r for r in self._rechecks if (r.node, r.sequence) != (source, ack.sequence)]
            self._claims.publish_edge(source, is_up=True, now_s=now_s)
        probe = self._probe
        if probe is None or probe.sequence != ack.sequence or probe.node != ack.node or probe.is_acked:
            return None
        probe.is_acked = True
        probe.ack_due_s = math.inf
        if source != probe.node:
            probe.is_helped = True
            self._claims.tallies.add(self._claims.tallies.events, "saved_by_helper")
            return None
        member = self._table.get(source)
        if member is not None:
            member.vitals.observe_rtt(now_s - probe.started_s)
            self._round_trips.append(now_s - probe.started_s)
        self._claims.out.append(RoundTrip(source, now_s - probe.started_s))
        return member

    def take_nack(self, nack: Nack, source: NodeId) -> None:
        """Take that a helper got no answer either."""
        probe, signing = self._probe, self._claims.signing
        if probe is None or probe.sequence != nack.sequence:
            return
        accusation = Accusation(source, Evidence.SILENCE, nack.word)
        # Without its signature the helper's nack says that it is there, and accuses nobody; nor does it accuse, if it
        # knows another life of the member.
        is_signed = (nack.boot, nack.incarnation) == probe.identity and nack.word
        is_accusing = is_signed and signing.is_accused((probe.node, *probe.identity), accusation)
        probe.nack(source, nack.reason, accusation if is_accusing else None)

    def refused(self, address: Address) -> None:
        """Take that this node's own system refused to send there: helpers need not wait, nor need askers."""
        claims = self._claims
        probe = self._probe
        if probe is not None and probe.ack_due_s < math.inf and self._address_of(probe.node) == address:
            claims.tallies.add(claims.tallies.events, "probe_refused")
            claims.health.worsen()
            probe.is_refused = True
            self._ask_helpers(probe)
        for sequence, relay in [*self._relays.items()]:
            if self._address_of(relay.target) == address:
                del self._relays[sequence]
                nack = Nack(relay.asker_sequence, relay.target, (), NackReason.UNREACHABLE)
                self._outbox.send_to(relay.asker, nack, ())

    def _address_of(self, node: NodeId) -> Address | None:
        member = self._table.get(node)
        return None if member is None else member.address

    # For others.

    def take_request(self, request: PingReq, asker: NodeId, now_s: float) -> None:
        """Ping a member for somebody who has no answer from it."""
        if len(self._relays) >= RELAYS_MAX:
            self._claims.tallies.add(self._claims.tallies.dropped, "relays_full")
            return
        member = self._table.get(request.target)
        address = Address(request.host, request.port) if member is None else member.address
        sequence = self._outbox.next_sequence()
        self._relays[sequence] = Relay(asker, request.sequence, request.target, now_s + self._config.nack_after_s)
        self._outbox.send(address, Ping(sequence, request.target), self._claims.about(request.target))

    def _pass_on(self, ack: Ack, source: NodeId) -> bool:
        """Pass an answer on to whom it is for; True if it was for somebody else."""
        relay = self._relays.get(ack.sequence)
        if relay is None or not relay.target == ack.node == source:
            return False
        del self._relays[ack.sequence]
        asker = self._table.get(relay.asker)
        if asker is not None:
            self._outbox.send(asker.address, Ack(relay.asker_sequence, ack.node), ())
        return True

    def _end_relays(self, now_s: float) -> None:
        """Tell askers of indirect pings that went unanswered."""
        while self._relays:
            sequence, relay = next(iter(self._relays.items()))
            if relay.due_s > now_s:
                return
            del self._relays[sequence]
            member = self._table.get(relay.target)
            is_refused = member is not None and member.refused_s >= now_s - REFUSED_S
            nack = Nack(
                relay.asker_sequence, relay.target, (), NackReason.REFUSED if is_refused else NackReason.TIMEOUT
            )
            if member is not None:
                boot, incarnation = member.identity
                accusation = self._claims.signing.accusation((member.node, boot, incarnation), Evidence.SILENCE)
                nack = replace(nack, boot=boot, incarnation=incarnation, word=accusation.word)
            self._outbox.send_to(relay.asker, nack, ())
