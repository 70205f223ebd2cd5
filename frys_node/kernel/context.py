"""What a plugin is handed: ports, identity, config, bus and the services of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import trio

from frys_node.base.errors import PluginError
from frys_node.base.ports import Clock, Disk, Entropy, Executor
from frys_node.base.types import NodeId
from frys_node.kernel.bus import Bus
from frys_node.kernel.services import ServiceKey
from frys_node.observe.metrics import Metrics

T = TypeVar("T")


class Services:
    """The services of one node, by key."""

    __slots__ = ("_services",)

    def __init__(self) -> None:
        self._services: dict[str, Any] = {}

    def provide(self, key: ServiceKey[T], service: T) -> None:
        """Offer a service.

        Raises:
            PluginError: Somebody else provides it. The first one stands.
        """
        if key.name in self._services:
            raise PluginError(f"service '{key.name}' is provided twice")
        self._services[key.name] = service

    def withdraw(self, key: ServiceKey[T]) -> None:
        """Stop offering a service."""
        self._services.pop(key.name, None)

    def get(self, key: ServiceKey[T]) -> T:
        """Return a service.

        Raises:
            PluginError: Nobody provides it. Nothing was changed.
        """
        try:
            service: T = self._services[key.name]
        except KeyError:
            raise PluginError(
                f"service '{key.name}' is not provided", hint="declare it in the manifest's `requires`"
            ) from None
        return service

    def find(self, key: ServiceKey[T]) -> T | None:
        """Return a service, or None if nobody provides it (yet)."""
        return self._services.get(key.name)

    def names(self) -> list[str]:
        """Names of everything provided."""
        return sorted(self._services)

    def scope(self) -> ServiceScope:
        """Return a view that remembers what was provided through it."""
        return ServiceScope(self._services)


class ServiceScope(Services):
    """The same services, seen by one plugin: what it provides is withdrawn when it goes."""

    __slots__ = ("provided",)

    def __init__(self, services: dict[str, Any]) -> None:
        self._services = services
        self.provided: dict[str, Any] = {}

    def provide(self, key: ServiceKey[T], service: T) -> None:
        """Offer a service; see `Services.provide`."""
        super().provide(key, service)
        self.provided[key.name] = service

    def withdraw_all(self) -> None:
        """Withdraw everything provided through this scope."""
        for name in self.provided:
            self._services.pop(name, None)
        self.provided.clear()


class PluginContext:
    """Everything that a plugin may touch."""

    def __init__(
        self,
        *,
        node: NodeId,
        name: str,
        boot: int,
        data_dir: Path,
        clock: Clock,
        entropy: Entropy,
        disk: Disk,
        executor: Executor,
        bus: Bus,
        services: Services,
        metrics: Metrics,
        config: Any,
        nursery: trio.Nursery,
        chosen: frozenset[str] = frozenset(),
    ) -> None:
        self.node = node
        self.name = name
        self.boot = boot
        self.data_dir = data_dir
        """Real path of the node's data directory (for SQLite); `disk` is rooted there too."""
        self.clock = clock
        self.entropy = entropy
        self.disk = disk
        self.executor = executor
        self.bus = bus
        self.services = services
        self.metrics = metrics
        self.config = config
        self.nursery = nursery
        self.chosen = chosen
        """Names of the plugin's settings that the operator set: a chosen port does not move."""

    def service(self, key: ServiceKey[T]) -> T:
        """Return a service of another component."""
        return self.services.get(key)

    def provide(self, key: ServiceKey[T], service: T) -> None:
        """Offer a service to others."""
        self.services.provide(key, service)
