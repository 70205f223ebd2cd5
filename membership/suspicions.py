"""The running suspicions of one node, and who vouches for whom.

Sans-I/O. A voucher may be heard of before the accusation that it answers, so vouchers are kept by themselves, by member
and boot, and a suspicion that begins or gets new evidence is measured against them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from frys_node.base.types import NodeId
from membership.allowance import Allowance
from membership.awareness import Awareness
from membership.config import MembershipConfig
from membership.hearsay import weighed
from membership.messages import ACCUSERS_NEEDED, Accusation, Evidence, Standing, Update
from membership.suspicion import VETO_S, Floors, Suspicion, suspicion_floor_s
from membership.table import Table
from membership.testimony import VouchKind

VOUCHERS_MAX = 8
"""Vouchers remembered of each member; the oldest make room."""

OBJECTIONS = tuple(kind for kind in VouchKind if kind is not VouchKind.KERNEL_ACK)
"""What is only seen by those who look because of the evidence, hence after it."""

ASKED_MAX = 16
"""Suspects asked at once; in the long run one in each probe interval. Those who stand still never answer: asking them
must not add a flood when half a cluster is lost, nor cost more than the probes do. Loss alone asks less than this."""

PATIENCE_MAX = 3
"""A node in trouble waits so many times longer at most: if all are, a death must be known some time all the same."""


class _Vouchers:
    """Who vouches for one boot of one member, by kind the latest time."""

    __slots__ = ("boot", "seen")

    def __init__(self, boot: int) -> None:
        self.boot = boot
        self.seen: dict[tuple[NodeId, VouchKind], float] = {}

    def add(self, voucher: NodeId, kind: VouchKind, now_s: float) -> bool:
        """Note a voucher; True if it did not count a moment ago."""
        before_s = self.seen.pop((voucher, kind), -math.inf)
        self.seen[voucher, kind] = now_s
        if len(self.seen) > VOUCHERS_MAX:
            del self.seen[next(iter(self.seen))]
        return now_s - before_s >= VETO_S

    def shift(self, gap_s: float) -> None:
        """Leave a time during which this node itself stood still out of their age."""
        self.seen = {key: at_s + gap_s for key, at_s in self.seen.items()}

    def latest_of(self, kind: VouchKind) -> float:
        """Return when somebody last vouched in this way."""
        return max((at_s for (_, k), at_s in self.seen.items() if k is kind), default=-math.inf)


class Suspicions:
    """Suspicions by member, at most one each."""

    __slots__ = ("_allowance", "_config", "_deadline", "_health", "_node", "_running", "_table", "_vouchers", "ask_s")

    def __init__(self, node: NodeId, table: Table, config: MembershipConfig, health: Awareness) -> None:
        self._node = node
        self._table = table
        self._config = config
        self._health = health
        self._running: dict[NodeId, Suspicion] = {}
        self._vouchers: dict[NodeId, _Vouchers] = {}
        per_s = 1.0 / config.probe_interval_s
        self._allowance = Allowance("questions", per_s=per_s, burst=ASKED_MAX, now_s=0.0)
        self.ask_s = math.inf
        """When `ask` must be called next."""
        self._deadline: tuple[tuple[int, int, int, int, bool], float] | None = None
        """The next deadline and what it was computed for: it is asked for in every turn, and rarely changes."""

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Suspicion]:
        return iter(self._running.values())

    def nodes(self) -> Collection[NodeId]:
        """Return who is suspected."""
        return self._running.keys()

    def get(self, node: NodeId) -> Suspicion | None:
        """Return the suspicion of a member, if one runs."""
        return self._running.get(node)

    def clear(self) -> None:
        """Drop all of them."""
        self._deadline = None
        self._running.clear()

    def forget(self, node: NodeId) -> None:
        """Drop what is kept of a member: nobody suspects it any more."""
        self._deadline = None
        self._running.pop(node, None)
        self._vouchers.pop(node, None)

    def track(self, update: Update, now_s: float) -> bool:
        """Start, restart or end the suspicion that goes with a claim; True if one has begun."""
        if update.standing is not Standing.SUSPECT:
            # Whoever answers for itself needs no voucher, and nobody else's counts once it is dead or gone.
            self.forget(update.node)
            return False
        self._deadline = None
        floors, evidence = self.floors(), weighed(update.evidence)
        boot, incarnation, accuser = update.boot, update.incarnation, update.accuser
        suspicion = Suspicion(boot, incarnation, accuser, now_s, floors, evidence)
        self._running[update.node] = suspicion
        self.ask_s = min(self.ask_s, suspicion.ask_s)
        self._apply_vouchers(update.node, suspicion, now_s)
        return True

    def confirm(self, node: NodeId, accusation: Accusation, now_s: float) -> bool:
        """Count an accuser of a suspect; True if it is worth passing on.

        The short clock of a crash starts once `ACCUSERS_NEEDED` have seen it, or all that are left.
        """
        suspicion, evidence = self._running.get(node), accusation.evidence
        if suspicion is None:
            return False
        is_news = suspicion.judge(accusation)
        if not suspicion.confirm(accusation.accuser, self.expected, evidence, now_s):
            return is_news
        self._deadline = None
        if evidence is Evidence.CRASH:
            observers = max(1, min(ACCUSERS_NEEDED, self._table.counts[Standing.ALIVE]))
            suspicion.weigh(observers, now_s, self._config.crash_suspicion_s * self._health.factor)
        return True

    def verdicts(self, life: tuple[NodeId, int, int]) -> tuple[Accusation, ...]:
        """Return who has buried that very life of a member, as this node has heard."""
        suspicion = self._running.get(life[0])
        is_same = suspicion is not None and (suspicion.boot, suspicion.incarnation) == life[1:]
        return suspicion.verdicts if suspicion is not None and is_same else ()

    def needed(self, node: NodeId) -> int:
        """Return how many must accuse a suspect before it is dead, whatever the time: others may see what one does not.

        Two, or all that live beside it. Only whom this node itself finds silent does not count as living: otherwise
        whoever accuses everybody would be alone with this node, and right about all of them.
        """
        others = 1 + sum(peer != node and not self._is_mine(peer) for peer in self._table.live)
        return max(1, min(self._config.accusers, others))

    def _is_mine(self, node: NodeId) -> bool:
        suspicion = self._running.get(node)
        return suspicion is not None and self._node in suspicion.accusers

    def vouch(self, node: NodeId, boot: int, voucher: NodeId, kind: VouchKind, now_s: float) -> bool:
        """Take that a member vouches for another one; True if it did not count a moment ago."""
        vouchers = self._vouchers.get(node)
        if vouchers is None or vouchers.boot < boot:
            vouchers = self._vouchers[node] = _Vouchers(boot)
        elif vouchers.boot > boot:
            return False
        is_new = vouchers.add(voucher, kind, now_s)
        suspicion = self._running.get(node)
        if suspicion is not None:
            if kind is VouchKind.KERNEL_ACK and suspicion.boot == boot:
                suspicion.veto(now_s)
            self._apply_vouchers(node, suspicion, now_s)
        return is_new

    def relax(self, node: NodeId, boot: int, until_s: float) -> None:
        """Put a suspicion back to silence although nobody vouches: what looked like a crash has another cause."""
        suspicion = self._running.get(node)
        if suspicion is not None and suspicion.boot == boot:
            suspicion.veto(until_s)
            self._deadline = None

    def _apply_vouchers(self, node: NodeId, suspicion: Suspicion, now_s: float) -> None:
        vouchers = self._vouchers.get(node)
        if vouchers is None or vouchers.boot != suspicion.boot:
            return
        self._deadline = None
        # An acknowledgement is no objection to a crash that came after it.
        vetoed_s = max((vouchers.latest_of(kind) for kind in OBJECTIONS), default=-math.inf)
        if now_s - vetoed_s < VETO_S:
            suspicion.veto(vetoed_s + VETO_S)
        suspicion.hold(vouchers.latest_of(VouchKind.KERNEL_ACK) + VETO_S)

    def vouched_at_s(self, node: NodeId, kind: VouchKind) -> float:
        """When somebody last vouched for a member in this way; minus infinity if nobody did."""
        vouchers = self._vouchers.get(node)
        return -math.inf if vouchers is None else vouchers.latest_of(kind)

    def vouchers(self, node: NodeId) -> list[tuple[NodeId, VouchKind, float]]:
        """Return who vouches for a member, how, and when it last did, the latest last."""
        vouchers = self._vouchers.get(node)
        return [] if vouchers is None else [(who, kind, at_s) for (who, kind), at_s in vouchers.seen.items()]

    @property
    def expected(self) -> int:
        """How many more could confirm: the members not under suspicion themselves, less the first accuser."""
        return max(0, min(self._config.confirmations, self._table.counts[Standing.ALIVE] - 1))

    @property
    def _patience(self) -> int:
        """How much longer this node waits because it is in trouble itself; not if nobody else could tell it."""
        return min(self._health.factor, PATIENCE_MAX) if self.expected else 1

    def deadline_s(self, *, is_silence_enough: bool = True) -> float:
        """Return when the next one runs out, infinity if none does; silence may not be enough (`is_isolated`)."""
        if not self._running:
            return math.inf
        key = (self.expected, self._table.circle.version, self._patience, len(self._table.live), is_silence_enough)
        if self._deadline is None or self._deadline[0] != key:
            ends_s = (self.ends_s(node) for node in self._judged(is_silence_enough=is_silence_enough))
            self._deadline = (key, min(ends_s, default=math.inf))
        return self._deadline[1]

    def ends_s(self, node: NodeId) -> float:
        """Return when the suspicion of a member runs out, if enough accuse it by then; there must be one."""
        circle = self._table.circle.watchers(node, self._config.watchers)
        # Those that are suspect themselves are not waited for, as with confirmations.
        watchers = [watcher for watcher in circle if watcher not in self._running]
        return self._running[node].deadline_s(self.expected, watchers, self._patience)

    def due(self, now_s: float, *, is_silence_enough: bool = True) -> list[NodeId]:
        """Return whose suspicion has run out."""
        judged = self._judged(is_silence_enough=is_silence_enough)
        return [node for node in judged if self.ends_s(node) <= now_s]

    def _judged(self, *, is_silence_enough: bool) -> list[NodeId]:
        """Return the suspects that are dead when their time is up: enough accuse them, and silence is enough."""
        running = self._running.items()
        return [node for node, s in running if (is_silence_enough or s.is_crash) and self._is_agreed(node, s)]

    def _is_agreed(self, node: NodeId, suspicion: Suspicion) -> bool:
        """True if enough accuse a suspect, or if this node does and nobody else is left."""
        count = len(suspicion.accusers)
        return count >= self._config.accusers or (self._is_mine(node) and count >= self.needed(node))

    def ask(self, now_s: float) -> list[NodeId]:
        """Return which suspects are to be asked now: of many those that have been asked least.

        A refutation that gossip has not brought by now will hardly come: under loss one node in a hundred misses it,
        and would bury the living.
        """
        due = sorted((s.questions, s.ask_s, node) for node, s in self._running.items() if s.ask_s <= now_s)
        asked: list[NodeId] = []
        for _, _, node in due:
            suspicion = self._running[node]
            if suspicion.held_until_s > now_s:
                # It is known to stand still: it does not answer, and has enough to read when it goes on.
                suspicion.put_off(now_s)
            elif not self._allowance.wait_s(now_s):
                self._allowance.spend(now_s)
                suspicion.asked(now_s)
                asked.append(node)
        ready_s = now_s + self._allowance.wait_s(now_s)
        self.ask_s = min((max(ready_s, s.ask_s) for s in self), default=math.inf)
        return asked

    def shift(self, gap_s: float) -> None:
        """Move all of them by a time during which this node itself stood still."""
        self._deadline = None
        self.ask_s += gap_s
        for suspicion in self._running.values():
            suspicion.shift(gap_s)
        for vouchers in self._vouchers.values():
            vouchers.shift(gap_s)

    def restart(self, now_s: float) -> None:
        """Begin those of silence anew: what this node missed meanwhile was its own fault."""
        self._deadline = None
        for suspicion in self._running.values():
            if not suspicion.is_crash:
                suspicion.since_s = now_s

    def floors(self) -> Floors:
        """Return the shortest suspicions at the cluster's size now."""
        config = self._config
        count = len(self._table.live) + 1
        return Floors(
            silence_s=suspicion_floor_s(config.suspicion_multiplier, count, config.probe_interval_s),
            gone_s=suspicion_floor_s(config.gone_multiplier, count, config.watch_interval_s),
            crash_s=config.crash_suspicion_s,
            ceiling_factor=config.suspicion_max_multiplier if config.lha_suspicion else 1.0,
            stall_max_s=config.stall_max_s,
        )
