"""The record that this node works under, on its own disk: what it starts with again.

Sans-I/O but for the Disk port. The calls block, so the driver runs them in its executor, one at a time.
"""

from __future__ import annotations

from typing import NamedTuple

from balancer.placement import Placement
from balancer.record import RECORD, TopologyRecord, check_format
from balancer.topology_messages import SIGNED_RECORD, SignedRecord
from frys_node.base.errors import CorruptData, MalformedFrame
from frys_node.base.ports import Disk
from frys_node.base.types import Epoch, Term
from frys_node.wire.codec import Codec

ADOPTED_PATH = "topology/adopted"
SETTLED_PATH = "topology/settled"
PROMISED_PATH = "topology/promised"
FROZEN_PATH = "topology/frozen"
_EPOCH: Codec[Epoch] = Codec(Epoch)
_TERM: Codec[Term] = Codec(Term)


class Saved(NamedTuple):
    """A node's last record."""

    placement: Placement
    signed: SignedRecord
    settled: Epoch | None
    """The last record that was known to be settled."""


class RecordFile:
    """The adopted record and what is known to be settled."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def load(self) -> Saved | None:
        """Return what was written last; None before the first record.

        Raises:
            CorruptData: The record cannot be read. Nothing was changed.
            UnsupportedVersion: Another version wrote it. Nothing was changed.
        """
        data = self._disk.read(ADOPTED_PATH)
        if data is None:
            return None
        try:
            signed = SIGNED_RECORD.decode(data)
            record = RECORD.decode(signed.data)
        except MalformedFrame as error:
            raise CorruptData(f"'{ADOPTED_PATH}' cannot be read: {error.message}") from error
        check_format(record)
        return Saved(Placement(record), signed, self._load_settled())

    def _load_settled(self) -> Epoch | None:
        """Return what was known to be settled; a damaged file only means to ask again."""
        data = self._disk.read(SETTLED_PATH)
        try:
            return None if data is None else _EPOCH.decode(data)
        except MalformedFrame:
            return None

    def adopt(self, record: TopologyRecord, signed: SignedRecord) -> Placement:
        """Write a record durably; returns its sets."""
        self._disk.write(ADOPTED_PATH, SIGNED_RECORD.encode(signed))
        return Placement(record)

    def settle(self, epoch: Epoch) -> None:
        """Write durably what is known to be settled."""
        self._disk.write(SETTLED_PATH, _EPOCH.encode(epoch))

    def load_promise(self) -> Term | None:
        """Return the term below which nothing is adopted any more, if one was promised.

        Raises:
            CorruptData: The promise cannot be read. It is not forgotten: that could let a replaced issuer go on.
        """
        data = self._disk.read(PROMISED_PATH)
        try:
            return None if data is None else _TERM.decode(data)
        except MalformedFrame as error:
            raise CorruptData(f"'{PROMISED_PATH}' cannot be read: {error.message}") from error

    def load_frozen(self) -> Epoch | None:
        """Return the key of which two records were seen, if that ever happened.

        Raises:
            CorruptData: It cannot be read. It is not forgotten: one of the two records would be worked under unseen.
        """
        data = self._disk.read(FROZEN_PATH)
        try:
            return None if data is None else _EPOCH.decode(data)
        except MalformedFrame as error:
            raise CorruptData(f"'{FROZEN_PATH}' cannot be read: {error.message}") from error

    def freeze(self, epoch: Epoch) -> None:
        """Write durably that two records with this key were seen."""
        self._disk.write(FROZEN_PATH, _EPOCH.encode(epoch))

    def promise(self, term: Term) -> None:
        """Write a promise durably."""
        self._disk.write(PROMISED_PATH, _TERM.encode(term))
