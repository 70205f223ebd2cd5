"""What stands guard beside the probe loop: the watch over a few members, and the evidence of crashes.

Sans-I/O. Joins `membership.watch` and `membership.evidence` with the testimony that spreads by gossip, and has the
membership machine deal with one thing instead of three.
"""

from __future__ import annotations

import math
import random
from typing import assert_never

from frys_node.base.types import NodeId
from membership.circle import HELPERS
from membership.claims import Claims
from membership.config import MembershipConfig
from membership.evidence import CrashEvidence
from membership.findings import Finding, LifelineDown, LifelineUp, Nudged, PortState, Refused, Tried
from membership.looks import Looks
from membership.messages import BeatAck, Ping
from membership.outbox import Outbox
from membership.testimony import CrashReport, Vouch, VouchKind
from membership.watch import Watch

ECHO_S = 10.0
"""For so long a vouch that was heard is told from a repetition; gossip has forgotten it long before."""

WORDS_MIN = 1_024
"""Words remembered at least, whatever the number of members. More only as all watchers and helpers may say."""


class Guard:
    """One node's watch and evidence."""

    __slots__ = ("_claims", "_config", "_evidence", "_heard", "_looks", "_outbox", "_watch")

    def __init__(self, claims: Claims, outbox: Outbox, config: MembershipConfig, rng: random.Random) -> None:
        self._claims = claims
        self._outbox = outbox
        self._config = config
        self._watch = Watch(claims, outbox, config, rng, self._vouch)
        self._evidence = CrashEvidence(claims, outbox, config, self._watch, self._spread)
        self._looks = Looks(claims, outbox, config, self._vouch)
        self._heard: dict[tuple[NodeId, NodeId], tuple[int, float]] = {}
        """The last word of each voucher about each member, and when it came; the oldest come first."""
        claims.rumours.handle(CrashReport, self._take_report)
        claims.rumours.handle(Vouch, self._take_vouch)

    @property
    def next_deadline_s(self) -> float:
        """When `advance` must be called next."""
        ask_s = self._claims.suspicions.ask_s if self._config.buddy else math.inf
        parts = (self._watch, self._evidence, self._looks)
        return min(ask_s, *(part.next_deadline_s for part in parts))

    @property
    def beat_s(self) -> float:
        """When the watch begins its next round of beats; infinite if it watches nobody."""
        return self._watch.beat_s

    def turn(self, now_s: float) -> None:
        """Follow the members as they are now."""
        self._watch.turn(now_s)
        self._looks.turn(now_s)

    def advance(self, now_s: float) -> None:
        """Do what is due."""
        self._watch.advance(now_s)
        self._evidence.advance(now_s)
        self._looks.advance(now_s)
        if self._config.buddy and self._claims.suspicions.ask_s <= now_s:
            self._ask(now_s)

    def _ask(self, now_s: float) -> None:
        """Ask the suspects themselves whose refutation, if there is one, should have come; the ping accuses them."""
        for node in self._claims.suspicions.ask(now_s):
            member = self._claims.table.get(node)
            if member is not None and not self._claims.is_leaving:
                self._claims.tallies.add(self._claims.tallies.events, "suspect_asked")
                ping = Ping(self._outbox.next_sequence(), node)
                self._outbox.send(member.address, ping, self._claims.about(node))

    def shift(self, gap_s: float, now_s: float) -> None:
        """Leave a time during which this node itself stood still out of every account."""
        self._watch.shift(gap_s, now_s)
        self._evidence.shift(gap_s)
        # What waited in this node's socket meanwhile is no news.
        self._heard = {key: (sequence, at_s + gap_s) for key, (sequence, at_s) in self._heard.items()}

    def heard(self, source: NodeId, boot: int, now_s: float) -> None:
        """An authenticated packet has come straight from a member."""
        self._watch.heard(now_s)
        self._evidence.heard(source, boot, now_s)

    def take_ack(self, ack: BeatAck, source: NodeId, boot: int, now_s: float) -> None:
        """A beat was answered."""
        self._watch.take_ack(ack, source, boot, now_s)

    def take(self, finding: Finding, now_s: float) -> None:
        """Take what the driver has found out."""
        match finding:
            case LifelineUp(node, boot):
                self._watch.lifeline_up(node, now_s)
                self._evidence.lifeline_up(node, boot, now_s)
            case LifelineDown(node, boot, end):
                self._evidence.lifeline_down(node, boot, end, now_s)
            case Tried(node, boot, state):
                if state is PortState.REFUSED:
                    self._note_refusal(node, now_s)
                if not self._looks.tried(node, boot, state, now_s):
                    self._evidence.tried(node, boot, state, now_s)
            case Nudged(node, boot, response, patience_s):
                self._watch.nudged(node, boot, response, patience_s, now_s)
                self._evidence.nudged(node, boot, response, now_s)
            case Refused(node):
                self._watch.refused(node, now_s)
            case _:
                assert_never(finding)

    def _note_refusal(self, node: NodeId, now_s: float) -> None:
        member = self._claims.table.get(node)
        if member is not None:
            member.refused_s = now_s
        self._claims.observe_refusal(node, now_s)

    # Testimony.

    def _spread(self, testimony: CrashReport | Vouch) -> None:
        self._claims.rumours.queue.put(testimony)

    def _vouch(self, vouch: Vouch, now_s: float) -> None:
        """Vouch for a member oneself, unless it was not even asked."""
        if self._claims.is_unasked(vouch.node, now_s):
            return
        vouch = self._claims.rumours.signed(vouch)
        self._spread(vouch)
        self._claims.vouch(vouch.node, (vouch.boot, vouch.incarnation), vouch.voucher, vouch.kind, now_s)
        self._evidence.take_vouch(vouch, now_s)

    def _take_report(self, report: CrashReport, source: NodeId, now_s: float) -> None:
        claims = self._claims
        life, accusation = (report.node, report.boot, report.incarnation), report.accusation
        verdict = claims.signing.is_accused(life, accusation)
        if not claims.rumours.judged(verdict, CrashReport, report.observer, source, now_s):
            return
        if self._evidence.take_report(report, now_s):
            self._spread(report)

    def _take_vouch(self, vouch: Vouch, _source: NodeId, now_s: float) -> None:
        if vouch.voucher == self._claims.node or not self._is_sound(vouch) or not self._is_news(vouch, now_s):
            return
        if not self._evidence.take_vouch(vouch, now_s):
            return
        self._spread(vouch)
        if vouch.node == self._claims.node and vouch.kind is VouchKind.KERNEL_ACK:
            # It stood still, and hears of it now that it does not.
            return
        self._claims.vouch(vouch.node, (vouch.boot, vouch.incarnation), vouch.voucher, vouch.kind, now_s)

    def _is_sound(self, vouch: Vouch) -> bool:
        """True if it is a live member's word about a life that is not over."""
        table = self._claims.table
        member, voucher = table.get(vouch.node), table.get(vouch.voucher)
        is_known = member is not None and member.is_live and member.update.boot <= vouch.boot
        return is_known and voucher is not None and voucher.is_live

    def _is_news(self, vouch: Vouch, now_s: float) -> bool:
        key = (vouch.node, vouch.voucher)
        known = self._heard.get(key)
        if known is not None and vouch.sequence <= known[0] and now_s - known[1] <= ECHO_S:
            return False
        if known is None and not self._has_room(now_s):
            # Better deaf to one more than to forget what was heard: each echo of that would be news, at every node.
            self._claims.tallies.add(self._claims.tallies.events, "vouches_full")
            return False
        self._heard.pop(key, None)
        self._heard[key] = (vouch.sequence, now_s)
        return True

    def _has_room(self, now_s: float) -> bool:
        """Make room for one more word, of those that are too old to have echoes."""
        size_max = max(WORDS_MIN, len(self._claims.table.live) * (self._config.watchers + HELPERS))
        while len(self._heard) >= size_max:
            oldest = next(iter(self._heard))
            if now_s - self._heard[oldest][1] <= ECHO_S:
                return False
            del self._heard[oldest]
        return True
