"""The way out: from an address to a greeted connection."""

from __future__ import annotations

from collections.abc import Callable

import trio

from frys_node.base.errors import NodeUnreachable
from frys_node.base.ports import Network, Stream
from frys_node.base.types import Address, NodeId
from frys_node.channel.door import Refusals
from frys_node.channel.greeting import HANDSHAKE_S, Greeted, Greeter
from frys_node.secure.errors import ClassicalOnly, Expelled, HandshakeRefused, NotTls


class Dialler:
    """Dials as one node; whoever was expelled is neither greeted nor greets anybody."""

    def __init__(
        self,
        self_id: NodeId,
        network: Network,
        greeter: Greeter,
        refusals: Refusals,
        is_expelled: Callable[[NodeId], bool],
        on_refused: Callable[[str], None],
    ) -> None:
        """`on_refused` hears the reason why somebody who answered a dial was refused."""
        self._self_id = self_id
        self._network = network
        self._greeter = greeter
        self._refuse = refusals.refuse
        self._is_expelled = is_expelled
        self._on_refused = on_refused

    async def dial(self, address: Address, expected: NodeId | None) -> Greeted:
        """Connect and greet; `expected` None takes any member.

        Raises:
            NodeUnreachable: Nobody answers.
            SecurityError: Somebody does who is no member, or not the one expected.
        """
        self._check(expected)
        transport: Stream | None = None
        with trio.move_on_after(HANDSHAKE_S):
            transport = await self._network.connect(address)
        if transport is None:
            raise NodeUnreachable(f"{address} did not answer within {HANDSHAKE_S:.0f} s")
        return await self.greet(transport, address, expected)

    async def greet(self, transport: Stream, address: Address, expected: NodeId | None) -> Greeted:
        """Greet over a stream that was just opened; it is closed on every error. Raises as `dial`."""
        try:
            self._check(expected)
        except HandshakeRefused:
            await transport.aclose()
            raise
        try:
            return (await self._greeter.dial(transport, expected))._replace(host=address.host)
        except HandshakeRefused as error:
            self._refuse(error.reason, address, error.message)
            self._on_refused(error.reason)
            raise
        except (NotTls, ClassicalOnly) as error:
            self._refuse(_reason(error), address, error.message)
            raise

    def _check(self, node: NodeId | None) -> None:
        if self._is_expelled(self._self_id):
            raise HandshakeRefused("expelled", "this node was expelled from its cluster", hint=Expelled.FIX)
        if node is not None and self._is_expelled(node):
            raise HandshakeRefused("revoked", f"node {node} was expelled from the cluster")


def _reason(error: NotTls | ClassicalOnly) -> str:
    """Return the label of a server that is no frys node; one that names no reason has no group in common."""
    if isinstance(error, NotTls):
        return "not_tls"
    said = error.__cause__
    return said.reason if isinstance(said, HandshakeRefused) and said.reason in ("tls_version", "cipher") else "group"
