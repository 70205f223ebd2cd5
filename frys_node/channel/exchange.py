"""What members tell each other of credentials on their connections, and how often one may say what nobody signed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from weakref import WeakKeyDictionary

from frys_node.base.errors import StorageError
from frys_node.base.types import NodeId
from frys_node.channel.connection import Connection
from frys_node.channel.door import FIXES, Refusals
from frys_node.channel.peers import Peers
from frys_node.trust.credentials import MemberSecrets
from frys_node.trust.messages import Credentials

FORGERIES_MAX = 32
"""Statements without a valid signature that one connection may bring. An honest member that was away while the
authority was replaced brings up to seven, again and again, which count once."""

log = logging.getLogger(__name__)


class Exchange:
    """Takes credentials from the other side of each connection, and tells all sides of a change."""

    def __init__(
        self, secrets: MemberSecrets, peers: Peers, refusals: Refusals, *, issuer: Callable[[], NodeId]
    ) -> None:
        self._secrets = secrets
        self._peers = peers
        self._refusals = refusals
        self._issuer = issuer
        self._forgeries: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()

    def take(self, connection: Connection, offered: Credentials) -> None:
        """Merge what came; a connection that brings forgery after forgery is closed."""
        statements = self._secrets.statements
        assert statements is not None
        before = statements.refused
        try:
            self._secrets.take(offered, from_issuer=connection.node == self._issuer())
        except StorageError as error:
            log.error("channel.credentials_not_stored", extra={"error": error.message})
        if statements.refused == before:
            return
        forgeries = self._forgeries.get(connection, 0) + statements.refused - before
        self._forgeries[connection] = forgeries
        if forgeries > FORGERIES_MAX and connection.is_open:
            extra = {"peer": connection.node, "count": forgeries, "fix": FIXES["forged"]}
            log.warning("channel.forged_statements", extra=extra)
            self._refusals.count("forged")
            connection.close()

    def spread(self) -> None:
        """Part with those who were expelled, then tell every member of a change."""
        for connection in self._peers.open():
            if connection.node in self._secrets.revoked and connection.is_open:
                self._refusals.count("revoked")
                connection.part(self._secrets.farewell())
        for connection in self._peers.all():
            if connection.is_usable:
                connection.mux.credentials(self._secrets.offer())
                connection.flush()
