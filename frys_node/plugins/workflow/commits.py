"""Commits: everything that runs want journaled, sent to the store together, in order.

One `append` of the store is under way at a time; what arrives meanwhile shares the next one and its fsync. A full disk
loses nothing: starts are refused, all other appends are tried again, in order, until there is room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import trio

from frys_node.base.errors import FrysError, StorageError
from frys_node.observe.log import get_logger
from frys_node.plugins.workflow.machine import Effect
from frys_node.plugins.workflow.runs import RunHandle
from frys_node.storage.ports import Append, JournalStore

COMMITS_QUEUED_MAX = 50_000
"""Appends waiting for the disk before new starts are refused."""
COMMIT_BATCH_MAX = 4_096
"""Appends in one call of the store."""
RETRY_S = (0.05, 5.0)
"""First and longest pause before a refused disk is tried again."""

_LOG = get_logger(__name__)


class Commit(NamedTuple):
    """One queued append and what its success releases."""

    handle: RunHandle
    append: Append
    effects: Sequence[Effect]
    done: trio.Event
    outcome: list[FrysError]
    """Empty on success, else why it was refused."""

    async def durable(self) -> None:
        """Wait for the store's answer.

        Raises:
            FrysError: It was refused; nothing was written.
        """
        await self.done.wait()
        if self.outcome:
            raise self.outcome[0]


class Committer:
    """The queue of commits and the task that empties it."""

    def __init__(self, store: JournalStore, settle: Callable[[Commit, FrysError | None], None]) -> None:
        self._store = store
        self._settle = settle
        self._queue: list[Commit] = []
        self._wake = trio.Event()
        self.error: StorageError | None = None
        """Why commits do not go through at the moment, None if they do."""

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, commit: Commit) -> None:
        """Queue a commit."""
        self._queue.append(commit)
        self._wake.set()

    async def flush(self) -> None:
        """Wait until everything that is queued now has an answer."""
        if self._queue:
            await self._queue[-1].done.wait()

    async def run(self) -> None:
        """Commit until cancelled."""
        delay_s = RETRY_S[0]
        while True:
            if not self._queue:
                self._wake = trio.Event()
                await self._wake.wait()
            batch = self._queue[:COMMIT_BATCH_MAX]
            try:
                results = await self._store.append([commit.append for commit in batch])
            except StorageError as error:
                self.error = error
                _LOG.error("workflow.commit_failed", reason=error.message, appends=len(batch))
                self._refuse_starts(error)
                await trio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_S[1])
                continue
            self.error, delay_s = None, RETRY_S[0]
            del self._queue[: len(batch)]
            for commit, result in zip(batch, results, strict=True):
                self._settle(commit, result)

    def _refuse_starts(self, error: StorageError) -> None:
        """Refuse starts, and with each what was queued behind it: there will be no journal for that."""
        starts = {id(commit.handle) for commit in self._queue if commit.append.new is not None}
        refused = [commit for commit in self._queue if id(commit.handle) in starts]
        self._queue = [commit for commit in self._queue if id(commit.handle) not in starts]
        for commit in refused:
            self._settle(commit, error)
