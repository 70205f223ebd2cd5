"""What is known for and against the end of one life of a member.

Sans-I/O. A case keeps the reports of observers and the objections to them; `membership.evidence` judges it.

Objections are of two kinds. Whoever looks because of the evidence, and finds life, has seen it afterwards: a packet, a
connection that stays open, a nudge that the evidence made necessary. Such a *veto* stands for `VETO_S` whoever reports
meanwhile. A stalled member's watchers say every two seconds that its kernel acknowledges, evidence or not, and gossip
brings that after the report of a crash although it was said before. Word and report of different members cannot be
put in order, those of one member can: it kept a connection when it gave its word, and had lost it when it reported. So
an *acknowledgement* counts from the first report on, until its voucher reports the crash as well: a death may come late
because of it, and never wrongly. What was said before the first report answers nothing.
"""

from __future__ import annotations

import math

from frys_node.base.types import NodeId
from membership.suspicion import VETO_S
from membership.testimony import CrashReport

CASE_S = 10.0
"""How long evidence is kept."""

OBSERVERS_MAX = 16
"""Observers, and vouchers, that a case keeps; further ones are ignored."""


class Report:
    """One observer's evidence."""

    __slots__ = ("at_s", "is_lifeline_lost", "is_void", "word")

    def __init__(self, at_s: float, is_lifeline_lost: bool, word: bytes = b"") -> None:
        self.at_s = at_s
        self.is_lifeline_lost = is_lifeline_lost
        self.word = word
        """The observer's signature under the accusation."""
        self.is_void = False
        """The observer itself has seen life since; what it lost is remembered all the same, for E8's sake."""

    def describe(self) -> str:
        """Say it to people."""
        return "lifeline lost, then refused" if self.is_lifeline_lost else "refused"


class Case:
    """Evidence about one life of a member."""

    __slots__ = (
        "_acks",
        "again_s",
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
        self.reports: dict[NodeId, Report] = {}
        self.is_crash = False
        """The member is accused of a crash because of it."""
        self.veto_until_s = -math.inf
        self._acks: dict[NodeId, float] = {}
        """When each voucher's word was heard that the kernel acknowledges."""
        self.has_tried = False
        """This node has nudged the lifeline or tried the port on account of others' reports."""
        self.own: CrashReport | None = None
        """What this node reports itself, and `due` when it does so again."""
        self.due: list[float] = []
        self.pings: list[float] = []
        """When this node pings the accused."""
        self.again_s = math.inf
        """When this node may accuse, because it may not now."""

    @property
    def next_s(self) -> float:
        """When this case wants attention."""
        due_s = self.due[0] if self.due else math.inf
        ping_s = self.pings[0] if self.pings else math.inf
        return min(due_s, ping_s, self.again_s, self.ends_s)

    @property
    def ends_s(self) -> float:
        """When it is forgotten."""
        held_s = self.again_s if self.again_s < math.inf else -math.inf
        return max(self.since_s + CASE_S, self.veto_until_s, held_s)

    @property
    def standing(self) -> dict[NodeId, Report]:
        """The reports that their observers have not taken back."""
        return {observer: report for observer, report in self.reports.items() if not report.is_void}

    def add(self, observer: NodeId, report: Report) -> bool:
        """Keep a report in place of the observer's last one; False if there is no room."""
        if observer not in self.reports and len(self.reports) >= OBSERVERS_MAX:
            return False
        self.reports[observer] = report
        return True

    def has_reported(self, node: NodeId) -> bool:
        """True if a member's report stands."""
        report = self.reports.get(node)
        return report is not None and not report.is_void

    def withdraw(self, observer: NodeId) -> None:
        """Void a member's report, if it made one."""
        report = self.reports.get(observer)
        if report is not None:
            report.is_void = True

    def veto(self, voucher: NodeId, now_s: float) -> None:
        """Take that a member has seen life after the evidence, its own too."""
        self.withdraw(voucher)
        self.veto_until_s = now_s + VETO_S
        self.due.clear()
        self.is_crash = False

    def acknowledge(self, voucher: NodeId, now_s: float) -> bool:
        """Take that a member's kernel acknowledged at some time; False if its voucher has told of the crash since."""
        if self.has_reported(voucher):
            return False
        if self.standing and (voucher in self._acks or len(self._acks) < OBSERVERS_MAX):
            self._acks[voucher] = now_s
            self.is_crash = False
        return True

    def is_vetoed(self, now_s: float) -> bool:
        """True while somebody's objection stands."""
        return self.veto_until_s > now_s or any(
            now_s - at_s < VETO_S and not self.has_reported(voucher) for voucher, at_s in self._acks.items()
        )

    def shift(self, gap_s: float) -> None:
        """Move everything by a time during which this node itself stood still."""
        self.since_s += gap_s
        self.veto_until_s += gap_s
        self.again_s += gap_s
        self.due = [due_s + gap_s for due_s in self.due]
        self.pings = [ping_s + gap_s for ping_s in self.pings]
        self._acks = {voucher: at_s + gap_s for voucher, at_s in self._acks.items()}
        for report in self.reports.values():
            report.at_s += gap_s
