"""Bringing a saved snapshot back, into the cluster that saved it or into another one.

All of the snapshot is read and checked before anything changes. Then each key goes to the unit that it belongs to
now, and each unit's piece to the members of its set: replicated kinds merge it (newer stands), a workflow partition
is replaced. What cannot be reached costs its own units only: they are named, and restoring again brings them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import msgspec
import trio

from frys_node.base.errors import (
    CorruptData,
    DeadlineExceeded,
    FrysError,
    NodeUnreachable,
    NotFound,
    NotReady,
)
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.rpc import Rpc
from frys_node.kernel.services.snapshots import Piece, SavedState, Snapshottable
from frys_node.kernel.services.topology import Collection as Definition
from frys_node.kernel.services.topology import Topology, UnitSets
from snapshots.capture import closing, kind_of
from snapshots.errors import CorruptChunk, WouldReplace
from snapshots.index import Missing, SavedSnapshot, SavedUnit, check_kinds, copies_of
from snapshots.messages import TAKE, Taken, TakeRequest
from snapshots.routing import Routing, match_collections
from snapshots.shelf import Contents, Shelf
from snapshots.standing import Standing
from snapshots.taking import Taking
from snapshots.verify import verify

TAKE_S: Final = 120.0
"""How long a member may take for one part."""

TAKE_BYTES: Final = 512 * 1024
"""Bytes of a part; a message holds 1 MiB."""

NAMED_MAX: Final = 3
"""Units that an error names."""

PIECES_MAX: Final = 4
"""Pieces on their way to members at once."""


class RestoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `restore` did."""

    name: str
    units: int
    """Units that something was brought back to."""
    items: int
    """Keys, points and runs that were brought back."""
    size_bytes: int
    """Bytes of the saved copies that were read."""
    collections: tuple[str, ...]
    """Names of the collections that were made."""
    skipped: tuple[Missing, ...]
    """Saved units that nothing was done with."""
    failed: tuple[Missing, ...]
    """Units that did not take all of it; restoring again is safe."""
    restored: tuple[UnitId, ...] = ()
    """Units that took all of it."""
    items_standing: int = 0
    """Keys and points that were not: they are there as they were saved, or newer, or were deleted since."""
    standing: tuple[UnitId, ...] = ()
    """Units that have everything already and may have gone on since: they were left as they are."""


