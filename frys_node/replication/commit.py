"""Group commit: one append and one sync for everything that came while the last one ran.

Theory of operation. What a replica has merged goes to the log in order, so a group that a full disk refuses keeps its
place and is written again until the disk takes it; nothing of it, or behind it, is acknowledged before, and the replica
takes no more meanwhile. An append that was refused has written nothing. A sync that failed may have lost what it should
have kept, and a second one would not tell: then the log has ended.

A log that is too long goes on in a new file, and a checkpoint of what was before is made beside it: its units are
captured one in a turn, and written by a worker, while writes go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import trio

from frys_node.base.errors import StorageError
from frys_node.base.ports import Executor
from frys_node.kernel.turns import Turns
from frys_node.replication.effects import Persist
from frys_node.replication.log import Log, Rotation
from frys_node.replication.messages import LogRecord

GROUP_MAX = 4_096
"""Persist effects in one commit group."""

DISK_RETRY_S = 0.5
"""Pause before a group that the disk refused is written again."""

_log = logging.getLogger(__name__)


class GroupCommit:
    """Writes the log of one node."""

    def __init__(
        self,
        log: Log,
        executor: Executor,
        on_durable: Callable[[int], None],
        on_refusal: Callable[[StorageError | None], None],
        dump: Callable[[], Iterator[Iterable[list[LogRecord]]]],
        *,
        checkpoint_bytes: int,
        turns: Turns,
    ) -> None:
        self._log = log
        self._executor = executor
        self._on_durable = on_durable
        self._on_refusal = on_refusal
        self._dump = dump
        self._checkpoint_bytes = checkpoint_bytes
        self._turns = turns
        self._rotation: Rotation | None = None
        """The checkpoint that is being made; there is one at a time."""
        self._rotated = trio.Event()
        self._pending: list[Persist] = []
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self.refusal: StorageError | None = None
        """Why the disk took no write when it was tried last; None while it does."""

    def add(self, persist: Persist) -> None:
        """Queue records; an empty effect only waits for what is queued before it."""
        self._pending.append(persist)
        if self._idle.is_set() and self.refusal is None:
            self._idle = trio.Event()
        self._wake.set()

    async def flush(self) -> None:
        """Wait until everything queued is durable, or the disk refuses it."""
        await self._idle.wait()

    async def run(self) -> None:
        """Commit groups until cancelled.

        Raises:
            StorageError: A sync failed. The log must not be written again by this process.
        """
        while True:
            if not self._pending:
                self._idle.set()
                self._wake = trio.Event()
                await self._wake.wait()
            group = self._pending[:GROUP_MAX]
            records = [record for persist in group for record in persist.records]
            if records:
                self._note(await self._executor.run(self._log.append, records))
                if self.refusal is not None:
                    await trio.sleep(DISK_RETRY_S)
                    continue
            del self._pending[: len(group)]
            for persist in group:
                self._on_durable(persist.token)
            if self._log.size_bytes > self._checkpoint_bytes and self._rotation is None:
                self._rotation = self._log.rotate()
                self._rotated.set()

    def _note(self, refusal: StorageError | None) -> None:
        """Tell when the disk begins to refuse, and when it takes writes again."""
        was, self.refusal = self.refusal, refusal
        if (was is None) is (refusal is None):
            return
        if refusal is None:
            self._idle = trio.Event()
            _log.warning("replication.disk_takes_writes_again")
        else:
            self._idle.set()
            _log.error(
                "replication.disk_refuses_writes",
                extra={"code": refusal.code, "error": refusal.message, "fix": refusal.hint},
            )
        self._on_refusal(refusal)

    async def run_checkpoints(self) -> None:
        """Make the checkpoints that `run` finds due, until cancelled. One that finds no room is made later.

        Raises:
            StorageError: A sync failed. What is in the logs stays good.
        """
        while True:
            await self._rotated.wait()
            self._rotated = trio.Event()
            assert self._rotation is not None
            await self._write(self._rotation)
            self._rotation = None

    async def checkpoint(self) -> None:
        """Replace the log by what is held now, while `run` does not."""
        await self._write(self._log.rotate())

    async def _write(self, rotation: Rotation) -> None:
        dump = self._dump()
        units: list[Iterable[list[LogRecord]]] = []
        while True:
            async with self._turns.turn():
                unit = next(dump, None)
            if unit is None:
                break
            units.append(unit)
        refusal = await self._executor.run(self._log.write_checkpoint, rotation, chain.from_iterable(units))
        if refusal is not None:
            _log.warning(
                "replication.checkpoint_refused",
                extra={"code": refusal.code, "error": refusal.message, "fix": refusal.hint},
            )
