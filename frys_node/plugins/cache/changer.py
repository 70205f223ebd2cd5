"""Read-modify-write: brings changes to the node that makes them, and makes those that come here.

Theory of operation. The node for a unit is the first member of its replica set that is alive. There the keys of a batch
are locked, read at a quorum, changed in memory one after another and written at the caller's consistency. While the
set is stable and its first member lives, all changes of a key pass through one lock, and none is lost. When the first
member is suspected or the set changes, two nodes may make changes at once for a moment, and the later write wins; a
change whose answer is lost may have been made. So these are counters and conditions for a cache, **not locks**.

A node that is asked and sees another first member says so, once; who is asked in the second place makes the change if
it is a member at all.

A request and its reply are one frame each, and the reply may hold values that are gone by then (``GETDEL``). So
requests are cut by bytes before anything is done, and who makes the changes stops, before the write, where the outcomes
would not fit; the rest is asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import trio

from frys_node.base.errors import DeadlineExceeded, NoReplica, NotOwner, Overloaded
from frys_node.base.pieces import pieces
from frys_node.base.types import Consistency, NodeId, UnitId
from frys_node.kernel.parallel import run_all
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.kernel.services.sessions import SESSION
from frys_node.kernel.services.topology import Topology
from frys_node.plugins.cache.cache import CacheTooLarge, etag_of, pack, unpack
from frys_node.plugins.cache.changes import Cell, Change, Outcome, apply_within
from frys_node.plugins.cache.driver import CacheService
from frys_node.wire.codec import Message

CHANGE_S = 5.0
"""How long a batch of changes may take when its caller sets no deadline."""

LOCKS_MAX = 65_536
"""Keys that are being changed here at a time; more are refused."""

CHANGES_BYTES_MAX = 960 * 1024
"""The keys and arguments of the changes in one request, and the outcomes in one reply: with their marks they fit into a
frame of 1 MiB."""

CHANGE_OVERHEAD_BYTES = 64
"""What a change, or its outcome, takes in a message beside its bytes."""


class ChangeRequest(Message, frozen=True):
    """Make these changes in their order. `is_last` after a redirect: no other node will be asked.

    `may_stop`: the reply may have the outcomes of the first of them only, then the others were not made.
    """

    changes: list[Change]
    consistency: Consistency
    is_last: bool = False
    may_stop: bool = False


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
            CacheTooLarge: One of them is too large for a message to the node that makes it; none was made.
            DeadlineExceeded: It did not answer in time; whether they were made is unknown.
        """
        places: dict[NodeId, list[int]] = {}
        for position, change in enumerate(changes):
            places.setdefault(self._first(self._service.unit_of(change.key)), []).append(position)
        if list(places) == [self._rpc.self_id]:
            return await self.make(changes, consistency)
        outcomes: dict[int, Outcome] = {}
        batches = {node: _batches([changes[position] for position in positions]) for node, positions in places.items()}

        async def work(node: NodeId, positions: list[int]) -> None:
            made = [outcome for batch in batches[node] for outcome in await self._at(node, batch, consistency)]
            outcomes.update(zip(positions, made, strict=True))

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
        outcomes: list[Outcome] = []
        self._service.part([change.key for change in changes])
        try:
            while len(outcomes) < len(changes):
                rest = changes[len(outcomes) :]
                reply = await self._rpc.call(node, CHANGE, ChangeRequest(rest, consistency, may_stop=True))
                if reply.ask == self._rpc.self_id:
                    return outcomes + await self.make(rest, consistency)
                if reply.ask is not None:
                    insisted = ChangeRequest(rest, consistency, is_last=True, may_stop=True)
                    reply = await self._rpc.call(reply.ask, CHANGE, insisted)
                if not 1 <= len(reply.outcomes) <= len(rest):
                    raise NotOwner("the nodes do not agree on who makes this change", hint="retry")
                outcomes += reply.outcomes
        finally:
            self._service.part([change.key for change in changes])
        session = SESSION.get()
        if session is not None:
            for change in changes:
                session.note_elsewhere(self._service.unit_of(change.key))
        return outcomes

    async def answer(self, caller: NodeId, request: ChangeRequest) -> ChangeReply:
        """Make the changes of another node, or name the node that should."""
        del caller
        for unit in {self._service.unit_of(change.key) for change in request.changes}:
            first = self._first(unit)
            if first != self._rpc.self_id and not request.is_last:
                return ChangeReply(ask=first)
            if self._rpc.self_id not in self._topology.sets(unit).current:
                raise NotOwner(f"'{unit}' is not held here", hint="retry")
        bytes_max = CHANGES_BYTES_MAX if request.may_stop else None
        return ChangeReply(await self.make(request.changes, request.consistency, bytes_max))

    async def make(
        self, changes: Sequence[Change], consistency: Consistency, bytes_max: int | None = None
    ) -> list[Outcome]:
        """Make changes here, on what a quorum knows: all, or the first ones whose outcomes fit, at least one."""
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
            return await self._make(keys, changes, consistency, bytes_max)
        finally:
            for lock in locks[:taken]:
                lock.lock.release()
            for key, lock in zip(keys, locks, strict=True):
                lock.users -= 1
                if not lock.users:
                    del self._locks[key]

    async def _make(
        self, keys: list[bytes], changes: Sequence[Change], consistency: Consistency, bytes_max: int | None
    ) -> list[Outcome]:
        service = self._service
        entries = await service.entries(keys, Consistency.QUORUM)
        now_unix_ms = service.now_unix_ms()
        cells = {}
        for key, entry in zip(keys, entries, strict=True):
            value = unpack(entry, now_unix_ms)
            version = etag_of(entry.version) if entry is not None and value is not None else ""
            cells[key] = Cell(value, version, now_unix_ms, service.config.value_bytes_max)
        outcomes = apply_within(cells, changes, bytes_max, CHANGE_OVERHEAD_BYTES)
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
            for change, outcome in zip(changes, outcomes, strict=False)
        ]


def _batches(changes: Sequence[Change]) -> list[list[Change]]:
    """Cut changes into requests; all of them are looked at before the first is sent."""
    return list(pieces(changes, _sent_bytes, CHANGES_BYTES_MAX))


def _sent_bytes(change: Change) -> int:
    """Return what a change takes in a request.

    Raises:
        CacheTooLarge: It fits no request.
    """
    # A number takes up to nine bytes, a string its length and up to five.
    args_bytes = sum(5 + len(arg) if isinstance(arg, bytes) else 9 for arg in change.args)
    size_bytes = CHANGE_OVERHEAD_BYTES + len(change.key) + args_bytes
    if size_bytes > CHANGES_BYTES_MAX:
        raise CacheTooLarge(
            f"a change of {size_bytes} bytes is over the limit of {CHANGES_BYTES_MAX} of a message between nodes",
            hint="split it: see [plugins.cache] value_bytes_max for values",
        )
    return size_bytes
