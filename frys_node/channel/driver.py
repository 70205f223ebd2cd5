"""The channel: the component that owns the cluster's TCP port and carries calls and notes between nodes.

The accept loop never waits for a handshake: each connection is greeted in its own task, within `HANDSHAKE_S` and the
limits of `gatekeeper`. Refusals are counted by reason in `frys_channel_refused_total` and never end the listener.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from frys_node.base.errors import FrysError, InvalidAddress, NodeUnreachable, NotFound, StorageError, WireError
from frys_node.base.ports import Clock, Disk, Entropy, Network, Stream, StreamListener
from frys_node.base.types import Address, BootId, NodeId
from frys_node.channel.authority import AuthorityHolder
from frys_node.channel.connection import Connection, Ending
from frys_node.channel.credentials import MemberSecrets
from frys_node.channel.dispatch import Dispatch, NoteHandler, Served
from frys_node.channel.gatekeeper import AllowList, HalfOpen, LogLimit
from frys_node.channel.greeting import HANDSHAKE_S, Greeted, Greeter
from frys_node.channel.issuer import IssuerDesk
from frys_node.channel.join import JoinServer
from frys_node.channel.join_messages import PEERS_MAX, PeerAddress
from frys_node.channel.keys import KEY_SETTLE_S, KeyDesk
from frys_node.channel.messages import SHUTDOWN, Credentials
from frys_node.channel.peers import Peers
from frys_node.channel.upkeep import Upkeep
from frys_node.kernel.services.rpc import Method
from frys_node.observe.metrics import Metrics
from frys_node.secure.errors import ClassicalOnly, HandshakeRefused, NotTls
from frys_node.secure.identity import Identity
from frys_node.secure.tls import ALPN_JOIN, TlsProfile, TlsStream

log = logging.getLogger(__name__)

Req = TypeVar("Req")
Rep = TypeVar("Rep")

ConnectionHandler = Callable[[NodeId, int, Ending | None], None]
"""Called with (node, boot, None) when a kept connection stands, and with its ending when it is gone."""

ROLE_LOOK_S = 10.0
"""Pause between looks whether this node has become the issuer, whose directory has a token to join with."""

SELF_NOTES_MAX = 65_536

REFUSED_TEXT = {
    "address": "the address is in none of the networks of [cluster] allow",
    "half_open": "too many connections are not authenticated yet, and this was the oldest",
    "half_open_network": "too many connections of this network that are not authenticated yet",
}


class Channel:
    """Calls, notes and joins of one node. Implements `Rpc`; run it as a component."""

    name = "channel"

    def __init__(
        self,
        *,
        identity: Identity,
        boot: BootId,
        network: Network,
        listener: StreamListener,
        clock: Clock,
        entropy: Entropy,
        disk: Disk,
        metrics: Metrics,
        advertise: Address | None = None,
        roles: tuple[str, ...] = ("node",),
        secrets: MemberSecrets | None = None,
        allow: AllowList | None = None,
    ) -> None:
        self.identity = identity
        self.boot = boot
        self.advertise = listener.address if advertise is None else advertise
        self.secrets = MemberSecrets(disk) if secrets is None else secrets
        self.authority = AuthorityHolder(identity, disk, entropy, clock, issuer=lambda: self.issuer)
        self.issuer = identity.issuer
        """The node that issues certificates; `node.py` keeps it current from the topology record."""
        self._network = network
        self._listener = listener
        self._clock = clock
        self._profile = TlsProfile(identity)
        self._roles = roles
        self._dispatch = Dispatch()
        self._peers = Peers(identity.node_id, entropy.rng("channel.peers"), self._dial)
        self._names: dict[NodeId, str] = {}
        self._greeter = Greeter(
            identity,
            self._profile,
            clock,
            boot=boot,
            advertise=self.advertise,
            revoked=self.secrets.revoked,
            roles=lambda: self._roles,
        )
        self._join = JoinServer(
            identity,
            self.authority,
            issuer_address=self.issuer_address,
            peers=self._join_peers,
            revoked=self.secrets.revoked,
        )
        self._allow = allow or AllowList()
        self._half_open = HalfOpen()
        self._log_limit = LogLimit()
        self._handlers: list[ConnectionHandler] = []
        self._self_notes: list[tuple[str, bytes]] = []
        self._has_self_notes = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._upkeep = Upkeep(
            identity,
            disk,
            clock,
            network,
            self,
            profile=self._profile,
            peers=self._peers,
            holder=self.authority,
            name_of=self._issued_name,
            metrics=metrics,
        )
        self._declare_metrics(metrics)
        self.keys = KeyDesk(self, self.secrets, entropy, may_rotate=lambda: self.desk is not None)
        self.secrets.on_change = self._secrets_changed

    def _declare_metrics(self, metrics: Metrics) -> None:
        self._refused = metrics.counter(
            "frys_channel_refused_total", "Connections refused before or at authentication, by reason.", ("reason",)
        )
        self._joins = metrics.counter("frys_channel_joins_total", "Join connections served, by outcome.", ("outcome",))
        metrics.gauge(
            "frys_channel_connections", "Authenticated connections kept.", source=lambda: float(len(self._peers.all()))
        )
        metrics.gauge(
            "frys_channel_half_open", "Connections not yet authenticated.", source=lambda: float(self._half_open.total)
        )
        metrics.gauge(
            "frys_channel_notes_dropped",
            "Notes dropped since the start because a queue was full or nobody was there.",
            source=lambda: float(self._peers.notes_dropped),
        )

    @property
    def desk(self) -> IssuerDesk | None:
        """The issuer's desk, None on a node that is not the issuer or does not hold the authority's key."""
        return self.authority.desk

    # Rpc

    @property
    def self_id(self) -> NodeId:
        """This node."""
        return self.identity.node_id

    def serve(self, method: Method[Req, Rep], handler: Callable[[NodeId, Req], Awaitable[Rep]]) -> None:
        """Answer a method; see `Rpc.serve`."""
        self._dispatch.serve(Served(method, handler))

    def unserve(self, method: Method[Any, Any]) -> None:
        """Stop answering a method; see `Rpc.unserve`."""
        self._dispatch.methods.pop(method.name, None)

    def on_note(self, name: str, handler: NoteHandler) -> None:
        """Receive notes of that name; the handler must not block."""
        self._dispatch.on_note(name, handler)

    def off_note(self, name: str) -> None:
        """Receive notes of that name no more."""
        self._dispatch.notes.pop(name, None)

    async def call(self, node: NodeId, method: Method[Req, Rep], request: Req) -> Rep:
        """Call a node; see `Rpc.call`."""
        if node == self.identity.node_id:
            return await self._call_self(method, request)
        connection = self._peers.find(node)
        if connection is None:
            connection = await self._peers.connect(node)
        return method.reply.decode(await connection.call(method.name, method.request.encode(request)))

    async def _call_self(self, method: Method[Req, Rep], request: Req) -> Rep:
        served = self._dispatch.methods.get(method.name)
        if served is None:
            raise NotFound(f"this node does not serve '{method.name}'")
        reply: Rep = await self._dispatch.invoke(self.self_id, served, request)
        return reply

    def note(self, node: NodeId, name: str, payload: bytes) -> bool:
        """Send a one-way note; see `Rpc.note`. Behind a dial under way it waits its turn and counts as sent."""
        if node != self.identity.node_id:
            return self._peers.note(node, name, payload)
        if len(self._self_notes) >= SELF_NOTES_MAX:
            self._peers.notes_dropped += 1
            return False
        self._self_notes.append((name, payload))
        self._has_self_notes.set()
        return True

    def is_connected(self, node: NodeId) -> bool:
        """True while an authenticated connection to the node stands."""
        return self._peers.find(node) is not None

    # What membership and node.py use

    def learn(self, node: NodeId, address: Address, name: str = "") -> None:
        """Remember where a node can be dialled, and its name if that is known."""
        self._peers.learn(node, address)
        if name:
            self._names[node] = name

    def address(self, node: NodeId) -> Address | None:
        """Where a node can be dialled, if that is known."""
        return self._peers.address(node)

    async def connect(self, node: NodeId) -> None:
        """Make sure that a connection stands; raises as `call` does."""
        if node != self.self_id:
            await self._peers.connect(node)

    async def connect_address(self, address: Address) -> NodeId:
        """Dial an address whose node is not known yet, and return who answered.

        Raises:
            NodeUnreachable: Nobody answers.
            SecurityError: Somebody does who is no member of this cluster.
        """
        connection = await self._dial_any(address, None)
        return connection.node

    async def greet(self, node: NodeId, transport: Stream, address: Address) -> None:
        """Make a connection to a node over one that has just been opened; raises as `connect_address` does.

        Where it broke before anybody spoke, the `HandshakeRefused` has the reason ``eof`` or ``reset``.
        """
        await self._greet_dialled(transport, address, node)

    def lifeline(self, node: NodeId, boot: int) -> Connection | None:
        """The kept connection to this boot of the node, to nudge it."""
        connection = self._peers.find(node)
        return connection if connection is not None and connection.hello.boot == boot else None

    def on_connection(self, handler: ConnectionHandler) -> None:
        """Hear of connections that stand or are gone; the handler must not block."""
        self._handlers.append(handler)

    def boot_of(self, node: NodeId) -> BootId | None:
        """The boot id that a connected node told, inside TLS."""
        connection = self._peers.find(node)
        return None if connection is None else BootId(connection.hello.boot)

    def issuer_address(self) -> Address | None:
        """Where joins are answered, if this node knows."""
        if self.issuer == self.self_id:
            return self.advertise
        known = self._peers.address(self.issuer)
        if known is None and self.issuer == self.identity.issuer and self.identity.seeds:
            return self.identity.seeds[0]
        return known

    def revoke(self, node: NodeId) -> None:
        """Expel a node: its connection ends and it is refused from now on, durably."""
        self.secrets.revoke(node)

    # Component

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and dial until cancelled. After a crash the listener is still open, so that it can be run again."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = self._peers.nursery = nursery
                nursery.start_soon(self._accept)
                nursery.start_soon(self._deliver_self_notes)
                nursery.start_soon(self._upkeep.run)
                if self.desk is not None:
                    self.desk.renew_join_token()
                nursery.start_soon(self._renew_join_token)
                task_status.started()
        except BaseException as error:
            if not isinstance(error, Exception):
                with trio.CancelScope(shield=True):
                    await self._listener.aclose()
            raise
        finally:
            self._nursery = self._peers.nursery = None

    async def drain(self) -> None:
        """Take no new connections or calls, and wait until those under way are done."""
        await self._listener.aclose()
        for connection in self._peers.all():
            connection.drain(SHUTDOWN)
        for connection in self._peers.all():
            await connection.idle.wait()

    async def _accept(self) -> None:
        assert self._nursery is not None
        while True:
            try:
                stream, source = await self._listener.accept()
            except trio.ClosedResourceError:
                return
            scope = trio.CancelScope()
            reason = None if self._allow.permits(source.host) else "address"
            if reason is None and not self._half_open.enter(source.host, scope):
                reason = "half_open_network"
            if reason is None:
                self._nursery.start_soon(self._greet, stream, source, scope)
            else:
                self._refuse(reason, source, REFUSED_TEXT[reason])
                await stream.aclose()

    async def _greet(self, transport: Stream, source: Address, scope: trio.CancelScope) -> None:
        """Take one accepted connection to its greeting, its join, or its refusal, unless it has to make room."""
        greeted: Greeted | None = None
        try:
            with scope, trio.fail_after(HANDSHAKE_S):
                stream = TlsStream(transport, self._profile.server, server=True)
                await stream.handshake()
                if stream.notes.alpn == ALPN_JOIN:
                    await self._serve_join(stream, source)
                else:
                    greeted = await self._greeter.greet(stream, dialled=False)
        except HandshakeRefused as error:
            self._refuse(error.reason, source, error.message)
        except trio.TooSlowError:
            self._refuse("timeout", source, f"no handshake within {HANDSHAKE_S:.0f} s")
        except (FrysError, trio.BrokenResourceError) as error:
            self._refuse("protocol" if isinstance(error, WireError) else "reset", source, str(error))
        except Exception:
            # Nothing that an outsider sends may end the listener.
            log.exception("channel.greeting_failed", extra={"source": str(source)})
            self._refuse("internal", source, "an unforeseen error; see the log")
        finally:
            self._half_open.leave(scope)
            if scope.cancelled_caught:
                self._refuse("half_open", source, REFUSED_TEXT["half_open"])
            if greeted is None:
                with trio.CancelScope(shield=True):
                    await transport.aclose()
        if greeted is not None:
            await self._adopt(greeted)

    async def _serve_join(self, stream: TlsStream, source: Address) -> None:
        outcome = await self._join.serve(stream, source)
        self._joins.inc(outcome)
        log.info("channel.join_served", extra={"outcome": outcome, "source": str(source)})
        await stream.aclose()

    def _refuse(self, reason: str, other: Address, text: str) -> None:
        self._refused.inc(reason)
        skipped = self._log_limit.take(reason, trio.current_time())
        if skipped is not None:
            log.warning(
                "channel.refused", extra={"reason": reason, "address": str(other), "error": text, "skipped": skipped}
            )

    async def _dial(self, node: NodeId, address: Address) -> None:
        await self._dial_any(address, node)

    async def _dial_any(self, address: Address, expected: NodeId | None) -> Connection:
        transport: Stream | None = None
        with trio.move_on_after(HANDSHAKE_S):
            transport = await self._network.connect(address)
        if transport is None:
            raise NodeUnreachable(f"{address} did not answer within {HANDSHAKE_S:.0f} s")
        return await self._greet_dialled(transport, address, expected)

    async def _greet_dialled(self, transport: Stream, address: Address, expected: NodeId | None) -> Connection:
        try:
            greeted = await self._greeter.dial(transport, expected)
        except HandshakeRefused as error:
            self._refuse(error.reason, address, error.message)
            self._upkeep.refused(error.reason)
            raise
        except (NotTls, ClassicalOnly) as error:
            self._refuse("not_tls" if isinstance(error, NotTls) else "group", address, error.message)
            raise
        return await self._adopt(greeted)

    async def _adopt(self, greeted: Greeted) -> Connection:
        """Start a greeted connection, unless a better one to the same node stands."""
        connection = Connection(
            greeted.stream,
            greeted.mux,
            peer=greeted.peer,
            hello=greeted.hello,
            dialled=greeted.dialled,
            dispatch=self._dispatch,
            on_credentials=self._take_credentials,
        )
        if self._nursery is None or not self._peers.admit(connection):
            connection.is_open = False
            with trio.CancelScope(shield=True):
                await greeted.stream.aclose()
            return connection
        self._upkeep.met(greeted.peer)
        self._names[connection.node] = greeted.hello.node_name
        try:
            self._peers.learn(connection.node, Address.parse(greeted.hello.address))
        except InvalidAddress:
            log.warning("channel.bad_address", extra={"peer": connection.node, "address": greeted.hello.address})
        connection.mux.credentials(self.secrets.offer())
        connection.flush()
        self._nursery.start_soon(self._run_connection, connection, greeted)
        return connection

    async def _run_connection(self, connection: Connection, greeted: Greeted) -> None:
        self._tell(connection, None)
        try:
            await connection.run(greeted.early)
        except Exception:
            log.exception("channel.connection_failed", extra={"peer": connection.node})
        finally:
            if self._peers.remove(connection):
                self._tell(connection, connection.ending)

    def _tell(self, connection: Connection, ending: Ending | None) -> None:
        for handler in self._handlers:
            try:
                handler(connection.node, connection.hello.boot, ending)
            except Exception:
                log.exception("channel.connection_handler_failed", extra={"peer": connection.node})

    def _take_credentials(self, connection: Connection, offered: Credentials) -> None:
        try:
            self.secrets.take(offered, from_issuer=connection.node == self.issuer)
        except StorageError as error:
            log.error("channel.credentials_not_stored", extra={"error": error.message})

    def _secrets_changed(self) -> None:
        self._spread_credentials()
        if self._nursery is None:
            self.secrets.keyring.promote()
        elif not self.secrets.keyring.is_settled:
            self._nursery.start_soon(self._promote_key)

    async def _promote_key(self) -> None:
        await trio.sleep(KEY_SETTLE_S)
        self.secrets.keyring.promote()

    def _spread_credentials(self) -> None:
        """Tell every member of a change, and part with those who were expelled."""
        for connection in self._peers.all():
            if connection.node in self.secrets.revoked:
                self._refused.inc("revoked")
                connection.close()
            elif connection.is_usable:
                connection.mux.credentials(self.secrets.offer())
                connection.flush()

    def _join_peers(self) -> tuple[PeerAddress, ...]:
        """This node and members it knows the address of, for a newcomer's first gossip."""
        me = PeerAddress(self.self_id, self.identity.node_name, str(self.advertise))
        others = [
            PeerAddress(node, self._names.get(node, ""), str(address))
            for node, address in self._peers.known()
            if node not in self.secrets.revoked
        ]
        return (me, *others[: PEERS_MAX - 1])

    async def _renew_join_token(self) -> None:
        while True:
            wait_s, desk = ROLE_LOOK_S, self.desk
            try:
                wait_s = max(wait_s, desk.renew_join_token()) if desk is not None else wait_s
            except FrysError as error:
                log.error("channel.join_token_not_renewed", extra={"error": error.message})
            await trio.sleep(wait_s)

    def _issued_name(self, node: NodeId) -> str:
        """The name that the issuer gave a node; its hello's if the registry lost it."""
        known = self.desk.names.find(node) if self.desk is not None else None
        return known or self._names.get(node) or "node"

    async def _deliver_self_notes(self) -> None:
        """Notes to this node take the same turn as those from outside: never inside the sender's call."""
        while True:
            await self._has_self_notes.wait()
            self._has_self_notes = trio.Event()
            notes, self._self_notes = self._self_notes, []
            for name, body in notes:
                self._dispatch.note(self.self_id, name, body)
