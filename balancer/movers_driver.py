"""Carries moved units (workflow partitions) through seal, pull and start by their `UnitMover`."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from balancer.placement import Placement
from balancer.record import STABLE
from balancer.work import Work, kind_of
from frys_node.base.errors import FrysError, NotReady
from frys_node.base.types import Epoch, UnitId
from frys_node.kernel.services.topology import UnitMover

RETRY_S = 0.3
"""Pause before a call that failed is made again."""

_log = logging.getLogger(__name__)


class MoverRunner:
    """Brings the moved units of this node to where the record in force wants them, one call at a time."""

    def __init__(self, on_transferred: Callable[[UnitId, Epoch], None]) -> None:
        self._movers: dict[str, UnitMover] = {}
        self._state: dict[UnitId, str] = {}
        self._placement: Placement | None = None
        self._work = Work()
        self._settled: Epoch | None = None
        self._on_transferred = on_transferred
        self._wake = trio.Event()

    def register(self, kind: str, mover: UnitMover) -> None:
        """Declare the mover of a kind; a plugin that is reloaded starts its units again."""
        self._movers[kind] = mover
        self._state = {unit: state for unit, state in self._state.items() if kind_of(unit) != kind}
        self._wake.set()

    def adopt(self, placement: Placement, work: Work) -> None:
        """Another record is in force."""
        self._placement, self._work = placement, work
        self._wake.set()

    def settled(self, epoch: Epoch) -> None:
        """The record is settled: units that this node gave up may be dropped."""
        self._settled = epoch
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled; a failed call is made again after a pause."""
        while True:
            self._wake = trio.Event()
            if not await self._round():
                with trio.move_on_after(RETRY_S):
                    await self._wake.wait()
                continue
            await self._wake.wait()

    async def _round(self) -> bool:
        """Make every call that is due; False if one failed. Ends early when another record comes."""
        placement = self._placement
        if placement is None:
            return True
        is_clean = True
        for unit, wanted in self._wanted(placement).items():
            mover = self._movers.get(kind_of(unit))
            if mover is None or self._placement is not placement:
                continue
            try:
                await self._bring(mover, unit, wanted, placement)
            except FrysError as error:
                is_clean = False
                # Every move begins with pulls that come before the old owner's seal.
                is_early = wanted == "pulled" and isinstance(error, NotReady)
                level = logging.DEBUG if is_early else logging.WARNING
                _log.log(level, "balancer.move_failed", extra={"unit": unit, "wanted": wanted, "code": error.code})
        return is_clean

    def _wanted(self, placement: Placement) -> dict[UnitId, str]:
        """Return what each unit should be here: ``started``, ``sealed``, ``pulled`` or ``gone``."""
        sealed = dict.fromkeys(self._work.seals, "sealed")
        wanted: dict[UnitId, str] = {unit: sealed.get(unit, "started") for unit in self._work.owned}
        wanted.update(dict.fromkeys(self._work.transfers, "pulled"))
        is_settled = placement.record.phase == STABLE and self._settled == placement.record.epoch
        for unit in self._state:
            if unit not in wanted and is_settled:
                wanted[unit] = "gone"
        return wanted

    async def _bring(self, mover: UnitMover, unit: UnitId, wanted: str, placement: Placement) -> None:
        held = self._state.get(unit)
        if held == wanted and wanted != "pulled":
            return
        if wanted == "started":
            await (mover.unseal(unit) if held == "sealed" else mover.start(unit))
        elif wanted == "sealed":
            await mover.seal(unit)
        elif wanted == "gone":
            await mover.drop(unit)
            self._state.pop(unit, None)
            return
        else:
            owners = placement.sets(unit).current
            # Nobody is left to pull from of a unit that an operator gave up: it begins empty.
            if owners and held != f"pulled {placement.record.epoch}":
                await mover.pull(unit, owners[0])
                self._state[unit] = f"pulled {placement.record.epoch}"
            self._on_transferred(unit, placement.record.epoch)
            return
        self._state[unit] = wanted
