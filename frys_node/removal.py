"""Which topology records a node believes, and what it does when one says that an operator removed it.

Theory of operation. Any member can sign a record of a higher term, so no record ends a node for good by its word alone.
One that removes this node is not adopted: the record before it and all data stay. It is noted in ``topology/removed``,
and a node that serves stops. Started again it can be administered and serves nothing, until another word counts: a
later record that does not remove it, the expulsion of the record's writer, or the end of the authority that the
writer's certificate is of.

A record of a higher term than the one in force has to be signed under an authority that is trusted now: who has stolen
a retired one's key can still make certificates of it. Within a term older signatures count, and where no record is yet.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Final

from balancer.proof import CertifiedProofs
from balancer.record import RECORD, TopologyRecord
from balancer.seat_driver import REJOIN_HINT
from balancer.topology_messages import SIGNED_RECORD, SignedRecord
from frys_node.base.errors import CorruptData, MalformedFrame, StorageError
from frys_node.base.ports import Disk
from frys_node.base.types import NodeId
from frys_node.observe.log import get_logger
from frys_node.secure.identity import Identity
from frys_node.secure.signer import NodeSigner

NOTED_PATH: Final = "topology/removed"

log = get_logger(__name__)


class BelievedProofs:
    """Proofs by node keys, under authorities that are trusted now where the term is a new one."""

    def __init__(
        self,
        identity: Identity,
        revoked: Container[NodeId],
        *,
        held: Callable[[], TopologyRecord | None],
    ) -> None:
        """`held` returns the record in force."""
        self._identity = identity
        self._revoked = revoked
        self._held = held
        self.on_removed: Callable[[TopologyRecord, SignedRecord], None] | None = None
        """Called with a proved record that removes this node, which is not believed."""
        self._any = CertifiedProofs(NodeSigner(identity, revoked))
        self._trusted_by = identity.authorities
        self._trusted = self._strict()

    def _strict(self) -> CertifiedProofs:
        return CertifiedProofs(NodeSigner(self._identity, self._revoked, is_past_trusted=False))

    def prove(self, data: bytes) -> bytes:
        """Return this node's proof over an encoded record."""
        return self._any.prove(data)

    def is_trusted(self, node: NodeId, data: bytes, proof: bytes) -> bool:
        """True if the proof is that node's by a certificate of an authority that is trusted now."""
        if self._trusted_by != self._identity.authorities:
            # A signer remembers certificates that it has verified, and under which authorities it did not ask again.
            self._trusted_by, self._trusted = self._identity.authorities, self._strict()
        return self._trusted.is_proof_of(node, data, proof)

    def is_proof_of(self, node: NodeId, data: bytes, proof: bytes) -> bool:
        """True if that node signed the record and it is one to work under; see the module."""
        record, held = RECORD.decode(data), self._held()
        is_new_term = held is not None and record.epoch.term > held.epoch.term
        is_proved = self.is_trusted(node, data, proof) if is_new_term else self._any.is_proof_of(node, data, proof)
        if is_proved and (held is None or record.epoch > held.epoch) and removes(record, self._identity.node_id):
            if self.on_removed is not None:
                self.on_removed(record, SignedRecord(data, proof))
            return False
        return is_proved


def removes(record: TopologyRecord, node: NodeId) -> bool:
    """True if a record names a node as removed by an operator and gives it no place any more."""
    return node in record.removed and node not in record.members()


class Removal:
    """What this node was told of its own removal."""

    def __init__(
        self,
        disk: Disk,
        *,
        is_trusted: Callable[[NodeId, bytes, bytes], bool],
        held: Callable[[], TopologyRecord | None],
        name_of: Callable[[NodeId], str],
        stop: Callable[[str], None],
    ) -> None:
        """Read what an earlier life was told. `name_of` names a member, `stop` ends the process in order.

        Raises:
            CorruptData: It cannot be read; it is left as it is.
        """
        self._disk = disk
        self._is_trusted = is_trusted
        self._held = held
        self._name_of = name_of
        self._stop = stop
        self.is_serving = False
        """True from the moment at which units are served: a removal ends the process then."""
        self._noted = _read(disk)

    def told(self, record: TopologyRecord, signed: SignedRecord) -> None:
        """Note a proved record that removes this node, durably; stop if units are served.

        While one stands another one says nothing new: whoever writes them could fill log and disk. It comes again.
        """
        if not self.is_over():
            return
        self._noted = record, signed
        log.error("operations.removed", record=str(record.epoch), writer=record.epoch.term.node, fix=self._fix(record))
        try:
            self._disk.write(NOTED_PATH, SIGNED_RECORD.encode(signed))
        except StorageError as error:
            # Started again it serves until it is told again.
            log.error("operations.removal_not_noted", code=error.code, error=error.message)
        if self.is_serving:
            self._stop(f"removed from the cluster by the record {record.epoch}")

    def is_over(self) -> bool:
        """Look whether no removal stands; what was noted is forgotten then, durably."""
        if self._noted is None:
            return True
        record, signed = self._noted
        held = self._held()
        is_followed = held is not None and held.epoch > record.epoch
        if not is_followed and self._is_trusted(record.epoch.term.node, signed.data, signed.proof):
            return False
        log.warning("operations.removal_over", record=str(record.epoch), writer=record.epoch.term.node)
        self._noted = None
        try:
            self._disk.remove(NOTED_PATH)
        except StorageError as error:
            log.error("operations.removal_not_forgotten", code=error.code, error=error.message, path=NOTED_PATH)
        return True

    @property
    def trouble(self) -> str:
        """Why this node serves nothing, and the fix; empty if no removal stands."""
        if self._noted is None:
            return ""
        record = self._noted[0]
        writer = self._name_of(record.epoch.term.node)
        return f"the record {record.epoch} of {writer} says that this node was removed; {self._fix(record)}"

    def _fix(self, record: TopologyRecord) -> str:
        who = record.epoch.term.node
        lie = f"if nobody did: frys-node node revoke {who}, and start this one again if it has stopped"
        return f"if an operator removed it: {REJOIN_HINT}; {lie}"


def _read(disk: Disk) -> tuple[TopologyRecord, SignedRecord] | None:
    data = disk.read(NOTED_PATH)
    if data is None:
        return None
    try:
        signed = SIGNED_RECORD.decode(data)
        return RECORD.decode(signed.data), signed
    except MalformedFrame as error:
        hint = f"remove {NOTED_PATH}; a node that was removed is told again"
        raise CorruptData(f"{NOTED_PATH} is damaged: {error.message}", hint=hint) from error
