"""Bulk copies of joining units through the snapshot component, a few at a time, tried again until they succeed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from frys_node.base.errors import FrysError
from frys_node.base.types import Epoch, UnitId
from frys_node.kernel.services.members import Members
from frys_node.kernel.services.snapshots import Snapshots
from frys_node.replication.effects import BulkPull

BULKS_MAX = 4
"""Snapshots pulled at once."""

BULK_RETRY_S = 1.0
"""Pause before a bulk that no source could serve is tried again."""

_log = logging.getLogger(__name__)


class BulkPuller:
    """The bulk copies that the record in force asks of this node."""

    def __init__(
        self,
        snapshots: Snapshots | None,
        members: Members,
        epoch: Callable[[], Epoch | None],
        on_finished: Callable[[BulkPull], None],
    ) -> None:
        self._snapshots = snapshots
        self._members = members
        self._epoch = epoch
        self._on_finished = on_finished
        self._wanted: dict[UnitId, BulkPull] = {}
        self._wake = trio.Event()

    def add(self, bulk: BulkPull) -> None:
        """Queue a copy; one for the same unit under an older record is replaced."""
        self._wanted[bulk.unit] = bulk
        self._wake.set()

    def clear(self) -> None:
        """Forget what is queued: another record is in force."""
        self._wanted.clear()

    async def run(self) -> None:
        """Copy until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(BULKS_MAX):
                nursery.start_soon(self._work, nursery)

    async def _work(self, nursery: trio.Nursery) -> None:
        while True:
            while not self._wanted:
                self._wake = self._wake if not self._wake.is_set() else trio.Event()
                await self._wake.wait()
            bulk = self._wanted.pop(next(iter(self._wanted)))
            if bulk.epoch == self._epoch() and not await self._copy(bulk):
                nursery.start_soon(self._later, bulk)

    async def _copy(self, bulk: BulkPull) -> bool:
        """Try the sources in turn, the well ones first; True if nothing is left to do."""
        assert self._snapshots is not None, "bulk copies without snapshots go by messages"
        for source in sorted(bulk.sources, key=self._members.rank):
            try:
                await self._snapshots.pull(bulk.unit, source)
            except FrysError as error:
                _log.warning("replication.bulk_failed", extra={"unit": bulk.unit, "source": source, "code": error.code})
                continue
            self._on_finished(bulk)
            return True
        return bulk.epoch != self._epoch()

    async def _later(self, bulk: BulkPull) -> None:
        await trio.sleep(BULK_RETRY_S)
        if bulk.epoch == self._epoch():
            self.add(bulk)
