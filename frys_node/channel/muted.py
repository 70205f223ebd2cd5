"""The network of a node that may have been expelled: from then on it opens no connection to anybody.

The channel checks that by itself; whoever else looks at ports of members is given this. The others would take a
connection that is closed at once for a port scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from frys_node.base.ports import Datagram, Network, Stream, StreamListener
from frys_node.base.types import Address
from frys_node.secure.errors import Expelled
from frys_node.transport.errors import connect_failed


class MutedNetwork:
    """`Network` that connects to nobody while `is_muted`."""

    __slots__ = ("_inner", "_is_muted")

    def __init__(self, inner: Network, is_muted: Callable[[], bool]) -> None:
        self._inner = inner
        self._is_muted = is_muted

    async def listen(self, address: Address) -> StreamListener:
        """Bind a TCP listener."""
        return await self._inner.listen(address)

    async def connect(self, address: Address) -> Stream:
        """Connect by TCP.

        Raises:
            ConnectFailed: Also while muted (reason ``not_allowed``). Nothing was sent.
        """
        if self._is_muted():
            failure = connect_failed(address, "not_allowed", "this node was expelled from its cluster")
            failure.hint = Expelled.FIX
            raise failure
        return await self._inner.connect(address)

    async def bind(self, address: Address) -> Datagram:
        """Bind a UDP socket."""
        return await self._inner.bind(address)

    async def resolve(self, host: str) -> Sequence[str]:
        """Resolve a name."""
        return await self._inner.resolve(host)

    async def resolve_service(self, name: str) -> Sequence[Address]:
        """Resolve the SRV records of a name."""
        return await self._inner.resolve_service(name)
