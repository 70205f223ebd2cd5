"""Saved snapshots of one place: made, found, checked, deleted; each is whole or invisible.

Layout: ``_chunks/<digest>``, ``_bundles/<digest>`` and ``_snapshots/<name>.json``, the index, which is written last and
removed first, so that a crash at any instant leaves the old state of the place or the new one. Chunks and bundles are
shared by all snapshots; those that none names any more are collected under a lock that nobody else may hold (`locks`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from frys_node.base.errors import AlreadyExists, NotFound, NotReady, UsageError
from frys_node.base.ports import Clock, Executor
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.snapshots import Snapshottable
from snapshots.bundle import chunks_of
from snapshots.capture import provider_of
from snapshots.errors import CorruptExport, CorruptManifest, LockLost, RingMoved, UnknownFormat
from snapshots.index import (
    BUNDLES,
    CHUNKS,
    FORMER_PARTS,
    Missing,
    SavedEpoch,
    SavedSnapshot,
    SavedUnit,
    check_kinds,
    chosen_to_prune,
    index_key,
)
from snapshots.locks import Lock, Locks
from snapshots.objects import Objects
from snapshots.save import Saver
from snapshots.shelf import Shelf
from snapshots.verify import VerifyReport, verify

TRIES_MAX: Final = 3
"""Times that a node is saved anew because its units moved meanwhile."""

REMOVE_BATCH: Final = 256


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What one node saved."""

    units: tuple[SavedUnit, ...]
    bundles: tuple[str, ...]
    missing: tuple[Missing, ...]
    new_bytes: int
    reused_bytes: int
    epoch: Epoch | None = None


class PruneReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `prune` did."""

    deleted: tuple[str, ...]
    kept: int
    chunks: int
    """Chunks that nobody named, and that are gone."""
    size_bytes: int
    """What they and lists of units took."""
    waits_for: str = ""
    """Why no chunks were collected; the next prune does it."""


class Library:
    """The saved snapshots of one place, as one node uses them."""

    def __init__(
        self,
        objects: Objects,
        *,
        executor: Executor,
        clock: Clock,
        providers: Mapping[str, Snapshottable],
        node: NodeId,
        process: str = "",
        about: Callable[[], SavedSnapshot] | None = None,
        epoch: Callable[[], Epoch | None] = lambda: None,
    ) -> None:
        self.shelf = Shelf(objects, executor)
        self.locks = Locks(objects, clock, node, process)
        self._objects = objects
        self._executor = executor
        self._clock = clock
        self._providers = providers
        self._node = node
        self._about = about or self._nothing_known
        """What is known of the node and its cluster: an index without units."""
        self._epoch = epoch

    @property
    def kinds(self) -> Collection[str]:
        """Kinds of units that this node has."""
        return self._providers.keys()

    def _nothing_known(self) -> SavedSnapshot:
        return SavedSnapshot(name="", node=self._node, created_unix_ns=0, units=())

    async def create(
        self, name: str, units: Sequence[UnitId] | None = None, kinds: Sequence[str] | None = None
    ) -> SavedSnapshot:
        """Save units of this node under a name: the given ones, those of some kinds, or all that are held here.

        Raises:
            UsageError: The name is not one.
            AlreadyExists: There is a snapshot of that name. It stands.
            NotFound: A unit is not of a kind known here, or not held here.
            NotReady: A unit that was asked for is still on its way to this node.
            StorageError: The place refused. No snapshot of that name is visible.
            StoreBusy, LockLost, RingMoved: As they say; try again.
        """
        await self.check_free(name)
        self.choose(units, kinds)
        async with self.locks.using(f"save {name}") as lock:
            assert lock is not None
            share = await self.save_share(lock, units, kinds)
            index = msgspec.structs.replace(
                self._about(),
                name=name,
                scope="node" if units is None else "units",
                created_unix_ns=self._clock.unix_ns(),
                units=share.units,
                bundles=share.bundles,
                missing=share.missing,
                kinds=tuple(sorted(set(kinds or ()))),
                epoch=None if share.epoch is None else SavedEpoch.of(share.epoch),
                new_bytes=share.new_bytes,
                reused_bytes=share.reused_bytes,
            )
            await self.publish(lock, index)
        return index

    async def check_free(self, name: str) -> None:
        """Refuse a name that is taken (`AlreadyExists`)."""
        index_key(name)
        try:
            await self.shelf.get(name)
        except NotFound:
            return
        except (CorruptManifest, UnknownFormat):
            # Damaged or newer: it is somebody's all the same.
            pass
        raise AlreadyExists(f"a snapshot '{name}' exists", hint="choose another name or delete it")

    def choose(self, units: Sequence[UnitId] | None, kinds: Sequence[str] | None = None) -> list[UnitId]:
        """Return the units to save, in order; `NotFound` if one is not held here, or a kind not known."""
        check_kinds(kinds or (), self._providers, "this node has")
        chosen = self._providers if kinds is None else kinds
        held = {unit for kind in chosen for unit in self._providers[kind].units()}
        for unit in units or ():
            provider_of(self._providers, unit)
            if unit not in held:
                raise NotFound(f"unit '{unit}' is not held by this node", hint="`frys-node ring` shows who holds it")
        return sorted(held if units is None else set(units))

    async def save_share(
        self, lock: Lock, chosen: Sequence[UnitId] | None = None, kinds: Sequence[str] | None = None
    ) -> Share:
        """Write units' chunks and bundles, of one epoch or `RingMoved`; nothing is visible yet."""
        saver = Saver(self._objects, self._executor, self._node, lock)
        for _ in range(TRIES_MAX):
            await saver.look()
            epoch = self._epoch()
            saved: list[SavedUnit] = []
            missing: list[Missing] = []
            async with saver.writing():
                for unit in self.choose(chosen, kinds):
                    provider = provider_of(self._providers, unit)
                    if provider.is_whole(unit):
                        saved.append(await saver.save(provider, unit))
                    elif chosen is not None:
                        raise NotReady(
                            f"unit '{unit}' is still on its way to this node", hint="see `frys-node snapshot moves`"
                        )
                    elif unit in provider.units():
                        missing.append(Missing(unit=unit, reason="it was still on its way to the node"))
            bundles = await saver.finish()
            if self._epoch() == epoch:
                return Share(
                    bundles=bundles,
                    units=tuple(saved),
                    missing=tuple(missing),
                    new_bytes=saver.new_bytes,
                    reused_bytes=saver.reused_bytes,
                    epoch=epoch,
                )
        raise RingMoved(
            "units moved between nodes while they were saved",
            hint="wait until `frys-node ring` is stable, and try again",
        )

    async def publish(self, lock: Lock, index: SavedSnapshot) -> None:
        """Make a snapshot visible.

        Raises:
            AlreadyExists: Somebody was faster with that name; theirs stands.
            LockLost: This node stood still so long that others may have collected its chunks. It is not visible.
        """
        if not await lock.is_held():
            raise LockLost(f"saving '{index.name}' stood still for too long", hint="try again")
        data = msgspec.json.encode(index)
        if not await self._objects.create(index_key(index.name), data):
            # A request that is tried again after its answer was lost meets its own work.
            if await self._objects.get(index_key(index.name)) == data:
                return
            raise AlreadyExists(f"a snapshot '{index.name}' exists", hint="choose another name or delete it")
        if await lock.is_held():
            return
        report = await verify(self.shelf, index)
        if report.problems:
            await self._objects.remove([index_key(index.name)])
            raise LockLost(f"saving '{index.name}' stood still for too long", hint="try again")

    async def adopt(self, index: SavedSnapshot) -> VerifyReport:
        """Make a snapshot visible whose objects were brought here from elsewhere, once all of it can be read back.

        Raises:
            UsageError, AlreadyExists: The name is not one, or taken.
            CorruptExport: Something that it needs is not here, or damaged. It is not visible.
            StoreBusy, LockLost: As they say; try again.
        """
        await self.check_free(index.name)
        async with self.locks.using(f"import {index.name}") as lock:
            assert lock is not None
            report = await verify(self.shelf, index)
            if report.problems:
                raise CorruptExport(
                    f"'{index.name}' is not whole in {self._objects.place}: {report.problems[0]}",
                    hint="import it again: chunks that nothing named yet may have been collected meanwhile",
                )
            await self.publish(lock, index)
        return report

    async def verify(self, name: str) -> VerifyReport:
        """Read everything of a snapshot and report what is missing or wrong. Nothing is changed."""
        async with self.locks.using(f"verify {name}", may_fail=True):
            return await verify(self.shelf, await self.shelf.get(name))

    async def delete(self, name: str) -> PruneReport:
        """Remove a snapshot; `NotFound` if there is none. It is invisible first, then what only it named goes.

        One that is damaged or of a newer version can be deleted too.
        """
        if name not in await self.shelf.names():
            await self.shelf.get(name)
        await self._remove_index(name)
        return await self._collect((name,))

    async def _remove_index(self, name: str) -> None:
        await self._objects.remove([index_key(name)])
        if name in await self._objects.folders():
            # Format 1. Whatever else somebody keeps in a folder of that name is not ours.
            await self._objects.remove([f"{name}/{part}" for part in FORMER_PARTS])
            if not await self._objects.list(name):
                await self._objects.remove([name])

    async def prune(
        self, *, keep: int | None = None, older_than_s: float | None = None, is_dry_run: bool = False
    ) -> PruneReport:
        """Delete old snapshots, all but the newest `keep`, those older than `older_than_s`, or what fits both.

        Without a rule nothing is deleted. In any case what no snapshot names is collected then, unless somebody is
        saving or restoring there. A dry run says what would be deleted, and changes nothing.
        """
        if (keep is not None and keep < 0) or (older_than_s is not None and older_than_s < 0):
            raise UsageError("--keep and --older-than cannot be negative")
        indexes, _ = await self.shelf.list()
        chosen = chosen_to_prune(indexes, self._clock.unix_ns(), keep=keep, older_than_s=older_than_s)
        if is_dry_run:
            names = tuple(index.name for index in chosen)
            return PruneReport(deleted=names, kept=len(indexes) - len(names), chunks=0, size_bytes=0)
        for index in chosen:
            await self._remove_index(index.name)
        return await self._collect(tuple(index.name for index in chosen))

    async def _collect(self, deleted: tuple[str, ...]) -> PruneReport:
        """Remove chunks and bundles that no snapshot names, if nobody uses the place."""
        removed = size_bytes = 0
        waits_for = ""
        async with self.locks.collecting("prune") as (lock, other):
            if other is not None:
                waits_for = (
                    f"node {other.node} is at work there ({other.purpose}): unneeded chunks go with the next prune"
                )
            indexes, problems = await self.shelf.list()
            if problems:
                waits_for = f"nothing is collected while a snapshot cannot be read: {problems[0]}"
            if not waits_for:
                removed, size_bytes, waits_for = await self._sweep(lock, indexes)
        return PruneReport(
            deleted=deleted, kept=len(indexes), chunks=removed, size_bytes=size_bytes, waits_for=waits_for
        )

    async def _sweep(self, lock: Lock, indexes: Sequence[SavedSnapshot]) -> tuple[int, int, str]:
        bundles: set[str] = set()
        needed: set[str] = set()
        for index in indexes:
            for name in set(index.bundles) - bundles:
                try:
                    needed |= await self._executor.run(chunks_of, await self.shelf.bundle(name))
                except (CorruptManifest, UnknownFormat) as error:
                    return 0, 0, f"nothing is collected while snapshot '{index.name}' is damaged: {error.message}"
                bundles.add(name)
        there = await self._objects.list(CHUNKS)
        unneeded = [name for name in there if name not in needed]
        await self._remove_all(lock, [f"{CHUNKS}/{name}" for name in unneeded])
        lists = await self._objects.list(BUNDLES)
        stale = [name for name in lists if name not in bundles]
        await self._remove_all(lock, [f"{BUNDLES}/{name}" for name in stale])
        return len(unneeded), sum(there[name] for name in unneeded) + sum(lists[name] for name in stale), ""

    async def _remove_all(self, lock: Lock, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), REMOVE_BATCH):
            await lock.keep()
            if not await lock.is_held():
                raise LockLost("collecting unneeded chunks stood still for too long", hint="prune again")
            await self._objects.remove(keys[start : start + REMOVE_BATCH])
