"""The receiving side of a restore that another node carries out: parts of saved states, restored when whole."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import trio

from frys_node.base.errors import FrysError, NotReady, Overloaded, UsageError
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.snapshots import Snapshottable
from snapshots.capture import closing, provider_of
from snapshots.messages import Has, HasRequest, Surveyed, SurveyRequest, Taken, TakeRequest

TRANSFERS_MAX: Final = 16
"""States that are on their way here at once; the one that was unused longest goes first."""

TRANSFER_BYTES_MAX: Final = 1 << 30
"""Bytes of all of them together; they are held in memory, as a partition's import is."""


class _Transfer:
    """Parts of one state."""

    __slots__ = ("parts", "size_bytes")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size_bytes = 0


async def once(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    """Yield parts that are here."""
    for part in parts:
        await trio.lowlevel.checkpoint()
        yield part


class Taking:
    """Answers ``snapshots.take``, ``snapshots.survey`` and ``snapshots.has`` of other nodes."""

    def __init__(self, providers: Mapping[str, Snapshottable]) -> None:
        self._providers = providers
        self._numbers = itertools.count(1)
        self._transfers: OrderedDict[tuple[NodeId, int], _Transfer] = OrderedDict()

    def new_transfer(self) -> int:
        """Return a number for a state that this node gives away."""
        return next(self._numbers)

    def _provider(self, unit: UnitId) -> Snapshottable:
        provider = provider_of(self._providers, unit)
        if unit not in provider.units():
            raise NotReady(f"this node does not hold the unit '{unit}' under its record")
        return provider

    async def take(self, caller: NodeId, request: TakeRequest) -> Taken:
        """Keep a part; with the last one restore the state.

        Raises:
            NotReady: The unit is not held here. Nothing was changed.
            UsageError: A part is missing. Nothing was changed; send the state again.
            Overloaded: Too much is on its way here. Nothing was changed.
            AlreadyExists: The unit has something by now, and nothing was to be replaced. It stands.
        """
        provider = self._provider(request.unit)
        if request.ends:
            await provider.restored(request.unit)
            return Taken()
        key = (caller, request.transfer)
        transfer = _Transfer() if request.index == 0 else self._transfers.pop(key, None)
        if transfer is None or len(transfer.parts) != request.index:
            raise UsageError(f"part {request.index} of '{request.unit}' came without those before it")
        held = sum(other.size_bytes for other in self._transfers.values())
        if held + transfer.size_bytes + len(request.data) > TRANSFER_BYTES_MAX:
            raise Overloaded(f"over {TRANSFER_BYTES_MAX} bytes of saved states are on their way here")
        transfer.parts.append(request.data)
        transfer.size_bytes += len(request.data)
        if request.is_last:
            async with closing(once(transfer.parts)) as parts:
                return Taken(await provider.restore(request.unit, parts, only_empty=request.only_empty))
        self._transfers[key] = transfer
        while len(self._transfers) > TRANSFERS_MAX:
            self._transfers.popitem(last=False)
        await trio.lowlevel.checkpoint()
        return Taken()

    async def survey(self, caller: NodeId, request: SurveyRequest) -> Surveyed:
        """Say which units would lose something; one that cannot say so does not silence the others."""
        found: list[UnitId] = []
        problems: list[tuple[UnitId, str]] = []
        for unit in request.units:
            try:
                if await self._provider(unit).has_data(unit):
                    found.append(unit)
            except FrysError as error:
                problems.append((unit, error.message))
        return Surveyed(found, problems)

    async def has(self, caller: NodeId, request: HasRequest) -> Has:
        """Say whether a unit has all of some keys (`NotReady` if it is not held here)."""
        return Has(await self._provider(request.unit).has_keys(request.unit, request.keys))
