"""The listeners' side of HTTP: accepts, limits, times out, drains. Each connection is `Connection`'s affair.

One reaper looks at all deadlines once a tick, so that a request costs no timer of its own.
"""

from __future__ import annotations

import datetime as dt
import math
import os
from collections.abc import Callable, Container

import trio

from frys_node.base.access import Forbidden, Kind, Principal
from frys_node.base.pace import Pace, network_of
from frys_node.base.places import Places
from frys_node.base.ports import Clock
from frys_node.base.types import Address, Epoch
from frys_node.kernel.services.access import Access
from frys_node.observe.log import get_logger
from frys_node.observe.metrics import Metrics
from frys_node.plugins.network.config import HttpLimits
from frys_node.plugins.network.connection import Connection, Secure
from frys_node.plugins.network.errors import TooManyConnections, TooManyRequests
from frys_node.plugins.network.respond import error_response, head_bytes
from frys_node.plugins.network.router import Router
from frys_node.transport.stream import SocketListener, SocketStream

TICK_S = 1.0
"""Deadlines are kept to within this, or a tenth of the shortest limit if that is less."""

UNIX_RESERVE = 16
"""Connections of the admin socket over the limit: an operator gets in when clients fill the listener."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

log = get_logger(__name__)


def http_date(unix_ns: int) -> bytes:
    """Return the Date header line. Written out: strftime follows the locale, and email.utils costs 10 ms to import."""
    at = dt.datetime.fromtimestamp(unix_ns // 1_000_000_000, dt.UTC)
    return f"Date: {_DAYS[at.weekday()]}, {at:%d} {_MONTHS[at.month - 1]} {at:%Y %H:%M:%S} GMT\r\n".encode()


class HttpServer:
    """Serves a router on any number of listeners."""

    def __init__(
        self,
        *,
        router: Router,
        limits: HttpLimits,
        access: Access | None,
        clock: Clock,
        metrics: Metrics,
        epoch: Callable[[], Epoch | None] = lambda: None,
        names: Container[str] = (),
    ) -> None:
        self.router = router
        self.limits = limits
        self.access = access
        self.names = names
        """Names that the node is known by, in small letters."""
        self._draining: set[Kind] = set()
        self._clock = clock
        self._connections: set[Connection] = set()
        self._places: Places[Connection] = Places()
        self._ended = trio.Event()
        self._wake_reaper = trio.Event()
        self._date = b""
        self._date_s = -1.0
        self._epoch = epoch
        self._pace = Pace()
        self._told: Epoch | None = None
        self._told_field = b""
        self._requests = metrics.counter(
            "frys_network_requests_total", "Requests answered, by method and status", ("method", "code")
        )
        self._seconds = metrics.histogram(
            "frys_network_request_duration_seconds", "From a request's last byte to its answer's"
        )
        self._refused = metrics.counter(
            "frys_network_connections_refused_total", "Connections turned away, by reason", ("reason",)
        )
        self._paced = metrics.counter(
            "frys_network_requests_paced_total", "Requests answered 429, by whose limit it was", ("limit",)
        )
        self.broken = metrics.counter("frys_network_connections_broken_total", "Connections that the peer broke")
        metrics.gauge("frys_network_connections", "Open HTTP connections", source=lambda: float(len(self._connections)))

    async def serve(
        self, listener: SocketListener, kind: Kind, nursery: trio.Nursery, secure: Secure | None = None
    ) -> None:
        """Accept until the listener is closed; `secure` takes a connection through its handshake first."""
        while True:
            try:
                stream, peer = await listener.accept()
            except trio.ClosedResourceError:
                return
            network = network_of(peer.host)
            if secure is not None and not self._may_shake_hands(kind, network):
                self._refused.inc("handshakes")
                stream.close()
                continue
            if kind is Kind.TOKEN:
                self._make_room(network)
            refusal = self._refusal(stream, network, kind)
            if refusal is not None:
                self._turn_away(stream, refusal, is_clear=secure is None)
                continue
            connection = Connection(self, stream, peer, kind, secure)
            self._connections.add(connection)
            self._places.enter(connection, network, is_stranger=kind is Kind.TOKEN)
            self._wake_reaper.set()
            nursery.start_soon(self._run, connection)

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._places.leave(connection)
            self._ended.set()

    def _make_room(self, network: str) -> None:
        """Turn a connection out that has not shown a token, if there is none left for another one."""
        victim = self._places.make_room(network, self.limits.connections, self.limits.connections_per_address)
        if victim is not None:
            self._refused.inc("strangers")
            victim.scope.cancel()

    def _may_shake_hands(self, kind: Kind, network: str) -> bool:
        limits = self.limits
        if kind is Kind.LOOPBACK:
            return True
        wait_s = self._pace.wait_s(
            f"handshakes:{network}",
            1,
            rate_per_s=limits.handshakes_per_s,
            burst=limits.handshakes_burst,
            now_s=trio.current_time(),
        )
        return not wait_s

    def showed_token(self, connection: Connection) -> None:
        """Note that a valid token came through a connection: it keeps its place."""
        self._places.known(connection)

    def _refusal(self, stream: SocketStream, network: str, kind: Kind) -> Forbidden | TooManyConnections | None:
        limits = self.limits
        if kind is Kind.UNIX:
            credentials = stream.peer_credentials()
            if credentials is None or credentials.uid not in (0, os.getuid()):
                self._refused.inc("uid")
                return Forbidden("this socket is for the node's own user and root")
            over = len(self._places) >= limits.connections + UNIX_RESERVE
        else:
            over = len(self._places) >= limits.connections
            if not over and self._places.held_by(network) >= limits.connections_per_address:
                self._refused.inc("address")
                return TooManyConnections(f"more than {limits.connections_per_address} connections from {network}")
        if over:
            self._refused.inc("total")
            return TooManyConnections(f"more than {limits.connections} connections")
        return None

    def _turn_away(self, stream: SocketStream, error: Forbidden | TooManyConnections, *, is_clear: bool) -> None:
        """Answer without waiting: the few bytes fit the socket's empty buffer. Where TLS is spoken only hang up."""
        if not is_clear:
            stream.close()
            return
        response = error_response(error)
        head = head_bytes(response, fields=self.fields(), is_last=True, version="1.1", length=len(response.body))
        try:
            stream.socket.send(head + response.body)
        except OSError:
            self.broken.inc()
        stream.close()

    async def reap(self) -> None:
        """Cut connections that are past their deadline; sleeps while there are none."""
        while True:
            if not self._connections:
                self._wake_reaper = trio.Event()
                await self._wake_reaper.wait()
            limits = self.limits
            shortest_s = min(limits.header_s, limits.body_s, limits.idle_s, limits.write_s)
            await trio.sleep(min(TICK_S, shortest_s / 10))
            now_s = trio.current_time()
            for connection in [c for c in self._connections if not c.is_busy and c.deadline_s <= now_s]:
                connection.was_late = True
                connection.scope.cancel()
            self._cut_revoked()

    def _cut_revoked(self) -> None:
        """End streams and idle connections whose token does not stand any more; a request looks at its token itself."""
        access = self.access
        if access is None:
            return
        for connection in [c for c in self._connections if c.is_streaming or c.is_idle]:
            if connection.principal is not None and not access.is_valid(connection.principal):
                connection.scope.cancel()

    def check_pace(self, kind: Kind, principal: Principal | None, peer: Address) -> None:
        """Count one request against its token or address; operators on the admin socket are not limited.

        Raises:
            TooManyRequests: It has to wait; `answer_headers` says how long.
        """
        limits = self.limits
        is_stranger = kind is Kind.TOKEN and (principal is None or not principal.role)
        rate_per_s = limits.strangers_per_s if is_stranger else limits.requests_per_s
        if kind is Kind.UNIX or not rate_per_s:
            return
        limit = "strangers" if is_stranger else "requests"
        has_token = principal is not None and principal.token_id
        name = principal.name if has_token and principal is not None else f"{limit}:{network_of(peer.host)}"
        burst = limits.strangers_burst if is_stranger else limits.requests_burst
        wait_s = self._pace.wait_s(name, 1, rate_per_s=rate_per_s, burst=burst, now_s=trio.current_time())
        if wait_s:
            self._paced.inc(limit)
            error = TooManyRequests(
                f"more than {rate_per_s:g} requests a second", hint="wait as long as Retry-After says"
            )
            error.answer_headers = {"Retry-After": str(math.ceil(wait_s))}
            raise error

    def is_draining(self, kind: Kind) -> bool:
        """True if connections of that kind end after the request that they are at."""
        return kind in self._draining

    async def drain(self, kinds: Container[Kind] = tuple(Kind)) -> None:
        """Close idle connections of these kinds, end streams, let requests finish; returns when all are gone."""
        self._draining |= {kind for kind in Kind if kind in kinds}
        for connection in self._of(kinds):
            if connection.is_streaming or not connection.is_answering:
                connection.scope.cancel()
        while self._of(kinds):
            self._ended = trio.Event()
            await self._ended.wait()

    def _of(self, kinds: Container[Kind]) -> list[Connection]:
        return [connection for connection in self._connections if connection.kind in kinds]

    def count(self, method: str, status: int, elapsed_s: float) -> None:
        """Count one answer; methods that nobody serves share a label."""
        known = method if method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS") else "other"
        self._requests.inc(known, str(status))
        self._seconds.observe(elapsed_s)

    def date(self) -> bytes:
        """Return the Date header line, made once a second."""
        now_s = trio.current_time()
        if now_s - self._date_s >= 1.0 or not self._date:
            self._date_s = now_s
            self._date = http_date(self._clock.unix_ns())
        return self._date

    def fields(self) -> bytes:
        """Return the header lines that every answer has: the date, and the epoch of the topology record in force.

        A client that routes by itself sees by ``X-Frys-Epoch`` that what it knows of the ring is old.
        """
        epoch = self._epoch()
        if epoch is not self._told:
            self._told = epoch
            self._told_field = b"" if epoch is None else f"X-Frys-Epoch: {epoch}\r\n".encode()
        return self.date() + self._told_field
