"""From a TCP connection to an authenticated, greeted one: handshake, gate, hello.

Every refusal is a `HandshakeRefused` with its reason; the caller counts it and closes the transport.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import NamedTuple, Protocol

import trio

from frys_node.base.errors import UnsupportedVersion, WireError
from frys_node.base.ports import Clock, Stream
from frys_node.base.types import Address, BootId, NodeId
from frys_node.channel.messages import DEPARTED, EXPELLED, Hello
from frys_node.channel.mux import Event, Mux
from frys_node.secure.errors import HandshakeRefused
from frys_node.secure.gate import Peer, Session, check_peer, session_of
from frys_node.secure.identity import Identity
from frys_node.secure.tls import TlsProfile, TlsStream, connect_tls
from frys_node.trust.messages import Credentials
from frys_node.wire.version import PROTOCOL_MAX, PROTOCOL_MIN, negotiate

FAREWELL_S = 1.0
"""How long an expelled node has to say hello, so that it can be told why it is refused."""

HANDSHAKE_S = 5.0
"""Deadline from the accepted (or connected) socket to the other side's hello."""


class Parting(NamedTuple):
    """A note that tells a node why it is refused: its name and its body."""

    name: str
    body: bytes


class Departed(Protocol):
    """Nodes whose admission is over."""

    def __contains__(self, node: object) -> bool:
        """True if the node is refused."""
        ...

    def parting(self, node: NodeId) -> Parting | None:
        """Return what tells such a node why; None if it knows, as it left by itself."""
        ...


class Greeted(NamedTuple):
    """A connection ready to run."""

    stream: Stream
    mux: Mux
    peer: Peer
    hello: Hello
    session: Session
    dialled: bool
    early: list[Event]
    host: str = ""
    """Where the other side is: the address that it came from, or at which it was dialled."""


class Greeter:
    """This node's side of every greeting."""

    __slots__ = (
        *("_advertise", "_boot", "_clock", "_departed", "_farewell", "_identity", "_knock", "_profile", "_revoked"),
        "_roles",
    )

    def __init__(
        self,
        identity: Identity,
        profile: TlsProfile,
        clock: Clock,
        *,
        boot: BootId,
        advertise: Address,
        revoked: Container[NodeId],
        departed: Departed,
        roles: Callable[[], tuple[str, ...]],
        farewell: Callable[[], Credentials],
        knock: Callable[[NodeId | None], bytes],
    ) -> None:
        """`departed` are nodes that have left; `farewell` returns what an expelled node is told.

        `knock` returns what to say in front of a handshake.
        """
        self._farewell = farewell
        self._knock = knock
        self._identity = identity
        self._profile = profile
        self._clock = clock
        self._boot = boot
        self._advertise = advertise
        self._revoked = revoked
        self._departed = departed
        self._roles = roles

    async def dial(self, transport: Stream, expected: NodeId | None) -> Greeted:
        """Greet as the dialling side, within `HANDSHAKE_S`.

        Raises:
            HandshakeRefused, NotTls, ClassicalOnly: See there. The transport is closed.
        """
        try:
            with trio.fail_after(HANDSHAKE_S):
                if knock := self._knock(expected):
                    await _say(transport, knock)
                stream = await connect_tls(transport, self._profile.client)
                return await self.greet(stream, dialled=True, expected=expected)
        except trio.TooSlowError as error:
            await _close(transport)
            raise HandshakeRefused("timeout", "the other side did not finish the handshake in time") from error
        except BaseException:
            await _close(transport)
            raise

    async def greet(self, stream: TlsStream, *, dialled: bool, expected: NodeId | None = None) -> Greeted:
        """Check the other side's certificate, then exchange hellos.

        Raises:
            HandshakeRefused: Reasons of the gate, or ``left``, ``protocol``, ``version``, ``cluster``, ``eof``,
                ``reset``.
        """
        try:
            peer = check_peer(
                stream.connection,
                self._identity,
                unix_ns=self._clock.unix_ns(),
                revoked=self._revoked,
                expected=expected,
            )
        except HandshakeRefused as error:
            if error.reason == "revoked":
                await self._part(stream, self._farewell(), dialled=dialled)
            raise
        if peer.node in self._departed:
            note = self._departed.parting(peer.node)
            if note is not None:
                await self._part(stream, note, dialled=dialled)
            raise HandshakeRefused("left", f"node {peer.name} ({peer.node}) has left the cluster for good")
        mux = Mux(dialled=dialled)
        mux.hello(self._hello())
        try:
            await stream.send_all(mux.data_to_send())
            events = await _first_events(stream, mux)
        except WireError as error:
            raise HandshakeRefused("protocol", error.message) from error
        except trio.BrokenResourceError as error:
            # With TLS 1.3 the server's refusal of a client certificate arrives only here.
            raise HandshakeRefused("reset", f"the other side refused or broke the connection: {error}") from error
        hello, early = events[0], events[1:]
        assert isinstance(hello, Hello)
        try:
            negotiate(hello.protocol_min, hello.protocol_max, peer=f"node '{peer.name}'")
        except UnsupportedVersion as error:
            raise HandshakeRefused("version", error.message, hint=error.hint) from error
        if hello.cluster_id != self._identity.cluster_id:
            theirs = f"'{hello.cluster_name}' ({hello.cluster_id})"
            mine = f"'{self._identity.cluster_name}' ({self._identity.cluster_id})"
            raise HandshakeRefused(
                "cluster",
                f"node '{peer.name}' is a member of cluster {theirs}, this one of {mine}",
                hint="a data directory belongs to one cluster: start each node on its own",
            )
        return Greeted(stream, mux, peer, hello, session_of(stream.connection), dialled, early)

    async def _part(self, stream: TlsStream, word: Credentials | Parting, *, dialled: bool) -> None:
        """Tell a node why it is no member: it would take a closed connection for a fault, and retry."""
        mux = Mux(dialled=dialled)
        mux.hello(self._hello())
        if isinstance(word, Parting):
            mux.note(*word)
        else:
            mux.credentials(word)
        mux.go_away(DEPARTED if isinstance(word, Parting) else EXPELLED)
        with trio.move_on_after(FAREWELL_S):
            try:
                await stream.send_all(mux.data_to_send())
                # A socket that is closed with bytes unread is reset, and takes the farewell with it.
                await stream.receive_some()
            except trio.BrokenResourceError:
                return

    def _hello(self) -> Hello:
        identity = self._identity
        return Hello(
            PROTOCOL_MIN,
            PROTOCOL_MAX,
            identity.cluster_id,
            identity.cluster_name,
            identity.node_name,
            self._boot,
            str(self._advertise),
            self._roles(),
        )


async def _first_events(stream: TlsStream, mux: Mux) -> list[Event]:
    """Read until the other side's hello is whole."""
    while True:
        data = await stream.receive_some()
        if not data:
            raise HandshakeRefused("eof", "the other side closed the connection before its hello")
        events = mux.receive_data(data)
        if events:
            return events


async def _say(transport: Stream, data: bytes) -> None:
    try:
        await transport.send_all(data)
    except trio.BrokenResourceError as error:
        raise HandshakeRefused("reset", "the connection broke during the handshake") from error


async def _close(transport: Stream) -> None:
    with trio.CancelScope(shield=True):
        await transport.aclose()
