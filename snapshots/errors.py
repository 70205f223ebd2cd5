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
