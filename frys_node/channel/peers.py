"""One kept connection per pair of nodes.

Dialled on demand; while a dial is under way calls wait for it and notes queue up (bounded). After a failure the next
dial waits for a jittered backoff and calls meanwhile fail at once, so that routing can turn elsewhere. When two nodes
dial each other at the same time, both keep the connection that the smaller node id dialled; the other one drains, so
calls under way on it still finish. What the other side dialled takes the place of what stands with its first frame
behind the hello, and not before: whoever dials may give up while it waits for this node's hello. A newer boot of a node
replaces whatever its older boots left behind. Whoever was expelled is neither dialled nor kept.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Sequence

import trio

from frys_node.base.errors import FrysError, NodeUnreachable
from frys_node.base.types import Address, NodeId
from frys_node.channel.connection import REPLACED_DRAIN_S, Connection
from frys_node.channel.messages import REPLACED
from frys_node.channel.mux import check_note
from frys_node.secure.errors import Expelled

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
DIAL_NOTES_MAX = 1_024
"""Notes that wait for one dial; more are dropped and counted."""

REPLACED_WAIT_S = 2.0
"""How long a connection that the other side has made in another's place may take to arrive, before one is dialled."""

DIAL_NOTES_BYTES_MAX = 4 << 20
ADDRESSES_MAX = 16_384
OPEN_PER_NODE_MAX = 6
"""Connections to one node: one that is kept, those that calls hold open, and new ones. More, and the oldest ends."""


class _Dial:
    """A dial under way, and what waits for it."""

    __slots__ = ("done", "error", "note_bytes", "notes")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: FrysError | None = None
        self.notes: list[tuple[str, bytes]] = []
        self.note_bytes = 0


class _Backoff:
    """When a node may be dialled again."""

    __slots__ = ("failures", "last", "until_s")

    def __init__(self) -> None:
        self.failures = 0
        self.until_s = 0.0
        self.last = ""


