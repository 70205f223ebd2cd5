"""Group commit: one append and one sync for everything that came while the last one ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from frys_node.base.ports import Executor
from frys_node.replication.effects import Persist
from frys_node.replication.log import Log
from frys_node.replication.messages import LogRecord

GROUP_MAX = 4_096
"""Persist effects in one commit group."""


class GroupCommit:
    """Writes the log of one node. A refused write ends `run` with the error; nothing of the group is acknowledged."""

    def __init__(
        self,
        log: Log,
        executor: Executor,
        on_durable: Callable[[int], None],
        dump: Callable[[], Sequence[list[LogRecord]]],
        checkpoint_bytes: int,
    ) -> None:
        self._log = log
        self._executor = executor
        self._on_durable = on_durable
        self._dump = dump
        self._checkpoint_bytes = checkpoint_bytes
        self._pending: list[Persist] = []
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    def add(self, persist: Persist) -> None:
        """Queue records; an empty effect only waits for what is queued before it."""
        self._pending.append(persist)
        if self._idle.is_set():
            self._idle = trio.Event()
        self._wake.set()

    async def flush(self) -> None:
        """Wait until everything queued is durable."""
        await self._idle.wait()

    async def run(self) -> None:
        """Commit groups until cancelled.

        Raises:
            StorageError: The disk refused. The log must not be written again by this process.
        """
        while True:
            if not self._pending:
                self._idle.set()
                self._wake = trio.Event()
                await self._wake.wait()
            group, self._pending = self._pending[:GROUP_MAX], self._pending[GROUP_MAX:]
            records = [record for persist in group for record in persist.records]
            if records:
                await self._executor.run(self._log.append, records)
            for persist in group:
                self._on_durable(persist.token)
            if self._log.size_bytes > self._checkpoint_bytes:
                await self._checkpoint()

    async def _checkpoint(self) -> None:
        """Replace the log by what is held now; commits wait meanwhile."""
        number = self._log.rotate()
        groups = self._dump()
        await self._executor.run(self._log.write_checkpoint, number, groups)
