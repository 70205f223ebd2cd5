"""Whether the log of this node was ever here: a file beside it that outlives it.

A data directory whose log has gone although the node has kept one must not be taken for a new, empty one: what it had
acknowledged is missing (rule 14). The witness is written once the log's first mark is on the disk, so a crash between
the two leaves a log without witness, which is well, and never the other way round.
"""

from __future__ import annotations

from frys_node.base.ports import Disk
from frys_node.replication.log import DIRECTORY, Log

WITNESS_PATH = "replicas/witness"


def is_log_lost(disk: Disk, log: Log) -> bool:
    """Look for the log, and begin it if there has never been one; True if it was here and is gone.

    Raises:
        StorageError: The disk failed. Nothing is held yet.
    """
    has_log = any(name.startswith(("log-", "checkpoint-")) for name in disk.list(DIRECTORY))
    has_witness = disk.read(WITNESS_PATH) is not None
    if has_witness:
        # The log is begun again by the records that say what was lost, so a crash before them finds it lost again.
        return not has_log
    if not has_log and log.begin() is not None:
        return False  # no room: the next start begins it
    disk.write(WITNESS_PATH, b"1")
    return False
