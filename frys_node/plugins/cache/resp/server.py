"""The listener of the Redis protocol: accepts, limits, times out, drains. Each client is `RespConnection`'s affair."""

from __future__ import annotations

from collections.abc import Callable

import trio

from frys_node.base.pace import Pace, network_of
from frys_node.base.places import Places
from frys_node.base.types import Address
from frys_node.observe.log import get_logger
from frys_node.observe.metrics import Metrics
from frys_node.plugins.cache.config import RespLimits
from frys_node.plugins.cache.resp import encode
from frys_node.plugins.cache.resp.connection import RespConnection, Secure
from frys_node.plugins.cache.resp.executor import Executor
from frys_node.plugins.cache.resp.hub import Hub
from frys_node.plugins.cache.resp.outbox import Outbox
from frys_node.plugins.cache.resp.session import Session, Surroundings
from frys_node.transport.stream import SocketListener

TICK_S = 1.0
"""Deadlines are kept to within this, or a tenth of the shortest limit if that is less."""

ATTACK_LOG_S = 60.0
"""At most one line about HTTP on this port in this time, as in Redis."""

ATTACK = (
    "Possible SECURITY ATTACK detected. It looks like somebody is sending HTTP, such as POST or Host:, to the port of "
    "Redis clients. This is likely due to an attacker attempting to use Cross Protocol Scripting. Connection aborted."
)
"""Redis' words for it, so that what watches for them finds them."""

log = get_logger(__name__)

TOO_MANY = "ERR max number of clients reached"


