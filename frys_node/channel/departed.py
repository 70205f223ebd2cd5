"""Nodes that have left for good: they are heard out while they say goodbye, and then no more.

A node that leaves tells the issuer, which ends its admission; an operator has it removed while it is dead. The issuer's
word reaches every member with its credentials. `GRACE_S` later whoever still speaks with the node's key, a copy of its
disk, is refused and told no key. One that was removed does not know it: it is told the record that says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container

import trio

from frys_node.base.errors import NotReady
from frys_node.base.types import NodeId
from frys_node.channel.greeting import Parting
from frys_node.channel.peers import Peers
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.trust.authority import ROLE_HINT, AuthorityHolder
from frys_node.trust.credentials import MemberSecrets
from frys_node.wire.codec import Message

GRACE_S = 60.0
"""From the word that a node leaves to its end as a member; `leave` says goodbye and ends within seconds."""

log = logging.getLogger(__name__)


class Depart(Message, frozen=True):
    """I leave for good."""


class Departed(Message, frozen=True):
    """Your admission is over, durably."""


DEPART: Method[Depart, Departed] = Method("channel.depart", Depart, Departed)


class DepartedNodes:
    """Who has left, as far as this node was told. A container of those that are refused."""

    def __init__(self, rpc: Rpc, secrets: MemberSecrets, holder: AuthorityHolder, peers: Peers) -> None:
        self._secrets = secrets
        self._holder = holder
        self._peers = peers
        self._refused: set[object] = set(secrets.departed)
        self._due_s: dict[NodeId, float] = {}
        self._wake = trio.Event()
        self.on_parting: Callable[[NodeId], Parting | None] | None = None
        """Returns what tells a node that it was removed; None for one that left by itself."""
        rpc.serve(DEPART, self._serve)

    def __contains__(self, node: object) -> bool:
        return node in self._refused

    def parting(self, node: NodeId) -> Parting | None:
        """Return what tells a node why it is refused, if it may not know."""
        return None if self.on_parting is None else self.on_parting(node)

    async def _serve(self, caller: NodeId, request: Depart) -> Departed:
        await trio.lowlevel.checkpoint()
        desk = self._holder.desk
        if desk is None:
            raise NotReady("this node is not the issuer", hint=ROLE_HINT)
        if desk.depart(caller):
            log.info("channel.node_departed", extra={"peer": caller})
        self._secrets.depart(caller)
        return Departed()

    def changed(self) -> None:
        """Others may have left."""
        for node in self._secrets.departed:
            if node not in self._refused and node not in self._due_s:
                self._due_s[node] = trio.current_time() + GRACE_S
                self._wake.set()

    async def run(self) -> None:
        """Refuse each once its time is over, and end its connections."""
        while True:
            self._wake = trio.Event()
            with trio.move_on_at(min(self._due_s.values(), default=float("inf"))):
                await self._wake.wait()
            over = [node for node, due_s in self._due_s.items() if due_s <= trio.current_time()]
            for node in over:
                del self._due_s[node]
                self._refused.add(node)
            for connection in self._peers.open():
                if connection.node in over:
                    connection.close()


class Barred:
    """Whose packets are dropped: whoever was expelled, or has left."""

    __slots__ = ("_expelled", "_left")

    def __init__(self, expelled: Container[NodeId], left: Container[NodeId]) -> None:
        self._expelled = expelled
        self._left = left

    def __contains__(self, node: object) -> bool:
        return node in self._expelled or node in self._left
