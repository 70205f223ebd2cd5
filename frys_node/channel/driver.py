"""The channel: the component that owns the cluster's TCP port and carries calls and notes between nodes.

`door` accepts, `peers` keeps one connection to each node, `rekey` replaces it now and then, `key_rotation` and `keys`
keep the gossip keyring, `upkeep` the certificates. What is told here goes to every member at once: keys, and who was
expelled.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import trio

from frys_node.base.errors import FrysError, InvalidAddress, NotFound
from frys_node.base.ports import Clock, Disk, Entropy, Network, Stream, StreamListener
from frys_node.base.types import Address, BootId, NodeId
from frys_node.channel.audience import Audience, ConnectionHandler
from frys_node.channel.connection import Connection
from frys_node.channel.departed import DepartedNodes
from frys_node.channel.dialler import Dialler
from frys_node.channel.dispatch import Dispatch, NoteHandler, Served
from frys_node.channel.door import Door, Refusals
from frys_node.channel.exchange import Exchange
from frys_node.channel.gatekeeper import AllowList
from frys_node.channel.gauges import declare_gauges
from frys_node.channel.greeting import Greeted, Greeter
from frys_node.channel.join import JoinServer
from frys_node.channel.messages import SHUTDOWN
from frys_node.channel.peers import Peers
from frys_node.channel.protection import ProtectionDesk
from frys_node.channel.rekey import AFTER_BYTES, AFTER_S, Rekeying
from frys_node.channel.self_notes import SelfNotes
from frys_node.channel.upkeep import Upkeep
from frys_node.kernel.services.rpc import Method
from frys_node.observe.metrics import Metrics
from frys_node.secure.certificates import life_state
from frys_node.secure.errors import Expelled
from frys_node.secure.identity import Identity
from frys_node.secure.knock import Knocker
from frys_node.secure.statements import Statements
from frys_node.secure.tls import TlsProfile
from frys_node.trust.authority import AuthorityHolder
from frys_node.trust.credentials import MemberSecrets
from frys_node.trust.expulsion import ExpulsionDesk
from frys_node.trust.issuer import IssuerDesk
from frys_node.trust.join_messages import PEERS_MAX, PeerAddress
from frys_node.trust.key_rotation import Worn
from frys_node.trust.keys import KeyDesk

log = logging.getLogger(__name__)

Req = TypeVar("Req")
Rep = TypeVar("Rep")

ROLE_LOOK_S = 10.0
"""Pause between looks whether this node has become the issuer, whose directory has a token to join with."""


class ChannelSettings(NamedTuple):
    """What an operator may choose."""

    rotate_keys_every_s: float = 86_400.0
    """Age at which the issuer replaces a gossip key; 0: never."""
    rekey_after_bytes: int = AFTER_BYTES
    """Plain bytes after which a connection is replaced; 0: any number."""
    rekey_after_s: float = AFTER_S
    """Age at which a connection is replaced; 0: any."""
    knock: str = "off"
    """``send``: show members a gossip key before the handshake; ``on``: and greet nobody who does not."""


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
        settings: ChannelSettings = ChannelSettings(),  # noqa: B008 (immutable)
    ) -> None:
        self.identity = identity
        self.boot = boot
        self.advertise = listener.address if advertise is None else advertise
        self.secrets = MemberSecrets(disk) if secrets is None else secrets
        self.secrets.statements = Statements(identity)
        self.authority = AuthorityHolder(identity, disk, entropy, clock, issuer=lambda: self.issuer)
        self.issuer = identity.issuer
        """The node that issues certificates; `node.py` keeps it current from the topology record."""
        self._listener = listener
        self._clock = clock
        self._profile = TlsProfile(identity)
        self._roles = roles
        self._knocks = settings.knock
        self._knocker = Knocker(self.secrets.keyring, identity.node_id)
        self._entropy = entropy
        self._dispatch = Dispatch(self.secrets.revoked)
        self._peers = Peers(identity.node_id, entropy.rng("channel.peers"), self._dial, self.secrets.revoked)
        self._names: dict[NodeId, str] = {}
        self.authority.keeps_join_token = settings.knock != "on"
        self.departed = DepartedNodes(self, self.secrets, self.authority, self._peers)
        self._greeter = self._make_greeter()
        self.refusals = Refusals(metrics)
        self._exchange = Exchange(self.secrets, self._peers, self.refusals, issuer=lambda: self.issuer)
        is_out = self.secrets.revoked.__contains__
        self._dialler = Dialler(identity.node_id, network, self._greeter, self.refusals, is_out, self._dial_refused)
        self._door = self._make_door(metrics, allow or AllowList())
        self.rekeying = Rekeying(
            self._peers,
            self._dial,
            entropy.rng("channel.rekey"),
            metrics,
            is_over=lambda held: life_state(held.peer.certificate, clock.unix_ns()) == "expired",
            after_bytes=settings.rekey_after_bytes,
            after_s=settings.rekey_after_s,
        )
        self._audience = Audience(self._peers)
        self._self_notes = SelfNotes(identity.node_id, self._dispatch)
        self._nursery: trio.Nursery | None = None
        self._is_expulsion_told = False
        self.keys = self._make_keys(settings)
        self.expulsions = ExpulsionDesk(
            self, self.keys, is_known=self._is_known, was_entrusted=self.authority.was_entrusted
        )
        self._upkeep = self._make_upkeep(network, disk, metrics)
        self.protection = ProtectionDesk(
            self, identity, clock, self._peers, self.keys, self.rekeying, name_of=self._name_of
        )
        declare_gauges(metrics, self._peers, self.keys, self.secrets)
        self.authority.is_expelled = is_out
        self.secrets.on_change = self._secrets_changed

    def _make_greeter(self) -> Greeter:
        return Greeter(
            self.identity,
            self._profile,
            self._clock,
            boot=self.boot,
            advertise=self.advertise,
            revoked=self.secrets.revoked,
            departed=self.departed,
            roles=lambda: self._roles,
            farewell=self.secrets.farewell,
            knock=self._knock,
        )

    def _make_door(self, metrics: Metrics, allow: AllowList) -> Door:
        join = JoinServer(
            self.identity,
            self.authority,
            issuer_address=self.issuer_address,
            peers=self._join_peers,
            revoked=self.secrets.revoked,
        )
        return Door(
            self._listener,
            self._profile,
            self._greeter,
            join,
            self.refusals,
            metrics,
            allow=allow,
            needs_knock=self._knocks == "on",
            hears=self._knocker.hears,
            may_join=self._may_join,
            admit=self._adopt,
            is_member=self._peers.is_at,
        )

    def _make_keys(self, settings: ChannelSettings) -> KeyDesk:
        return KeyDesk(
            self,
            self.secrets,
            self._entropy,
            self._clock,
            rotate_every_s=settings.rotate_keys_every_s,
            issuer=lambda: self.issuer,
            may_rotate=self._may_rotate,
        )

    def _is_known(self, node: NodeId) -> bool:
        return self.is_connected(node) or (self.desk is not None and self.desk.was_admitted(node))

    def _knock(self, node: NodeId | None) -> bytes:
        return b"" if self._knocks == "off" else self._knocker.knock(node, self._entropy.token_bytes(16))

    def _may_join(self) -> bool:
        """True while somebody could join here who holds no key yet."""
        desk = self.desk
        return desk is not None and any(token.state == "valid" for token in desk.list_tokens())

    def _make_upkeep(self, network: Network, disk: Disk, metrics: Metrics) -> Upkeep:
        return Upkeep(
            self.identity,
            disk,
            self._clock,
            network,
            self,
            profile=self._profile,
            peers=self._peers,
            holder=self.authority,
            expelled=self.secrets.revoked,
            on_trust=self.keys.keeper.changed,
            metrics=metrics,
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

    def guard(self, method: Method[Any, Any], check: Callable[[NodeId], None]) -> None:
        """Have a caller checked before a method is answered, whoever serves it; `check` raises what the caller sees."""
        self._dispatch.guards[method.name] = check

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
        if self._self_notes.put(name, payload):
            return True
        self._peers.notes_dropped += 1
        return False

    def is_connected(self, node: NodeId) -> bool:
        """True while an authenticated connection to the node stands."""
        return self._peers.is_connected(node)

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

    def meet(self, node: NodeId) -> None:
        """Have a connection to the node soon, if one can be made."""
        self._peers.meet(node)

    async def connect_address(self, address: Address) -> NodeId:
        """Dial an address whose node is not known yet, and return who answered.

        Raises:
            NodeUnreachable: Nobody answers.
            SecurityError: Somebody does who is no member of this cluster.
        """
        connection = await self._adopt(await self._dialler.dial(address, None))
        return connection.node

    async def greet(self, node: NodeId, transport: Stream, address: Address) -> None:
        """Make a connection to a node over one that has just been opened; raises as `connect_address` does.

        Where it broke before anybody spoke, the `HandshakeRefused` has the reason ``eof`` or ``reset``.
        """
        await self._adopt(await self._dialler.greet(transport, address, node))

    def lifeline(self, node: NodeId, boot: int) -> Connection | None:
        """The kept connection to this boot of the node, to nudge it."""
        connection = self._peers.find(node)
        return connection if connection is not None and connection.hello.boot == boot else None

    def proven(self, node: NodeId) -> tuple[str, str]:
        """The name in a connected node's certificate, and the host that it came from, or was dialled at."""
        found = self._peers.find(node)
        return ("", "") if found is None else (found.peer.name, found.host)

    def on_connection(self, handler: ConnectionHandler) -> None:
        """Hear of connections that stand or are gone; the handler must not block."""
        self._audience.add(handler)

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

    def revoke(self, node: NodeId) -> bool:
        """Expel a node: its connections end and it is refused from now on, durably. True if the authority signed it.

        Where this node holds the authority's key the gossip keys are rotated, and everybody believes it. Without that
        nobody else does: any member can make itself the issuer, and could shut all others out.
        """
        if self._may_rotate():
            self.keys.expel(node)
            return True
        self.secrets.revoke(node)
        return False

    # Component

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and dial until cancelled. After a crash the listener is still open, so that it can be run again."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = self._peers.nursery = nursery
                nursery.start_soon(self._door.accept, nursery)
                nursery.start_soon(self.keys.keeper.run)
                nursery.start_soon(self.rekeying.run)
                nursery.start_soon(self._self_notes.run)
                nursery.start_soon(self.departed.run)
                nursery.start_soon(self._upkeep.run)
                if self._knocks != "on":
                    # A token that is always valid would open the door to every stranger.
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
        for connection in self._peers.open():
            connection.drain(SHUTDOWN)
        for connection in self._peers.open():
            await connection.idle.wait()

    async def _dial(self, node: NodeId, address: Address) -> None:
        await self._adopt(await self._dialler.dial(address, node))

    async def _adopt(self, greeted: Greeted) -> Connection:
        """Start a greeted connection, unless a better one to the same node stands."""
        connection = Connection(
            greeted.stream,
            greeted.mux,
            peer=greeted.peer,
            hello=greeted.hello,
            session=greeted.session,
            dialled=greeted.dialled,
            host=greeted.host,
            dispatch=self._dispatch,
            on_credentials=self._exchange.take,
        )
        # Between the gate and here the other side's hello was waited for: it may have been expelled since.
        if self._nursery is None or connection.node in self.secrets.revoked or not self._peers.admit(connection):
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
        self._audience.stands(connection)
        try:
            await connection.run(greeted.early)
        except Exception:
            log.exception("channel.connection_failed", extra={"peer": connection.node})
        finally:
            self._audience.ended(connection)

    @property
    def is_expelled(self) -> bool:
        """True once this node knows from the authority itself, or its issuer, that it is a member no more."""
        return self.self_id in self.secrets.revoked

    @property
    def trouble(self) -> str:
        """What keeps this node from being a member that others hear, and the fix; empty if nothing does."""
        if self.is_expelled:
            return f"this node was expelled from its cluster; {Expelled.FIX}"
        sealer = self.keys.keeper.sealer
        if sealer is not None and sealer.is_exhausted:
            return "this node's gossip key is used up and nobody hears it: frys-node keys rotate, or restart it"
        return self._upkeep.trouble

    def _dial_refused(self, reason: str) -> None:
        self._upkeep.refused(reason)

    def _may_rotate(self) -> bool:
        return self.desk is not None

    def watch_counter(self, sealer: Worn) -> None:
        """Ask for new keys before this sealer's counter is used up."""
        self.keys.keeper.sealer = sealer

    def _secrets_changed(self) -> None:
        self._exchange.spread()
        self.keys.keeper.changed()
        self.departed.changed()
        if self.is_expelled and not self._is_expulsion_told:
            self._is_expulsion_told = True
            log.error("channel.expelled", extra={"fix": Expelled.FIX})

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

    def certificate_left_s(self) -> float:
        """Seconds until this node's certificate expires by its wall clock."""
        return self._upkeep.renewal.left_s()

    async def renew_certificate(self) -> float:
        """Get another certificate from the issuer now; returns the seconds that it lasts. Raises as `Renewal.renew`."""
        await self._upkeep.renewal.renew()
        return self.certificate_left_s()

    def _name_of(self, node: NodeId) -> str:
        return self._names.get(node, node)
