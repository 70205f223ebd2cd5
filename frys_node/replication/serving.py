"""What a replica answers to requests for a unit that it holds, under its own record.

Sans-I/O. Refused are writes that the disk cannot keep, that come from a clock too far ahead (rule 5), or that are older
than what may still be written (rule 17); of repairs only what is not too old is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from frys_node.base.types import NodeId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication import hashtree
from frys_node.replication.answers import answer_read, answer_scan
from frys_node.replication.effects import Effect, Send
from frys_node.replication.errors import ClockDrift, TooOld
from frys_node.replication.messages import (
    LeafAsk,
    LeafPage,
    Read,
    Repair,
    RepairAck,
    Scan,
    Tree,
    TreeAsk,
    Write,
    WriteAck,
    WriteRefused,
)
from frys_node.replication.pull import PullSource
from frys_node.replication.unit import HeldUnit, UnitTable

WAITING_MAX = 16_384
"""Acknowledgements that may wait for the disk; writes beyond are dropped unread, and their coordinators ask again."""


class Serving:
    """Answers of one replica."""

    def __init__(self, table: UnitTable, wall_ms: Callable[[], int] | None, clock_drift_max_s: float) -> None:
        self._table = table
        self._source = PullSource()
        self._wall_ms = wall_ms
        self._drift_max_ms = clock_drift_max_s * 1_000
        self.disk_refusal = ""
        """Set by the host to the code of the reason while its disk takes no writes: what cannot become durable is not
        merged, since memory and log would grow apart without bound. Reads go on."""
        self.overloaded_count = 0
        self.refused: Counter[str] = Counter()
        """Writes refused, by the code of the reason."""

    def is_refused_by_disk(self, held: HeldUnit) -> bool:
        """True while nothing more of the unit can become durable here."""
        return held.durable and bool(self.disk_refusal)

    def answer(
        self,
        source: NodeId,
        held: HeldUnit,
        message: Write | Read | Scan | Repair | TreeAsk | LeafAsk,
        now_s: float,
        *,
        counts: bool = True,
    ) -> list[Effect]:
        """Answer one request that was made under the record in force; writes are taken in silence if none `counts`."""
        match message:
            case Write():
                return self._write(source, held, message, now_s, counts=counts)
            case Read():
                return [Send(source, answer_read(held, message))]
            case Scan():
                return [Send(source, answer_scan(held, message))]
            case Repair():
                return self._repair(source, held, message, now_s)
            case TreeAsk():
                return [Send(source, _tree(held, message))]
            case LeafAsk():
                return [Send(source, self._page(source, held, message))]

    def _refusal(self, held: HeldUnit, message: Write) -> tuple[str, Version | None] | None:
        """Return why a write is refused, with the floor that it must be above if it is too old."""
        if self.is_refused_by_disk(held):
            return self.disk_refusal, None
        if self._wall_ms is not None and message.clock_ms > self._wall_ms() + self._drift_max_ms:
            return ClockDrift.code, None
        return (TooOld.code, held.write_floor) if held.is_too_old(message.version) else None

    def _write(self, source: NodeId, held: HeldUnit, message: Write, now_s: float, *, counts: bool) -> list[Effect]:
        if self._table.waiting >= WAITING_MAX:
            # The coordinator asks again; by then the disk may have caught up.
            self.overloaded_count += 1
            return []
        version, answer = message.version, (message.epoch, message.unit, message.request, message.attempt)
        refusal = self._refusal(held, message)
        if refusal is not None:
            self.refused[refusal[0]] += 1
            return [Send(source, WriteRefused(*answer, *refusal))]
        effects = self._table.take(
            held,
            [Entry(key, version, value) for key, value in message.items],
            lambda top, _at_s: [Send(source, WriteAck(*answer, top, held.seq))] if counts else [],
            now_s,
        )
        if not held.durable and not held.complete:
            held.note_early([key for key, _value in message.items], version)
        return effects

    def _repair(self, source: NodeId, held: HeldUnit, message: Repair, now_s: float) -> list[Effect]:
        """Take what is not too old, and acknowledge a hint all the same: it would be too old the next time as well.

        A read that waits must not count on what was left out: it is told whether that is held, or a newer version.
        """
        if self.is_refused_by_disk(held):
            return []  # a hint comes again
        entries = [entry for entry in message.entries if not held.is_too_old(entry.version)]
        is_held = len(entries) == len(message.entries) or held.has_all(
            [entry for entry in message.entries if held.is_too_old(entry.version)]
        )

        def then(_top: object, _at_s: float) -> list[Effect]:
            if not message.request:
                return []
            return [Send(source, RepairAck(message.epoch, message.unit, message.request, is_held))]

        return self._table.take(held, entries, then, now_s)

    def _page(self, source: NodeId, held: HeldUnit, ask: LeafAsk) -> LeafPage:
        entries, has_more = self._source.page(held, source, ask) if held.complete else ([], False)
        return LeafPage(ask.epoch, ask.unit, ask.pull, ask.after, held.complete, entries, has_more, held.evict_floor)


def _tree(held: HeldUnit, message: TreeAsk) -> Tree:
    leaves = held.tree() if held.complete else b""
    is_equal = held.complete and hashtree.root(leaves) == message.root
    return Tree(
        message.epoch,
        message.unit,
        message.pull,
        held.complete,
        b"" if is_equal else leaves,
        held.floor,
        is_equal,
        held.write_floor,
        held.purge_floor,
        held.evict_floor,
    )
