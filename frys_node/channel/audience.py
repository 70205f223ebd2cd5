"""Who hears of connections that stand or are gone.

The end of a node's last connection that nobody announced is evidence that its process died. So it is told only when no
other authenticated connection to that life of it stands any more: as long as one does, the process lives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from frys_node.base.types import NodeId
from frys_node.channel.connection import Connection
from frys_node.channel.ending import Ending
from frys_node.channel.peers import Peers

ConnectionHandler = Callable[[NodeId, int, Ending | None], None]
"""Called with (node, boot, None) when a kept connection stands, and with its ending when it is gone."""

log = logging.getLogger(__name__)


class Audience:
    """The handlers of one channel."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._handlers: list[ConnectionHandler] = []
        self._lost: dict[NodeId, int] = {}
        """Nodes whose kept connection was lost while others to that boot drain."""

    def add(self, handler: ConnectionHandler) -> None:
        """Tell one more."""
        self._handlers.append(handler)

    def stands(self, connection: Connection) -> None:
        """Tell of a new connection."""
        self._lost.pop(connection.node, None)
        self._tell(connection, None)

    def ended(self, connection: Connection) -> None:
        """Forget a connection, and tell if its node is not connected any more."""
        was_kept, node, boot = self._peers.remove(connection), connection.node, connection.hello.boot
        is_last = not self._peers.has_open(connection)
        if was_kept and connection.ending is Ending.LOST and not is_last:
            self._lost[node] = boot
        elif was_kept:
            self._tell(connection, connection.ending)
        elif is_last and self._lost.get(node) == boot:
            del self._lost[node]
            self._tell(connection, Ending.LOST)

    def _tell(self, connection: Connection, ending: Ending | None) -> None:
        for handler in self._handlers:
            try:
                handler(connection.node, connection.hello.boot, ending)
            except Exception:
                log.exception("channel.connection_handler_failed", extra={"peer": connection.node})
