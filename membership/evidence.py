"""Crash evidence: what proves, within milliseconds, that a process has ended, and what proves the contrary.

Sans-I/O. A watcher whose lifeline to a member ends without a goodbye dials again at once. *Refused* means that nobody
listens there any more; nothing else counts, since a timeout, a reset or an unreachable network can have other causes.
One such observer raises a suspicion. Two of them, on two machines where there are, make it a CRASH, whose suspicion is
short; helpers further round the circle look too, because the neighbours of a dead member may have died with it. A
stopped process keeps its sockets, and its kernel answers for it: so it is never taken for a crashed one.

Against forged resets and filters that refuse: any sign of that very life after the evidence (an authenticated packet,
an acknowledged byte on another lifeline, a helper's connection that stays open) vetoes it, and the accused refutes by a
higher incarnation. When many seem to crash at once, or one observer loses most of its subjects, the cause is more
likely in between, and the suspicion is an ordinary one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec.structs import replace

from frys_node.base.types import NodeId
from membership.cases import CASE_S, Case, Report
from membership.claims import Claims
from membership.config import MembershipConfig
from membership.effects import Nudge, Reconnect, TryPort
from membership.findings import LifelineEnd, PortState, Response
from membership.member import Member
from membership.messages import Accusation, Evidence, Gossip, Ping, Standing
from membership.outbox import Outbox
from membership.rumours import RUMOURS
from membership.story import Entry
from membership.testimony import CrashReport, Vouch, VouchKind
from membership.watch import Watch

CASES_MAX = 128
"""Cases kept; further reports are counted and ignored."""

RESEND_S = (0.0, 0.06, 0.12)
"""When a report goes straight to the other watchers and the helpers."""

PINGS_S = (0.0, 0.05, 0.15, 0.3)
"""When a watcher pings the accused, with the accusation inside."""

MASS_WINDOW_S = 5.0
MASS_MIN = 2
MASS_SHARE = 4
"""More crashes in the window than MASS_MIN and a MASS_SHARE-th of the members: something in between has failed."""

TAINT_WINDOW_S = 1.0
TAINT_SUBJECTS = 2
"""An observer that finds so many of its subjects refused within the window needs a third one to agree."""

UNHEARD_S = 0.1
"""Pause before a case is looked at again whose member's new life has not been heard of here."""

PATIENCE_S = 0.03
"""How long a process that runs may take to answer a greeting: no longer, because a veto must come in time."""


