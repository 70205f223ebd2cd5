"""The probe loop: one member per interval, helpers for the silent ones, and indirect pings made for others.

Sans-I/O. A probe is a direct ping; without an ack in time, k helpers are asked to ping too; without any by the end of
the interval the member is accused, by this node and by each helper that said nack.
"""

from __future__ import annotations

import math
import random

from frys_node.base.types import Address, NodeId
from membership.claims import Claims
from membership.config import MembershipConfig
from membership.effects import RoundTrip
from membership.member import Member
from membership.messages import Ack, Nack, Ping, PingReq
from membership.outbox import Outbox
from membership.probe import Probe, Relay

RELAYS_MAX = 256
"""Indirect pings under way for others; more are refused and counted."""


class Probing:
    """One node's probes, and its help for those of others."""

    __slots__ = ("_claims", "_config", "_outbox", "_probe", "_relays", "_rng", "_table", "next_probe_s")

    def __init__(self, claims: Claims, outbox: Outbox, config: MembershipConfig, rng: random.Random) -> None:
        self._claims = claims
        self._table = claims.table
        self._outbox = outbox
        self._config = config
        self._rng = rng
        self._probe: Probe | None = None
        self._relays: dict[int, Relay] = {}
        """Indirect pings under way, by the sequence of this node's own ping; the oldest comes first."""
        self.next_probe_s = math.inf
        """When the running probe is judged and the next one starts; infinite while there is nobody to probe."""

    @property
    def next_deadline_s(self) -> float:
        """When `advance` must be called next."""
        return min(
            self.next_probe_s,
            self._probe.ack_due_s if self._probe is not None else math.inf,
            next(iter(self._relays.values())).due_s if self._relays else math.inf,
        )

    def arm(self, now_s: float) -> None:
        """Start to probe, or stop, as there is somebody to probe or not."""
        if not self._table.live:
            self.next_probe_s = math.inf
            self._probe = None
        elif self.next_probe_s == math.inf:
            self.next_probe_s = now_s + self._rng.random() * self._config.probe_interval_s

    def stop(self) -> None:
        """Drop the running probe: a node that leaves accuses nobody."""
        self._probe = None

    def catch_up(self, now_s: float) -> None:
        """After this node itself stood still, drop verdicts that rest on acks which it could not read."""
        self._probe = None
        self._relays.clear()
        self.next_probe_s = max(self.next_probe_s, now_s)

    def advance(self, now_s: float) -> None:
        """Do what is due."""
        self._end_relays(now_s)
        if self._probe is not None and self._probe.ack_due_s <= now_s:
            self._ask_helpers(self._probe)
        if self.next_probe_s <= now_s:
            self._next_probe(now_s)

    def _next_probe(self, now_s: float) -> None:
        """Judge the probe that ends and start the next one."""
        claims = self._claims
        probe, self._probe = self._probe, None
        if probe is not None and not probe.is_acked:
            claims.tallies.add(claims.tallies.events, "probe_failed")
            claims.accuse(probe.node, probe.identity, (claims.node, *probe.nacks), now_s)
        self.next_probe_s = now_s + self._config.probe_interval_s
        node = None if claims.is_leaving else claims.order.next(self._table.live)
        member = None if node is None else self._table.get(node)
        if node is None or member is None:
            return
        sequence = self._outbox.next_sequence()
        self._probe = Probe(node, member.identity, sequence, now_s, self._config.ack_timeout_s)
        self._outbox.send_to(node, Ping(sequence, node), claims.about(node))

    def _ask_helpers(self, probe: Probe) -> None:
        """Ask others to ping the member that has not answered."""
        probe.ack_due_s = math.inf
        member = self._table.get(probe.node)
        if member is None:
            return
        host, port = member.address
        probe.asked = self._table.live.sample(self._rng, self._config.helpers, (probe.node,))
        for helper in probe.asked:
            request = PingReq(probe.sequence, probe.node, host, port)
            self._outbox.send_to(helper, request, self._claims.about(helper))

    def take_ack(self, ack: Ack, source: NodeId, now_s: float) -> Member | None:
        """Take an answer to a probe or a relay; returns the probed member if it answered itself."""
        if self._pass_on(ack, source):
            return None
        probe = self._probe
        if probe is None or probe.sequence != ack.sequence or probe.node != ack.node or probe.is_acked:
            return None
        probe.is_acked = True
        probe.ack_due_s = math.inf
        if source != probe.node:
            self._claims.tallies.add(self._claims.tallies.events, "saved_by_helper")
            return None
        member = self._table.get(source)
        if member is not None:
            member.vitals.observe_rtt(now_s - probe.started_s)
        self._claims.out.append(RoundTrip(source, now_s - probe.started_s))
        return member

    def take_nack(self, nack: Nack, source: NodeId) -> None:
        """Take that a helper got no answer either."""
        if self._probe is not None and self._probe.sequence == nack.sequence:
            self._probe.nack(source)

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
            self._outbox.send_to(relay.asker, Nack(relay.asker_sequence, relay.target), ())
