"""The Redis listener of a node, put together: bound, served, drained and closed as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

import frys_node
from frys_node.base.types import Address
from frys_node.kernel.context import PluginContext
from frys_node.kernel.services.access import ACCESS
from frys_node.kernel.services.gossip import GOSSIP
from frys_node.kernel.services.members import MEMBERS
from frys_node.kernel.services.node import NODE
from frys_node.kernel.services.rpc import RPC
from frys_node.kernel.services.topology import TOPOLOGY
from frys_node.observe.log import get_logger
from frys_node.plugins.cache.cache import RespTokenNeeded
from frys_node.plugins.cache.changer import Changer
from frys_node.plugins.cache.config import CacheConfig
from frys_node.plugins.cache.driver import CacheService
from frys_node.plugins.cache.keyspace import Keyspace
from frys_node.plugins.cache.resp import about
from frys_node.plugins.cache.resp.cluster import ClusterView, is_loopback
from frys_node.plugins.cache.resp.executor import Executor
from frys_node.plugins.cache.resp.hub import Hub
from frys_node.plugins.cache.resp.server import RespServer
from frys_node.plugins.cache.resp.session import Limits, Session, Surroundings
from frys_node.plugins.cache.resp.table import COMMANDS
from frys_node.transport.network import SystemNetwork
from frys_node.transport.stream import SocketListener

if TYPE_CHECKING:
    from frys_node.kernel.tls import TlsFront

log = get_logger(__name__)


class RespFront:
    """Serves Redis clients from `open` to `close`."""

    def __init__(self, context: PluginContext, service: CacheService, changer: Changer, keyspace: Keyspace) -> None:
        self._context = context
        self._service = service
        self._changer = changer
        self._listener: SocketListener | None = None
        self._server: RespServer | None = None
        self._hub: Hub | None = None
        self._keyspace = keyspace
        self._view: ClusterView | None = None
        self._limits = Limits(0, 0, 0, 0)

    @property
    def address(self) -> Address:
        """Where clients connect."""
        assert self._listener is not None
        return self._listener.address

    async def open(self) -> None:
        """Bind and serve.

        Raises:
            RespTokenNeeded: See there.
            AddressInUse: The port is taken.
        """
        context, config = self._context, self._service.config
        wanted = Address.parse(config.resp)
        if wanted.host.lower() == "localhost":
            wanted = Address("127.0.0.1", wanted.port)
        access = context.services.find(ACCESS)
        must_authenticate = not is_loopback(wanted.host) and not config.resp_insecure
        if must_authenticate and access is None:
            raise RespTokenNeeded(
                f"Redis clients on {config.resp} could come from outside and this node has no tokens to check",
                hint="bind it to 127.0.0.1, or set [plugins.cache] resp_insecure = true to serve everybody",
            )
        self.take(config)
        tls = await self._tls_front(config)
        listener = self._listener = await SystemNetwork().listen(wanted)
        rpc, nursery = context.service(RPC), context.nursery
        view = self._view = ClusterView(
            bound=listener.address,
            members=context.service(MEMBERS),
            topology=context.service(TOPOLOGY),
            gossip=context.services.find(GOSSIP),
        )
        hub = self._hub = Hub(rpc=rpc, peers=view.peers, metrics=context.metrics)
        around = Surroundings(
            commands=COMMANDS,
            limits=lambda: self._limits,
            now_unix_ms=self._service.now_unix_ms,
            authenticate=lambda token: None if access is None else access.authenticate(token.decode(errors="replace")),
            is_valid=lambda principal: access is None or access.is_valid(principal),
            redirect=view.redirect,
            settings=lambda: about.settings(self._service.config, listener.address.port),
            describe=self._describe,
        )
        server = self._server = RespServer(
            limits=lambda: self._service.config.resp_limits,
            around=around,
            hub=hub,
            executor=Executor(
                service=self._service,
                changer=self._changer,
                keyspace=self._keyspace,
                hub=hub,
                view=view,
                texts=self._text,
            ),
            must_authenticate=must_authenticate,
            nursery=nursery,
            metrics=context.metrics,
        )
        if tls is not None:
            nursery.start_soon(tls.run)
        nursery.start_soon(server.serve, listener, None if tls is None else tls.secure)
        nursery.start_soon(server.reap)
        nursery.start_soon(server.outbox.run)
        node = context.service(NODE)
        node.add_door("resp", self.drain)
        facts = {"address": str(listener.address), "authenticates": must_authenticate, "tls": tls is not None}
        node.add_status("resp", lambda: facts)
        log.info("cache.resp_listening", address=str(listener.address), authenticates=must_authenticate)

    async def _tls_front(self, config: CacheConfig) -> TlsFront | None:
        """Return what takes clients through TLS, None where they speak in the clear.

        Raises:
            ConfigError: A given file cannot be used.
        """
        if not (config.resp_tls or config.resp_tls_certificate):
            return None
        from frys_node.kernel.tls import TlsFront, TlsSettings

        settings = TlsSettings(
            config.resp_tls_certificate,
            config.resp_tls_key,
            (),
            config.resp_tls_classical,
            "[plugins.cache] resp_tls_certificate",
        )
        front = TlsFront(self._context, settings, listener="cache_resp")
        await front.load()
        return front

    def take(self, config: CacheConfig) -> None:
        """Take new settings."""
        limits = config.resp_limits
        self._limits = Limits(config.key_bytes_max, config.value_bytes_max, limits.arguments, limits.subscriptions)

    async def drain(self) -> None:
        """Accept nobody any more, and let those at work finish."""
        if self._view is not None:
            self._view.close()
        if self._listener is not None:
            await self._listener.aclose()
        if self._server is not None:
            await self._server.drain()

    async def close(self) -> None:
        """Drain, and take no more calls of other nodes."""
        await self.drain()
        if self._hub is not None:
            self._hub.close()
        if self._listener is not None:
            node = self._context.service(NODE)
            node.remove_door("resp")
            node.remove_status("resp")

    def _describe(self, session: Session) -> str:
        found = self._server.find(session) if self._server is not None else None
        if found is None:
            return about.client_line(session, "?:0", 0)
        connection, peer = found
        return about.client_line(session, str(peer), int(trio.current_time() - connection.began_s))

    def _text(self, verb: str, session: Session, args: Sequence[bytes]) -> str:
        assert self._server is not None
        if verb == "client_list":
            sessions = [connection.session for connection in self._server.connections]
            return "".join(f"{self._describe(each)}\n" for each in sessions if about.is_wanted(each, args))
        return about.info(about.shown_to(session, self._facts()), args)

    def _facts(self) -> about.Facts:
        assert self._server is not None
        assert self._hub is not None
        memory, server, hub = self._service.memory, self._server, self._hub
        hits, misses = self._service.lookups()
        return about.Facts(
            version=frys_node.__version__,
            node=self._context.node,
            port=self.address.port,
            uptime_s=int(self._context.service(NODE).uptime_s),
            clients=len(server.connections),
            accepted=server.accepted,
            commands=server.commands,
            hits=hits,
            misses=misses,
            evicted=memory.evicted,
            expired=memory.expired,
            used_bytes=memory.total_bytes,
            databases=about.databases(memory.census.counts, self._service.now_unix_ms()),
            channels=len(hub.channels),
            patterns=len(hub.patterns),
            config=self._service.config,
        )
