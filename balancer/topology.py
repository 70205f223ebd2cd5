"""The topology machine: adopts records, spreads them, reports on them; at the issuer it also drives the steps.

Sans-I/O. Theory of operation. A node takes any higher record, makes it durable, and only then acts on it; it refuses
lower ones, and two records with one key are an alarm (rule 20). It compares keys with a few peers now and then, with
every new connection, and with whoever sent a request under another key. Until it hears that its record is settled it
keeps telling the issuer what it has adopted and finished: reports say everything each time, so lost ones cost only
time. Gossip about who is alive never enters: a death changes nothing here (D4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from random import Random

import msgspec

from balancer.placement import Placement
from balancer.record import JOINING, STABLE, TopologyRecord
from balancer.steps import StepConfig, Steps
from balancer.topology_effects import (
    Adopted,
    Equivocation,
    PersistRecord,
    Propose,
    SendTopology,
    Settled,
    TopologyEffect,
)
from balancer.topology_messages import RecordDigest, RecordPush, Report, SignedRecord
from balancer.work import Work, work_for
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.topology import Collection as CollectionInfo


class TopologyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Rhythm of spreading and reporting, in seconds."""

    digest_interval_s: float = 2.0
    """Pause between comparing record keys with a random peer."""
    report_interval_s: float = 0.3
    """Pause between reports to the issuer while something is not settled; it grows by a fifth each time."""
    report_interval_max_s: float = 3.0
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
        self.config = config or TopologyConfig()
        self.steps = Steps(node, self.config.steps)
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

    def load(
        self, placement: Placement, signed: SignedRecord, now_s: float, settled: Epoch | None = None
    ) -> list[TopologyEffect]:
        """Start with the record that this node had adopted before it stopped, and what it had heard settled."""
        self.settled = settled
        return self._adopt(placement, signed, now_s)

    def offer(self, record: TopologyRecord, signed: SignedRecord, now_s: float) -> list[TopologyEffect]:
        """Take a verified record if it is higher than what is held or on its way to the disk (rule 20)."""
        held = self._persisting.record if self._persisting else self.record
        if held is not None:
            if record.epoch == held.epoch and record != held:
                self.frozen = record.epoch
                return [Equivocation(record.epoch)]
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
        self.placement = placement
        self.signed = signed
        self.work = work_for(placement, self.node, self._kinds)
        self._report_pause_s = self.config.report_interval_s
        self._open = {("bulk", unit): None for unit in self.work.bulk}
        self._open.update({("pass", unit): None for unit in self.work.passes})
        self._open.update({("transfer", unit): None for unit in self.work.transfers})
        effects: list[TopologyEffect] = [Adopted(placement.record.epoch)]
        effects += [self._push(node) for node in placement.record.members() if node != self.node]
        if self.is_issuer:
            self._proposing = None
            self.steps.adopted(placement, self.settled, now_s)
        return effects + self._report(now_s) + self._step(now_s)

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

    def receive(self, source: NodeId, message: RecordDigest | Report, now_s: float) -> list[TopologyEffect]:
        """Take a comparison or a report; pushes go through `offer` after their proof was verified."""
        if isinstance(message, Report):
            return self._take_report(source, message, now_s)
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

    def _report(self, now_s: float) -> list[TopologyEffect]:
        """Tell the issuer everything; again after a pause, until all is settled."""
        if self.epoch is None or self.issuer is None or self.settled == self.epoch:
            self._report_at_s = math.inf
            return []
        self._report_at_s = now_s + self._report_pause_s
        self._report_pause_s = min(self._report_pause_s * 1.2, self.config.report_interval_max_s)
        is_done = not self._open
        assert self.record is not None
        report = Report(self.epoch, is_done or self.record.phase != JOINING, is_done, len(self._open))
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
        """True at an issuer that has no record on its way and has seen no second record with one key."""
        return self.is_issuer and self._proposing is None and self._persisting is None and self.frozen is None

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

    # ------------------------------------------------------------------ time

    @property
    def next_deadline_s(self) -> float:
        """When `advance` has something to do."""
        step_s = self.steps.next_deadline_s() if self._may_step else math.inf
        return min(self._digest_at_s, self._report_at_s, step_s)

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
        return effects + self._step(now_s)
