"""Errors of snapshots. In every one of them the receiving unit's state is as it was before."""

from __future__ import annotations

from frys_node.base.errors import CorruptData, FrysError, StorageError


class SnapshotError(FrysError):
    """A snapshot could not be made, moved or restored. The unit's state is unchanged."""

    code = "snapshots.failed"


class CorruptChunk(CorruptData):
    """A chunk's bytes do not match its digest. They are dropped."""

    code = "snapshots.corrupt_chunk"


class CorruptManifest(CorruptData):
    """A manifest contradicts itself or its digest. Nothing of it is used."""

    code = "snapshots.corrupt_manifest"


class CorruptExport(CorruptManifest):
    """What came as an export is none, or not all of one. No snapshot of it is visible."""

    code = "snapshots.corrupt_export"
    status = 400


class UnknownFormat(SnapshotError):
    """The snapshot has a format that this version does not know. Nothing of it is used."""

    code = "snapshots.format"
    status = 400


class WouldReplace(SnapshotError):
    """Restoring would lose what happened since the snapshot, and that was not asked for. Nothing was changed."""

    code = "snapshots.would_replace"
    status = 409


class TransferAborted(SnapshotError):
    """A unit's move was given up. The receiver installed nothing; chunks that came are kept for the next try."""

    code = "snapshots.aborted"
    retryable = True
    status = 503


class NotPinned(SnapshotError):
    """The source holds that snapshot no more. Ask for a new offer."""

    code = "snapshots.not_pinned"
    retryable = True
    status = 404


class ChunkStoreFull(StorageError):
    """The chunk store is at its limit with chunks that are in use. The chunk was not kept."""

    code = "snapshots.store_full"


class StoreBusy(SnapshotError):
    """Unneeded chunks are being collected in that place, and took longer than was waited. Nothing was saved."""

    code = "snapshots.store_busy"
    retryable = True
    status = 409


class LockLost(SnapshotError):
    """The work stood still so long that its chunks were collected. The snapshot is not visible."""

    code = "snapshots.lock_lost"
    retryable = True
    status = 409


class RingMoved(SnapshotError):
    """Units moved while they were saved. No snapshot is visible; what was written is used by the next try."""

    code = "snapshots.ring_moved"
    retryable = True
    status = 503


class StoreRefused(StorageError):
    """The object store does not accept the credentials, or they may not do that. Nothing was changed."""

    code = "snapshots.store_refused"
    status = 502


class StoreUnreachable(StorageError):
    """The object store did not answer in time, or with an error of its own. Whether a write was done is unknown."""

    code = "snapshots.store_unreachable"
    retryable = True
    status = 502


class NoBucket(StorageError):
    """The object store has no such bucket. Nothing was changed."""

    code = "snapshots.no_bucket"
    status = 404


class StoreUnfit(StorageError):
    """The object store overwrites where it must refuse. Nothing was saved."""

    code = "snapshots.store_unfit"
    status = 501


class NoStoreLibrary(StorageError):
    """The library for object stores is not installed on the node. Nothing was changed."""

    code = "snapshots.no_library"
    status = 501
