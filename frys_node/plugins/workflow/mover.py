"""Moving partitions between nodes: the workflow side of seal, pull, start and drop, and of snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from frys_node.base.errors import AlreadyExists, NotReady, StorageError
from frys_node.base.types import NodeId, UnitId
from frys_node.base.units import workflow_unit
from frys_node.kernel.services.rpc import Rpc
from frys_node.kernel.services.snapshots import Captured, Piece, Rerouting, SavedState, Snapshots
from frys_node.kernel.services.topology import Topology
from frys_node.plugins.workflow.driver import Engine
from frys_node.plugins.workflow.messages import REQUEST, AskSealed, Envelope, partition_number
from frys_node.storage.exchange import decode_partition, encode_partition
from frys_node.storage.ports import Chunk, RunQuery, RunRow

IMPORT_BYTES_MAX = 1 << 30
"""Largest partition that can be installed: it is held in memory until it is complete and checked."""


class _Export:
    """The bytes of a partition at one instant."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    def parts(self) -> AsyncIterator[bytes]:
        """Return the pieces, once."""
        return self._pieces


class PartitionMover:
    """Starts, seals, copies and drops partitions; `Snapshottable` for the kind ``workflow``."""

    def __init__(self, *, engine: Engine, topology: Topology, rpc: Rpc, snapshots: Snapshots | None) -> None:
        self._engine = engine
        self._topology = topology
        self._rpc = rpc
        self._snapshots = snapshots

    # UnitMover.

    async def start(self, unit: UnitId) -> None:
        """Own the partition: take a new epoch and resume its runs."""
        await self._engine.own([partition_number(unit)])

    async def seal(self, unit: UnitId) -> None:
        """Stop the partition; once this returns, nothing more is written to it and it may be copied."""
        await self._engine.seal(partition_number(unit))

    async def unseal(self, unit: UnitId) -> None:
        """Serve a sealed partition again."""
        await self._engine.own([partition_number(unit)])

    async def pull(self, unit: UnitId, source: NodeId) -> None:
        """Copy a sealed partition from its owner and install it.

        Raises:
            NotReady: The owner has not sealed it yet, or there is no snapshot service. Nothing was copied.
        """
        request = Envelope(self._topology.epoch, AskSealed(partition_number(unit)))
        reply = await self._rpc.call(source, REQUEST, request)
        if not msgspec.json.decode(reply.body):
            raise NotReady(f"unit {unit} is not sealed on its owner yet")
        if self._snapshots is None:
            raise NotReady("this node has no snapshot service yet")
        await self._snapshots.pull(unit, source)

    async def drop(self, unit: UnitId) -> None:
        """Forget a partition that lives elsewhere."""
        await self._engine.drop(partition_number(unit))

    # Snapshottable.

    def units(self) -> Sequence[UnitId]:
        """Partitions that this node serves or has sealed."""
        return [workflow_unit(number) for number in sorted({*self._engine.partitions, *self._engine.sealed})]

    async def sizes(self) -> Mapping[UnitId, int]:
        """Return the bytes of the partitions' runs and journals."""
        held = await self._engine.store.sizes()
        numbers = {unit: partition_number(unit) for unit in self.units()}
        return {unit: held.get(number, 0) for unit, number in numbers.items()}

    def is_whole(self, unit: UnitId) -> bool:
        """Return True if the partition is here: one that is on its way is not among them."""
        number = partition_number(unit)
        return number in self._engine.partitions or number in self._engine.sealed

    async def has_data(self, unit: UnitId) -> bool:
        """Return True if the partition has runs, ended ones included."""
        query = RunQuery(partitions=(partition_number(unit),), limit=1)
        return bool(await self._engine.store.query(query))

    async def has_keys(self, unit: UnitId, keys: Sequence[bytes]) -> bool:
        """Return True if the partition has every one of these runs, whatever became of them."""
        partitions = (partition_number(unit),)
        for key in keys:
            if not await self._engine.store.query(RunQuery(run=key.decode(), partitions=partitions, limit=1)):
                return False
        return True

    async def restored(self, unit: UnitId) -> None:
        """A partition is installed whole: nothing is left to be done."""

    async def revive(self, piece: Piece) -> int | None:
        """Return None: a partition is given to its owner."""
        return None

    async def regroup(self, states: AsyncIterator[SavedState], routing: Rerouting) -> AsyncIterator[Piece]:
        """Yield whole partitions, with the runs that belong to each now.

        Raises:
            CorruptData: A partition cannot be read. Nothing was yielded for it.
            StorageError: The cluster has another number of partitions than the saved one, and all runs together are
                over `IMPORT_BYTES_MAX`.
        """
        is_same = routing.is_same("workflow")
        gathered: dict[UnitId, list[tuple[RunRow, list[Chunk]]]] = {}
        size_bytes = 0
        async for state in states:
            pieces = [bytes(part) async for part in state.parts]
            content = decode_partition(partition_number(state.unit), pieces)
            if is_same:
                keys = [row.id.encode() for row, _ in content.runs]
                yield Piece(state.unit, b"".join(pieces), len(keys), keys)
                continue
            size_bytes += sum(len(piece) for piece in pieces)
            if size_bytes > IMPORT_BYTES_MAX:
                raise StorageError(
                    f"the saved runs have over {IMPORT_BYTES_MAX} bytes, too many to spread over other partitions",
                    hint="restore into a cluster with the same cluster.partitions",
                )
            for row, chunks in content.runs:
                unit = routing.unit_of(state.unit, row.id.encode())
                if unit is not None:
                    gathered.setdefault(unit, []).append((row, chunks))
        for unit, runs in sorted(gathered.items()):
            runs.sort(key=lambda run: run[0].id)
            data = b"".join(encode_partition(partition_number(unit), runs))
            yield Piece(unit, data, len(runs), [row.id.encode() for row, _ in runs])

    async def capture(self, unit: UnitId) -> Captured:
        """Fix the partition's committed state as of now."""
        return _Export(await self._engine.store.export(partition_number(unit)))

    async def restore(self, unit: UnitId, parts: AsyncIterator[bytes], *, only_empty: bool = False) -> None:
        """Replace the partition by the bytes, atomically; one that is served here stands still meanwhile.

        Raises:
            StorageError: The copy is too large or damaged. Nothing was changed.
            AlreadyExists: It has runs, and `only_empty` wants none of them lost. Nothing was changed.
        """
        number = partition_number(unit)
        pieces: list[bytes] = []
        size_bytes = 0
        async for piece in parts:
            size_bytes += len(piece)
            if size_bytes > IMPORT_BYTES_MAX:
                raise StorageError(f"workflow partition {number} has over {IMPORT_BYTES_MAX} bytes")
            pieces.append(bytes(piece))
        is_served = number in self._engine.partitions
        if is_served:
            # An operator brings a saved state back: its runs are replaced, so nothing may be written meanwhile.
            await self._engine.seal(number)
        try:
            # Asked while it stands still: a run that is started later finds the partition sealed, and is not lost.
            if only_empty and await self.has_data(unit):
                raise AlreadyExists(f"{unit} got runs meanwhile", hint="restore again; --replace gives those runs up")
            await self._engine.install(number, pieces)
        finally:
            if is_served:
                await self._engine.own([number])
