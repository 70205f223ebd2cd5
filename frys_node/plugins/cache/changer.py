"""Read-modify-write: brings changes to the node that makes them, and makes those that come here.

Theory of operation. The node for a unit is the first member of its replica set that is alive. There the keys of a batch
are locked, read at a quorum, changed in memory one after another and written at the caller's consistency. While the
set is stable and its first member lives, all changes of a key pass through one lock, and none is lost. When the first
member is suspected or the set changes, two nodes may make changes at once for a moment, and the later write wins; a
change whose answer is lost may have been made. So these are counters and conditions for a cache, **not locks**.

A node that is asked and sees another first member says so, once; who is asked in the second place makes the change if
it is a member at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import trio

from frys_node.base.errors import DeadlineExceeded, NoReplica, NotOwner, Overloaded
from frys_node.base.types import Consistency, NodeId, UnitId
from frys_node.kernel.parallel import run_all
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.kernel.services.sessions import SESSION
from frys_node.kernel.services.topology import Topology
from frys_node.plugins.cache.cache import etag_of, pack, unpack
from frys_node.plugins.cache.changes import Cell, Change, Outcome, apply_all
from frys_node.plugins.cache.driver import CacheService
from frys_node.wire.codec import Message

CHANGE_S = 5.0
"""How long a batch of changes may take when its caller sets no deadline."""

LOCKS_MAX = 65_536
"""Keys that are being changed here at a time; more are refused."""


class ChangeRequest(Message, frozen=True):
    """Make these changes in their order. `is_last` after a redirect: no other node will be asked."""

    changes: list[Change]
    consistency: Consistency
    is_last: bool = False


class ChangeReply(Message, frozen=True):
    """The outcomes in the order of the changes, or the node to ask instead."""

    outcomes: Sequence[Outcome] = ()
    ask: NodeId | None = None


CHANGE: Method[ChangeRequest, ChangeReply] = Method("cache.change", ChangeRequest, ChangeReply)


class _KeyLock:
    """The lock of a key, and how many hold it or wait for it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.users = 0


class Changer:
    """Makes changes of entries, here or where they belong."""

    def __init__(
        self, *, service: CacheService, topology: Topology, rpc: Rpc, is_usable: Callable[[NodeId], bool]
    ) -> None:
        self._service = service
        self._topology = topology
        self._rpc = rpc
        self._is_usable = is_usable
        self._locks: dict[bytes, _KeyLock] = {}

    async def run(self, changes: Sequence[Change], consistency: Consistency) -> list[Outcome]:
        """Make changes, those of one node in their order; returns their outcomes in the same order.

        Raises:
            NoReplica: Nobody of a unit's set is alive, or too few answered. What was written of the others stands.
            NodeUnreachable: The node that makes them went away; whether they were made is unknown.
        DeadlineExceeded: It did not answer in time; whether they were made is unknown.
        """
        places: dict[NodeId, list[int]] = {}
        for position, change in enumerate(changes):
            places.setdefault(self._first(self._service.unit_of(change.key)), []).append(position)
        outcomes: dict[int, Outcome] = {}

        async def work(node: NodeId, positions: list[int]) -> None:
            batch = [changes[position] for position in positions]
            outcomes.update(zip(positions, await self._at(node, batch, consistency), strict=True))

        if list(places) == [self._rpc.self_id]:
            return await self.make(changes, consistency)
        with trio.move_on_after(CHANGE_S):
            await run_all([partial(work, node, positions) for node, positions in places.items()])
            return [outcomes[position] for position in range(len(changes))]
        raise DeadlineExceeded(f"no answer within {CHANGE_S:g} s; whether it was changed is unknown")

    def _first(self, unit: UnitId) -> NodeId:
        """Return the first member of the unit's set that is alive."""
        sets = self._topology.sets(unit)
        for node in sets.current:
            if node == self._rpc.self_id or self._is_usable(node):
                return node
        raise NoReplica(f"no member of the set of '{unit}' is alive", hint="see `frys-node members`")

    async def _at(self, node: NodeId, changes: list[Change], consistency: Consistency) -> list[Outcome]:
        if node == self._rpc.self_id:
            return await self.make(changes, consistency)
        self._service.part([change.key for change in changes])
        try:
            reply = await self._rpc.call(node, CHANGE, ChangeRequest(changes, consistency))
            if reply.ask is not None:
                if reply.ask == self._rpc.self_id:
                    return await self.make(changes, consistency)
                reply = await self._rpc.call(reply.ask, CHANGE, ChangeRequest(changes, consistency, is_last=True))
        finally:
            self._service.part([change.key for change in changes])
        if len(reply.outcomes) != len(changes):
            raise NotOwner("the nodes do not agree on who makes this change", hint="retry")
        session = SESSION.get()
        if session is not None:
            for change in changes:
                session.note_elsewhere(self._service.unit_of(change.key))
        return list(reply.outcomes)

    async def answer(self, caller: NodeId, request: ChangeRequest) -> ChangeReply:
        """Make the changes of another node, or name the node that should."""
        del caller
        for unit in {self._service.unit_of(change.key) for change in request.changes}:
            first = self._first(unit)
            if first != self._rpc.self_id and not request.is_last:
                return ChangeReply(ask=first)
            if self._rpc.self_id not in self._topology.sets(unit).current:
                raise NotOwner(f"'{unit}' is not held here", hint="retry")
        return ChangeReply(await self.make(request.changes, request.consistency))

    async def make(self, changes: Sequence[Change], consistency: Consistency) -> list[Outcome]:
        """Make changes here, on what a quorum knows."""
        keys = sorted({change.key for change in changes})
        if len(self._locks) + len(keys) > LOCKS_MAX:
            raise Overloaded(f"more than {LOCKS_MAX} keys are being changed on this node")
        locks = [self._locks.setdefault(key, _KeyLock()) for key in keys]
        for lock in locks:
            lock.users += 1
        taken = 0
        try:
            for lock in locks:
                if lock.lock.locked():
                    await lock.lock.acquire()
                else:
                    lock.lock.acquire_nowait()
                taken += 1
            return await self._make(keys, changes, consistency)
        finally:
            for lock in locks[:taken]:
                lock.lock.release()
            for key, lock in zip(keys, locks, strict=True):
                lock.users -= 1
                if not lock.users:
                    del self._locks[key]

    async def _make(self, keys: list[bytes], changes: Sequence[Change], consistency: Consistency) -> list[Outcome]:
        service = self._service
        entries = await service.entries(keys, Consistency.QUORUM)
        now_unix_ms = service.now_unix_ms()
        cells = {}
        for key, entry in zip(keys, entries, strict=True):
            value = unpack(entry, now_unix_ms)
            version = etag_of(entry.version) if entry is not None and value is not None else ""
            cells[key] = Cell(value, version, now_unix_ms, service.config.value_bytes_max)
        outcomes = apply_all(cells, changes)
        items = {
            key: None if cell.value is None else pack(cell.value) for key, cell in cells.items() if cell.is_changed
        }
        if not items:
            return outcomes
        versions = await service.put(items, consistency)
        return [
            Outcome(outcome.result, outcome.refusal, etag_of(versions[change.key]))
            if change.key in versions and not outcome.refusal
            else outcome
            for change, outcome in zip(changes, outcomes, strict=True)
        ]
