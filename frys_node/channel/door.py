"""The cluster's TCP port: who knocks is let in, joined or refused.

The accept loop never waits for a handshake: each connection is greeted in its own task, within `HANDSHAKE_S` and the
limits of `gatekeeper`. Refusals are counted by reason in `frys_channel_refused_total` and never end the listener.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from frys_node.base.errors import FrysError, WireError
from frys_node.base.log_limit import LogLimit
from frys_node.base.ports import Stream, StreamListener
from frys_node.base.types import Address
from frys_node.channel.gatekeeper import AcceptRate, AllowList, HalfOpen
from frys_node.channel.greeting import HANDSHAKE_S, Greeted, Greeter
from frys_node.channel.join import JoinServer
from frys_node.observe.metrics import Metrics
from frys_node.secure.errors import HandshakeRefused
from frys_node.secure.knock import KNOCK_BYTES, is_knock
from frys_node.secure.tls import ALPN_JOIN, TlsProfile, TlsStream

FIRST_READ_BYTES = 16_384
"""The first read of a connection: a knock, or the beginning of a handshake."""

log = logging.getLogger(__name__)

REFUSED_TEXT = {
    "address": "the address is in none of the networks of [cluster] allow",
    "rate_network": "too many new connections a second of this network",
    "rate": "too many new connections a second in all",
    "half_open": "too many connections are not authenticated yet, and this was the oldest",
    "half_open_network": "too many connections of this network that are not authenticated yet",
}
STRANGER = (
    "no frys node of this version speaks so: see who connects, and close the port by [cluster] allow or a firewall"
)
NEW_CERTIFICATE = "let that node join again: move its data directory away, and give it a new token"
FIXES = {
    "address": "add its network to [cluster] allow on this node if it is a member",
    "alpn": STRANGER,
    "bytes_cap": STRANGER,
    "return": "it has been away for too long, or left: join it anew from an empty directory",
    "self_signed": "it shows a certificate of its own making: it has to join with a token first",
    "chain": (
        "it belongs to another cluster (give each its own addresses), or was away while the authority was replaced:"
        " it comes home by itself, or its frys-node status says why not"
    ),
    "cipher": "upgrade that node: only TLS_AES_256_GCM_SHA384 is spoken",
    "cluster": "a data directory belongs to one cluster: start each node on its own",
    "eku": NEW_CERTIFICATE,
    "eof": "nothing, if it happens now and then: a port scan, or a node that was stopped",
    "expelled": "it cannot come back: move its data directory away, and join as a new node with a new token",
    "expired": "let it join again with a new token, or set its clock",
    "forged": (
        "that member brings statements that the authority never made: if it was not away while the authority was"
        " replaced, expel it: frys-node node revoke"
    ),
    "group": "upgrade that node: only X25519MLKEM768 is spoken",
    "half_open": "close the port to strangers by [cluster] allow or a firewall",
    "half_open_network": "close the port to that network by [cluster] allow or a firewall",
    "handshake": STRANGER,
    "internal": "report it, with the lines of the log before",
    "join_repeated": STRANGER,
    "knock": "a stranger, or a member that was away for long: frys-node token create opens the issuer's door to it",
    "left": "it has left for good: let it join as a new node; if nobody started it, frys-node node revoke its id",
    "no_certificate": STRANGER,
    "not_tls": "something that is no frys node connects to the cluster port: give it the HTTP port",
    "peer_refused": "the log of the other node says why it refused this one",
    "protocol": "upgrade the older node; if both are new, report it",
    "rate": "close the port to strangers by [cluster] allow or a firewall",
    "rate_network": "close the port to that network by [cluster] allow or a firewall",
    "reset": "the log of the other node says why, if it refused this one; else the network between them",
    "revoked": "it was expelled: move its data directory away, and join as a new node with a new token",
    "san": NEW_CERTIFICATE,
    "self": "this node's own address is among its seeds or advertised by another: mend `advertise` there",
    "timeout": "a port scan, or a link or machine that is overloaded",
    "tls_version": "upgrade that node: only TLS 1.3 is spoken",
    "version": "upgrade the older node",
    "wrong_node": "another node has that address now: mend `advertise` on whichever of them is wrong",
}
"""What to do about a refusal, by its reason."""


class Refusals:
    """Counts refusals by reason, and logs them without letting a flood fill the log."""

    def __init__(self, metrics: Metrics) -> None:
        self._count = metrics.counter(
            "frys_channel_refused_total", "Connections refused before or at authentication, by reason.", ("reason",)
        )
        self._limit = LogLimit()

    def refuse(self, reason: str, other: Address, text: str) -> None:
        """Count and log one."""
        self._count.inc(reason)
        skipped = self._limit.take(reason, trio.current_time())
        if skipped is not None:
            fix = FIXES.get(reason, "")
            fields = {"reason": reason, "address": str(other), "error": text, "fix": fix, "skipped": skipped}
            log.warning("channel.refused", extra=fields)

    def count(self, reason: str) -> None:
        """Count one that is logged elsewhere."""
        self._count.inc(reason)

    def by_reason(self) -> dict[str, int]:
        """How many there were since the start."""
        return {labels[0]: int(value) for labels, value in sorted(self._count.values.items())}


class Door:
    """Accepts connections of one node."""

    def __init__(
        self,
        listener: StreamListener,
        profile: TlsProfile,
        greeter: Greeter,
        join: JoinServer,
        refusals: Refusals,
        metrics: Metrics,
        *,
        allow: AllowList,
        needs_knock: bool,
        hears: Callable[[bytes], bool],
        may_join: Callable[[], bool],
        admit: Callable[[Greeted], Awaitable[object]],
        is_member: Callable[[str], bool],
    ) -> None:
        """`hears` judges a knock; with `needs_knock` nobody is greeted without, but newcomers while they `may_join`."""
        self._needs_knock = needs_knock
        self._is_member = is_member
        self._hears = hears
        self._may_join = may_join
        self._listener = listener
        self._profile = profile
        self._greeter = greeter
        self._join = join
        self._refuse = refusals.refuse
        self._allow = allow
        self._admit = admit
        self._half_open = HalfOpen()
        self._turns = trio.CapacityLimiter(1)
        self._joins = metrics.counter("frys_channel_joins_total", "Join connections served, by outcome.", ("outcome",))
        metrics.gauge(
            "frys_channel_half_open", "Connections not yet authenticated.", source=lambda: float(self._half_open.total)
        )

    async def accept(self, nursery: trio.Nursery) -> None:
        """Accept until the listener is closed; each connection is greeted in the nursery."""
        rate = AcceptRate(trio.current_time(), self._is_member)
        while True:
            try:
                stream, source = await self._listener.accept()
            except trio.ClosedResourceError:
                return
            scope = trio.CancelScope()
            reason = None if self._allow.permits(source.host) else "address"
            if reason is None:
                reason = rate.refusal(source.host, trio.current_time())
            if reason is None and not self._half_open.enter(source.host, scope):
                reason = "half_open_network"
            if reason is None:
                nursery.start_soon(self._greet, stream, source, scope)
            else:
                self._refuse(reason, source, REFUSED_TEXT[reason])
                await stream.aclose()

    async def _greet(self, transport: Stream, source: Address, scope: trio.CancelScope) -> None:
        """Take one accepted connection to its greeting, its join, or its refusal, unless it has to make room."""
        greeted: Greeted | None = None
        try:
            with scope, trio.fail_after(HANDSHAKE_S):
                first = await self._hear_knock(transport)
                stream = TlsStream(transport, self._profile.server, server=True, early=first, turns=self._turns)
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
            await self._admit(greeted._replace(host=source.host))

    async def _hear_knock(self, transport: Stream) -> bytes:
        """Read the first bytes and return what there is of them behind a knock.

        Raises:
            HandshakeRefused: Reason ``knock``: a knock is needed and there was none, or not a member's. Nothing was
                answered, and nothing else was computed.
        """
        data = await transport.receive_some(FIRST_READ_BYTES)
        if data and is_knock(data[0]):
            while 0 < len(data) < KNOCK_BYTES:
                more = await transport.receive_some(FIRST_READ_BYTES)
                if not more:
                    break
                data += more
            is_heard, rest = self._hears(data[:KNOCK_BYTES]), data[KNOCK_BYTES:]
        else:
            is_heard, rest = False, data
        if not data:
            raise HandshakeRefused("eof", "the connection ended before the handshake")
        if self._needs_knock and not is_heard and not self._may_join():
            raise HandshakeRefused("knock", "no member knocked, and nobody can join here now")
        return rest

    async def _serve_join(self, stream: TlsStream, source: Address) -> None:
        outcome = await self._join.serve(stream, source)
        self._joins.inc(outcome)
        log.info("channel.join_served", extra={"outcome": outcome, "source": str(source)})
        await stream.aclose()
