"""Which records from the wire are believed: this cluster's, proved by the issuer of their term.

And which numbers. A takeover raises the term by one, a record the sequence by one, and both only ever rise. A member
that lies could name the highest number there is, in a question that nobody signs; then no issuer could write above it
ever again, not even with that member expelled. So a number is at most the seconds since 1970, and a day: nobody has got
there, all nodes draw the line at the same place, however long they were away, and it moves on, so that above whatever
was named there is room again after a second.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from balancer.placement import Placement
from balancer.proof import RecordProofs
from balancer.record import FORMATS, RECORD, TopologyRecord
from balancer.topology_messages import (
    PromiseAsk,
    PromiseRefused,
    RecordDigest,
    RecordGo,
    RecordReady,
    Report,
    SignedRecord,
    Statement,
    UnisonWord,
)
from frys_node.base.types import ClusterId, Epoch, NodeId, Term

SLACK = 86_400
"""How far a number may be above the seconds since 1970: clocks that differ by a day disagree about nothing real."""


class Intake:
    """Decodes and verifies records; counts those that are refused unread."""

    def __init__(
        self,
        cluster: ClusterId,
        proofs: RecordProofs,
        dropped: Callable[[str], None],
        unix_s: Callable[[], float],
    ) -> None:
        """`unix_s` returns the seconds since 1970."""
        self._cluster = cluster
        self._proofs = proofs
        self._dropped = dropped
        self._unix_s = unix_s
        self._believed: tuple[SignedRecord, TopologyRecord] | None = None

    def verified(self, signed: SignedRecord) -> TopologyRecord | None:
        """Return the record, or None if it is another cluster's, of another format, or not signed by its term's issuer.

        Raises:
            MalformedFrame: It cannot be decoded.
        """
        if self._believed is not None and self._believed[0] == signed:
            # Everybody pushes a new record, and a signature takes milliseconds.
            return self._believed[1]
        record = RECORD.decode(signed.data)
        if record.cluster != self._cluster:
            self._dropped("cluster")
        elif record.format not in FORMATS:
            self._dropped("format")
        elif not self._is_real(record.epoch):
            self._dropped("number")
        elif not self._proofs.is_proof_of(record.epoch.term.node, signed.data, signed.proof):
            self._dropped("signature")
        else:
            self._believed = signed, record
            return record
        return None

    def permits(self, source: NodeId, message: Statement | UnisonWord) -> bool:
        """Return False for a message with a number that nobody gets to, or a question in another one's name."""
        if isinstance(message, PromiseAsk) and message.term.node != source:
            self._dropped("asker")
            return False
        if not all(map(self._is_real, _numbers(message))):
            self._dropped("number")
            return False
        return True

    def _is_real(self, number: Epoch | Term | None) -> bool:
        if number is None:
            return True
        numbers = (number.number,) if isinstance(number, Term) else (number.term.number, number.seq)
        return max(numbers) <= self._unix_s() + SLACK

    def placed(self, signed: SignedRecord, held: Placement | None) -> Placement | None:
        """Return the placement of a record that came with a promise; None if it is not believed."""
        record = self.verified(signed)
        if record is None:
            return None
        return held if held is not None and held.record == record else Placement(record)


def _numbers(message: Statement | UnisonWord) -> tuple[Epoch | Term | None, ...]:
    match message:
        case RecordDigest(epoch=epoch, settled=settled):
            return epoch, settled
        case RecordReady(epoch=epoch) | RecordGo(epoch=epoch):
            return (epoch,)
        case Report(epoch=epoch, promised=promised):
            return epoch, promised
        case PromiseAsk(term=term) | PromiseRefused(highest=term):
            return (term,)
