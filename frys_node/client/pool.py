"""Connections that wait for their next flight.

Sans-I/O: what a connection is, is the driver's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from frys_node.base.types import Address

C = TypeVar("C")

IDLE_S = 60.0
"""A connection that was idle for longer is not used again: a node closes it after 75 s."""

CONNECTIONS_MAX = 8
"""Connections of one client to one node; more flights wait their turn."""

CONNECT_S = 1.0
"""How long a node may take to accept a connection before another one is asked."""


class Pool(Generic[C]):
    """Idle connections by node, the last used first."""

    def __init__(self, close: Callable[[C], None], is_quiet: Callable[[C], bool]) -> None:
        self._close = close
        self._is_quiet = is_quiet
        """False for a connection that the other side has closed, or on which something came unasked."""
        self._idle: dict[Address, list[tuple[C, float]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._idle.values()))

    def take(self, address: Address, now_s: float) -> C | None:
        """Return an idle connection to a node that is still good, and close those that are not."""
        kept = self._idle.get(address, [])
        while kept:
            connection, since_s = kept.pop()
            if now_s - since_s <= IDLE_S and self._is_quiet(connection):
                return connection
            self._close(connection)
        return None

    def give(self, address: Address, connection: C, now_s: float) -> None:
        """Keep a connection for later."""
        self._idle.setdefault(address, []).append((connection, now_s))

    def close(self) -> None:
        """Close all of them."""
        for kept in self._idle.values():
            for connection, _ in kept:
                self._close(connection)
        self._idle.clear()