class CrashEvidence:
    """The evidence that one node has found and heard of."""

    __slots__ = (
        "_cases",
        "_claims",
        "_config",
        "_dialling",
        "_lifelines",
        "_nudging",
        "_outbox",
        "_spread",
        "_watch",
        "next_deadline_s",
    )

    def __init__(
        self,
        claims: Claims,
        outbox: Outbox,
        config: MembershipConfig,
        watch: Watch,
        spread: Callable[[CrashReport | Vouch], None],
    ) -> None:
        """`spread` hands testimony to gossip."""
        self._claims = claims
        self._outbox = outbox
        self._config = config
        self._watch = watch
        self._spread = spread
        self._cases: dict[NodeId, Case] = {}
        self._lifelines: dict[NodeId, int] = {}
        """Boots by node whose connection stands."""
        self._dialling: dict[NodeId, int] = {}
        """Boots by node whose lifeline broke, while a new connection is tried."""
        self._nudging: dict[NodeId, int] = {}
        self.next_deadline_s = math.inf
        """When `advance` must be called next."""

    # Lifelines and what the driver finds out.

    def lifeline_up(self, node: NodeId, boot: int, now_s: float) -> None:
        """A connection to this boot of the member stands, authenticated."""
        self._lifelines[node] = boot
        # Whatever came of the last dial, it is over.
        self._dialling.pop(node, None)
        case = self._cases.get(node)
        if case is not None and case.boot < boot:
            # REPLACED: it restarted so fast that the new life answers; evidence about the old one is history.
            self._tell("crash_replaced")
            del self._cases[node]
        elif case is not None and case.boot == boot:
            self._object(case, VouchKind.HELPER, now_s)
        self._arm()

    def lifeline_down(self, node: NodeId, boot: int, end: LifelineEnd, now_s: float) -> None:
        """The connection to this boot of the member has ended."""
        if self._lifelines.get(node) == boot:
            del self._lifelines[node]
        member = self._live(node, boot)
        if end is LifelineEnd.LOST and member is not None and node in self._watch and self._is_on:
            self._tell("lifeline_lost")
            self._dialling[node] = boot
            self._claims.out.append(Reconnect(node, boot, member.address))

    def tried(self, node: NodeId, boot: int, state: PortState, now_s: float) -> None:
        """Hear what came of `Reconnect` or `TryPort`."""
        was_lifeline = self._dialling.get(node) == boot
        if was_lifeline:
            del self._dialling[node]
        case = self._cases.get(node)
        self._tell(f"port_{state.value}")
        if state is PortState.REFUSED:
            member = self._live(node, boot)
            if member is not None:
                self._testify(member, boot, now_s, is_lifeline_lost=was_lifeline)
        elif state is PortState.OPEN and case is not None and case.boot == boot and not was_lifeline:
            self._object(case, VouchKind.HELPER, now_s)
        self._arm()

    def nudged(self, node: NodeId, boot: int, response: Response, now_s: float) -> None:
        """Hear what came of a nudge that others' reports made necessary."""
        if self._nudging.pop(node, None) != boot:
            return
        case = self._cases.get(node)
        is_there = response in (Response.ANSWERED, Response.ACKNOWLEDGED)
        if case is not None and case.boot == boot and is_there and self._lifelines.get(node) == boot:
            self._object(case, VouchKind.LIFELINE, now_s)
            self._arm()

    def _testify(self, member: Member, boot: int, now_s: float, *, is_lifeline_lost: bool) -> None:
        """Report this node's own evidence, straight to those who can confirm it and to everybody by gossip."""
        node, me = member.node, self._claims.node
        case = self._open(node, boot, self._incarnation(member, boot), now_s)
        if case is None or case.veto_until_s > now_s:
            return
        self._tell("crash_observed")
        word = self._claims.signing.accusation((node, boot, case.incarnation), Evidence.CRASH).word
        case.own = CrashReport(node, boot, case.incarnation, me, is_lifeline_lost, word=word)
        case.due = [now_s + after_s for after_s in RESEND_S]
        self._spread(case.own)
        self._add(case, me, Report(now_s, is_lifeline_lost, word), now_s)
        self._send(case, now_s)

    @staticmethod
    def _incarnation(member: Member, boot: int) -> int:
        return member.update.incarnation if member.update.boot == boot else 0

    # What others testify.

    def take_report(self, report: CrashReport, now_s: float) -> bool:
        """Take another observer's evidence; True if it is worth passing on."""
        claims = self._claims
        if not report.is_refused or self._config.crash_evidence == "off" or report.observer == claims.node:
            return False
        if report.node == claims.node:
            self._answer(report, now_s)
            return False
        member, observer = self._live(report.node, report.boot), claims.table.get(report.observer)
        if member is None or observer is None or not observer.is_live:
            return False
        if member.update.boot == report.boot and member.update.incarnation > report.incarnation:
            return False
        case = self._open(report.node, report.boot, report.incarnation, now_s)
        if case is None or case.has_reported(report.observer) or case.veto_until_s > now_s:
            return False
        self._tell("crash_reported")
        is_news = self._add(case, report.observer, Report(now_s, report.is_lifeline_lost, report.word), now_s)
        self._look(case, member)
        self._send(case, now_s)
        return is_news

    def _answer(self, report: CrashReport, now_s: float) -> None:
        """Refute evidence about this node's own life."""
        own = self._claims.own
        if report.boot == own.boot:
            accusation = replace(
                own,
                incarnation=report.incarnation,
                standing=Standing.SUSPECT,
                accuser=report.observer,
                word=report.word,
            )
            self._claims.hearing.answer(accusation, now_s)

    def _look(self, case: Case, member: Member) -> None:
        """Look for oneself, once: by a nudge where there is a lifeline, by a connection where a helper is wanted."""
        claims, node = self._claims, case.node
        if case.has_tried or self._dialling.get(node) == case.boot or case.has_reported(claims.node):
            return
        circle, count = claims.table.circle, self._config.watchers
        is_watcher = claims.node in circle.watchers(node, count)
        if not is_watcher and claims.node not in circle.helpers(node, count):
            return
        case.has_tried = True
        if self._lifelines.get(node) == case.boot and is_watcher:
            self._nudging[node] = case.boot
            claims.out.append(Nudge(node, case.boot))
        else:
            claims.out.append(TryPort(node, case.boot, member.address, PATIENCE_S))

    def take_vouch(self, vouch: Vouch, now_s: float) -> bool:
        """Take a member's word that this life has not ended; False if its own report has overtaken it."""
        if self._live(vouch.node, vouch.boot) is None or vouch.node == self._claims.node:
            return True
        case = self._cases.get(vouch.node)
        if vouch.kind is VouchKind.KERNEL_ACK:
            return case is None or case.boot != vouch.boot or case.acknowledge(vouch.voucher, now_s)
        if case is None:
            # The objection came before the evidence that it answers.
            case = self._open(vouch.node, vouch.boot, vouch.incarnation, now_s)
        if case is not None and case.boot == vouch.boot:
            case.veto(vouch.voucher, now_s)
            self._arm()
        return True

    def heard(self, node: NodeId, boot: int, now_s: float) -> None:
        """An authenticated packet of this boot of the member has come, straight from it."""
        case = self._cases.get(node)
        if case is None:
            return
        if case.boot < boot:
            del self._cases[node]
        elif case.boot == boot and case.veto_until_s <= now_s:
            self._object(case, VouchKind.DATAGRAM, now_s)
        self._arm()

    def _object(self, case: Case, kind: VouchKind, now_s: float) -> None:
        """Veto a case for what this node has seen itself, and tell those who judge it."""
        claims = self._claims
        case.withdraw(claims.node)
        if case.veto_until_s > now_s:
            return
        case.veto(claims.node, now_s)
        self._tell(f"veto_{kind.name.lower()}")
        word = self._outbox.next_word()
        vouch = claims.rumours.signed(Vouch(case.node, case.boot, case.incarnation, claims.node, kind, word))
        self._spread(vouch)
        payload = RUMOURS.encode(vouch)
        for peer in self._judges(case.node):
            self._outbox.send_to(peer, Gossip((), (payload,)), ())
        claims.vouch(case.node, (case.boot, case.incarnation), claims.node, kind, now_s)

    # Judging.

    @property
    def _is_on(self) -> bool:
        return self._config.crash_evidence != "off" and not self._claims.is_leaving

    def _live(self, node: NodeId, boot: int) -> Member | None:
        """Return the member if it is live, and this boot of it not over."""
        member = self._claims.table.get(node)
        return member if member is not None and member.is_live and member.update.boot <= boot else None

    def _open(self, node: NodeId, boot: int, incarnation: int, now_s: float) -> Case | None:
        """Return the case about this life, a new one if there is none; None if a newer life is known or no room."""
        case = self._cases.get(node)
        if case is not None and case.boot > boot:
            return None
        if case is not None and (case.boot, case.incarnation) == (boot, incarnation):
            return case
        if case is not None and case.boot == boot and case.incarnation > incarnation:
            return None
        if case is None and len(self._cases) >= CASES_MAX:
            self._tell("crash_cases_full")
            return None
        case = self._cases[node] = Case(node, boot, incarnation, now_s)
        return case

    def _add(self, case: Case, observer: NodeId, report: Report, now_s: float) -> bool:
        """Count an observer and accuse whoever has enough of them against it; False if there are enough already."""
        if not case.add(observer, report):
            return False
        claims = self._claims
        if not case.pings and claims.node in claims.table.circle.watchers(case.node, self._config.watchers):
            case.pings = [now_s + after_s for after_s in PINGS_S]
        claims.tell(case.node, Entry(now_s, "refused", observer, Evidence.CRASH, report.describe()))
        if self._is_mass(now_s):
            self._tell("crash_mass")
            for other in self._recent(now_s):
                self._relax(other, now_s + MASS_WINDOW_S)
        else:
            self._doubt(observer, now_s)
            if not case.is_crash and not case.is_vetoed(now_s) and self._is_proven(case):
                case.is_crash = True
                self._tell("crash_proven")
        if case.is_crash or observer == claims.node:
            self._accuse(case, now_s)
        self._arm()
        return True

    def _doubt(self, observer: NodeId, now_s: float) -> None:
        """Take back what rests on an observer that has lost one subject too many by now."""
        if not self._is_tainted(observer):
            return
        for case in self._cases.values():
            if case.is_crash and observer in case.reports and not self._is_proven(case):
                self._tell("crash_doubted")
                self._relax(case, now_s)

    def _relax(self, case: Case, until_s: float) -> None:
        case.is_crash = False
        self._claims.suspicions.relax(case.node, case.boot, until_s)

    def _accuse(self, case: Case, now_s: float) -> None:
        claims = self._claims
        evidence = Evidence.CRASH if case.is_crash else Evidence.SILENCE
        member = claims.table.get(case.node)
        if member is not None and member.update.boot < case.boot:
            # A life that this node has not heard of is over already, but it has not said itself that it had begun: what
            # it said is on its way here, or comes with the next exchange.
            case.again_s = now_s + UNHEARD_S if now_s - case.since_s < CASE_S else math.inf
            return
        observers = [Accusation(who, evidence, report.word) for who, report in case.standing.items()]
        is_taken = claims.accuse(case.node, (case.boot, case.incarnation), observers, now_s, evidence)
        case.again_s = math.inf if is_taken or not claims.is_quiet else claims.quiet_until_s

    def _recent(self, now_s: float) -> list[Case]:
        """The cases with evidence that began within the mass window."""
        return [c for c in self._cases.values() if c.reports and now_s - c.since_s <= MASS_WINDOW_S]

    def _is_mass(self, now_s: float) -> bool:
        recent = [case for case in self._recent(now_s) if not case.is_vetoed(now_s)]
        table = self._claims.table
        dead = sum(case.node not in table.live for case in recent)
        return len(recent) > max(MASS_MIN, (len(table.live) + 1 + dead) / MASS_SHARE)

    def _is_proven(self, case: Case) -> bool:
        """True if enough observers agree that this life has ended."""
        reports = case.standing
        if self._config.crash_evidence != "on" or not any(r.is_lifeline_lost for r in reports.values()):
            return False
        table = self._claims.table
        others = len(table.live) + 1 - (case.node in table.live)
        needed = min(2, others)
        if needed > 1 and any(self._is_tainted(observer) for observer in reports):
            needed = 3
        if len(reports) < needed:
            return False
        # Two observers on one machine may share one cause: where there are two machines, both must agree.
        looking = table.circle.after(case.node, 2 * self._config.watchers)
        return len(self._hosts(reports)) >= min(needed, 2, len(self._hosts(looking)))

    def _hosts(self, nodes: list[NodeId] | dict[NodeId, Report]) -> set[str]:
        members = (self._claims.table.get(node) for node in nodes)
        return {member.address.host for member in members if member is not None}

    def _is_tainted(self, observer: NodeId) -> bool:
        """True if the observer lost several of its subjects at about the same time."""
        times = sorted(
            case.reports[observer].at_s
            for case in self._cases.values()
            if observer in case.reports and case.reports[observer].is_lifeline_lost
        )
        step = TAINT_SUBJECTS - 1
        return any(times[i + step] - times[i] <= TAINT_WINDOW_S for i in range(len(times) - step))

    # Time.

    def advance(self, now_s: float) -> None:
        """Report again, ping the accused again, forget what is old."""
        if self.next_deadline_s > now_s:
            return
        for case in list(self._cases.values()):
            self._send(case, now_s)
            if case.again_s <= now_s:
                case.again_s = math.inf
                if case.is_crash or case.has_reported(self._claims.node):
                    self._accuse(case, now_s)
            if case.ends_s <= now_s:
                del self._cases[case.node]
        self._arm()

    def _send(self, case: Case, now_s: float) -> None:
        """Send what is due about a case."""
        if case.own is not None and case.due and case.due[0] <= now_s:
            case.due = [due_s for due_s in case.due if due_s > now_s]
            payload = RUMOURS.encode(case.own)
            for peer in self._judges(case.node):
                self._outbox.send_to(peer, Gossip((), (payload,)), self._claims.about(case.node))
        if case.pings and case.pings[0] <= now_s:
            case.pings = [ping_s for ping_s in case.pings if ping_s > now_s]
            member = self._live(case.node, case.boot)
            if member is not None:
                ping = Ping(self._outbox.next_sequence(), case.node)
                self._outbox.send(member.address, ping, self._claims.about(case.node))

    def _judges(self, node: NodeId) -> list[NodeId]:
        """The member's other watchers and its helpers."""
        circle, count = self._claims.table.circle, self._config.watchers
        nearby = [*circle.watchers(node, count), *circle.helpers(node, count)]
        return [peer for peer in nearby if peer != self._claims.node]

    def shift(self, gap_s: float) -> None:
        """Leave a time during which this node itself stood still out of every case."""
        for case in self._cases.values():
            case.shift(gap_s)
        self._arm()

    def _arm(self) -> None:
        self.next_deadline_s = min((case.next_s for case in self._cases.values()), default=math.inf)

    def _tell(self, event: str) -> None:
        self._claims.tallies.add(self._claims.tallies.events, event)
