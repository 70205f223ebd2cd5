"""Which records from the wire are believed: this cluster's, proved by the issuer of their term.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from balancer.placement import Placement
from balancer.proof import RecordProofs
from balancer.record import FORMATS, RECORD, TopologyRecord
from balancer.topology_messages import SignedRecord
from frys_node.base.types import ClusterId


class Intake:
    """Decodes and verifies records; counts those that are refused unread."""

    def __init__(self, cluster: ClusterId, proofs: RecordProofs, dropped: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._proofs = proofs
        self._dropped = dropped
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
        elif not self._proofs.is_proof_of(record.epoch.term.node, signed.data, signed.proof):
            self._dropped("signature")
        else:
            self._believed = signed, record
            return record
        return None

    def placed(self, signed: SignedRecord, held: Placement | None) -> Placement | None:
        """Return the placement of a record that came with a promise; None if it is not believed."""
        record = self.verified(signed)
        if record is None:
            return None
        return held if held is not None and held.record == record else Placement(record)
