"""The topology machine: adopts records, spreads them, reports on them; at the issuer it also drives the steps.

Sans-I/O. Theory of operation. A node takes any higher record, makes it durable, and only then acts on it; it refuses
lower ones, and two records with one key are an alarm (rule 20). It compares keys with a few peers now and then, with
every new connection, and with whoever sent a request under another key. Until it hears that its record is settled it
keeps telling the issuer what it has adopted and finished: reports say everything each time, so lost ones cost only
time. Who is alive is an input for the issuer's patience alone: a death changes nothing here (D4).

The issuer is the node of the record's term. Another one takes over by `promote`: it collects durable promises and
signs the highest record that they hold under a higher term (`promotion`). A planned hand-over is the old issuer's last
record, which names its successor; the successor then promotes itself, so that it is fenced like any other takeover. An
issuer that finds its records refused for the sake of a promise that led nowhere promotes itself anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from random import Random

import msgspec

from balancer.placement import Placement
from balancer.promotion import ASK_AGAIN_S, STAND_BACK_S, Promotion, highest
from balancer.record import JOINING, STABLE, TopologyRecord, after
from balancer.steps import StepConfig, Steps
from balancer.topology_effects import (
    Adopted,
    Equivocation,
    PersistPromise,
    PersistRecord,
    Propose,
    SendTopology,
    Settled,
    TakeOver,
    TopologyEffect,
)
from balancer.topology_messages import (
    Promise,
    PromiseAsk,
    PromiseRefused,
    RecordDigest,
    RecordPush,
    Report,
    SignedRecord,
    Statement,
)
from balancer.work import Work, work_for
from frys_node.base.types import Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.topology import Collection as CollectionInfo


class TopologyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Rhythm of spreading and reporting, in seconds."""

    digest_interval_s: float = 2.0
    """Pause between comparing record keys with a random peer."""
    report_interval_s: float = 0.3
    """Pause between reports to the issuer while something is not settled; it grows by a fifth each time."""
    report_interval_max_s: float = 3.0
    reassert_after_s: float = 10.0
    """An issuer whose records are refused for so long, because of a promise that led nowhere, promotes itself anew."""
    steps: StepConfig = StepConfig()


