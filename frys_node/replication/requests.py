"""The requests that somebody waits for at this node, and the error of each that fails: it names the fix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import trio

from frys_node.base.errors import FrysError, NoReplica, NotReady, StorageError, error_from_code
from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Members
from frys_node.observe.log import describe
from frys_node.observe.metrics import Metrics
from frys_node.replication.effects import ReadDone, RequestFailed, ScanDone, WriteDone
from frys_node.replication.errors import ClockDrift, NotRepaired


def _is_of_disk(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_of_disk, error.exceptions))
    return isinstance(error, StorageError | OSError)


class Countdown:
    """Set once it has been set so often: many requests, one that waits."""

    __slots__ = ("_event", "_left")

    def __init__(self, count: int) -> None:
        self._left = count
        self._event = trio.Event()

    def set(self) -> None:
        """Count one down."""
        self._left -= 1
        if self._left == 0:
            self._event.set()

    async def wait(self) -> None:
        """Wait for the last."""
        await self._event.wait()


class _Waiter:
    """A request that somebody waits for."""

    __slots__ = ("event", "failure", "result")

    def __init__(self, event: trio.Event | Countdown) -> None:
        self.event = event
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
        self.stopped: Exception | None = None
        """What ended replication on this node; None while it runs."""

    def __len__(self) -> int:
        return len(self._waiters)

    async def wait(self, kind: str, request: int, begin: Callable[[], None]) -> Any:
        """Begin a request and return its result.

        Raises:
            NoReplica: Too few replicas answered in time; a write may still appear.
            StorageError: The disks of too many replicas take no writes; it may appear once they do.
            ClockDrift: This node's clock is too far ahead of too many replicas' clocks; the write may still appear.
            NotRepaired: What a read that waits for repair found could not be put on a quorum in time.
            NotReady: Replication has stopped on this node; a write may have been kept by others.
        """
        return (await self.wait_all(kind, [request], begin))[0]

    async def wait_all(self, kind: str, requests: Sequence[int], begin: Callable[[], None]) -> list[Any]:
        """Begin requests and return their results in order once all are answered; see `wait`.

        The first that failed is raised, and what became of the others is not told: writing all again is safe.
        """
        event = trio.Event() if len(requests) == 1 else Countdown(len(requests))
        waiters = [_Waiter(event) for _ in requests]
        self._waiters.update(zip(requests, waiters, strict=True))
        try:
            begin()
            await event.wait()
        finally:
            for request in requests:
                del self._waiters[request]
        failures = [waiter for waiter in waiters if waiter.result is None]
        self._counted.inc(kind, "ok", by=len(waiters) - len(failures))
        if failures:
            self._counted.inc(kind, "failed", by=len(failures))
            failed = next((waiter.failure for waiter in failures if waiter.failure is not None), None)
            if failed is not None:
                raise self._error(failed)
            raise self.unready("replication has stopped on this node, others may have kept the write")
        return [waiter.result for waiter in waiters]

    def answer(self, effect: WriteDone | ReadDone | ScanDone | RequestFailed) -> None:
        """Wake whoever waits for the request."""
        waiter = self._waiters.get(effect.request)
        if waiter is None or waiter.result is not None or waiter.failure is not None:
            return
        if isinstance(effect, RequestFailed):
            waiter.failure = effect
        else:
            waiter.result = effect
        waiter.event.set()

    def stop(self) -> None:
        """Wake everybody: nothing will be answered any more."""
        for waiter in self._waiters.values():
            if waiter.result is None and waiter.failure is None:
                waiter.event.set()

    def unready(self, text: str) -> NotReady:
        """Return the error for a request while replication does not run here, with what stopped it."""
        return NotReady(
            f"{text}: {describe(self.stopped)}" if self.stopped else text,
            hint="mend what stopped it (see the node's log), then restart the node",
        )

    def stopped_for_good(self) -> FrysError:
        """Return the error for a second run in one process: the disk is named only if it was the disk."""
        text = "replication has stopped on this node"
        if self.stopped is None:
            return NotReady(text, hint="restart the node; its log says what ended first")
        text += f": {describe(self.stopped)}"
        if _is_of_disk(self.stopped):
            hint = "look for disk errors in the kernel log, mend the disk, then restart the node"
            return StorageError(text, hint=hint)
        return NotReady(text, hint="restart the node, and report this with the node's log: it is a defect")

    def _error(self, failed: RequestFailed) -> FrysError:
        if failed.code == ClockDrift.code:
            return ClockDrift(
                f"the clock of this node is too far ahead of those of {self._names(failed.refused)}",
                hint="set the clocks right with NTP (`chronyc tracking` shows the offset); reads go on",
            )
        if failed.code == NotRepaired.code:
            return NotRepaired(
                f"what was read of '{failed.unit}' is held by too few replicas, and too old to be written to"
                f" {self._names(failed.refused)}",
                hint="try again: members exchange it in the background; or read without read_repair=wait",
            )
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
