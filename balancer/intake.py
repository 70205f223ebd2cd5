"""Which records from the wire are believed: this cluster's, proved by the issuer of their term.

And which numbers: a takeover raises the term by one, a record the sequence by one, and both only ever rise. A member
that lies could name the highest number there is, in a question that nobody signs; then no issuer could ever write
again, not even once that member was expelled. So whatever lies further ahead than anybody gets is dropped.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from balancer.placement import Placement
from balancer.proof import RecordProofs
from balancer.record import FORMATS, RECORD, TopologyRecord
from balancer.topology_messages import PromiseAsk, PromiseRefused, RecordDigest, Report, SignedRecord
from frys_node.base.types import ClusterId, Epoch, Term

TERM_AHEAD_MAX = 1 << 20
"""How far a term may be above the highest one that this node knows of."""

SEQ_AHEAD_MAX = 1 << 32
"""How far the number of a record may be above that of the record in force."""


class Intake:
    """Decodes and verifies records; counts those that are refused unread."""

    def __init__(
        self,
        cluster: ClusterId,
        proofs: RecordProofs,
        dropped: Callable[[str], None],
        held: Callable[[], tuple[Epoch | None, Term | None]] = lambda: (None, None),
    ) -> None:
        """`held` returns the key of the record in force and what was promised; without a record any number will do."""
        self._cluster = cluster
        self._proofs = proofs
        self._dropped = dropped
        self._held = held
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
        elif self._is_beyond(record.epoch.term, record.epoch.seq):
            self._dropped("number")
        elif not self._proofs.is_proof_of(record.epoch.term.node, signed.data, signed.proof):
            self._dropped("signature")
        else:
            self._believed = signed, record
            return record
        return None

    def permits(self, message: RecordDigest | Report | PromiseAsk | PromiseRefused) -> bool:
        """Return False for a message with a number that nobody gets to."""
        match message:
            case RecordDigest(epoch=epoch) if epoch is not None:
                is_beyond = self._is_beyond(epoch.term, epoch.seq)
            case Report(epoch=epoch, promised=promised):
                is_beyond = self._is_beyond(epoch.term, epoch.seq) or self._is_beyond(promised)
            case PromiseAsk(term=term):
                is_beyond = self._is_beyond(term)
            case PromiseRefused(highest=term):
                is_beyond = self._is_beyond(term)
            case _:
                is_beyond = False
        if is_beyond:
            self._dropped("number")
        return not is_beyond

    def _is_beyond(self, term: Term | None, seq: int = 0) -> bool:
        epoch, promised = self._held()
        if term is None or epoch is None:
            return False
        known = max(epoch.term.number, promised.number if promised is not None else 0)
        return term.number > known + TERM_AHEAD_MAX or seq > epoch.seq + SEQ_AHEAD_MAX

    def placed(self, signed: SignedRecord, held: Placement | None) -> Placement | None:
        """Return the placement of a record that came with a promise; None if it is not believed."""
        record = self.verified(signed)
        if record is None:
            return None
        return held if held is not None and held.record == record else Placement(record)
