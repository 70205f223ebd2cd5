"""The HTTP plugin: listeners on TCP and on the admin socket, one route table for all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

import frys_node
from frys_node.base.access import Kind
from frys_node.base.errors import NotReady, ReloadRefused
from frys_node.base.types import Address
from frys_node.kernel.context import PluginContext
from frys_node.kernel.plugin import PluginManifest
from frys_node.kernel.services.access import ACCESS
from frys_node.kernel.services.http import HTTP
from frys_node.kernel.services.node import NODE
from frys_node.kernel.services.topology import TOPOLOGY, adopted
from frys_node.observe.log import get_logger
from frys_node.plugins.network.access import kind_of
from frys_node.plugins.network.binding import PortBook, listen_or_move
from frys_node.plugins.network.config import NetworkPluginConfig
from frys_node.plugins.network.errors import NoRoute, TokenNeeded
from frys_node.plugins.network.health import HealthRoutes
from frys_node.plugins.network.router import Match, Router
from frys_node.plugins.network.server import HttpServer
from frys_node.transport.network import SystemNetwork
from frys_node.transport.stream import SocketListener

if TYPE_CHECKING:
    from frys_node.kernel.tls import TlsFront
    from frys_node.plugins.network.gossip import GossipRoutes
    from frys_node.plugins.network.placement import PlacementRoutes
    from frys_node.plugins.network.routes import NodeRoutes

ADMIN_SOCKET = "admin.sock"
"""Name of the admin socket in the data directory; mode 0600."""

RESTART_ONLY = ("http", "insecure", "tls", "tls_certificate", "tls_key", "tls_names", "tls_classical")

DEFAULT_HTTP = NetworkPluginConfig().http

log = get_logger(__name__)


class HttpFront(Router):
    """The `Http` service: the route table, and where it listens."""

    def __init__(self) -> None:
        super().__init__()
        self._address = ""
        self.is_whole: Callable[[], bool] = lambda: True
        """False while routes may be missing that belong to the table: the node starts, stops or mends a plugin."""

    def find(self, method: str, path: str) -> Match:
        """Return the route of a path; see `Router.find`.

        Raises:
            NotReady: Nothing is served there now, and this node is not ready: a client must not take it for an answer.
        """
        try:
            return super().find(method, path)
        except NoRoute as error:
            if self.is_whole():
                raise
            raise NotReady(
                f"nothing is served at {path[:256]} now: this node is not ready", hint="retry; /readyz says why"
            ) from error

    @property
    def address(self) -> str:
        """``host:port`` of the listener, empty before it listens."""
        return self._address

    def listens(self, address: str) -> None:
        """Take note of the bound address."""
        self._address = address


class NetworkPlugin:
    """HTTP for this node."""

    def __init__(self) -> None:
        self._context: PluginContext | None = None
        self._config = NetworkPluginConfig()
        self._front = HttpFront()
        self._server: HttpServer | None = None
        self._listeners: list[SocketListener] = []
        self._public: SocketListener | None = None
        self._tls: TlsFront | None = None
        self._socket_path: Path | None = None

    def metadata(self) -> PluginManifest:
        """Say what this plugin is."""
        return PluginManifest(
            name="network",
            version=frys_node.__version__,
            provides=(HTTP.name,),
            requires=(NODE.name,),
            config=NetworkPluginConfig,
        )

    async def init(self, context: PluginContext) -> None:
        """Build the route table.

        Raises:
            TokenNeeded: HTTP would be reachable from outside and there is no token to check. Nothing is bound.
        """
        await trio.lowlevel.checkpoint()
        self._context = context
        self._config = context.config or NetworkPluginConfig()
        access = context.services.find(ACCESS)
        host = Address.parse(self._config.http).host
        if kind_of(host, insecure=self._config.insecure) is Kind.TOKEN and access is None:
            raise TokenNeeded(
                f"HTTP on {self._config.http} can be reached from outside and this node has no tokens to check",
                hint="bind it to 127.0.0.1, or set [plugins.network] insecure = true to serve everybody",
            )
        self._server = HttpServer(
            router=self._front,
            limits=self._config.limits,
            access=access,
            clock=context.clock,
            metrics=context.metrics,
            epoch=lambda: adopted(context.services.find(TOPOLOGY)),
            names={name.lower().rstrip(".") for name in (context.service(NODE).name, *self._config.tls_names)},
        )
        if self._config.is_tls:
            # OpenSSL is imported by nodes whose HTTP speaks TLS, before they answer anybody; others have it later.
            from frys_node.kernel.tls import TlsFront, TlsSettings

            config = self._config
            self._tls = TlsFront(
                context,
                TlsSettings(
                    config.tls_certificate,
                    config.tls_key,
                    config.tls_names,
                    config.tls_classical,
                    "[plugins.network] tls_certificate",
                ),
                listener="network",
            )
            await self._tls.load()
        HealthRoutes(context).register(self._front)
        context.provide(HTTP, self._front)

    async def on_load(self) -> None:
        """Bind the admin socket, then HTTP, and serve both: health at once, the rest as soon as it is imported."""
        assert self._context is not None
        assert self._server is not None
        context, nursery = self._context, self._context.nursery
        network = SystemNetwork()
        admin = await self._listen_admin(network)
        wanted = _literal(Address.parse(self._config.http))
        listener, _ = await listen_or_move(
            "http",
            wanted,
            network.listen,
            is_chosen="http" in context.chosen or self._config.http != DEFAULT_HTTP,
            book=PortBook(context.disk),
        )
        self._listeners.append(listener)
        self._public = listener
        self._front.listens(str(listener.address))
        kind = kind_of(wanted.host, insecure=self._config.insecure)
        nursery.start_soon(self._server.serve, admin, Kind.UNIX, nursery)
        secure = None
        if self._tls is not None:
            secure = self._tls.secure
            nursery.start_soon(self._tls.run)
        nursery.start_soon(self._server.serve, listener, kind, nursery, secure)
        nursery.start_soon(self._server.reap)
        node = context.service(NODE)
        self._front.is_whole = node.is_ready
        node.add_status("http", self._status)
        node.add_door("http", self._close_door)
        log.info("network.http_listening", address=self._front.address, access=kind.value, tls=self._config.is_tls)
        for routes in await context.executor.run(_other_routes):
            routes(context).register(self._front)

    async def _listen_admin(self, network: SystemNetwork) -> SocketListener:
        """Bind the admin socket through the directory's descriptor: a socket's path is limited to 107 bytes."""
        assert self._context is not None
        path = self._context.data_dir / ADMIN_SOCKET
        directory = os.open(self._context.data_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener = await network.listen_unix(Path(f"/proc/self/fd/{directory}") / ADMIN_SOCKET)
        finally:
            os.close(directory)
        self._listeners.append(listener)
        self._socket_path = path
        return listener

    def _status(self) -> dict[str, Any]:
        address, socket_path = self._front.address, str(self._socket_path)
        return {"address": address, "admin_socket": socket_path, "tls": self._config.is_tls}

    def handle_message(self, message: object) -> None:
        """No topic is subscribed: a message here is a mistake in the manifest."""
        raise TypeError(f"unexpected message {type(message).__name__}")

    async def on_config_change(self, old: NetworkPluginConfig, new: NetworkPluginConfig) -> None:
        """Take new limits; open connections keep those that they started with."""
        await trio.lowlevel.checkpoint()
        fixed = [name for name in RESTART_ONLY if getattr(old, name) != getattr(new, name)]
        if fixed:
            raise ReloadRefused(f"[plugins.network] {', '.join(fixed)} change only with a restart")
        assert self._server is not None
        self._server.limits = new.limits
        self._config = new

    async def _close_door(self) -> None:
        """Stop accepting by TCP and let requests finish; the admin socket answers until the end."""
        assert self._server is not None
        if self._public is not None:
            await self._public.aclose()
        await self._server.drain([kind for kind in Kind if kind is not Kind.UNIX])

    async def on_unload(self) -> None:
        """Stop accepting, let requests in flight finish."""
        await self._close_listeners()
        if self._server is not None:
            await self._server.drain()

    async def cleanup(self) -> None:
        """Close what is open and remove the socket file."""
        if self._context is not None:
            self._context.service(NODE).remove_status("http")
            self._context.service(NODE).remove_door("http")
        await self._close_listeners()

    async def _close_listeners(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            await listener.aclose()
        path, self._socket_path = self._socket_path, None
        if path is not None:
            path.unlink(missing_ok=True)


def _other_routes() -> tuple[type[NodeRoutes], type[PlacementRoutes], type[GossipRoutes]]:
    """Import what `/livez` need not wait for."""
    from frys_node.plugins.network.gossip import GossipRoutes
    from frys_node.plugins.network.placement import PlacementRoutes
    from frys_node.plugins.network.routes import NodeRoutes

    return NodeRoutes, PlacementRoutes, GossipRoutes


def _literal(address: Address) -> Address:
    """Return the address to bind: ``localhost`` is meant as 127.0.0.1, whatever a resolver says."""
    return Address("127.0.0.1", address.port) if address.host.lower() == "localhost" else address
