"""The ports of a node with ``[cluster] allow``: nothing is sent to, dialled at or taken from an address outside it.

`MutedNetwork` is for a node that may have been expelled: the channel dials nobody then by itself, and whoever else
looks at ports of members is given this. The others would take a connection that is closed at once for a port scan.

Packets of strangers are dropped before anybody tries to open them. A packet to one counts as refused by this machine's
own network, so that membership shows such a member as degraded and does not accuse it of the silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from frys_node.base.log_limit import LogLimit
from frys_node.base.ports import Clock, Datagram, Network, Stream, StreamListener
from frys_node.base.types import Address
from frys_node.channel.gatekeeper import AllowList
from frys_node.observe.log import get_logger
from frys_node.observe.metrics import Metrics
from frys_node.secure.errors import Expelled
from frys_node.transport.errors import ConnectFailed, connect_failed

_LOG = get_logger(__name__)


class Turnstile:
    """Judges addresses, counts those that are turned away, and logs without letting a flood fill the log."""

    __slots__ = ("_clock", "_count", "_limit", "allow")

    def __init__(self, allow: AllowList, clock: Clock, metrics: Metrics) -> None:
        self.allow = allow
        self._clock = clock
        self._limit = LogLimit()
        self._count = metrics.counter(
            "frys_channel_not_allowed_total", "Packets and dials outside [cluster] allow, by what it was.", ("what",)
        )

    def passes(self, what: str, address: Address) -> bool:
        """True if the address is allowed; else it is counted and logged as `what`."""
        if self.allow.permits(address.host):
            return True
        self._count.inc(what)
        skipped = self._limit.take(what, self._clock.now_s())
        if skipped is not None:
            _LOG.warning(
                "channel.not_allowed",
                what=what,
                address=str(address),
                skipped=skipped,
                hint="add its network to [cluster] allow on this node if it is a member",
            )
        return False


class AllowedDatagram:
    """`Datagram` that knows only allowed addresses."""

    __slots__ = ("_inner", "_turnstile")

    def __init__(self, inner: Datagram, turnstile: Turnstile) -> None:
        self._inner = inner
        self._turnstile = turnstile

    @property
    def address(self) -> Address:
        """The bound local address."""
        return self._inner.address

    def send(self, payload: bytes, destination: Address) -> bool:
        """Send at once; False also if the destination is not allowed."""
        return self._turnstile.passes("send", destination) and self._inner.send(payload, destination)

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for packets; the batch may be empty when only strangers have written."""
        passes = self._turnstile.passes
        return [packet for packet in await self._inner.receive() if passes("packet", packet[1])]

    async def aclose(self) -> None:
        """Close."""
        await self._inner.aclose()


class AllowedNetwork:
    """`Network` that connects to allowed addresses only; a name is resolved, and tried where it is allowed."""

    __slots__ = ("_inner", "_turnstile")

    def __init__(self, inner: Network, turnstile: Turnstile) -> None:
        self._inner = inner
        self._turnstile = turnstile

    async def listen(self, address: Address) -> StreamListener:
        """Bind a TCP listener; who connects to it is judged by the one who accepts."""
        return await self._inner.listen(address)

    async def connect(self, address: Address) -> Stream:
        """Connect by TCP.

        Raises:
            ConnectFailed: Also if no address is allowed (reason ``not_allowed``). Nothing was sent.
        """
        failure: ConnectFailed | None = None
        for target in await self._targets(address):
            if self._turnstile.passes("dial", target):
                try:
                    return await self._inner.connect(target)
                except ConnectFailed as error:
                    failure = error
        if failure is None:
            failure = connect_failed(address, "not_allowed", "it is in none of the networks of [cluster] allow")
            failure.hint = "add its network to [cluster] allow on this node if it is a member"
        raise failure

    async def _targets(self, address: Address) -> Sequence[Address]:
        if address.is_service:
            return await self._inner.resolve_service(address.host)
        return [Address(host, address.port) for host in await self._inner.resolve(address.host)] or [address]

    async def bind(self, address: Address) -> Datagram:
        """Bind a UDP socket that knows only allowed addresses."""
        return AllowedDatagram(await self._inner.bind(address), self._turnstile)

    async def resolve(self, host: str) -> Sequence[str]:
        """Resolve a name."""
        return await self._inner.resolve(host)

    async def resolve_service(self, name: str) -> Sequence[Address]:
        """Resolve the SRV records of a name."""
        return await self._inner.resolve_service(name)


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
