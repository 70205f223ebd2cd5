"""A snapshot of the whole cluster: every node saves its share into one place, one of them makes it visible.

There is one index, so the snapshot is there whole or not at all. It is of one epoch of the ring: each node checks
before and after that it works under the asker's record. Every copy of a replicated unit is saved, because an
acknowledged write is on a quorum of them and not on each; equal copies have equal chunks and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec
import trio

from frys_node.base.errors import DeadlineExceeded, FrysError, NotReady
from frys_node.base.ports import Clock
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.base.units import vector_unit
from frys_node.kernel.services.members import Members
from frys_node.kernel.services.rpc import Rpc
from frys_node.kernel.services.topology import Topology
from snapshots.capture import kind_of
from snapshots.errors import RingMoved, SnapshotError
from snapshots.index import Missing, SavedEpoch, SavedSnapshot, SavedUnit, check_kinds
from snapshots.library import Library, Share
from snapshots.locks import Lock
from snapshots.messages import SHARE, Shared, ShareRequest, ShareUnit

SHARE_S: Final = 3_600.0
"""Longest that a node may take for its share."""

SETTLE_S = 10.0
SETTLE_POLL_S = 0.3
"""The ring is stable a moment before the last copies are whole: they are waited for, and asked for again. What
was saved before is in the place already and costs a look."""

RENEW_S: Final = 60.0
"""How often the asker sees to its lock while others work."""


class ClusterSaver:
    """Saves the cluster's shares, its own and, when asked, on behalf of another node."""

    def __init__(
        self, *, rpc: Rpc, topology: Topology, members: Members, clock: Clock, library: Callable[[str], Library]
    ) -> None:
        self._rpc = rpc
        self._topology = topology
        self._members = members
        self._clock = clock
        self._library = library

    async def share(self, caller: NodeId, request: ShareRequest) -> Shared:
        """Save what is held here into a place.

        Raises:
            SnapshotError: This node finds another place under that name than the caller.
            RingMoved: This node works under another record.
        """
        library = self._library(request.place)
        if await library.shelf.objects.get(request.lock) is None:
            raise SnapshotError(
                f"node {self._name(self._rpc.self_id)} does not see the same place at {library.shelf.objects.place}",
                hint="use an object store (s3://...), or a directory that is mounted on every node",
            )
        self._check_epoch(request.epoch)
        async with library.locks.using(f"share for {caller[:12]}") as lock:
            assert lock is not None
            share = await library.save_share(lock, kinds=request.kinds or None)
        self._check_epoch(request.epoch)
        return Shared(
            share.epoch,
            [ShareUnit(one.unit, one.root, one.size_bytes, one.chunks) for one in share.units],
            [(one.unit, one.reason) for one in share.missing],
            list(share.bundles),
            share.new_bytes,
            share.reused_bytes,
        )

    def _check_epoch(self, wanted: Epoch) -> None:
        if self._topology.epoch != wanted:
            raise RingMoved(
                f"node {self._name(self._rpc.self_id)} works under another record of the ring",
                hint="wait until `frys-node ring` is stable, and try again",
            )

    def _name(self, node: NodeId) -> str:
        view = self._members.get(node)
        return view.name if view is not None else node[:12]

    async def create(
        self,
        library: Library,
        name: str,
        place: str,
        about: Callable[[], SavedSnapshot],
        *,
        is_partial: bool,
        kinds: Sequence[str] | None = None,
    ) -> SavedSnapshot:
        """Save the whole cluster, or its units of some kinds, under a name.

        Raises:
            AlreadyExists: There is a snapshot of that name. It stands.
            NotFound: This node knows no such kind.
            SnapshotError: Units have too few live copies, and `is_partial` does not accept that; or a node found
                another place. Nothing is visible.
            RingMoved: Units move. Nothing is visible.
            FrysError: What a place or node said. Nothing is visible.
        """
        await library.check_free(name)
        epoch = self._topology.epoch
        check_kinds(kinds or (), library.kinds, "this node has")
        units = self._all_units(library.kinds if kinds is None else kinds)
        if any(self._topology.sets(unit).phase != "stable" for unit in units):
            raise RingMoved(
                "units are moving between nodes", hint="wait until `frys-node ring` is stable, and try again"
            )
        holders = sorted({node for unit in units for node in self._topology.sets(unit).current})
        async with library.locks.using(f"save {name} of the cluster") as lock:
            assert lock is not None
            request = ShareRequest(place, lock.key, epoch, list(kinds or ()))
            settled_s, written = trio.current_time() + SETTLE_S, 0
            while True:
                shares, silent = await self._shares(library, lock, request, holders)
                missing = self._missing(units, shares, silent)
                if not missing or is_partial or silent or trio.current_time() >= settled_s:
                    break
                written += sum(share.new_bytes for share in shares.values())
                await trio.sleep(SETTLE_POLL_S)
            if missing and not is_partial:
                raise SnapshotError(
                    f"{len(missing)} units cannot be saved, such as {missing[0].unit}: {missing[0].reason}",
                    hint="bring its nodes back, or save the rest with --partial",
                )
            self._check_epoch(epoch)
            known = about()
            index = msgspec.structs.replace(
                known,
                name=name,
                scope="cluster",
                created_unix_ns=self._clock.unix_ns(),
                nodes={node: self._name(node) for node in shares},
                units=tuple(saved for share in shares.values() for saved in share.units),
                bundles=tuple(dict.fromkeys(name for share in shares.values() for name in share.bundles)),
                missing=tuple(missing),
                kinds=tuple(sorted(set(kinds or ()))),
                epoch=SavedEpoch.of(epoch),
                new_bytes=written + sum(share.new_bytes for share in shares.values()),
                reused_bytes=max(0, sum(share.reused_bytes for share in shares.values()) - written),
            )
            await library.publish(lock, index)
        return index

    def _all_units(self, kinds: Collection[str]) -> list[UnitId]:
        """Return every unit of the cluster, of the kinds that this node has."""
        units = [
            UnitId(f"{kind}/{number}") for kind in ("cache", "workflow") for number in range(self._topology.partitions)
        ]
        for collection in self._topology.collections():
            units += [vector_unit(collection.id, shard) for shard in range(collection.shard_number)]
        return [unit for unit in units if unit.split("/", 1)[0] in kinds]

    async def _shares(
        self, library: Library, lock: Lock, request: ShareRequest, holders: Sequence[NodeId]
    ) -> tuple[dict[NodeId, Share], dict[NodeId, str]]:
        """Have every holder save its share, all at once; returns the shares, and why others have none."""
        shares: dict[NodeId, Share] = {}
        silent: dict[NodeId, str] = {}
        fatal: list[FrysError] = []

        async def ask(node: NodeId) -> None:
            try:
                shares[node] = await self._one_share(library, lock, request, node)
            except (SnapshotError, DeadlineExceeded) as error:
                fatal.append(error)
            except FrysError as error:
                silent[node] = error.message

        async def keep() -> None:
            while True:
                await trio.sleep(RENEW_S)
                await lock.keep()

        async with trio.open_nursery() as renewing:
            renewing.start_soon(keep)
            async with trio.open_nursery() as asking:
                for node in holders:
                    asking.start_soon(ask, node)
            renewing.cancel_scope.cancel()
        if fatal:
            raise fatal[0]
        return dict(sorted(shares.items())), silent

    async def _one_share(self, library: Library, lock: Lock, request: ShareRequest, node: NodeId) -> Share:
        kinds = request.kinds or None
        if node == self._rpc.self_id:
            return await library.save_share(lock, kinds=kinds)
        with trio.move_on_after(SHARE_S):
            shared = await self._rpc.call(node, SHARE, request)
            return Share(
                units=tuple(
                    SavedUnit(unit=one.unit, root=one.root, size_bytes=one.size_bytes, chunks=one.chunks, node=node)
                    for one in shared.units
                    # A node of an earlier version saves all that it holds.
                    if kinds is None or kind_of(one.unit) in kinds
                ),
                bundles=tuple(shared.bundles),
                missing=tuple(Missing(unit=unit, reason=reason) for unit, reason in shared.missing),
                new_bytes=shared.new_bytes,
                reused_bytes=shared.reused_bytes,
                epoch=shared.epoch,
            )
        raise NotReady(f"no answer within {SHARE_S:.0f} s")

    def _missing(
        self, units: Sequence[UnitId], shares: dict[NodeId, Share], silent: dict[NodeId, str]
    ) -> list[Missing]:
        """Name the units of which so few copies were saved that an acknowledged write may be on none of them."""
        saved: dict[UnitId, set[NodeId]] = {}
        for node, share in shares.items():
            for one in share.units:
                saved.setdefault(one.unit, set()).add(node)
        found: list[Missing] = []
        for unit in units:
            members = self._topology.sets(unit).current
            copies = len(saved.get(unit, set()) & set(members))
            needed = len(members) - len(members) // 2
            if copies < needed:
                absent = [node for node in members if node not in saved.get(unit, set())]
                reason = silent.get(absent[0], "it is not whole there")
                found.append(
                    Missing(
                        unit=unit,
                        reason=f"{copies} of {len(members)} copies were saved, {needed} are needed"
                        f" ({self._name(absent[0])}: {reason})",
                    )
                )
        return found
