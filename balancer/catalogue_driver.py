"""Changes of the catalogue: collections are created and deleted as steps of the topology record (fine print 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import trio

from balancer.errors import CatalogueFull
from balancer.methods import (
    CREATE,
    CURRENT,
    DELETE,
    RENEW,
    Accepted,
    CreateCollection,
    DeleteCollection,
    Nothing,
    RenewRecord,
)
from balancer.record import RECORD, RECORD_BYTES_MAX
from balancer.topology import TopologyMachine
from frys_node.base.errors import AlreadyExists, FrysError, NotFound, NotReady, StorageError
from frys_node.base.types import Epoch, NodeId
from frys_node.kernel.services.rpc import Method, Rep, Req, Rpc
from frys_node.kernel.services.topology import Collection

STABLE_WAIT_S = 5.0
"""A change waits so long for a move to finish before it is refused."""

REFRESH_WAIT_S = 1.0
"""How long a node that misses a name asks the issuer whether it is behind."""

SETTLE_WAIT_S = 3.0
"""The issuer waits so long for a majority to adopt a change before it answers all the same."""


class CatalogueKeeper(Protocol):
    """What the catalogue needs of the balancer."""

    @property
    def machine(self) -> TopologyMachine:
        """The topology."""
        ...

    def change_catalogue(self, collections: tuple[Collection, ...]) -> bool:
        """Propose a catalogue; False unless all is stable and settled."""
        ...

    def want(self, node: NodeId) -> None:
        """Compare records with a node."""
        ...

    async def ask_issuer(self, method: Method[Req, Rep], request: Req) -> Rep:
        """Call the node that changes the record; `IssuerUnreachable` when it does not answer."""
        ...

    async def changed(self) -> None:
        """Wait for the next adoption or settlement."""
        ...

    async def wait_for(self, epoch: Epoch) -> None:
        """Wait until this node works under that record or a later one."""
        ...

    @property
    def refusal(self) -> StorageError | None:
        """Why the last change was not made; None if it was, or is under way."""
        ...

    @property
    def epoch(self) -> Epoch:
        """Key of the record in force."""
        ...


class Catalogue:
    """Both sides of a change: the asking node and the issuer."""

    def __init__(self, rpc: Rpc, keeper: CatalogueKeeper) -> None:
        self._rpc = rpc
        self._keeper = keeper

    def serve(self) -> None:
        """Answer other nodes."""
        self._rpc.serve(CREATE, self._serve_create)
        self._rpc.serve(DELETE, self._serve_delete)
        self._rpc.serve(CURRENT, self._serve_current)
        self._rpc.serve(RENEW, self._serve_renew)

    async def create(self, collection: Collection) -> None:
        """Create a collection; returns when this node works under the record that has it.

        Raises:
            AlreadyExists: The name is taken. Nothing was changed.
            CatalogueFull: There is no room for another. Nothing was changed.
            NotReady: A move is under way; retry. Nothing was changed.
            IssuerUnreachable: The issuer is down; retry when it is back.
            StorageError: The issuer's disk refused the record. Nothing was changed.
        """
        accepted = await self._keeper.ask_issuer(CREATE, CreateCollection(collection))
        if accepted.epoch is not None:
            await self._keeper.wait_for(accepted.epoch)

    async def delete(self, name: str) -> None:
        """Delete a collection; returns when this node works under the record without it.

        Raises:
            NotFound: There is none of that name.
            NotReady, IssuerUnreachable: As for `create`.
        """
        accepted = await self._keeper.ask_issuer(DELETE, DeleteCollection(name))
        if accepted.epoch is not None:
            await self._keeper.wait_for(accepted.epoch)

    async def renew(self, epoch: Epoch) -> None:
        """Have a record written after that one; returns when this node works under it. Raises as `create` does."""
        accepted = await self._keeper.ask_issuer(RENEW, RenewRecord(epoch))
        if accepted.epoch is not None:
            self._keeper.want(self._keeper.epoch.term.node)
            await self._keeper.wait_for(accepted.epoch)

    async def refresh(self) -> None:
        """Catch up with the issuer's record; without an answer in time, what is known here has to do."""
        issuer = self._keeper.epoch.term.node
        with trio.move_on_after(REFRESH_WAIT_S):
            try:
                current = await self._keeper.ask_issuer(CURRENT, Nothing())
            except FrysError:
                return
            if current.epoch is not None and current.epoch > self._keeper.epoch:
                self._keeper.want(issuer)
                await self._keeper.wait_for(current.epoch)

    async def _serve_current(self, caller: NodeId, request: Nothing) -> Accepted:
        del caller, request
        return Accepted(self._keeper.machine.epoch)

    async def _serve_renew(self, caller: NodeId, request: RenewRecord) -> Accepted:
        """Write the record in force once more under the next key, unless there is a later one already."""
        del caller
        epoch = self._keeper.machine.epoch
        if epoch is not None and epoch > request.epoch:
            return Accepted(epoch)
        return await self._change(tuple)

    async def _serve_create(self, caller: NodeId, request: CreateCollection) -> Accepted:
        del caller
        new = request.collection

        def add(held: Sequence[Collection]) -> tuple[Collection, ...]:
            if any(collection.name == new.name or collection.id == new.id for collection in held):
                raise AlreadyExists(f"there is a collection '{new.name}' already")
            return self._bounded(tuple(sorted((*held, new), key=lambda collection: collection.name)))

        return await self._change(add)

    def _bounded(self, collections: tuple[Collection, ...]) -> tuple[Collection, ...]:
        """Refuse a catalogue that the record has no room for."""
        record = self._keeper.machine.record
        assert record is not None
        size_bytes = len(RECORD.encode(msgspec.structs.replace(record, collections=collections)))
        if size_bytes > RECORD_BYTES_MAX:
            raise CatalogueFull(
                f"{len(collections)} collections make a topology record of {size_bytes} bytes, over {RECORD_BYTES_MAX}",
                hint="delete collections, or keep several kinds of points in one and tell them apart by payload",
            )
        return collections

    async def _serve_delete(self, caller: NodeId, request: DeleteCollection) -> Accepted:
        del caller

        def remove(held: Sequence[Collection]) -> tuple[Collection, ...]:
            kept = tuple(collection for collection in held if collection.name != request.name)
            if len(kept) == len(held):
                raise NotFound(f"there is no collection '{request.name}'")
            return kept

        return await self._change(remove)

    async def _change(self, edit: Callable[[Sequence[Collection]], tuple[Collection, ...]]) -> Accepted:
        """Propose the edited catalogue once all is stable and settled, and wait until it is in force."""
        machine = self._keeper.machine
        target: Epoch | None = None
        with trio.move_on_after(STABLE_WAIT_S):
            while True:
                record = machine.record
                if record is None or not machine.is_issuer:
                    raise NotReady("this node is not the issuer of the topology record", hint="ask again")
                wanted = edit(record.collections)
                if self._keeper.change_catalogue(wanted):
                    target = Epoch(record.epoch.term, record.epoch.seq + 1)
                    break
                await self._keeper.changed()
        if target is None:
            raise NotReady("a join or leave is under way; collections change only between moves", hint="ask again")
        while machine.epoch is None or machine.epoch < target:
            if self._keeper.refusal is not None:
                raise self._keeper.refusal
            await self._keeper.changed()
        with trio.move_on_after(SETTLE_WAIT_S):
            while machine.epoch == target and machine.settled != target:
                await self._keeper.changed()
        return Accepted(target)
