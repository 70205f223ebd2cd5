"""What this node answers: methods and notes by name, and how one call is carried out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Container
from typing import Any, NamedTuple

import trio

from frys_node.base.errors import AlreadyExists, DeadlineExceeded, FrysError, NotFound
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Method
from frys_node.secure.errors import Expelled

log = logging.getLogger(__name__)

NoteHandler = Callable[[NodeId, bytes], None]


class Served(NamedTuple):
    """One method with its handler."""

    method: Method[Any, Any]
    handler: Callable[[NodeId, Any], Awaitable[Any]]


class InternalError(FrysError):
    """The handler failed in a way nobody foresaw; its node logged the details. What was done is unknown."""

    code = "request.internal"


class Dispatch:
    """The table of methods and notes. Whoever was expelled is served none of them, by whatever connection it asks."""

    __slots__ = ("_revoked", "guards", "methods", "notes")

    def __init__(self, revoked: Container[NodeId] = ()) -> None:
        self._revoked = revoked
        self.methods: dict[str, Served] = {}
        self.notes: dict[str, NoteHandler] = {}
        self.guards: dict[str, Callable[[NodeId], None]] = {}
        """By method: raises if that caller may not ask for it, before the handler hears of it."""

    def serve(self, served: Served) -> None:
        """Add a method.

        Raises:
            AlreadyExists: The name is served. The first one stands.
        """
        if served.method.name in self.methods:
            raise AlreadyExists(f"the method '{served.method.name}' is served already")
        self.methods[served.method.name] = served

    def on_note(self, name: str, handler: NoteHandler) -> None:
        """Add a note handler.

        Raises:
            AlreadyExists: The name has a handler. The first one stands.
        """
        if name in self.notes:
            raise AlreadyExists(f"notes '{name}' are handled already")
        self.notes[name] = handler

    def note(self, sender: NodeId, name: str, body: bytes) -> bool:
        """Hand a note over; False when nobody takes it. A handler's error is logged, not raised."""
        handler = self.notes.get(name)
        if handler is None or sender in self._revoked:
            return False
        try:
            handler(sender, body)
        except Exception:
            log.exception("channel.note_failed", extra={"note": name, "peer": sender})
        return True

    async def answer(self, caller: NodeId, name: str, body: bytes) -> bytes:
        """Carry out a remote call and return the encoded reply.

        Raises:
            FrysError: What the caller shall see.
        """
        if caller in self._revoked:
            raise Expelled(f"node {caller} was expelled from the cluster", hint=Expelled.FIX)
        served = self.methods.get(name)
        if served is None:
            raise NotFound(f"this node does not serve '{name}'", hint="its version or its plugins differ")
        reply = await self.invoke(caller, served, served.method.request.decode(body))
        return served.method.reply.encode(reply)

    async def invoke(self, caller: NodeId, served: Served, request: Any) -> Any:
        """Run a handler; anything but a `FrysError` is logged here and becomes `InternalError`."""
        guard = self.guards.get(served.method.name)
        if guard is not None:
            guard(caller)
        try:
            return await served.handler(caller, request)
        except FrysError:
            raise
        except trio.TooSlowError as error:
            raise DeadlineExceeded from error
        except Exception as error:
            log.exception("channel.handler_failed", extra={"method": served.method.name, "peer": caller})
            raise InternalError(f"'{served.method.name}' failed: {type(error).__name__}: {error}") from error
