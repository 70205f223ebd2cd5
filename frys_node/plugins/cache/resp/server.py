"""The listener of the Redis protocol: accepts, limits, times out, drains. Each client is `RespConnection`'s affair."""

from __future__ import annotations

from collections.abc import Callable

import trio

from frys_node.base.types import Address
from frys_node.observe.metrics import Metrics
from frys_node.plugins.cache.config import RespLimits
from frys_node.plugins.cache.resp import encode
from frys_node.plugins.cache.resp.connection import RespConnection
from frys_node.plugins.cache.resp.executor import Executor
from frys_node.plugins.cache.resp.hub import Hub
from frys_node.plugins.cache.resp.outbox import Outbox
from frys_node.plugins.cache.resp.session import Session, Surroundings
from frys_node.transport.stream import SocketListener

TICK_S = 1.0
"""Deadlines are kept to within this, or a tenth of the shortest limit if that is less."""

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

    async def serve(self, listener: SocketListener) -> None:
        """Accept until the listener is closed."""
        while True:
            try:
                stream, peer = await listener.accept()
            except trio.ClosedResourceError:
                return
            if len(self.connections) >= self.limits.clients:
                self.cut("clients")
                try:
                    stream.send_nowait(encode.error(TOO_MANY))
                except trio.BrokenResourceError:
                    self.broken.inc()
                stream.close()
                continue
            self.accepted += 1
            session = Session(self.accepted, self._around, must_authenticate=self._must_authenticate)
            connection = RespConnection(self, stream, peer, session)
            self.connections[connection] = None
            self._wake_reaper.set()
            self.nursery.start_soon(self._run, connection)

    async def _run(self, connection: RespConnection) -> None:
        try:
            await connection.run()
        finally:
            del self.connections[connection]
            self._ended.set()

    async def reap(self) -> None:
        """Cut connections that are past their deadline; sleeps while there are none."""
        while True:
            if not self.connections:
                self._wake_reaper = trio.Event()
                await self._wake_reaper.wait()
            limits = self.limits
            await trio.sleep(min(TICK_S, min(limits.idle_s, limits.request_s, limits.write_s) / 10))
            now_s = trio.current_time()
            for connection in [c for c in self.connections if not c.session.is_current() and c.session.subscriptions]:
                self.cut("token")
                connection.scope.cancel()
            for connection in [c for c in self.connections if not c.is_busy and c.deadline_s <= now_s]:
                self.cut("time")
                connection.scope.cancel()

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