class TopologyMachine:
    """The record in force on this node, and the way to the next one."""

    def __init__(
        self,
        node: NodeId,
        rng: Random,
        *,
        kinds: Collection[str],
        config: TopologyConfig | None = None,
        peers: Callable[[], Collection[NodeId]] = tuple,
    ) -> None:
        self.node = node
        self.placement: Placement | None = None
        self.signed: SignedRecord | None = None
        self.settled: Epoch | None = None
        self.work = Work()
        self.frozen: Epoch | None = None
        """Two records with this key were seen, here or in an earlier life: nothing later of its term is taken."""
        self.config = config or TopologyConfig()
        self.steps = Steps(node, self.config.steps)
        self.taken_bytes: Callable[[], int] = lambda: 0
        """What moves and passes have brought to this node; set by the host."""
        self.promised: Term | None = None
        """Nothing of a lower term is adopted any more."""
        self.promotion: Promotion | None = None
        self._is_promise_kept = True
        self._promise_asked: dict[NodeId, None] = {}
        self._outbid: Term | None = None
        self._reassert_at_s = math.inf
        self._kinds = tuple(kinds)
        self._rng = rng
        self._peers = peers
        self._open: dict[tuple[str, UnitId], None] = {}
        self._persisting: PersistRecord | None = None
        self._proposing: Epoch | None = None
        self._digest_at_s = 0.0
        self._report_at_s = math.inf
        self._report_pause_s = self.config.report_interval_s

    # ------------------------------------------------------------------ what is in force

    @property
    def epoch(self) -> Epoch | None:
        """Key of the record in force."""
        return self.placement.record.epoch if self.placement else None

    @property
    def newest(self) -> Epoch | None:
        """Key of the newest record that this node knows of: one that it is writing, else the one in force."""
        return self._proposing or self.epoch

    @property
    def record(self) -> TopologyRecord | None:
        """The record in force."""
        return self.placement.record if self.placement else None

    @property
    def issuer(self) -> NodeId | None:
        """The node that writes records in this term."""
        return self.epoch.term.node if self.epoch else None

    @property
    def is_issuer(self) -> bool:
        """True if this node writes the records."""
        return self.issuer == self.node

    def load_promise(self, promised: Term | None) -> None:
        """Start with what this node had promised before it stopped; call before anything is adopted."""
        self.promised = promised

    def load_frozen(self, frozen: Epoch | None) -> None:
        """Start with the alarm of an earlier life; call before anything is adopted. A later term ends it (rule 20)."""
        self.frozen = frozen

    def load(
        self, placement: Placement, signed: SignedRecord, now_s: float, settled: Epoch | None = None
    ) -> list[TopologyEffect]:
        """Start with the record that this node had adopted before it stopped, and what it had heard settled."""
        self.settled = settled
        return self._adopt(placement, signed, now_s)

    def offer(self, record: TopologyRecord, signed: SignedRecord, now_s: float) -> list[TopologyEffect]:
        """Take a verified record if it is higher than what is held or on its way to the disk (rule 20)."""
        held = self._persisting.record if self._persisting else self.record
        if self.promised is not None and record.epoch.term < self.promised:
            return self._tell_promise(record.epoch.term.node)
        if held is not None:
            if record.epoch == held.epoch and record != held:
                # Whoever pushes it again is not another alarm.
                is_known, self.frozen = self.frozen == record.epoch, record.epoch
                return [] if is_known else [Equivocation(record.epoch)]
            if record.epoch <= held.epoch:
                return []
            if self.frozen is not None and record.epoch.term <= self.frozen.term:
                return []
        del now_s
        self._persisting = PersistRecord(record, signed)
        return [self._persisting]

    def persisted(self, epoch: Epoch, placement: Placement, now_s: float) -> list[TopologyEffect]:
        """The record is durable: act on it from now on. A higher one may be on its way already."""
        if self._persisting is None or self._persisting.record.epoch != epoch:
            return []
        signed = self._persisting.signed
        self._persisting = None
        return self._adopt(placement, signed, now_s)

    def _adopt(self, placement: Placement, signed: SignedRecord, now_s: float) -> list[TopologyEffect]:
        is_new_term = self.epoch is None or self.epoch.term != placement.record.epoch.term
        if self.frozen is not None and placement.record.epoch.term > self.frozen.term:
            self.frozen = None
        self.placement = placement
        self.signed = signed
        self.work = work_for(placement, self.node, self._kinds)
        self._report_pause_s = self.config.report_interval_s
        self._open = {("bulk", unit): None for unit in self.work.bulk}
        self._open.update({("pass", unit): None for unit in self.work.passes})
        self._open.update({("transfer", unit): None for unit in self.work.transfers})
        effects: list[TopologyEffect] = [Adopted(placement.record.epoch)]
        effects += [self._push(node) for node in placement.record.members() if node != self.node]
        if is_new_term:
            self._outbid, self._reassert_at_s = None, math.inf
            self.steps.forget()
        if self.promotion is not None and placement.record.epoch.term >= self.promotion.term:
            self.promotion = None
        if self.is_issuer:
            self._proposing = None
            self.steps.adopted(placement, self.settled, now_s)
            if self.promised is not None and self.promised > self._term:
                self._notice_outbid(self.promised, now_s)
        effects += self._report(now_s, is_first=True) + self._step(now_s)
        if placement.record.successor == self.node and not self.is_issuer and self.promotion is None:
            effects += self.promote(now_s)
        return effects

    # ------------------------------------------------------------------ spreading

    def _push(self, node: NodeId) -> SendTopology:
        assert self.signed is not None
        return SendTopology(node, RecordPush(self.signed))

    def share(self, node: NodeId) -> list[TopologyEffect]:
        """Send this node's record to one that works under an older key."""
        return [self._push(node)] if self.signed is not None else []

    def compare(self, node: NodeId) -> list[TopologyEffect]:
        """Exchange keys with a node: it was just connected, or it works under another record."""
        return [SendTopology(node, RecordDigest(self.epoch, self.settled, True))]

    def receive(self, source: NodeId, message: Statement, now_s: float) -> list[TopologyEffect]:
        """Take a comparison, a report, or what belongs to a promotion.

        Pushes go through `offer` and promises through `take_promise`, after the proof of their record was verified.
        """
        if isinstance(message, Report):
            return self._take_report(source, message, now_s)
        if isinstance(message, PromiseAsk):
            return self._asked_to_promise(source, message.term, now_s)
        if isinstance(message, PromiseRefused):
            return self._promise_refused(message, now_s)
        effects: list[TopologyEffect] = []
        mine = self.epoch
        if mine is not None and (message.epoch is None or message.epoch < mine):
            return [self._push(source)]
        if message.epoch is not None and (mine is None or message.epoch > mine):
            return self.compare(source) if not message.wants_reply else [self._digest_to(source)]
        if message.settled is not None and message.settled == mine and self.settled != mine:
            effects += self._settle(now_s)
        elif message.wants_reply and message.settled != self.settled:
            effects.append(self._digest_to(source))
        return effects

    def _take_report(self, source: NodeId, report: Report, now_s: float) -> list[TopologyEffect]:
        if self.is_issuer and report.promised is not None and report.promised > self._term:
            self._notice_outbid(report.promised, now_s)
            return []
        if self.epoch is None or report.epoch < self.epoch:
            return self.share(source)
        if not self.is_issuer:
            return []
        self.steps.take(source, report, now_s)
        effects: list[TopologyEffect] = []
        if report.epoch == self.epoch == self.settled:
            effects.append(self._digest_to(source))
        return effects + self._step(now_s)

    def _digest_to(self, node: NodeId) -> SendTopology:
        return SendTopology(node, RecordDigest(self.epoch, self.settled))

    def _settle(self, now_s: float) -> list[TopologyEffect]:
        """All is settled up to the record in force."""
        assert self.placement is not None
        self.settled = self.placement.record.epoch
        self._report_at_s = math.inf
        effects: list[TopologyEffect] = [Settled(self.settled)]
        if self.is_issuer:
            self.steps.is_settled = True
            effects += [self._digest_to(node) for node in self.placement.record.members() if node != self.node]
            effects += self._step(now_s)
        return effects

    # ------------------------------------------------------------------ reporting

    def finished(self, what: str, unit: UnitId, epoch: Epoch, now_s: float) -> list[TopologyEffect]:
        """A piece of work (``bulk``, ``pass`` or ``transfer``) under that record is done and durable here."""
        if epoch != self.epoch or (what, unit) not in self._open:
            return []
        del self._open[what, unit]
        if self._open:
            return []
        return self._report(now_s)

    @property
    def waiting(self) -> int:
        """Units that this node still has to take under the record in force."""
        return len(self._open)

    def _report(self, now_s: float, *, is_first: bool = False) -> list[TopologyEffect]:
        """Tell the issuer everything; again after a pause, until all is settled. At first nothing has come."""
        if self.epoch is None or self.issuer is None or self.settled == self.epoch:
            self._report_at_s = math.inf
            return []
        self._report_at_s = now_s + self._report_pause_s
        self._report_pause_s = min(self._report_pause_s * 1.2, self.config.report_interval_max_s)
        is_done = not self._open
        assert self.record is not None
        promised = self.promised if self.promised is not None and self.promised > self.epoch.term else None
        is_copied = is_done or self.record.phase != JOINING
        taken_bytes = 0 if is_done or is_first else self.taken_bytes()
        report = Report(self.epoch, is_copied, is_done, len(self._open), promised, taken_bytes)
        if self.issuer == self.node:
            self.steps.take(self.node, report, now_s)
            return self._step(now_s)
        return [SendTopology(self.issuer, report)]

    # ------------------------------------------------------------------ issuing

    def _step(self, now_s: float) -> list[TopologyEffect]:
        """At the issuer: settle, or propose what comes next."""
        if not self._may_step:
            return []
        assert self.record is not None
        if self.record.phase == STABLE and not self.steps.is_settled and self.steps.settled_is_met():
            return self._settle(now_s)
        record = self.steps.next_record(now_s)
        return [] if record is None else self._propose(record)

    @property
    def _may_step(self) -> bool:
        """True at an issuer with no record on its way that has not handed over, promised another, or been frozen."""
        is_busy = self._proposing is not None or self._persisting is not None or self.frozen is not None
        if not self.is_issuer or is_busy or self.record is None or self.record.successor is not None:
            return False
        return self.promised is None or self.promised <= self._term

    def _propose(self, record: TopologyRecord) -> list[TopologyEffect]:
        assert self.epoch is not None
        self._proposing = record.epoch
        return [Propose(self.epoch, record)]

    def proposed(self, record: TopologyRecord, signed: SignedRecord | None, now_s: float) -> list[TopologyEffect]:
        """The register took the record (then it is offered to this node first), or refused it (None)."""
        self._proposing = None
        return self.offer(record, signed, now_s) if signed is not None else []

    def wake(self, now_s: float) -> list[TopologyEffect]:
        """Look again whether a step can be made: something was queued."""
        return self._step(now_s)

    def change_catalogue(self, collections: tuple[CollectionInfo, ...]) -> list[TopologyEffect] | None:
        """Propose another catalogue; None unless this is the issuer and all is stable and settled."""
        if not self._may_step:
            return None
        record = self.steps.catalogue(collections)
        return None if record is None else self._propose(record)

    def verdict(self, dead: Collection[NodeId], now_s: float) -> list[TopologyEffect]:
        """Take whom membership holds for dead: the issuer's patience with them ends early. It decides no ownership."""
        self.steps.verdict(dead, now_s)
        if not self.is_issuer:
            return []
        self.steps.auto_remove(now_s)
        return self._step(now_s)

    # ------------------------------------------------------------------ another issuer

    @property
    def _term(self) -> Term:
        assert self.epoch is not None
        return self.epoch.term

    def hand_over(self, successor: NodeId) -> list[TopologyEffect] | None:
        """Propose this issuer's last record; None unless this is the issuer and all is stable and settled."""
        if not self._may_step or not self.steps.is_settled or self.record is None or self.record.phase != STABLE:
            return None
        return self._propose(after(self.record, successor=successor))

    def promote(self, now_s: float) -> list[TopologyEffect]:
        """Try to become the issuer; asks go on until it succeeds, is given up, or a higher term is met."""
        above = highest(self.promised, self._outbid, self.epoch.term if self.epoch else None)
        self.promotion = Promotion(self.node, above, now_s)
        if self.placement is not None:
            self.promotion.see(self.placement)
        return self._ask_promises(now_s)

    def give_up(self, now_s: float) -> None:
        """End a promotion. What was promised stays promised; an issuer that meets it promotes itself anew."""
        self.promotion = None
        promised = highest(self.promised, self._outbid)
        if self.is_issuer and promised is not None and promised > self._term:
            self._notice_outbid(promised, now_s)

    def force(self) -> list[TopologyEffect]:
        """Become the issuer with the promises at hand: every silent member is destroyed, and what it held given up."""
        promotion = self.promotion
        if promotion is None or promotion.record is None or self.node not in promotion.promised:
            return []
        return self._take_over(promotion.forced())

    def _ask_promises(self, now_s: float) -> list[TopologyEffect]:
        promotion = self.promotion
        assert promotion is not None
        if self.promised is not None and self.promised > promotion.term:
            promotion.raise_above(self.promised, now_s)
        promotion.ask_at_s = now_s + ASK_AGAIN_S
        effects: list[TopologyEffect] = []
        for node in promotion.unasked({*self._peers(), self.node}):
            if node == self.node:
                effects += self._asked_to_promise(self.node, promotion.term, now_s)
            else:
                effects.append(SendTopology(node, PromiseAsk(promotion.term)))
        return effects

    def _asked_to_promise(self, asker: NodeId, term: Term, now_s: float) -> list[TopologyEffect]:
        """Promise durably, unless this node works under as high a term or has promised a higher one."""
        best = highest(self.promised, self.epoch.term if self.epoch else None)
        if best is not None and (best > term or (self.epoch is not None and self.epoch.term == term)):
            if asker == self.node:
                return self._promise_refused(PromiseRefused(term, best), now_s)
            return [*self.share(asker), SendTopology(asker, PromiseRefused(term, best))]
        self._promise_asked[asker] = None
        if self.promised != term:
            self.promised, self._is_promise_kept = term, False
            self._promise_asked = {asker: None}
            if self.is_issuer and asker != self.node:
                self._notice_outbid(term, now_s)
            if self.promotion is not None and asker != self.node:
                # Let the other one finish; a try that it cuts off half-way goes on above it later.
                self.promotion.ask_at_s = now_s + STAND_BACK_S * self._rng.uniform(1.0, 2.0)
            return [PersistPromise(term)]
        return self.promise_kept(term) if self._is_promise_kept else []

    def promise_kept(self, term: Term) -> list[TopologyEffect]:
        """The promise is durable, and so is every record that was on its way before: answer who asked."""
        if term != self.promised:
            return []
        self._is_promise_kept = True
        asked, self._promise_asked = list(self._promise_asked), {}
        effects: list[TopologyEffect] = []
        for node in asked:
            if node == self.node:
                effects += self.take_promise(self.node, term, self.placement)
            else:
                effects.append(SendTopology(node, Promise(term, self.signed)))
        return effects

    def take_promise(self, node: NodeId, term: Term, placement: Placement | None) -> list[TopologyEffect]:
        """Count a promise, with the placement of the record that the node holds, verified; perhaps it was the last."""
        promotion = self.promotion
        if promotion is None:
            return []
        if placement is not None:
            promotion.see(placement)
        promotion.take(node, term)
        if promotion.missing() or self.promised != promotion.term:
            return []
        return self._take_over(promotion.outcome())

    def _take_over(self, record: TopologyRecord) -> list[TopologyEffect]:
        assert self.promotion is not None
        assert self.promotion.record is not None
        if self.promotion.is_signed:
            return []
        self.promotion.is_signed = True
        self._proposing = record.epoch
        return [TakeOver(self.promotion.record.epoch, record)]

    def _promise_refused(self, message: PromiseRefused, now_s: float) -> list[TopologyEffect]:
        promotion = self.promotion
        if promotion is None or message.term != promotion.term:
            return []
        # Two nodes that outbid each other would go on for ever in step.
        promotion.raise_above(message.highest, now_s + self._rng.uniform(0.0, ASK_AGAIN_S))
        return []

    def _tell_promise(self, issuer: NodeId) -> list[TopologyEffect]:
        """Let an issuer know that its records are not taken here any more, and for whose sake."""
        if self.epoch is None or issuer == self.node:
            return []
        return [SendTopology(issuer, Report(self.epoch, False, False, 0, self.promised))]

    def _notice_outbid(self, term: Term, now_s: float) -> None:
        """Somebody was promised more than this issuer's term, and may never come to use it."""
        if self._reassert_at_s == math.inf and self.promotion is None:
            self._reassert_at_s = now_s + self.config.reassert_after_s * self._rng.uniform(1.0, 2.0)
        self._outbid = highest(self._outbid, term)

    # ------------------------------------------------------------------ time

    @property
    def next_deadline_s(self) -> float:
        """When `advance` has something to do."""
        step_s = self.steps.next_deadline_s() if self._may_step else math.inf
        ask_s = self.promotion.ask_at_s if self.promotion is not None else math.inf
        return min(self._digest_at_s, self._report_at_s, step_s, ask_s, self._reassert_at_s)

    def advance(self, now_s: float) -> list[TopologyEffect]:
        """Compare with a random peer, report again, give up steps that do not move."""
        effects: list[TopologyEffect] = []
        if now_s >= self._digest_at_s:
            self._digest_at_s = now_s + self.config.digest_interval_s * self._rng.uniform(0.5, 1.0)
            peers = sorted({*self._peers(), *(self.record.members() if self.record else ())} - {self.node})
            if peers:
                effects += self.compare(self._rng.choice(peers))
        if now_s >= self._report_at_s:
            effects += self._report(now_s)
        if now_s >= self._reassert_at_s:
            self._reassert_at_s = math.inf
            if self.is_issuer and self.promotion is None:
                effects += self.promote(now_s)
        if self.promotion is not None and now_s >= self.promotion.ask_at_s:
            effects += self._ask_promises(now_s)
        return effects + self._step(now_s)