class Peers:
    """The connections of one node, by node id."""

    def __init__(
        self,
        self_id: NodeId,
        rng: random.Random,
        dial: Callable[[NodeId, Address], Awaitable[None]],
        expelled: Container[NodeId] = (),
    ) -> None:
        self._self_id = self_id
        self._rng = rng
        self._expelled = expelled
        self._dial = dial
        """Dials, greets and hands the connection to `admit`; raises `FrysError` when that failed."""
        self._addresses: dict[NodeId, Address] = {}
        self._hosts: Counter[str] = Counter()
        """How many nodes are known at each host."""
        self._connections: dict[NodeId, Connection] = {}
        self._open: dict[Connection, None] = {}
        """All that have not ended, those that drain among them."""
        self._dials: dict[NodeId, _Dial] = {}
        self._backoffs: dict[NodeId, _Backoff] = {}
        self.nursery: trio.Nursery | None = None
        self.notes_dropped = 0

    def learn(self, node: NodeId, address: Address) -> None:
        """Remember where a node can be dialled; a changed address may be tried at once."""
        if node == self._self_id or self._addresses.get(node) == address:
            return
        if len(self._addresses) >= ADDRESSES_MAX and node not in self._addresses:
            self._forget_address(next(iter(self._addresses)))
        self._forget_address(node)
        self._addresses[node] = address
        self._hosts[address.host] += 1
        self._backoffs.pop(node, None)

    def _forget_address(self, node: NodeId) -> None:
        address = self._addresses.pop(node, None)
        if address is not None:
            self._hosts[address.host] -= 1
            if not self._hosts[address.host]:
                del self._hosts[address.host]

    def is_at(self, host: str) -> bool:
        """True if a node is known at that host."""
        return host in self._hosts

    def address(self, node: NodeId) -> Address | None:
        """Where the node can be dialled, if that is known."""
        return self._addresses.get(node)

    def known(self) -> Sequence[tuple[NodeId, Address]]:
        """Every known address, sorted by node."""
        return sorted(self._addresses.items())

    def all(self) -> Sequence[Connection]:
        """The kept connections, sorted by node."""
        return [self._connections[node] for node in sorted(self._connections)]

    def open(self) -> Sequence[Connection]:
        """All connections that have not ended yet, also those in whose place there is another."""
        return list(self._open)

    def find(self, node: NodeId) -> Connection | None:
        """The usable connection to the node, if there is one."""
        connection = self._connections.get(node)
        if connection is None or connection.is_usable:
            return connection
        # What the other side has just dialled is as good, though nothing was heard on it yet.
        waiting = self._waiting(node, connection.hello.boot)
        return waiting if waiting is not None and self._settle(waiting) and waiting.is_usable else None

    async def connect(self, node: NodeId) -> Connection:
        """Return the connection to the node, dialling if there is none; the caller's cancel scope bounds the wait.

        Raises:
            NodeUnreachable: No address is known, the dial failed, or one failed just before.
            Expelled: This node or that one is no member any more.
            FrysError: Why the other side was refused.
        """
        connection = self.find(node)
        if connection is not None:
            return connection
        dial = self._start_dial(node)
        if isinstance(dial, FrysError):
            raise dial
        await dial.done.wait()
        connection = self.find(node)
        if connection is None:
            raise dial.error or NodeUnreachable(f"the connection to {node} ended at once")
        return connection

    def meet(self, node: NodeId) -> None:
        """Have a connection to the node soon, if one can be made; nobody waits for it."""
        if self.find(node) is None:
            self._start_dial(node)

    def note(self, node: NodeId, name: str, body: bytes) -> bool:
        """Send a note on the connection, or queue it behind a dial; False (and counted) when neither is possible.

        Raises:
            FrameTooLarge: The body is over `BODY_BYTES_MAX`. Said here, since behind a dial nobody hears it any more.
        """
        check_note(name, body)
        connection = self.find(node)
        if connection is not None:
            if connection.mux.note(name, body):
                connection.flush()
                return True
            self.notes_dropped += 1
            return False
        dial = self._start_dial(node)
        if (
            isinstance(dial, FrysError)
            or len(dial.notes) >= DIAL_NOTES_MAX
            or dial.note_bytes + len(body) > DIAL_NOTES_BYTES_MAX
        ):
            self.notes_dropped += 1
            return False
        dial.notes.append((name, body))
        dial.note_bytes += len(body)
        return True

    def _start_dial(self, node: NodeId) -> _Dial | FrysError:
        """Return the dial under way or a new one; the error says why there can be none now."""
        if self._self_id in self._expelled:
            return Expelled("this node was expelled from its cluster", hint=Expelled.FIX)
        if node in self._expelled:
            return Expelled(f"node {node} was expelled from the cluster; nothing is sent to it")
        dial = self._dials.get(node)
        if dial is not None:
            return dial
        address = self._addresses.get(node)
        if address is None:
            return NodeUnreachable(f"no address of node {node} is known yet")
        if self.nursery is None:
            return NodeUnreachable("the channel is not running")
        backoff = self._backoffs.get(node)
        if backoff is not None and trio.current_time() < backoff.until_s:
            return NodeUnreachable(f"{address} did not answer just before: {backoff.last}", hint="nothing was sent")
        dial = self._dials[node] = _Dial()
        self.nursery.start_soon(self._run_dial, node, address, dial)
        return dial

    def is_connected(self, node: NodeId) -> bool:
        """True while a connection stands, or the other side has just made one in its place."""
        if self.find(node) is not None:
            return True
        connection = self._connections.get(node)
        return connection is not None and connection.is_open and connection.is_replaced

    async def _run_dial(self, node: NodeId, address: Address, dial: _Dial) -> None:
        try:
            if self.is_connected(node):
                with trio.move_on_after(REPLACED_WAIT_S):
                    await dial.done.wait()
            if self.find(node) is None:
                await self._dial(node, address)
        except FrysError as error:
            dial.error = error
            self._back_off(node, error)
        else:
            self._backoffs.pop(node, None)
        finally:
            # A call that follows must see either the connection or the backoff, never a finished dial.
            self._dials.pop(node, None)
            self._send_waiting(node, dial)
            dial.done.set()

    def _send_waiting(self, node: NodeId, dial: _Dial) -> None:
        connection = self.find(node)
        notes, dial.notes = dial.notes, []
        for name, body in notes:
            if connection is None or not connection.mux.note(name, body):
                self.notes_dropped += 1
        if connection is not None:
            connection.flush()

    def _back_off(self, node: NodeId, error: FrysError) -> None:
        backoff = self._backoffs.setdefault(node, _Backoff())
        wait_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(backoff.failures, 10))
        backoff.failures += 1
        backoff.until_s = trio.current_time() + wait_s * self._rng.uniform(0.5, 1.0)
        backoff.last = error.message

    def admit(self, connection: Connection) -> bool:
        """Keep a new connection or not; whichever loses against it is drained or closed."""
        node = connection.node
        known = self._connections.get(node)
        is_life = known is not None and known.is_usable and known.hello.boot == connection.hello.boot
        if is_life and not connection.dialled and known is not None and not self._is_duplicate(connection, known):
            self._open[connection] = None
            connection.on_first = lambda: self._take_place(connection)
        elif not self._settle(connection):
            return False
        self._make_room(node)
        return True

    def _is_duplicate(self, connection: Connection, known: Connection) -> bool:
        """True if both sides dialled and the other connection is the one to keep."""
        return connection.dialled not in (known.dialled, self._self_id < connection.node)

    def _settle(self, connection: Connection) -> bool:
        """Let a connection take the place of the kept one, if it should; False if a newer life is known."""
        known = self._connections.get(connection.node)
        if known is connection:
            return True
        if known is not None and known.is_usable:
            if connection.hello.boot < known.hello.boot:
                return False
            if connection.hello.boot > known.hello.boot:
                known.close()
            elif self._is_duplicate(connection, known):
                self._open[connection] = None
                connection.drain("duplicate")
                return True
            elif connection.dialled == known.dialled:
                # The dialling side makes a second connection when it has lost the first, or to have fresh keys.
                known.drain(REPLACED, REPLACED_DRAIN_S)
            else:
                known.drain("duplicate")
        if known is not None and known.hello.boot == connection.hello.boot:
            connection.follow(known)
        connection.on_first = None
        self._connections[connection.node] = connection
        self._open[connection] = None
        dial = self._dials.get(connection.node)
        if dial is not None:
            # From now on notes are sent at once: those that waited go first.
            self._send_waiting(connection.node, dial)
            dial.done.set()
        self._backoffs.pop(connection.node, None)
        return True

    def _take_place(self, connection: Connection) -> None:
        if not self._settle(connection):
            connection.close()

    def _waiting(self, node: NodeId, boot: int) -> Connection | None:
        """The newest usable connection to that life of the node which is not the kept one."""
        kept = self._connections.get(node)
        mine = [held for held in self._open if held.node == node and held.hello.boot == boot and held is not kept]
        return next((held for held in reversed(mine) if held.is_usable), None)

    def _make_room(self, node: NodeId) -> None:
        """End the oldest connections to a node that has too many."""
        kept = self._connections.get(node)
        mine = [held for held in self._open if held.node == node and held.is_open]
        spare = sorted((held for held in mine if held is not kept), key=lambda held: not held.mux.is_draining)
        for held in spare[: max(0, len(mine) - OPEN_PER_NODE_MAX)]:
            held.close()

    def has_open(self, connection: Connection) -> bool:
        """True if there is another connection to the same life of the node."""
        life = (connection.node, connection.hello.boot)
        return any((held.node, held.hello.boot) == life and held is not connection for held in self._open)

    def remove(self, connection: Connection) -> bool:
        """Forget an ended connection; True if it was the kept one and no other takes its place."""
        self._open.pop(connection, None)
        if self._connections.get(connection.node) is not connection:
            return False
        del self._connections[connection.node]
        waiting = self._waiting(connection.node, connection.hello.boot)
        return waiting is None or not self._settle(waiting)
