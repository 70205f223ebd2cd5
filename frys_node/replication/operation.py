"""One request in flight at a coordinator: what was asked, and which replies count.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from frys_node.base.types import Consistency, NodeId, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.kernel.services.topology import UnitSets
from frys_node.replication.messages import ReadReply, ScanReply
from frys_node.replication.version import ZERO, Stamp, newer

RETRY_S = 0.25
"""Targets that have not answered are asked again after this; the pause grows by half each time."""

RETRY_MAX_S = 2.0


class Kind(Enum):
    """What a request does."""

    WRITE = "write"
    READ = "read"
    VERSIONS = "versions"
    SCAN = "scan"


class Operation:
    """A request and the votes of its current attempt."""

    __slots__ = (
        "acked",
        "after",
        "answered",
        "attempt",
        "clock_ms",
        "complete",
        "consistency",
        "deadline_s",
        "highest",
        "is_done",
        "is_restamped",
        "items",
        "keys",
        "kind",
        "least",
        "limit",
        "pause_s",
        "pending_page",
        "refused",
        "repairing",
        "replies",
        "request",
        "result",
        "retry_s",
        "scans",
        "sets",
        "targets",
        "unit",
        "version",
        "waits_repair",
    )

    def __init__(self, request: int, kind: Kind, unit: UnitId, consistency: Consistency, *, deadline_s: float) -> None:
        self.request = request
        self.kind = kind
        self.unit = unit
        self.consistency = consistency
        self.deadline_s = deadline_s
        self.attempt = 0
        self.is_done = False
        self.is_restamped = False
        self.version = ZERO
        self.clock_ms = 0
        """The coordinator's wall clock when the write began (rule 5)."""
        self.least: Mapping[NodeId, int] = {}
        """How far replicas must have come to answer a read of one alone (a session's token); empty: any is as good."""
        self.waits_repair = False
        """A read ends only when what it returns is at a quorum."""
        self.items: list[tuple[bytes, bytes | None]] = []
        self.keys: list[bytes] = []
        self.after = b""
        self.limit = 0
        self.pending_page: tuple[list[bytes], bool] | None = None
        self.pause_s = RETRY_S
        self.retry_s = 0.0
        self.sets: UnitSets | None = None
        self.targets: tuple[NodeId, ...] = ()
        self._forget()

    def reset(self) -> None:
        """Begin another attempt, or the first: replies to earlier ones no longer count (rule 6)."""
        self.attempt += 1
        self._forget()

    def _forget(self) -> None:
        self.acked: dict[NodeId, int] = {}
        """Who has acknowledged, each with its place among the changes of the unit."""
        self.refused: dict[NodeId, str] = {}
        """Targets whose disk takes no writes, each with the code of the reason."""
        self.answered: dict[NodeId, None] = {}
        self.complete: dict[NodeId, None] = {}
        self.replies: dict[NodeId, ReadReply] = {}
        self.scans: dict[NodeId, ScanReply] = {}
        self.highest = ZERO
        self.repairing = False
        """The result of a read is known, and waits for the replicas that lacked it."""
        self.result: list[Entry | None] = []

    def merged(self) -> list[Entry | None]:
        """Return the newest entry of each key among the complete replies (rule 8)."""
        result: list[Entry | None] = [None] * len(self.keys)
        for reply in self.replies.values():
            if len(reply.entries) == len(result):
                result = [newer(mine, theirs) for mine, theirs in zip(result, reply.entries, strict=True)]
        return result

    def merged_stamps(self) -> list[Stamp | None]:
        """Return the newest stamp of each key among the complete replies."""
        result: list[Stamp | None] = [None] * len(self.keys)
        for reply in self.replies.values():
            if len(reply.stamps) == len(result):
                result = [_newer_stamp(mine, theirs) for mine, theirs in zip(result, reply.stamps, strict=True)]
        return result

    def up_to_date(self) -> dict[NodeId, int]:
        """Return whose reply to a read was the result itself, each with how far it had come in the unit."""
        return {
            node: reply.seq
            for node, reply in self.replies.items()
            if [entry and entry.version for entry in reply.entries]
            == [entry and entry.version for entry in self.result]
        }

    def entries_written(self) -> list[Entry]:
        """Return what a write has written, as entries."""
        version: Version = self.version
        return [Entry(key, version, value) for key, value in self.items]


def _versions(entries: list[Entry | None]) -> list[Version | None]:
    return [None if entry is None else entry.version for entry in entries]


def _newer_stamp(first: Stamp | None, second: Stamp | None) -> Stamp | None:
    if first is None:
        return second
    if second is None or first.version >= second.version:
        return first
    return second
