"""Saved snapshots as an operator asks for them: by name, in a place, of this node or of the cluster."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import trio

from frys_node.base.errors import FrysError, UsageError
from frys_node.base.ports import Clock, Entropy, Executor
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.members import Members
from frys_node.kernel.services.rpc import Rpc
from frys_node.kernel.services.topology import Topology
from frys_node.observe.metrics import Metrics
from frys_node.secure.kem import load_kem
from frys_node.secure.recipient import Recipient, shown
from frys_node.secure.sealed import Sealer, sealed_bytes
from snapshots.archive import index_of
from snapshots.capture import closing
from snapshots.cluster import ClusterSaver
from snapshots.driver import SnapshotComponent
from snapshots.export import Export, put_objects
from snapshots.index import SavedSnapshot, without_secrets
from snapshots.library import Library, PruneReport
from snapshots.metrics import SaveMetrics
from snapshots.places import Places
from snapshots.restore import Restorer, RestoreReport
from snapshots.taking import Taking
from snapshots.verify import VerifyReport

JOBS_MAX = 2
"""Saves, checks and restores that an operator runs at once; more wait, since each reads or writes all it can."""

log = logging.getLogger(__name__)


class SealedExport(NamedTuple):
    """A snapshot on its way out. The stream is read once, by one task."""

    size_bytes: int
    """Of the file."""
    stream: AsyncIterator[bytes]


class Desk:
    """Makes, shows, checks, restores and deletes saved snapshots for one node."""

    def __init__(
        self,
        component: SnapshotComponent,
        *,
        rpc: Rpc,
        topology: Topology,
        members: Members,
        clock: Clock,
        entropy: Entropy,
        executor: Executor,
        metrics: Metrics,
        places: Places,
        cluster_name: str,
        settings: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self._component = component
        self._rpc = rpc
        self._topology = topology
        self._members = members
        self._clock = clock
        self._entropy = entropy
        self._executor = executor
        self._places = places
        self._cluster_name = cluster_name
        self._settings = settings
        self._process = str(clock.unix_ns())
        self._jobs = trio.CapacityLimiter(JOBS_MAX)
        self.taking = Taking(component.providers)
        """Answers other nodes that restore."""
        self.cluster = ClusterSaver(rpc=rpc, topology=topology, members=members, clock=clock, library=self._library)
        self._counted = SaveMetrics(metrics)

    def _name_of(self, node: NodeId) -> str:
        view = self._members.get(node)
        return view.name if view is not None else node[:12]

    def _library(self, place: str) -> Library:
        return Library(
            self._places.open(place, self._component.config),
            executor=self._executor,
            clock=self._clock,
            providers=self._component.providers,
            node=self._rpc.self_id,
            process=self._process,
            about=self._describe,
            epoch=lambda: self._topology.epoch,
        )

    def _describe(self) -> SavedSnapshot:
        """What a snapshot says of this node and its cluster."""
        node = self._rpc.self_id
        view = self._members.get(node)
        return SavedSnapshot(
            name="",
            node=node,
            created_unix_ns=0,
            units=(),
            cluster=self._cluster_name,
            nodes={node: view.name if view is not None else ""},
            partitions=self._topology.partitions,
            collections=tuple(self._topology.collections()),
            settings=without_secrets(self._settings()),
        )

    async def create(
        self,
        name: str,
        *,
        place: str = "",
        units: Sequence[UnitId] | None = None,
        kinds: Sequence[str] | None = None,
        is_cluster: bool = False,
        is_partial: bool = False,
    ) -> SavedSnapshot:
        """Save this node's units, some of them, or the whole cluster; see `Library` and `ClusterSaver`."""
        _one_choice(units, kinds)
        if is_cluster and units is not None:
            raise UsageError("--cluster saves every unit", hint="leave --unit away, or save units of one node")
        if is_partial and not is_cluster:
            raise UsageError("--partial is for --cluster: what a node holds is always here")
        async with self._jobs:
            library = self._library(place)
            try:
                if is_cluster:
                    place = place or self._component.config.store
                    index = await self.cluster.create(
                        library, name, place, self._describe, is_partial=is_partial, kinds=kinds
                    )
                else:
                    index = await library.create(name, units, kinds)
            except FrysError:
                self._counted.saves.inc("failed")
                raise
        self._counted.saves.inc("saved")
        self._counted.bytes.inc("new", by=index.new_bytes)
        self._counted.bytes.inc("reused", by=index.reused_bytes)
        return index

    async def list(self, place: str = "") -> tuple[list[SavedSnapshot], list[str]]:
        """Snapshots of a place, newest first, and what is wrong with those that cannot be read."""
        found, problems = await self._library(place).shelf.list()
        return sorted(found, key=lambda index: (-index.created_unix_ns, index.name)), problems

    async def verify(self, name: str, place: str = "") -> VerifyReport:
        """Read a snapshot back and check every byte."""
        async with self._jobs:
            return await self._library(place).verify(name)

    async def restore(
        self,
        name: str,
        *,
        place: str = "",
        units: Sequence[UnitId] | None = None,
        kinds: Sequence[str] | None = None,
        replace: bool = False,
    ) -> RestoreReport:
        """Bring a snapshot back; see `Restorer.restore`."""
        _one_choice(units, kinds)
        async with self._jobs:
            library = self._library(place)
            restorer = Restorer(
                library.shelf,
                rpc=self._rpc,
                topology=self._topology,
                providers=self._component.providers,
                replacing=self._component.replacing,
                taking=self.taking,
                new_id=lambda: self._entropy.token_bytes(8).hex(),
                name_of=self._name_of,
            )
            async with library.locks.using(f"restore {name}", may_fail=True):
                return await restorer.restore(name, units, kinds=kinds, replace=replace)

    async def export(self, name: str, recipients: Sequence[Recipient], place: str = "") -> SealedExport:
        """Look a snapshot through and return it as one sealed file, which is made as it is read.

        Raises:
            NotFound, CorruptManifest, UnknownFormat: There is none, or it cannot be exported.
            UsageError, KemError: There are no recipients, too many, or one is no key.
        """
        sealer = Sealer(recipients, kem=load_kem(), entropy=self._entropy)
        library = self._library(place)
        export = Export(library, await library.shelf.get(name), self._executor)
        await export.look()
        size_bytes = sealed_bytes(export.content_bytes, len(set(recipients)))
        names = [shown(recipient.fingerprint) for recipient in dict.fromkeys(recipients)]
        return SealedExport(size_bytes, self._stream(export, sealer, names))

    async def _stream(self, export: Export, sealer: Sealer, recipients: Sequence[str]) -> AsyncIterator[bytes]:
        """Yield the file, as one of the jobs; whom data left for is in the log, whether all of it did or not."""
        await self._jobs.acquire_on_behalf_of(export)
        result = "broken"
        try:
            async with closing(export.pieces(sealer)) as pieces:
                async for piece in pieces:
                    yield piece
            result = "whole"
        finally:
            self._jobs.release_on_behalf_of(export)
            self._counted.exports.inc(result)
            fields = {"snapshot": export.index.name, "recipients": ", ".join(recipients), "result": result}
            log.info("snapshots.exported", extra=fields)

    async def put_objects(self, body: bytes, place: str = "") -> int:
        """Write objects of an export into a place; see `snapshots.export.put_objects`."""
        async with self._jobs:
            return await put_objects(self._library(place).shelf.objects, self._executor, body)

    async def adopt(self, index_data: bytes, *, name: str = "", place: str = "") -> VerifyReport:
        """Make an import visible, under another name if one is given; see `Library.adopt`."""
        index = await self._executor.run(index_of, index_data)
        index = msgspec.structs.replace(index, name=name or index.name)
        async with self._jobs:
            report = await self._library(place).adopt(index)
        log.info("snapshots.imported", extra={"snapshot": index.name, "cluster": index.cluster, "from": index.node})
        return report

    async def delete(self, name: str, place: str = "") -> PruneReport:
        """Delete a snapshot and what only it needed."""
        return await self._library(place).delete(name)

    async def prune(
        self, *, place: str = "", keep: int | None, older_than_s: float | None, is_dry_run: bool = False
    ) -> PruneReport:
        """Delete old snapshots and what only they needed; see `Library.prune`."""
        return await self._library(place).prune(keep=keep, older_than_s=older_than_s, is_dry_run=is_dry_run)


def _one_choice(units: Sequence[UnitId] | None, kinds: Sequence[str] | None) -> None:
    """Refuse a choice that is empty, or of both units and kinds."""
    if units is not None and kinds is not None:
        raise UsageError("units are chosen by name or by kind, not by both", hint="leave --kind or --unit away")
    if units is not None and not units:
        raise UsageError("no unit was chosen", hint="leave 'units' away for all of them")
    if kinds is not None and not kinds:
        raise UsageError("no kind was chosen", hint="leave 'kinds' away for all of them")