class Restorer:
    """Restores into the cluster that this node belongs to."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        rpc: Rpc,
        topology: Topology,
        providers: Mapping[str, Snapshottable],
        replacing: Collection[str],
        taking: Taking,
        new_id: Callable[[], str],
        name_of: Callable[[NodeId], str] = lambda node: node[:12],
    ) -> None:
        self._shelf = shelf
        self._rpc = rpc
        self._topology = topology
        self._providers = providers
        self._replacing = replacing
        """Kinds whose restore replaces what is there; the others merge, and what is newer stands."""
        self._taking = taking
        self._new_id = new_id
        self._standing = Standing(rpc=rpc, topology=topology, taking=taking, name_of=name_of)
        self._name_of = name_of
        self._unreachable: dict[NodeId, str] = {}
        self._items = self._items_standing = 0
        self._due: set[UnitId] = set()
        """Units of replacing kinds that are to be replaced; all others of these kinds stand."""
        self._only_empty = True
        self._left: set[UnitId] = set()
        """Units that have all of it already."""
        self._skipped: list[Missing] = []
        self._touched: set[UnitId] = set()
        self._failed: dict[UnitId, str] = {}

    async def restore(
        self,
        name: str,
        units: Sequence[UnitId] | None = None,
        *,
        kinds: Sequence[str] | None = None,
        replace: bool = False,
    ) -> RestoreReport:
        """Restore the given units, those of some kinds, or all of the snapshot.

        Units whose members or owner do not answer, or whose collection cannot be made, are `failed` in the report; the
        others are restored.

        Raises:
            NotFound: No such snapshot, unit or kind. Nothing was changed.
            WouldReplace: A workflow partition has runs, and `replace` does not ask to lose them. Nothing was changed.
            CorruptChunk, CorruptManifest: The snapshot is damaged. Nothing was changed.
        """
        index = await self._shelf.get(name)
        wanted = self._chosen(index, units, kinds)
        self._skipped = self._unknown(index, wanted, units)
        report = await verify(self._shelf, index, list(wanted))
        if report.problems:
            more = f" (and {len(report.problems) - 1} more)" if len(report.problems) > 1 else ""
            raise CorruptChunk(
                f"snapshot '{name}' is damaged, nothing was restored: {report.problems[0]}{more}",
                hint="`frys-node snapshot verify` lists the damage; restore the units that are whole with --unit",
            )
        found, to_make, homeless = match_collections(index.collections, self._topology.collections(), list(wanted))
        self._skipped += homeless
        for missing in homeless:
            wanted.pop(missing.unit, None)
        routing = Routing(
            saved_partitions=index.partitions,
            partitions=self._topology.partitions,
            collections=found,
            saved_shards={one.id: one.shard_number for one in index.collections},
        )
        self._only_empty = not replace
        for kind in sorted(self._replacing):
            if mine := _of_kind(wanted, kind):
                await self._ask_first(kind, index, mine, routing, replace=replace)
        made = [definition.name for definition in to_make if await self._make(definition, found, wanted)]
        for kind in sorted({kind_of(unit) for unit in wanted}):
            mine = _of_kind(wanted, kind)
            # One copy of each unit after the other, so that what several have is counted once.
            for number, copies in enumerate(self._turns(kind, mine)):
                await self._restore_kind(kind, index, copies, routing, counts_standing=not number)
            if routing.is_same(kind):
                await self._finish(kind, {saved.unit for saved in mine})
            elif units is None:
                await self._finish(kind, {unit for unit in self._touched if kind_of(unit) == kind})
        done = self._touched - self._failed.keys()
        return RestoreReport(
            name=name,
            units=len(done),
            items=self._items,
            items_standing=self._items_standing,
            size_bytes=sum(saved.size_bytes for group in wanted.values() for saved in group),
            collections=tuple(sorted(made)),
            skipped=tuple(self._skipped),
            failed=tuple(Missing(unit=unit, reason=reason) for unit, reason in sorted(self._failed.items())),
            restored=tuple(sorted(done)),
            standing=tuple(sorted(self._left)),
        )

    def _chosen(
        self, index: SavedSnapshot, units: Sequence[UnitId] | None, kinds: Sequence[str] | None
    ) -> dict[UnitId, list[SavedUnit]]:
        """Return the copies of what is to be restored (`NotFound` if there is no unit of a kind)."""
        wanted = copies_of(index, units)
        if kinds is None:
            return wanted
        check_kinds(kinds, {kind_of(unit) for unit in wanted}, f"snapshot '{index.name}' has")
        return {unit: copies for unit, copies in wanted.items() if kind_of(unit) in kinds}

    def _unknown(
        self, index: SavedSnapshot, wanted: dict[UnitId, list[SavedUnit]], units: Sequence[UnitId] | None
    ) -> list[Missing]:
        """Take units of unknown kinds out of what is wanted, or refuse those that were asked for by name."""
        for unit in units or ():
            if unit not in wanted:
                raise NotFound(
                    f"snapshot '{index.name}' has no unit '{unit}'",
                    hint="`frys-node snapshot list --json` names its units",
                )
        known = ", ".join(sorted(self._providers)) or "none"
        foreign = [unit for unit in wanted if kind_of(unit) not in self._providers]
        if foreign and units is not None:
            raise NotFound(f"this node has no units of kind '{kind_of(foreign[0])}'", hint=f"kinds here: {known}")
        for unit in foreign:
            del wanted[unit]
        return [Missing(unit=unit, reason=f"no plugin here has such units; kinds here: {known}") for unit in foreign]

    async def _make(
        self, saved: Definition, found: dict[str, Definition], wanted: dict[UnitId, list[SavedUnit]]
    ) -> bool:
        """Make a collection as it was, under an id of its own: what still goes by the old id is left to end.

        If it cannot be made its units fail, and are wanted no more.
        """
        definition = msgspec.structs.replace(saved, id=self._new_id())
        try:
            await self._topology.create_collection(definition)
            found[saved.id] = next(one for one in self._topology.collections() if one.name == saved.name)
        except FrysError as error:
            for unit in [unit for unit in wanted if unit.startswith(f"vector/{saved.id}/")]:
                self._failed[unit] = f"its collection '{saved.name}' cannot be made: {error.message}"
                del wanted[unit]
            return False
        return True

    async def _ask_first(
        self, kind: str, index: SavedSnapshot, copies: Sequence[SavedUnit], routing: Routing, *, replace: bool
    ) -> None:
        """Find out what may be replaced; refuse to lose anything, unless that is wanted.

        A unit that is empty in the snapshot stands as it is; only with `replace` it is emptied.
        """
        weights: dict[UnitId, int] = {}
        async with self._pieces(kind, index, copies, routing) as pieces:
            async for piece in pieces:
                weights[piece.unit] = max(piece.items, weights.get(piece.unit, 0))
        full = {unit for unit, items in weights.items() if items}
        filled, unknown = await self._standing.filled(sorted(weights if replace else full))
        for unit, reason in unknown.items():
            if unit in full:
                self._failed[unit] = reason
            else:
                note = f"it is empty in the snapshot, and what it has now stands: {reason}"
                self._skipped.append(Missing(unit=unit, reason=note))
        self._due |= (full | filled) - unknown.keys()
        if replace or not filled:
            return
        lost: set[UnitId] = set()
        mine = [saved for saved in copies if saved.unit in filled or not routing.is_same(kind)]
        async with self._pieces(kind, index, mine, routing) as pieces:
            async for piece in pieces:
                if piece.unit in filled and not await self._standing.has_all(piece.unit, piece.keys):
                    lost.add(piece.unit)
        if lost:
            named = ", ".join(sorted(lost)[:NAMED_MAX]) + (", ..." if len(lost) > NAMED_MAX else "")
            raise WouldReplace(
                f"restoring '{index.name}' replaces {len(lost)} workflow partitions that have runs, such as {named}:"
                " what happened in them since is lost",
                hint="choose other units with --unit or --kind, or accept that with --replace",
            )
        self._left |= filled
        self._due -= filled

    @asynccontextmanager
    async def _pieces(
        self, kind: str, index: SavedSnapshot, copies: Sequence[SavedUnit], routing: Routing
    ) -> AsyncIterator[AsyncIterator[Piece]]:
        """Read saved copies of a kind, in pieces for the units of now."""
        contents = await self._shelf.open(index)
        async with (
            closing(self._states(contents, copies)) as states,
            closing(self._providers[kind].regroup(states, routing)) as pieces,
        ):
            yield pieces

    def _turns(self, kind: str, copies: Sequence[SavedUnit]) -> list[list[SavedUnit]]:
        """Divide the copies of units that merge: the first of each unit, the second of each, and so on."""
        if kind in self._replacing:
            return [list(copies)]
        turns: list[list[SavedUnit]] = []
        seen: Counter[UnitId] = Counter()
        for saved in copies:
            if seen[saved.unit] == len(turns):
                turns.append([])
            turns[seen[saved.unit]].append(saved)
            seen[saved.unit] += 1
        return turns

    async def _restore_kind(
        self, kind: str, index: SavedSnapshot, copies: Sequence[SavedUnit], routing: Routing, *, counts_standing: bool
    ) -> None:
        provider = self._providers[kind]
        room = trio.Semaphore(PIECES_MAX)
        deliver = partial(self._deliver, provider, room=room, counts_standing=counts_standing)
        damage: CorruptData | None = None
        async with trio.open_nursery() as nursery:
            try:
                async with self._pieces(kind, index, copies, routing) as pieces:
                    async for piece in pieces:
                        if kind in self._replacing and piece.unit not in self._due:
                            # Nothing replaces nothing: most of the hundreds of partitions are empty.
                            continue
                        await room.acquire()
                        nursery.start_soon(deliver, piece)
            except CorruptData as error:
                # Caught here, because a nursery wraps what leaves it into a group.
                damage = error
        if damage is not None:
            raise damage

    async def _states(self, contents: Contents, copies: Sequence[SavedUnit]) -> AsyncIterator[SavedState]:
        for saved in copies:
            async with closing(contents.parts(await contents.manifest(saved))) as parts:
                yield SavedState(saved.unit, parts)

    async def _deliver(
        self, provider: Snapshottable, piece: Piece, room: trio.Semaphore, *, counts_standing: bool
    ) -> None:
        """Give a piece to the members of its unit; what fails is noted, and the rest goes on."""
        try:
            items = await provider.revive(piece)
            if items is None:
                items = await self._to_members(piece, self._topology.sets(piece.unit))
            self._items += items
            if counts_standing:
                self._items_standing += piece.items - items
            self._touched.add(piece.unit)
        except FrysError as error:
            self._touched.add(piece.unit)
            self._failed.setdefault(piece.unit, error.message)
        finally:
            room.release()

    async def _finish(self, kind: str, units: Collection[UnitId]) -> None:
        """Tell only members that all is in: one that was damaged has nobody else to be filled from."""
        for unit in () if kind in self._replacing else sorted(set(units) - self._failed.keys()):
            try:
                members = self._topology.sets(unit).current
                if len(members) == 1:
                    await self._send(members[0], TakeRequest(unit, self._taking.new_transfer(), 0, True, b"", True))
            except FrysError as error:
                self._failed[unit] = error.message

    async def _to_members(self, piece: Piece, sets: UnitSets) -> int:
        """Give a piece to all members; returns how many items were new to the first of them that took it."""
        done: dict[NodeId, int] = {}
        problem = ""
        for member in dict.fromkeys((*sets.current, *sets.next)):
            try:
                if member in self._unreachable:
                    problem = self._unreachable[member]
                    continue
                done[member] = await self._give(member, piece)
            except FrysError as error:
                problem = f"{self._name_of(member)}: {error.message}"
                if isinstance(error, NodeUnreachable | DeadlineExceeded):
                    # It is not asked again for each of thousands of pieces; what it missed it gets by anti-entropy.
                    self._unreachable[member] = problem
        for members in (sets.current, sets.next):
            taken = len(done.keys() & set(members))
            if taken < len(members) // 2 + 1:
                raise NotReady(f"{taken} of {len(members)} members took it, that is no quorum ({problem})")
        return next(iter(done.values()), piece.items)

    async def _give(self, member: NodeId, piece: Piece) -> int:
        transfer, taken = self._taking.new_transfer(), Taken()
        starts = range(0, max(1, len(piece.data)), TAKE_BYTES)
        for index, start in enumerate(starts):
            part = piece.data[start : start + TAKE_BYTES]
            is_last = index == len(starts) - 1
            only_empty = self._only_empty and kind_of(piece.unit) in self._replacing
            request = TakeRequest(piece.unit, transfer, index, is_last, part, only_empty=only_empty)
            taken = await self._send(member, request)
        return piece.items if taken.items is None else taken.items

    async def _send(self, member: NodeId, request: TakeRequest) -> Taken:
        if member == self._rpc.self_id:
            return await self._taking.take(member, request)
        with trio.move_on_after(TAKE_S):
            return await self._rpc.call(member, TAKE, request)
        raise DeadlineExceeded(f"no answer within {TAKE_S:.0f} s")


def _of_kind(wanted: Mapping[UnitId, Sequence[SavedUnit]], kind: str) -> list[SavedUnit]:
    return [saved for unit, copies in wanted.items() if kind_of(unit) == kind for saved in copies]
