"""One request in flight at a coordinator: what was asked, and which replies count.

Sans-I/O. A read of many keys goes in *parts*. Each attempt asks for the first keys that are not known yet, and each
replica answers the first of those that fit in a message. Once there is a quorum, the keys that all of it answered are
known: each of them has its own full quorum, under one record and at one instant of each replica. The rest is the next
part, a new attempt. A change of the record forgets the votes of the part under way, and no part that is known: such a
read was whole and within the time of the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from frys_node.base.types import Consistency, NodeId, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.kernel.services.topology import UnitSets
from frys_node.replication.batches import first_entries, first_keys
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
        "asked",
        "attempt",
        "clock_ms",
        "complete",
        "consistency",
        "deadline_s",
        "entries",
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
        "readers",
        "refused",
        "repairing",
        "replies",
        "request",
        "result",
        "retry_s",
        "scans",
        "seqs",
        "sets",
        "stamps",
        "targets",
        "tries",
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
        self.tries = 0
        """Attempts at the same part."""
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
        self.keys: Sequence[bytes] = []
        """What is still to be read."""
        self.entries: list[Entry | None] = []
        """What is known of the keys before those."""
        self.stamps: list[Stamp | None] = []
        self.seqs: dict[NodeId, int] | None = None
        """Who gave all that is known, each with how far it had come in the unit; None before the first part."""
        self.readers: set[NodeId] = set()
        """Whose data is in what is known."""
        self.after = b""
        self.limit = 0
        self.pending_page: tuple[Sequence[bytes], bool] | None = None
        """The candidates of a scan, and whether more follow."""
        self.pause_s = RETRY_S
        self.retry_s = 0.0
        self.sets: UnitSets | None = None
        self.targets: tuple[NodeId, ...] = ()
        self._forget()

    def reset(self) -> None:
        """Begin another attempt, or the first: replies to earlier ones no longer count (rule 6)."""
        self.attempt += 1
        self.tries += 1
        self._forget()

    def _forget(self) -> None:
        self.acked: dict[NodeId, int] = {}
        """Who has acknowledged, each with its place among the changes of the unit."""
        self.refused: dict[NodeId, str] = {}
        """Targets that take no such write or repair, each with the code of the reason."""
        self.answered: dict[NodeId, None] = {}
        self.complete: dict[NodeId, None] = {}
        self.replies: dict[NodeId, ReadReply] = {}
        self.scans: dict[NodeId, ScanReply] = {}
        self.highest = ZERO
        self.repairing = False
        """The result of a read is known, and waits for the replicas that lacked it."""
        self.result: list[Entry | None] = []
        """The part that is known and not yet part of `entries`."""
        self.asked = first_keys(self.keys)

    def candidates(self) -> tuple[list[bytes], bool]:
        """Return the keys that any replica's page of a scan has, and whether more follow.

        The page ends at the lowest last key of those that have more: beyond it some replica has not been heard.
        """
        ends = [scan.keys[-1] for scan in self.scans.values() if scan.has_more and scan.keys]
        end = min(ends, default=None)
        return sorted({key for s in self.scans.values() for key in s.keys if end is None or key <= end}), bool(ends)

    def page(self) -> tuple[list[bytes], list[Entry], bytes | None]:
        """Return what a scan found live among its candidates, and the key to go on after, if there may be more.

        It ends with the first part: a page of big values is shorter, instead of filling the memory.
        """
        assert self.pending_page is not None
        keys, has_more = self.pending_page
        live = [entry for entry in self.entries if entry is not None and entry.value is not None]
        last = keys[len(self.entries) - 1] if has_more or self.keys else None
        return [entry.key for entry in live], live, last

    def is_of_part(self, reply: ReadReply) -> bool:
        """True if a complete reply has at least the first of the keys asked for, and none beyond them."""
        count = len(self._found(reply))
        return count <= len(self.asked) and (count > 0 or not self.asked)

    def _found(self, reply: ReadReply) -> Sequence[object]:
        return reply.stamps if self.kind is Kind.VERSIONS else reply.entries

    def merged(self) -> list[Entry | None]:
        """Return the newest entry among the complete replies (rule 8) of each key that all of them answered.

        No more than fits in a message, one at least: whoever lacks something of it is sent that at once.
        """
        result: list[Entry | None] = [None] * self._count()
        for reply in self.replies.values():
            result = [newer(mine, theirs) for mine, theirs in zip(result, reply.entries, strict=False)]
        return list(first_entries(result))

    def _merged_stamps(self) -> list[Stamp | None]:
        """Return the newest stamp among the complete replies of each key that all of them answered."""
        result: list[Stamp | None] = [None] * self._count()
        for reply in self.replies.values():
            result = [_newer_stamp(mine, theirs) for mine, theirs in zip(result, reply.stamps, strict=False)]
        return result

    def _count(self) -> int:
        """Return how many keys all complete replies are about."""
        return min((len(self._found(reply)) for reply in self.replies.values()), default=len(self.asked))

    def up_to_date(self) -> dict[NodeId, int]:
        """Return whose reply to a read was the result itself, each with how far it had come in the unit."""
        wanted = _versions(self.result)
        return {
            node: reply.seq for node, reply in self.replies.items() if _versions(reply.entries[: len(wanted)]) == wanted
        }

    def take_part(self) -> bool:
        """Add what is known now to what was known; True if keys are left, for another part."""
        if self.kind is Kind.VERSIONS:
            stamps = self._merged_stamps()
            self.stamps += stamps
            count = len(stamps)
        else:
            self.entries += self.result
            count = len(self.result)
            seqs = self.up_to_date()
            if self.seqs is not None:
                # Who has come further meanwhile still has what it had; a lower count is that of another life.
                seqs = {node: seq for node, seq in seqs.items() if self.seqs.get(node, seq + 1) <= seq}
            self.seqs = seqs
        self.readers.update(self.replies)
        self.keys = self.keys[count:]
        self.tries = 0
        self.pause_s = RETRY_S
        return bool(self.keys)

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
