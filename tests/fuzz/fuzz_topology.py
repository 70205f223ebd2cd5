"""The topology under fuzz: messages of members, records in them, and the proofs of who wrote those."""

from __future__ import annotations

from pathlib import Path

from fuzz_machine import check

from balancer.proof import CertifiedProofs
from balancer.record import FORMATS, RECORD, check_format
from balancer.topology_messages import SIGNED_RECORD, TOPOLOGY_MESSAGES, Promise, RecordPush, SignedRecord
from frys_node.base.errors import FrysError, MalformedFrame, UnsupportedVersion
from frys_node.channel.bootstrap import create_cluster
from frys_node.secure.signer import NodeSigner
from frys_node.testing.disk import FakeDisk
from frys_node.transport.clock import SystemClock
from frys_node.transport.entropy import SystemEntropy

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


class TopologyHarness:
    """The first byte says what the rest is: a message, a record, or a proof."""

    MESSAGE, RECORD, PROOF = range(3)

    def __init__(self) -> None:
        self._identity = create_cluster(FakeDisk(), SystemEntropy(), SystemClock(), cluster_name="fuzz", node_name="a")
        self._proofs = CertifiedProofs(NodeSigner(self._identity))

    def seeds(self) -> list[bytes]:
        """The golden messages and records, a record inside a message, and a good proof."""
        messages = [
            bytes.fromhex(line)
            for name in ("topology-messages-1.hex", "topology-messages-2.hex")
            for line in (GOLDEN / name).read_text().split()
        ]
        records = [path.read_bytes() for path in sorted(GOLDEN.glob("topology-record-*.bin"))]
        inside = [TOPOLOGY_MESSAGES.encode(RecordPush(SignedRecord(record, b"proof"))) for record in records]
        return [
            *(bytes([self.MESSAGE]) + message for message in [*messages, *inside]),
            *(bytes([self.RECORD]) + record for record in records),
            bytes([self.PROOF]) + self._proofs.prove(b"record"),
        ]

    def run(self, data: bytes) -> None:
        """Read one; what is read is written as it was, and nobody's proof is that of other bytes."""
        kind, body = (data[0] % 3 if data else 0), data[1:]
        if kind == self.PROOF:
            check(not self._proofs.is_proof_of(self._identity.node_id, b"other record", body), "a proof of other bytes")
            return
        if kind == self.RECORD:
            self._record(body)
            return
        try:
            message = TOPOLOGY_MESSAGES.decode(body)
        except MalformedFrame:
            return
        check(TOPOLOGY_MESSAGES.decode(TOPOLOGY_MESSAGES.encode(message)) == message, "read otherwise than written")
        if isinstance(message, RecordPush | Promise) and message.record is not None:
            signed = message.record
            check(SIGNED_RECORD.decode(SIGNED_RECORD.encode(signed)) == signed, "a signed record is stored otherwise")
            check(not self._proofs.is_proof_of(self._identity.node_id, signed.data, signed.proof), "an unsigned record")
            self._record(signed.data)

    @staticmethod
    def _record(data: bytes) -> None:
        try:
            record = RECORD.decode(data)
            check_format(record)
        except (MalformedFrame, UnsupportedVersion):
            return
        except FrysError as error:
            check(False, f"a record is refused as {error.code}")
            return
        check(record.format in FORMATS, "a record of an unknown format is taken")
        check(RECORD.decode(RECORD.encode(record)) == record, "a record is read otherwise than written")
        check(len(record.members()) == len(set(record.members())), "a member counts twice")
