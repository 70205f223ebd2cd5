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
from membership.claims import Claims
from membership.config import MembershipConfig
from membership.effects import Nudge, Reconnect, TryPort
from membership.findings import LifelineEnd, PortState, Response
from membership.member import Member
from membership.messages import Evidence, Gossip, Ping, Standing
from membership.outbox import Outbox
from membership.rumours import RUMOURS
from membership.story import Entry
from membership.suspicion import VETO_S
from membership.testimony import CrashReport, Vouch, VouchKind
from membership.watch import Watch

CASE_S = 10.0
"""How long evidence is kept."""

CASES_MAX = 128
OBSERVERS_MAX = 16
"""Bounds of what is kept; further reports are counted and ignored."""

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


class _Report:
    """One observer's evidence."""

    __slots__ = ("at_s", "is_lifeline_lost")

    def __init__(self, at_s: float, is_lifeline_lost: bool) -> None:
        self.at_s = at_s
        self.is_lifeline_lost = is_lifeline_lost


def _describe(report: _Report) -> str:
    return "lifeline lost, then refused" if report.is_lifeline_lost else "refused"


class _Case:
    """What is known for and against the end of one life of a member."""

    __slots__ = (
        "boot",
        "due",
        "has_tried",
        "incarnation",
        "is_crash",
        "node",
        "own",
        "pings",
        "reports",
        "since_s",
        "veto_until_s",
    )

    def __init__(self, node: NodeId, boot: int, incarnation: int, since_s: float) -> None:
        self.node = node
        self.boot = boot
        self.incarnation = incarnation
        self.since_s = since_s
        self.reports: dict[NodeId, _Report] = {}
        self.is_crash = False
        """The member is accused of a crash because of it."""
        self.veto_until_s = -math.inf
        self.has_tried = False
        """This node has nudged the lifeline or tried the port on account of others' reports."""
        self.own: CrashReport | None = None
        """What this node reports itself, and `due` when it does so again."""
        self.due: list[float] = []
        self.pings: list[float] = []
        """When this node pings the accused."""

    @property
    def next_s(self) -> float:
        """When this case wants attention."""
        return min(
            self.due[0] if self.due else math.inf, self.pings[0] if self.pings else math.inf, self.since_s + CASE_S
        )


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
        self._cases: dict[NodeId, _Case] = {}
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
        case.own = CrashReport(node, boot, case.incarnation, me, is_lifeline_lost)
        case.due = [now_s + after_s for after_s in RESEND_S]
        self._spread(case.own)
        self._add(case, me, _Report(now_s, is_lifeline_lost), now_s)
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
        if case is None or report.observer in case.reports or case.veto_until_s > now_s:
            return False
        self._tell("crash_reported")
        self._add(case, report.observer, _Report(now_s, report.is_lifeline_lost), now_s)
        self._look(case, member)
        self._send(case, now_s)
        return True

    def _answer(self, report: CrashReport, now_s: float) -> None:
        """Refute evidence about this node's own life."""
        own = self._claims.own
        if report.boot == own.boot:
            accusation = replace(
                own, incarnation=report.incarnation, standing=Standing.SUSPECT, accuser=report.observer
            )
            self._claims.take(accusation, now_s)

    def _look(self, case: _Case, member: Member) -> None:
        """Look for oneself, once: by a nudge where there is a lifeline, by a connection where a helper is wanted."""
        claims, node = self._claims, case.node
        if case.has_tried or node in self._dialling or claims.node in case.reports:
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
            claims.out.append(TryPort(node, case.boot, member.address))

    def take_vouch(self, vouch: Vouch, now_s: float) -> None:
        """Take another member's word that this life has not ended."""
        if self._live(vouch.node, vouch.boot) is None or vouch.node == self._claims.node:
            return
        case = self._cases.get(vouch.node)
        if case is None and vouch.kind is not VouchKind.KERNEL_ACK:
            # The objection came before the evidence that it answers.
            case = self._open(vouch.node, vouch.boot, vouch.incarnation, now_s)
        if case is not None and case.boot == vouch.boot:
            self._veto(case, now_s)
            self._arm()

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

    def _object(self, case: _Case, kind: VouchKind, now_s: float) -> None:
        """Veto a case for what this node has seen itself, and tell those who judge it."""
        if case.veto_until_s > now_s:
            return
        self._tell(f"veto_{kind.name.lower()}")
        claims, sequence = self._claims, self._outbox.next_sequence()
        vouch = Vouch(case.node, case.boot, case.incarnation, claims.node, kind, sequence)
        self._spread(vouch)
        payload = RUMOURS.encode(vouch)
        for peer in self._judges(case.node):
            self._outbox.send_to(peer, Gossip((), (payload,)), ())
        claims.vouch(case.node, (case.boot, case.incarnation), claims.node, kind, now_s)
        self._veto(case, now_s)

    @staticmethod
    def _veto(case: _Case, now_s: float) -> None:
        case.veto_until_s = now_s + VETO_S
        case.due.clear()
        case.is_crash = False

    # Judging.

    @property
    def _is_on(self) -> bool:
        return self._config.crash_evidence != "off" and not self._claims.is_leaving

    def _live(self, node: NodeId, boot: int) -> Member | None:
        """Return the member if it is live, and this boot of it not over."""
        member = self._claims.table.get(node)
        return member if member is not None and member.is_live and member.update.boot <= boot else None

    def _open(self, node: NodeId, boot: int, incarnation: int, now_s: float) -> _Case | None:
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
        case = self._cases[node] = _Case(node, boot, incarnation, now_s)
        return case

    def _add(self, case: _Case, observer: NodeId, report: _Report, now_s: float) -> None:
        """Count an observer and accuse whoever has enough of them against it."""
        if len(case.reports) >= OBSERVERS_MAX:
            return
        case.reports[observer] = report
        claims = self._claims
        if not case.pings and claims.node in claims.table.circle.watchers(case.node, self._config.watchers):
            case.pings = [now_s + after_s for after_s in PINGS_S]
        if self._is_mass(now_s):
            self._tell("crash_mass")
            for other in self._recent(now_s):
                other.is_crash = False
                claims.suspicions.relax(other.node, other.boot, now_s + MASS_WINDOW_S)
            evidence = Evidence.SILENCE
        else:
            evidence = Evidence.CRASH if self._is_proven(case) else Evidence.SILENCE
        claims.tell(case.node, Entry(now_s, "refused", observer, Evidence.CRASH, _describe(report)))
        if evidence is Evidence.CRASH and not case.is_crash:
            case.is_crash = True
            self._tell("crash_proven")
        if case.is_crash or observer == claims.node:
            self._accuse(case, evidence, now_s)
        self._arm()

    def _accuse(self, case: _Case, evidence: Evidence, now_s: float) -> None:
        claims, observers = self._claims, tuple(case.reports)
        member = claims.table.get(case.node)
        if member is not None and member.update.boot < case.boot:
            # A life that this node has not heard of is over already: what is known of the one before is history.
            claims.merge(
                replace(
                    member.update,
                    boot=case.boot,
                    incarnation=case.incarnation,
                    standing=Standing.SUSPECT,
                    accuser=observers[0],
                    evidence=evidence,
                ),
                now_s,
            )
        claims.accuse(case.node, (case.boot, case.incarnation), observers, now_s, evidence)

    def _recent(self, now_s: float) -> list[_Case]:
        """The cases with evidence that began within the mass window."""
        return [c for c in self._cases.values() if c.reports and now_s - c.since_s <= MASS_WINDOW_S]

    def _is_mass(self, now_s: float) -> bool:
        recent = [case for case in self._recent(now_s) if case.veto_until_s <= now_s]
        table = self._claims.table
        dead = sum(case.node not in table.live for case in recent)
        return len(recent) > max(MASS_MIN, (len(table.live) + 1 + dead) / MASS_SHARE)

    def _is_proven(self, case: _Case) -> bool:
        """True if enough observers agree that this life has ended."""
        if self._config.crash_evidence != "on" or not any(r.is_lifeline_lost for r in case.reports.values()):
            return False
        table = self._claims.table
        others = len(table.live) + 1 - (case.node in table.live)
        needed = min(2, others)
        if needed > 1 and any(self._is_tainted(observer) for observer in case.reports):
            needed = 3
        if len(case.reports) < needed:
            return False
        # Two observers on one machine may share one cause: where there are two machines, both must agree.
        looking = table.circle.after(case.node, 2 * self._config.watchers)
        return len(self._hosts(case.reports)) >= min(needed, 2, len(self._hosts(looking)))

    def _hosts(self, nodes: list[NodeId] | dict[NodeId, _Report]) -> set[str]:
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
            if case.since_s + CASE_S <= now_s and case.veto_until_s <= now_s:
                del self._cases[case.node]
            elif case.since_s + CASE_S <= now_s:
                case.since_s = case.veto_until_s - CASE_S
        self._arm()

    def _send(self, case: _Case, now_s: float) -> None:
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
            case.since_s += gap_s

    def _arm(self) -> None:
        self.next_deadline_s = min((case.next_s for case in self._cases.values()), default=math.inf)

    def _tell(self, event: str) -> None:
        self._claims.tallies.add(self._claims.tallies.events, event)
