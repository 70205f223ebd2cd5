"""The topology register behind a port: where the next record is decided, by compare-and-swap.

Sans-I/O but for the Disk port. `IssuerRegister` is the embedded one: a file on the issuer's disk, fsynced before
anyone sees the record (rule 20). The calls block, so the driver runs them in its executor, one at a time.
"""

from __future__ import annotations

from typing import Protocol

from balancer.record import RECORD
from balancer.topology_messages import SIGNED_RECORD, SignedRecord
from frys_node.base.errors import CorruptData, MalformedFrame
from frys_node.base.ports import Disk
from frys_node.base.types import Epoch

REGISTER_PATH = "topology/register"


class Register(Protocol):
    """One record, changed only by whoever knows the one before."""

    def load(self) -> SignedRecord | None:
        """Return the record held, or None before the first."""
        ...

    def swap(self, expected: Epoch | None, signed: SignedRecord) -> bool:
        """Replace the record if its key is `expected`; durable when True is returned. False: somebody was quicker."""
        ...

    def take_over(self, signed: SignedRecord) -> bool:
        """Replace whatever is held by the first record of a higher term. False: what is held is as high."""
        ...


class IssuerRegister:
    """The register on the issuer's own disk."""

    def __init__(self, disk: Disk, path: str = REGISTER_PATH) -> None:
        self._disk = disk
        self._path = path

    def load(self) -> SignedRecord | None:
        """Return the record held.

        Raises:
            CorruptData: The file cannot be read. It is not used and not overwritten; restore it from a backup.
        """
        data = self._disk.read(self._path)
        if data is None:
            return None
        try:
            signed = SIGNED_RECORD.decode(data)
            RECORD.decode(signed.data)
        except MalformedFrame as error:
            raise CorruptData(f"the topology register '{self._path}' cannot be read: {error.message}") from error
        return signed

    def swap(self, expected: Epoch | None, signed: SignedRecord) -> bool:
        """Write the record durably if the register still holds `expected`."""
        held = self.load()
        if held == signed:
            # A try whose last step failed is tried again: the record is there, so is its name by now.
            self._disk.write(self._path, SIGNED_RECORD.encode(signed))
            return True
        held_epoch = None if held is None else RECORD.decode(held.data).epoch
        if held_epoch != expected:
            return False
        self._disk.write(self._path, SIGNED_RECORD.encode(signed))
        return True

    def take_over(self, signed: SignedRecord) -> bool:
        """Write the first record of a new term durably, unless the register holds one that is as high."""
        held = self.load()
        term = RECORD.decode(signed.data).epoch.term
        if held is not None and held != signed and RECORD.decode(held.data).epoch.term >= term:
            return False
        self._disk.write(self._path, SIGNED_RECORD.encode(signed))
        return True
