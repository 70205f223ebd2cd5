"""What stands where a restore would replace: the owners of units are asked before anything changes.

Each owner is asked once, all at the same time. One that does not answer costs the restore its own units only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

import trio

from frys_node.base.errors import FrysError
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.rpc import Rpc
from frys_node.kernel.services.topology import Topology
from snapshots.messages import HAS, SURVEY, HasRequest, Surveyed, SurveyRequest
from snapshots.taking import Taking

SURVEY_S: Final = 30.0
"""How long an owner may take to say which of its units have something."""

KEYS_BYTES_MAX: Final = 256 * 1024
"""Bytes of keys in one question; a message holds 1 MiB."""

_KEY_BYTES: Final = 8
"""What a key takes in a message beside itself, at most."""


class Standing:
    """Asks the owners of units, this node among them."""

    def __init__(self, *, rpc: Rpc, topology: Topology, taking: Taking, name_of: Callable[[NodeId], str]) -> None:
        self._rpc = rpc
        self._topology = topology
        self._taking = taking
        self._name_of = name_of

    async def filled(self, units: Collection[UnitId]) -> tuple[set[UnitId], dict[UnitId, str]]:
        """Return the units that have something, and why nobody knows it of others."""
        filled: set[UnitId] = set()
        unknown: dict[UnitId, str] = {}
        by_owner: dict[NodeId, list[UnitId]] = {}
        for unit in units:
            try:
                by_owner.setdefault(self._owner(unit), []).append(unit)
            except FrysError as error:
                unknown[unit] = error.message

        async def ask(owner: NodeId, held: list[UnitId]) -> None:
            try:
                with trio.fail_after(SURVEY_S):
                    answer = await self._survey(owner, SurveyRequest(held))
            except trio.TooSlowError:
                reason = f"its owner {self._name_of(owner)} did not answer within {SURVEY_S:.0f} s"
                unknown.update(dict.fromkeys(held, reason))
            except FrysError as error:
                reason = f"its owner {self._name_of(owner)} does not answer: {error.message}"
                unknown.update(dict.fromkeys(held, reason))
            else:
                filled.update(answer.units)
                unknown.update(answer.problems)

        async with trio.open_nursery() as nursery:
            for owner, held in by_owner.items():
                nursery.start_soon(ask, owner, held)
        return filled, unknown

    async def has_all(self, unit: UnitId, keys: Sequence[bytes]) -> bool:
        """Return True if the unit has every one of the keys; False also if its owner does not say."""
        owner = self._owner(unit)
        try:
            for some in _batches(keys):
                request = HasRequest(unit, some)
                is_own = owner == self._rpc.self_id
                with trio.fail_after(SURVEY_S):
                    answer = await (self._taking.has(owner, request) if is_own else self._rpc.call(owner, HAS, request))
                if not answer.is_all:
                    return False
        except (FrysError, trio.TooSlowError):
            # An owner of an earlier version knows no such question. To take its runs for others loses nothing.
            return False
        return True

    def _owner(self, unit: UnitId) -> NodeId:
        return self._topology.sets(unit).current[0]

    async def _survey(self, owner: NodeId, request: SurveyRequest) -> Surveyed:
        if owner == self._rpc.self_id:
            return await self._taking.survey(owner, request)
        return await self._rpc.call(owner, SURVEY, request)


def _batches(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Cut keys into lists that fit a message."""
    batch: list[bytes] = []
    size_bytes = 0
    for key in keys:
        if batch and size_bytes + len(key) + _KEY_BYTES > KEYS_BYTES_MAX:
            yield batch
            batch, size_bytes = [], 0
        batch.append(key)
        size_bytes += len(key) + _KEY_BYTES
    if batch:
        yield batch