class RespServer:
    """Serves Redis clients on one listener."""

    def __init__(
        self,
        *,
        limits: Callable[[], RespLimits],
        around: Surroundings,
        hub: Hub,
        executor: Executor,
        must_authenticate: bool,
        nursery: trio.Nursery,
        metrics: Metrics,
    ) -> None:
        self.hub = hub
        self.executor = executor
        self.nursery = nursery
        self.is_draining = False
        self.commands = 0
        """Carried out since the start."""
        self.accepted = 0
        """Connections since the start."""
        self._limits = limits
        self._around = around
        self._must_authenticate = must_authenticate
        self.connections: dict[RespConnection, None] = {}
        self.outbox = Outbox()
        self._places: Places[RespConnection] = Places()
        self._pace = Pace()
        self._attack_s = -ATTACK_LOG_S
        self._ended = trio.Event()
        self._wake_reaper = trio.Event()
        self._commands = metrics.counter("frys_cache_resp_commands_total", "Commands of Redis clients.")
        self._seconds = metrics.histogram("frys_cache_resp_pipeline_seconds", "From its arrival to its answers.")
        self._ends = metrics.counter(
            "frys_cache_resp_connections_cut_total", "Redis clients that were turned away or cut off.", ("reason",)
        )
        self.broken = metrics.counter("frys_cache_resp_connections_broken_total", "Connections that the client broke.")
        metrics.gauge(
            "frys_cache_resp_connections", "Open Redis connections.", source=lambda: float(len(self.connections))
        )

    @property
    def limits(self) -> RespLimits:
        """What one client may take, as set now."""
        return self._limits()

    async def serve(self, listener: SocketListener, secure: Secure | None = None) -> None:
        """Accept until the listener is closed; `secure` takes a client through its handshake first."""
        while True:
            try:
                stream, peer = await listener.accept()
            except trio.ClosedResourceError:
                return
            network = network_of(peer.host)
            if secure is not None and self._must_authenticate and not self._may_shake_hands(network):
                self.cut("handshakes")
                stream.close()
                continue
            if self._must_authenticate:
                self._make_room(network)
            is_crowd = self._places.held_by(network) >= self.limits.clients_per_address
            if is_crowd or len(self._places) >= self.limits.clients:
                self.cut("address" if is_crowd else "clients")
                try:
                    if secure is None:
                        stream.send_nowait(encode.error(TOO_MANY))
                except trio.BrokenResourceError:
                    self.broken.inc()
                stream.close()
                continue
            self.accepted += 1
            session = Session(self.accepted, self._around, must_authenticate=self._must_authenticate)
            connection = RespConnection(self, stream, peer, session, secure)
            self.connections[connection] = None
            self._places.enter(connection, network, is_stranger=self._must_authenticate)
            self._wake_reaper.set()
            self.nursery.start_soon(self._run, connection)

    def _make_room(self, network: str) -> None:
        """Turn a client out that has not shown a token, if there is no place left for another one."""
        victim = self._places.make_room(network, self.limits.clients, self.limits.clients_per_address)
        if victim is not None:
            self.cut("strangers")
            victim.scope.cancel()

    def _may_shake_hands(self, network: str) -> bool:
        limits, name = self.limits, f"handshakes:{network}"
        rate_per_s, burst = limits.handshakes_per_s, limits.handshakes_burst
        return not self._pace.wait_s(name, 1, rate_per_s=rate_per_s, burst=burst, now_s=trio.current_time())

    def showed_token(self, connection: RespConnection) -> None:
        """Note that a client is known: it keeps its place."""
        self._places.known(connection)

    async def _run(self, connection: RespConnection) -> None:
        try:
            await connection.run()
        finally:
            del self.connections[connection]
            self._places.leave(connection)
            self._ended.set()

    async def reap(self) -> None:
        """Cut connections that are past their deadline; sleeps while there are none."""
        while True:
            if not self.connections:
                self._wake_reaper = trio.Event()
                await self._wake_reaper.wait()
            limits = self.limits
            await trio.sleep(min(TICK_S, min(limits.idle_s, limits.request_s, limits.write_s, limits.auth_s) / 10))
            now_s = trio.current_time()
            self._cut_strangers(now_s)
            for connection in [c for c in self.connections if not c.is_busy and c.deadline_s <= now_s]:
                self.cut("time")
                connection.scope.cancel()

    def _cut_strangers(self, now_s: float) -> None:
        """Cut whoever has not shown a token in time, and subscribers whose token does not stand any more."""
        for connection in list(self.connections):
            session = connection.session
            # A command may have found out before that the token does not stand any more.
            if not (session.is_current() and session.is_known) and session.subscriptions:
                self.cut("token")
                connection.scope.cancel()
            elif session.is_known:
                connection.stranger_since_s = now_s
            elif connection.stranger_since_s + self.limits.auth_s <= now_s:
                self.cut("auth")
                connection.scope.cancel()

    def batch_max(self, session: Session) -> int:
        """Return how many commands of a client are carried out together; what a bucket holds is never exceeded."""
        limits = self.limits
        if not session.is_known:
            return 1
        return min(limits.pipelined, limits.requests_burst) if limits.requests_per_s else limits.pipelined

    def wait_s(self, session: Session, peer: Address, count: int) -> float:
        """Return how long a client has to wait for its next commands; 0 if they were counted."""
        limits, principal = self.limits, session.principal
        rate_per_s, burst = limits.requests_per_s, limits.requests_burst
        if principal is None:
            rate_per_s, burst = limits.strangers_per_s, limits.strangers_burst
        if not rate_per_s:
            return 0.0
        has_token = principal is not None and principal.token_id
        name = principal.name if has_token and principal is not None else f"{principal is None}{network_of(peer.host)}"
        return self._pace.wait_s(name, count, rate_per_s=rate_per_s, burst=burst, now_s=trio.current_time())

    def attacked(self, peer: Address) -> None:
        """Note that somebody spoke HTTP."""
        self.cut("http")
        if trio.current_time() - self._attack_s >= ATTACK_LOG_S:
            self._attack_s = trio.current_time()
            log.warning("cache.resp_http_refused", peer=str(peer), text=ATTACK)

    async def drain(self) -> None:
        """Close idle connections and let those at work finish what they were sent; returns when all are gone."""
        self.is_draining = True
        for connection in list(self.connections):
            if not connection.is_busy:
                connection.scope.cancel()
        while self.connections:
            self._ended = trio.Event()
            await self._ended.wait()

    def took(self, seconds: float) -> None:
        """Count the time of one pipeline."""
        self._seconds.observe(seconds)

    def count(self, commands: int) -> None:
        """Count commands carried out."""
        self.commands += commands
        self._commands.inc(by=commands)

    def count_error(self) -> None:
        """Count a client that broke the protocol."""
        self.cut("protocol")

    def cut(self, reason: str) -> None:
        """Count a connection that this node ends."""
        self._ends.inc(reason)

    def find(self, session: Session) -> tuple[RespConnection, Address] | None:
        """Return the connection of a session and its other end."""
        return next(((c, c.peer) for c in self.connections if c.session is session), None)
