"""Topology records on their way to the disk of a node of the replication scenario, which may be slow or full."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from balancer.record import RECORD
from balancer.register import IssuerRegister
from balancer.topology import TopologyMachine
from balancer.topology_effects import PersistPromise, PersistRecord, Propose, TakeOver, TopologyEffect
from balancer.topology_messages import SIGNED_RECORD, SignedRecord
from frys_node.base.types import Term
from frys_node.replication.commit import DISK_RETRY_S
from frys_node.testing.replication_roles import Observer, placement_of
from frys_node.testing.simulator import SimHost
from frys_node.transport.errors import StorageFull
from frys_node.wire.codec import Codec

ADOPTED_PATH = "topology/adopted"
PROMISED_PATH = "topology/promised"
TERM: Codec[Term] = Codec(Term)

ToWrite = PersistRecord | PersistPromise | Propose | TakeOver
"""What waits for the disk; the host wakes the node with it when it is written."""


class RecordDisk:
    """Writes one thing at a time, in order, as the driver does."""

    def __init__(
        self,
        host: SimHost,
        topology: TopologyMachine,
        observer: Observer,
        *,
        fsync_s: float,
        perform: Callable[[Sequence[TopologyEffect], float], None],
    ) -> None:
        self.register = IssuerRegister(host.disk)
        self._host = host
        self.topology = topology
        self._observer = observer
        self._fsync_s = fsync_s
        self.perform = perform
        self._waiting: deque[ToWrite] = deque()

    def add(self, effect: ToWrite) -> None:
        """Queue something."""
        self._waiting.append(effect)
        if len(self._waiting) == 1:
            self._write_next()

    def _write_next(self) -> None:
        if self._waiting:
            self._host.schedule(self._host.rng.random() * self._fsync_s, self._waiting[0])

    def written(self, effect: ToWrite, now_s: float) -> None:
        """The disk is through with it, unless it has no room: then it is tried again."""
        try:
            if isinstance(effect, PersistRecord):
                self.keep_record(effect, now_s)
            elif isinstance(effect, PersistPromise):
                self._host.disk.write(PROMISED_PATH, TERM.encode(effect.term))
                self.perform(self.topology.promise_kept(effect.term), now_s)
            else:
                self._propose(effect, now_s)
        except StorageFull:
            self._host.schedule(DISK_RETRY_S, effect)
            return
        self._waiting.popleft()
        self._write_next()

    def keep_record(self, effect: PersistRecord, now_s: float) -> None:
        """The record is durable: the node works under it from now on."""
        self._host.disk.write(ADOPTED_PATH, SIGNED_RECORD.encode(effect.signed))
        placement = placement_of(effect.signed.data)
        self.perform(self.topology.persisted(effect.record.epoch, placement, now_s), now_s)

    def _propose(self, effect: Propose | TakeOver, now_s: float) -> None:
        signed = SignedRecord(RECORD.encode(effect.record), b"")
        if isinstance(effect, Propose):
            is_taken = self.register.swap(effect.expected, signed)
        else:
            is_taken = self.register.take_over(signed)
        if is_taken:
            self._observer.signed(placement_of(signed.data), effect.before)
        self.perform(self.topology.proposed(effect.record, signed if is_taken else None, now_s), now_s)
