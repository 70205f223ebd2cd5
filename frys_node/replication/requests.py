"""The requests that somebody waits for at this node, and the error of each that fails: it names the fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from frys_node.base.errors import FrysError, NoReplica, NotReady, UsageError, error_from_code
from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Members
from frys_node.observe.metrics import Metrics
from frys_node.replication.effects import ReadDone, RequestFailed, ScanDone, WriteDone
from frys_node.replication.messages import ITEMS_BYTES_MAX, VALUE_BYTES_MAX


class _Waiter:
    """A request that somebody waits for."""

    __slots__ = ("event", "failure", "result")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.result: Any = None
        self.failure: RequestFailed | None = None


class Requests:
    """Who waits for which request of the coordinator."""

    def __init__(self, metrics: Metrics, members: Members) -> None:
        self._members = members
        self._waiters: dict[int, _Waiter] = {}
        self._counted = metrics.counter(
            "frys_replication_requests_total", "Requests coordinated here", ("kind", "result")
        )
        self.stopped_by = ""
        """What ended replication on this node; empty while it runs."""

    def __len__(self) -> int:
        return len(self._waiters)

    async def wait(self, kind: str, request: int, begin: Callable[[], None]) -> Any:
        """Begin a request and return its result.

        Raises:
            NoReplica: Too few replicas answered in time; a write may still appear.
            StorageError: The disks of too many replicas take no writes; it may appear once they do.
            NotReady: Replication has stopped on this node; a write may have been kept by others.
        """
        waiter = self._waiters[request] = _Waiter()
        try:
            begin()
            await waiter.event.wait()
        finally:
            del self._waiters[request]
        self._counted.inc(kind, "ok" if waiter.result is not None else "failed")
        if waiter.failure is not None:
            raise self._error(waiter.failure)
        if waiter.result is None:
            raise self.unready("replication has stopped on this node, others may have kept the write")
        return waiter.result

    def answer(self, effect: WriteDone | ReadDone | ScanDone | RequestFailed) -> None:
        """Wake whoever waits for the request."""
        waiter = self._waiters.get(effect.request)
        if waiter is None:
            return
        if isinstance(effect, RequestFailed):
            waiter.failure = effect
        else:
            waiter.result = effect
        waiter.event.set()

    def stop(self) -> None:
        """Wake everybody: nothing will be answered any more."""
        for waiter in self._waiters.values():
            waiter.event.set()

    def unready(self, text: str) -> NotReady:
        """Return the error for a request while replication does not run here, with what stopped it."""
        return NotReady(
            f"{text}: {self.stopped_by}" if self.stopped_by else text,
            hint="mend what stopped it (see the node's log), then restart the node",
        )

    def _error(self, failed: RequestFailed) -> FrysError:
        disks = f"the disk of {self._names(failed.refused)} takes no writes" if failed.refused else ""
        if failed.code:
            return error_from_code(
                failed.code,
                f"{disks}, and without it too few replicas of '{failed.unit}' can keep this",
                "free space on that disk, or mount it read-write; reads are answered all the while",
            )
        return NoReplica(
            f"{len(failed.answered)} of {len(failed.wanted)} replicas of '{failed.unit}' answered in time"
            + (f"; {disks}" if disks else ""),
            hint="see `frys-node members` for nodes that are down",
        )

    def _names(self, nodes: tuple[NodeId, ...]) -> str:
        members = [self._members.get(node) for node in nodes]
        return ", ".join(node if member is None else member.name for node, member in zip(nodes, members, strict=True))


def batches_of(items: list[tuple[bytes, bytes | None]]) -> list[list[tuple[bytes, bytes | None]]]:
    """Cut items into batches of at most ITEMS_BYTES_MAX, one item at least."""
    batches: list[list[tuple[bytes, bytes | None]]] = [[]]
    size_bytes = 0
    for key, value in items:
        item_bytes = len(key) + len(value or b"") + 16
        if item_bytes > VALUE_BYTES_MAX:
            raise UsageError(
                f"a key and value of {item_bytes} bytes are over the limit of {VALUE_BYTES_MAX}",
                hint="store big values elsewhere and keep a reference",
            )
        if batches[-1] and size_bytes + item_bytes > ITEMS_BYTES_MAX:
            batches.append([])
            size_bytes = 0
        batches[-1].append((key, value))
        size_bytes += item_bytes
    return batches
