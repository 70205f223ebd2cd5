"""A watcher: regular beats to the members before this one in the circle, and what their absence means.

Sans-I/O. Each member is watched by the next three in the circle of ids. A watcher beats once per interval; a beat that
is not answered is repeated up to three times, so that lost packets are not learnt as variance: the first ack of a slot
is the sample of `membership.phi`. Deadlines are computed from it, never polled.

phi never kills. At 5 the member counts as slow, here. At 8 its lifeline is nudged. If the process itself answers there,
only its packets are lost, somewhere: this node says that it does not reach it, and exchanges states with it over the
channel, so that it hears of what others hold against it and can refute. If its kernel alone acknowledges, the process
exists and does not run, and this node vouches for it (STALLED). If not even that, this node accuses it (GONE); where
there was no connection to ask on, of SILENCE alone. Whatever came of it, it is asked again while the silence lasts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from enum import IntEnum

from frys_node.base.types import NodeId
from membership.claims import Claims
from membership.config import MembershipConfig
from membership.edges import EDGE_REFRESH_S, EdgeKind
from membership.effects import KeepLifelines, Nudge, PhiSeen, PushPull, RoundTrip
from membership.findings import Response
from membership.member import Member
from membership.messages import Beat, BeatAck, Evidence
from membership.outbox import Outbox
from membership.patience import nudge_timeout_s
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

ANSWER_S = 1.0
"""How long a process that nobody suspects may take to answer a nudge that its kernel acknowledges: it may be busy."""

VOUCH_INTERVAL_S = 2.0
"""How often a silent member is nudged, and a stalled one vouched for, again."""

EXCHANGE_S = 10.0
"""How often states are exchanged with a member whose packets are lost; while it is suspect, every probe interval."""

MISSED_SLOTS = 2
"""Rounds of beats that a suspect which never answered one must have missed before it is nudged."""


_LEFT_TO_OTHERS = (1 << 64, Evidence.CRASH)
"""As `_Subject.accused`: more than this node will ever say of a member of which phi knows nothing."""


class _State(IntEnum):
    """What the watcher thinks of a subject."""

    FINE = 0
    NUDGED = 1
    STALLED = 2
    ANSWERING = 3
    """It does not answer packets, and does answer on its lifeline."""
    ACCUSED = 4


class _Subject:
    """One member under watch: one life of it."""

    __slots__ = (
        "accused",
        "acked",
        "answered_s",
        "beats",
        "boot",
        "exchanged_s",
        "next_s",
        "node",
        "patience_s",
        "refused_s",
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
        self.answered_s = self.refused_s = math.nan
        """When the beat was sent that was answered last, and when its port refused last; no number: not yet."""
        self.exchanged_s = -math.inf
        """When states were last exchanged with it on account of its silence."""
        self.state = _State.FINE
        self.patience_s = 0.0
        """How long the process may take to answer the nudge under way."""
        self.accused: tuple[int, Evidence] | None = None
        """The incarnation of which this silence has been held against it, and on what evidence: once is enough."""
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
        if self._version != version:
            self._version = version
            self._follow(now_s)
        if claims.suspicions:
            self._heed_suspects(now_s)

    def _follow(self, now_s: float) -> None:
        claims, circle = self._claims, self._claims.table.circle
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

    def _heed_suspects(self, now_s: float) -> None:
        """Have those that others accuse hear of it, if it is known that packets do not reach them; find out if not."""
        for subject in self._subjects.values():
            suspicion = self._claims.suspicions.get(subject.node)
            if suspicion is None or suspicion.is_crash:
                continue
            if subject.state is _State.ANSWERING:
                self._exchange(subject, self._config.probe_interval_s, now_s)
            elif subject.state is _State.FINE and not subject.beats.is_proven and subject.slot > MISSED_SLOTS:
                # Phi says nothing of it. To accuse it is left to the probes.
                subject.accused = _LEFT_TO_OTHERS
                self._ask(subject, now_s)
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
        for kind in (EdgeKind.PACKETS, EdgeKind.PACKETS_ALONE):
            self._claims.publish_edge(source, is_up=True, now_s=now_s, kind=kind)
        subject.beats.beat(now_s)
        subject.acked = slot
        member = self._claims.table.get(source)
        if member is not None:
            member.acquainted_boot = boot
        if slot == subject.slot:
            subject.next_s = subject.slot_s
            if number < len(subject.sent_s):
                subject.answered_s = subject.sent_s[number]
                rtt_s = now_s - subject.sent_s[number]
                if member is not None:
                    member.vitals.observe_rtt(rtt_s)
                out.append(RoundTrip(source, rtt_s))
        subject.state = _State.FINE
        subject.accused = None
        self._mark(subject, is_slow=False)
        subject.expect()
        self._arm()

    def _suspect(self, subject: _Subject, now_s: float) -> None:
        """The silence has grown too long, or lasts on, or nobody has reported on a nudge."""
        if subject.state is _State.NUDGED:
            self._judge(subject, Response.UNKNOWN, now_s)
            return
        if subject.state is _State.FINE:
            self._tell("phi_suspect")
            self._claims.out.append(PhiSeen(subject.beats.phi(now_s)))
            detail = f"phi {SUSPECT_PHI:.0f} after {now_s - subject.beats.last_s:.2f} s of silence"
            self._claims.tell(subject.node, Entry(now_s, "silent", self._claims.node, detail=detail))
        self._ask(subject, now_s)

    def _ask(self, subject: _Subject, now_s: float) -> None:
        claims = self._claims
        if self._config.crash_evidence == "off":
            # Whoever stands between would acknowledge in the member's name.
            self._accuse(subject, Evidence.SILENCE, now_s)
            return
        if (
            subject.accused is not None
            and subject.state is _State.ACCUSED
            and claims.suspicions.get(subject.node) is None
        ):
            # It has refuted, by way of others: nothing hangs on what this node would find out.
            subject.suspect_s = now_s + VOUCH_INTERVAL_S
            return
        subject.state = _State.NUDGED
        subject.suspect_s = now_s + self._nudge_timeout_s(subject.node)
        # Whoever is suspect and has not refuted must be vouched for before it is buried.
        subject.patience_s = ANSWER_S if claims.suspicions.get(subject.node) is None else 0.0
        claims.out.append(Nudge(subject.node, subject.boot, subject.patience_s))

    def _nudge_timeout_s(self, node: NodeId) -> float:
        return nudge_timeout_s(self._claims.table.trip_s(node, self._config.ack_timeout_min_s))

    def nudged(self, node: NodeId, boot: int, response: Response, patience_s: float, now_s: float) -> None:
        """Hear what came of a nudge that this watch asked for, or of one that was as patient."""
        subject = self._subjects.get(node)
        if subject is None or subject.boot != boot or subject.patience_s != patience_s:
            return
        if subject.state is _State.NUDGED:
            self._judge(subject, response, now_s)
            self._arm()

    def _judge(self, subject: _Subject, response: Response, now_s: float) -> None:
        member = self._claims.table.get(subject.node)
        is_other = member is not None and (member.has_stopped or self._claims.table.has_other_at(member))
        if response is Response.ACKNOWLEDGED and is_other:
            response = Response.UNKNOWN
        match response:
            case Response.ANSWERED:
                self._take_answer(subject, now_s)
            case Response.ACKNOWLEDGED:
                self._take_acknowledgement(subject, now_s)
            case Response.SILENT:
                self._accuse(subject, Evidence.GONE, now_s)
            case Response.UNKNOWN:
                self._accuse(subject, Evidence.SILENCE, now_s)

    def _take_answer(self, subject: _Subject, now_s: float) -> None:
        """The process runs: what is broken is the path of its packets, at this end, at that one or in between."""
        claims = self._claims
        subject.state = _State.ANSWERING
        subject.accused = None
        subject.suspect_s = now_s + VOUCH_INTERVAL_S
        self._tell("answered_by_channel")
        self._publish(subject.node, EdgeKind.PACKETS_ALONE, now_s)
        is_suspect = claims.suspicions.get(subject.node) is not None
        self._exchange(subject, self._config.probe_interval_s if is_suspect else EXCHANGE_S, now_s)

    def _publish(self, node: NodeId, kind: EdgeKind, now_s: float) -> None:
        """Tell of an edge, anew if the last time is long ago."""
        claims = self._claims
        if not claims.edges.has(claims.node, node, now_s, kind, within_s=EDGE_REFRESH_S):
            claims.publish_edge(node, is_up=False, now_s=now_s, kind=kind)

    def _exchange(self, subject: _Subject, interval_s: float, now_s: float) -> None:
        """Exchange states with a subject by the channel, unless that was done within the interval."""
        member = self._claims.table.get(subject.node)
        if member is not None and now_s - subject.exchanged_s >= interval_s and not self._claims.is_leaving:
            subject.exchanged_s = now_s
            self._claims.out.append(PushPull(subject.node, member.address))

    def _take_acknowledgement(self, subject: _Subject, now_s: float) -> None:
        """The process exists and does not run: vouch for it."""
        subject.state = _State.STALLED
        subject.accused = None
        subject.suspect_s = now_s + VOUCH_INTERVAL_S
        member = self._claims.table.get(subject.node)
        if member is not None and member.update.boot == subject.boot:
            self._tell("vouch_kernel")
            incarnation = member.update.incarnation
            sequence = self._outbox.next_word()
            vouch = Vouch(subject.node, subject.boot, incarnation, self._claims.node, VouchKind.KERNEL_ACK, sequence)
            self._testify(vouch, now_s)

    def lifeline_up(self, node: NodeId, now_s: float) -> None:
        """A connection to a member stands: its port does not refuse this node."""
        subject = self._subjects.get(node)
        if subject is not None:
            subject.refused_s = math.nan
        self._claims.publish_edge(node, is_up=True, now_s=now_s, kind=EdgeKind.CONNECTIONS)

    def refused(self, node: NodeId, now_s: float) -> None:
        """A dial for a lifeline was refused, again perhaps: if beats are answered, only the port is closed."""
        subject = self._subjects.get(node)
        if subject is None or self._config.crash_evidence == "off":
            return
        # A beat sent after one refusal and answered before the next; no number compares with none.
        if subject.answered_s > subject.refused_s:
            self._publish(node, EdgeKind.CONNECTIONS, now_s)
        subject.refused_s = now_s

    def heard(self, now_s: float) -> None:
        """A packet has come straight from a member, whoever that is."""
        self._heard_s = now_s

    def _accuse(self, subject: _Subject, evidence: Evidence, now_s: float) -> None:
        """Accuse a subject, once per silence; again if others do and there is more to say.

        If nobody else speaks either, or this node has stood still, that waits.
        """
        claims = self._claims
        subject.state = _State.ACCUSED
        subject.suspect_s = now_s + VOUCH_INTERVAL_S
        member = claims.table.get(subject.node)
        if member is None or member.update.boot != subject.boot:
            return
        words = (member.update.incarnation, evidence)
        is_running = claims.suspicions.get(subject.node) is not None
        if subject.accused is not None and (words <= subject.accused or not is_running):
            return
        if now_s - self._heard_s >= self._config.watch_interval_s:
            claims.observe_hush(now_s - self._heard_s, now_s)
        identity = (subject.boot, member.update.incarnation)
        accusation = claims.signing.accusation((subject.node, *identity), evidence)
        if claims.accuse(subject.node, identity, (accusation,), now_s, evidence):
            subject.accused = words
            self._tell("accused_gone" if evidence is Evidence.GONE else "accused_silent")
        elif claims.is_quiet:
            # If it is silent still when this node trusts itself again, it is nudged anew.
            subject.suspect_s = claims.quiet_until_s

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
                subject.suspect_s = max(subject.suspect_s, now_s + self._nudge_timeout_s(subject.node))
        self._arm()

    def _tell(self, event: str) -> None:
        self._claims.tallies.add(self._claims.tallies.events, event)
