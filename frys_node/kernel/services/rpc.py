"""Calls to other nodes over the node-to-node channel. Provided by `frys_node.channel`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

from frys_node.base.types import NodeId
from frys_node.kernel.services import ServiceKey
from frys_node.wire.codec import Codec

Req = TypeVar("Req")
Rep = TypeVar("Rep")


class Method(Generic[Req, Rep]):
    """A named remote call with its request and reply types. The name is ``package.verb``.

    Its codecs are built when they are first used: of the fifty calls that there are most nodes use a few.
    """

    def __init__(self, name: str, request: Any, reply: Any) -> None:
        self.name = name
        self._types = (request, reply)

    @cached_property
    def request(self) -> Codec[Req]:
        """The request's codec."""
        return Codec(self._types[0])

    @cached_property
    def reply(self) -> Codec[Rep]:
        """The reply's codec."""
        return Codec(self._types[1])


class Rpc(Protocol):
    """Unary calls and one-way notes. Errors of the other side come back as the same `FrysError` class."""

    @property
    def self_id(self) -> NodeId:
        """This node."""
        ...

    def serve(self, method: Method[Req, Rep], handler: Callable[[NodeId, Req], Awaitable[Rep]]) -> None:
        """Answer a method; the handler gets the authenticated caller. Its cancel scope has the caller's deadline."""
        ...

    def unserve(self, method: Method[Any, Any]) -> None:
        """Stop answering a method (a plugin unloads); nothing happens when it is not served."""
        ...

    async def call(self, node: NodeId, method: Method[Req, Rep], request: Req) -> Rep:
        """Call a node (or this one: then no socket is used).

        The caller's cancel-scope deadline travels as remaining budget (30 s when there is none).

        Raises:
            NodeUnreachable: No connection, or it broke; whether the request was done is unknown.
            Overloaded: The queue to that node is full; nothing was sent.
            FrysError: Whatever the other side raised.
        """
        ...

    def on_note(self, name: str, handler: Callable[[NodeId, bytes], None]) -> None:
        """Receive one-way notes of that name; the handler must not block."""
        ...

    def off_note(self, name: str) -> None:
        """Receive notes of that name no more (a plugin unloads); nothing happens when nobody does."""
        ...

    def note(self, node: NodeId, name: str, payload: bytes) -> bool:
        """Send a one-way note, best effort: False (and counted) when there is no connection or its queue is full.

        Raises:
            FrameTooLarge: The payload does not fit a frame. Nothing was sent.
        """
        ...

    def is_connected(self, node: NodeId) -> bool:
        """True while an authenticated connection to the node stands."""
        ...


RPC: ServiceKey[Rpc] = ServiceKey("rpc")
