"""A watcher: regular beats to the members before this one in the circle, and what their absence means.

Sans-I/O. Each member is watched by the next three in the circle of ids. A watcher beats once per interval; a beat that
is not answered is repeated up to three times, so that lost packets are not learnt as variance: the first ack of a slot
is the sample of `membership.phi`. Deadlines are computed from it, never polled.

phi never kills. At 5 the member counts as slow, here. At 8 its lifeline is nudged: if its kernel acknowledges, the
process exists and does not run, and this node vouches for it (STALLED), again and again while that lasts; if not, this
node accuses it (GONE).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from enum import IntEnum

from frys_node.base.types import NodeId
from membership.claims import Claims
from membership.config import MembershipConfig
from membership.effects import KeepLifelines, Nudge, PhiSeen, RoundTrip
from membership.member import Member
from membership.messages import Beat, BeatAck, Evidence
from membership.outbox import Outbox
from membership.phi import Beats
from membership.story import Entry
from membership.testimony import Vouch, VouchKind

SLOW_PHI = 5.0
"""From here on routing prefers others."""

SUSPECT_PHI = 8.0
"""From here on the member is nudged, and accused if that goes unanswered."""

TRIES = 4
"""Beats in one slot: the first and three repetitions."""

REPEAT_MIN_S = 0.1
"""Shortest wait before a beat is repeated."""

NUDGE_TIMEOUT_S = 1.5
"""A nudge that nobody reports on counts as not acknowledged."""

VOUCH_INTERVAL_S = 2.0
"""How often a stalled member is nudged and vouched for again."""


class _State(IntEnum):
    """What the watcher thinks of a subject."""

    FINE = 0
    NUDGED = 1
    STALLED = 2
    ACCUSED = 3


class _Subject:
    """One member under watch: one life of it."""

    __slots__ = (
        "acked",
        "beats",
        "boot",
        "next_s",
        "node",
        "sent_s",
        "slot",
        "slot_s",
        "slow_s",
        "state",
        "suspect_s",
    )

    def __init__(self, node: NodeId, boot: int, beats: Beats, first_s: float) -> None:
        self.node = node
        self.boot = boot
        self.beats = beats
        self.slot = 0
        self.slot_s = first_s
        """When the next slot begins."""
        self.next_s = first_s
        """When the next beat is sent, of this slot or the next."""
        self.acked = 0
        """The last slot that was answered."""
        self.sent_s: list[float] = []
        """When the beats of this slot were sent."""
        self.state = _State.FINE
        self.slow_s = self.suspect_s = math.inf
        """When phi crosses its thresholds; `suspect_s` also when the verdict is due again."""

    def expect(self) -> None:
        """Compute when phi crosses its thresholds."""
        self.slow_s = self.beats.crossing_s(SLOW_PHI)
        self.suspect_s = self.beats.crossing_s(SUSPECT_PHI)


class Watch:
    """The members that one node watches."""

    __slots__ = (
        "_claims",
        "_config",
        "_heard_s",
        "_kept",
        "_outbox",
        "_rng",
        "_subjects",
        "_testify",
        "_version",
        "next_deadline_s",
    )

    def __init__(
        self,
        claims: Claims,
        outbox: Outbox,
        config: MembershipConfig,
        rng: random.Random,
        testify: Callable[[Vouch, float], None],
    ) -> None:
        """`testify` spreads a vouch and takes it into this node's own account."""
        self._claims = claims
        self._outbox = outbox
        self._config = config
        self._rng = rng
        self._testify = testify
        self._subjects: dict[NodeId, _Subject] = {}
        self._kept: list[NodeId] = []
        """Members to which lifelines are kept."""
        self._version = -1
        self._heard_s = -math.inf
        """When any member spoke last."""
        self.next_deadline_s = math.inf
        """When `advance` must be called next."""

    def __contains__(self, node: NodeId) -> bool:
        return node in self._subjects

    @property
    def beat_s(self) -> float:
        """When the next round of beats begins; infinite if nobody is watched."""
        return min((subject.slot_s for subject in self._subjects.values()), default=math.inf)

    def turn(self, now_s: float) -> None:
        """Follow the circle: watch whom it says, each in the life that is known now."""
        claims, circle = self._claims, self._claims.table.circle
        version = -2 if claims.is_leaving else circle.version
        if self._version == version:
            return
        self._version = version
        wanted = [] if claims.is_leaving else circle.before(claims.node, self._config.watchers)
        if self._heard_s == -math.inf:
            self._heard_s = now_s
        first_s = self._first_s(now_s) if wanted else math.inf
        old, self._subjects = self._subjects, {}
        for node in wanted:
            member = claims.table.get(node)
            assert member is not None
            kept = old.pop(node, None)
            if kept is None or kept.boot != member.update.boot:
                kept = self._begin(member, now_s, first_s)
            self._subjects[node] = kept
        for node in old:
            member = claims.table.get(node)
            if member is not None:
                member.vitals.beats, member.vitals.is_slow = None, False
        if wanted != self._kept:
            self._kept = wanted
            claims.out.append(KeepLifelines(tuple(wanted)))
        self._arm()

    def _first_s(self, now_s: float) -> float:
        """When a new subject's first beat is sent: with the others', since a wake-up costs more than a beat.

        Nodes among themselves are spread out.
        """
        beat_s = self.beat_s
        return beat_s if now_s < beat_s < math.inf else now_s + self._rng.random() * self._config.watch_interval_s

    def _begin(self, member: Member, now_s: float, first_s: float) -> _Subject:
        config = self._config
        beats = Beats(
            config.watch_interval_s, pause_s=config.watch_pause_s, sd_min_s=config.watch_deviation_min_s, now_s=now_s
        )
        member.vitals.beats = beats
        return _Subject(member.node, member.update.boot, beats, first_s)

    def _mark(self, subject: _Subject, *, is_slow: bool) -> None:
        member = self._claims.table.get(subject.node)
        if member is not None and member.vitals.is_slow is not is_slow:
            member.vitals.is_slow = is_slow
            self._claims.touch(subject.node)

    def _arm(self) -> None:
        self.next_deadline_s = min(
            (min(s.next_s, s.slow_s, s.suspect_s) for s in self._subjects.values()), default=math.inf
        )

    def advance(self, now_s: float) -> None:
        """Send the beats that are due and act on the silences that have grown too long."""
        if self.next_deadline_s > now_s:
            return
        for subject in self._subjects.values():
            if subject.next_s <= now_s:
                self._beat(subject, now_s)
            if subject.slow_s <= now_s:
                subject.slow_s = math.inf
                self._tell("slow")
                self._claims.out.append(PhiSeen(subject.beats.phi(now_s)))
                self._mark(subject, is_slow=True)
            if subject.suspect_s <= now_s:
                self._suspect(subject, now_s)
        self._arm()

    def _beat(self, subject: _Subject, now_s: float) -> None:
        """Send the next beat of the slot, or the first one of a new slot."""
        interval_s = self._config.watch_interval_s
        if subject.slot_s <= now_s:
            subject.slot += 1
            # After a pause of this node the slots that were missed are not made up for.
            subject.slot_s = max(subject.slot_s + interval_s, now_s + interval_s / 2)
            subject.sent_s.clear()
        sequence = subject.slot * TRIES + len(subject.sent_s)
        subject.sent_s.append(now_s)
        member = self._claims.table.get(subject.node)
        if member is not None:
            if len(subject.sent_s) > 1:
                # Perhaps it is the short header that is not understood.
                member.acquainted_boot = None
            self._outbox.send_to(subject.node, Beat(sequence), self._claims.about(subject.node))
        subject.next_s = subject.slot_s
        if len(subject.sent_s) < TRIES:
            subject.next_s = min(subject.slot_s, now_s + self._repeat_after_s(subject.node))
        if len(subject.sent_s) > 1:
            self._tell("beat_repeated")

    def _repeat_after_s(self, node: NodeId) -> float:
        """How long an ack may take before the beat is repeated."""
        member = self._claims.table.get(node)
        vitals = None if member is None else member.vitals
        usual_s = 0.0 if vitals is None or vitals.srtt_s is None else vitals.srtt_s + 4.0 * vitals.rttvar_s
        return min(max(usual_s, REPEAT_MIN_S), self._config.watch_interval_s / 5.0)

    def take_ack(self, ack: BeatAck, source: NodeId, boot: int, now_s: float) -> None:
        """Take the answer to a beat; only the first one of a slot counts."""
        subject = self._subjects.get(source)
        slot, number = divmod(ack.sequence, TRIES)
        if subject is None or subject.boot != boot or not subject.acked < slot <= subject.slot:
            return
        out = self._claims.out
        if subject.beats.is_proven:
            out.append(PhiSeen(max(0.0, subject.beats.phi(now_s))))
        if subject.state is not _State.FINE:
            self._tell("beats_returned")
            subject.beats.skip()
        subject.beats.beat(now_s)
        subject.acked = slot
        member = self._claims.table.get(source)
        if member is not None:
            member.acquainted_boot = boot
        if slot == subject.slot:
            subject.next_s = subject.slot_s
            if number < len(subject.sent_s):
                rtt_s = now_s - subject.sent_s[number]
                if member is not None:
                    member.vitals.observe_rtt(rtt_s)
                out.append(RoundTrip(source, rtt_s))
        subject.state = _State.FINE
        self._mark(subject, is_slow=False)
        subject.expect()
        self._arm()

    def _suspect(self, subject: _Subject, now_s: float) -> None:
        """The silence has grown too long, or lasts on, or nobody has reported on a nudge."""
        if subject.state is _State.NUDGED:
            self._judge(subject, is_acked=False, now_s=now_s)
            return
        if subject.state is _State.FINE:
            self._tell("phi_suspect")
            self._claims.out.append(PhiSeen(subject.beats.phi(now_s)))
            detail = f"phi {SUSPECT_PHI:.0f} after {now_s - subject.beats.last_s:.2f} s of silence"
            self._claims.tell(subject.node, Entry(now_s, "silent", self._claims.node, detail=detail))
        if self._config.crash_evidence == "off":
            # Whoever stands between would acknowledge in the member's name.
            self._accuse(subject, Evidence.SILENCE, now_s)
            return
        subject.state = _State.NUDGED
        subject.suspect_s = now_s + NUDGE_TIMEOUT_S
        self._claims.out.append(Nudge(subject.node, subject.boot))

    def nudged(self, node: NodeId, boot: int, now_s: float, *, is_acked: bool) -> None:
        """Hear what came of a nudge that this watch asked for."""
        subject = self._subjects.get(node)
        if subject is not None and subject.boot == boot and subject.state is _State.NUDGED:
            self._judge(subject, is_acked=is_acked, now_s=now_s)
            self._arm()

    def _judge(self, subject: _Subject, *, is_acked: bool, now_s: float) -> None:
        if not is_acked:
            self._accuse(subject, Evidence.GONE, now_s)
            return
        subject.state = _State.STALLED
        subject.suspect_s = now_s + VOUCH_INTERVAL_S
        member = self._claims.table.get(subject.node)
        if member is not None and member.update.boot == subject.boot:
            self._tell("vouch_kernel")
            incarnation = member.update.incarnation
            sequence = self._outbox.next_word()
            vouch = Vouch(subject.node, subject.boot, incarnation, self._claims.node, VouchKind.KERNEL_ACK, sequence)
            self._testify(vouch, now_s)

    def heard(self, now_s: float) -> None:
        """A packet has come straight from a member, whoever that is."""
        self._heard_s = now_s

    def _accuse(self, subject: _Subject, evidence: Evidence, now_s: float) -> None:
        """Accuse a subject, once per silence; later if nobody else speaks either or this node has stood still."""
        claims = self._claims
        if now_s - self._heard_s >= self._config.watch_interval_s:
            claims.observe_hush(now_s - self._heard_s, now_s)
        subject.state = _State.ACCUSED
        subject.suspect_s = math.inf
        member = claims.table.get(subject.node)
        if member is not None and member.update.boot == subject.boot:
            identity = (subject.boot, member.update.incarnation)
            if claims.accuse(subject.node, identity, (claims.node,), now_s, evidence):
                self._tell("accused_gone" if evidence is Evidence.GONE else "accused_silent")
            else:
                # If it is silent still when this node trusts itself again, or some time later, it is nudged anew.
                subject.suspect_s = claims.quiet_until_s if claims.is_quiet else now_s + VOUCH_INTERVAL_S

    def shift(self, gap_s: float, now_s: float) -> None:
        """Leave a time during which this node itself stood still out of every silence."""
        self._heard_s += gap_s
        for subject in self._subjects.values():
            subject.beats.shift(gap_s)
            subject.slot_s = subject.next_s = now_s
            if subject.state is _State.FINE:
                self._mark(subject, is_slow=False)
                if subject.beats.is_proven:
                    subject.expect()
            elif subject.suspect_s < math.inf:
                subject.suspect_s = max(subject.suspect_s, now_s + NUDGE_TIMEOUT_S)
        self._arm()

    def _tell(self, event: str) -> None:
        self._claims.tallies.add(self._claims.tallies.events, event)
