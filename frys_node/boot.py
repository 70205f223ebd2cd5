"""From a command to a live node: arrival, kernel, the HTTP front, then everything else.

The HTTP plugin comes first, so that `/livez` and `/readyz` answer while the rest is still being imported and started.
SIGTERM and SIGINT stop a node (it keeps its place in the cluster; only a leave gives it up), SIGHUP reads the settings
again.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from frys_node.arrival import Arrival, Launch, arrive
from frys_node.base.errors import FrysError, NotReady
from frys_node.base.ports import Clock
from frys_node.base.types import NodeId
from frys_node.config import NodeConfig, apply
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.services.access import ACCESS
from frys_node.observe import log as observe_log
from frys_node.secure.admin import AdminTokens
from frys_node.secure.api_tokens import ApiAccess, ApiTokens
from frys_node.transport import memory
from frys_node.transport.clock import SystemClock
from frys_node.transport.entropy import SystemEntropy
from frys_node.transport.executor import ThreadExecutor, favour_the_loop
from frys_node.transport.network import SystemNetwork

if TYPE_CHECKING:
    from frys_node.node import Composition
    from frys_node.secure.identity import Identity
    from frys_node.trust.credentials import MemberSecrets

FRONT = ("network",)
"""Plugins that start before there is a topology record, so that health can be asked from the beginning."""

log = observe_log.get_logger(__name__)


class _Stopper:
    """Stops a process at any point of its way to being a node."""

    def __init__(self) -> None:
        self.reason = ""
        """Why the process stops; empty while it does not."""
        self.kernel: Kernel | None = None
        """What runs; None before."""
        self._scope: trio.CancelScope | None = None

    def stop(self, reason: str) -> None:
        """Give up what is being begun; a node that runs stops in order."""
        self.reason = reason
        if self.kernel is not None:
            self.kernel.request_stop(reason)
        if self._scope is not None:
            self._scope.cancel()

    def watch(self, kernel: Kernel) -> None:
        """Stop this kernel from now on."""
        self.kernel = kernel
        if self.reason:
            kernel.request_stop(self.reason)

    def beginning(self) -> trio.CancelScope:
        """Return the scope of a part that a stop may cut short."""
        self._scope = trio.CancelScope()
        if self.reason:
            self._scope.cancel()
        return self._scope


async def run_node(launch: Launch) -> None:
    """Be a node until a signal, a leave or an essential failure ends it.

    Raises:
        FrysError: The node could not start or cannot go on; the message names the fix.
    """
    memory.share_one_heap()
    favour_the_loop()
    # The arrival logs too, before anybody knows what the node will be called.
    _write_log(launch.config)
    stopper = _Stopper()
    with signals() as received:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey_signals, received, stopper, launch, nursery.cancel_scope)
            await _live(launch, stopper)
            nursery.cancel_scope.cancel()
    if stopper.kernel is None and stopper.reason == "SIGINT":
        raise KeyboardInterrupt  # somebody gave up waiting: what comes after a `start` or `join` must not follow


def _write_log(config: NodeConfig, **fields: str) -> None:
    observe_log.configure(level=config.system.log_level, form=config.system.log_format, fields=fields)


async def _live(launch: Launch, stopper: _Stopper) -> None:
    """Arrive, start, and wait for the end."""
    clock, entropy, network, executor = SystemClock(), SystemEntropy(), SystemNetwork(), ThreadExecutor()
    arrival: Arrival | None = None
    with stopper.beginning():
        arrival = await arrive(launch, network, entropy, clock)
    if arrival is None:
        return
    if arrival.is_local:
        launch = launch._replace(config=launch.config.on_loopback())
    config = launch.config
    _write_log(config, node=arrival.stored.node_name, cluster=arrival.stored.cluster_name)
    kernel = Kernel(
        node=NodeId(arrival.stored.node_id),
        name=arrival.stored.node_name,
        boot=arrival.boot,
        data_dir=arrival.data_dir.resolve(),
        clock=clock,
        entropy=entropy,
        disk=arrival.disk,
        executor=executor,
        grace_s=config.system.grace_s,
    )
    stopper.watch(kernel)
    async with kernel.running():
        with stopper.beginning():
            await _start_unless_stopped(launch, arrival, kernel, network)
            memory.settle()
        await kernel.wait_stop()


async def _start_unless_stopped(launch: Launch, arrival: Arrival, kernel: Kernel, network: SystemNetwork) -> None:
    try:
        await _start(launch, arrival, kernel, network)
    except NotReady:
        # A start that meets its own stop is no failure.
        if not kernel.control.stop_reason:
            raise


async def _start(launch: Launch, arrival: Arrival, kernel: Kernel, network: SystemNetwork) -> None:
    """Open the front, then import the rest in a thread, so that the front answers meanwhile, and start it."""
    config = launch.config
    # Tokens are hashes, and two small files: the front needs no library of cryptography to know its callers.
    admin, tokens = AdminTokens.load(arrival.disk), ApiTokens(arrival.disk)
    kernel.services.provide(ACCESS, ApiAccess(admin, tokens, kernel.clock))
    front = [spec for spec in config.specs if spec.name in FRONT]
    await kernel.load_plugins(front, config.plugins, config.modules, chosen=config.chosen())
    rest = await kernel.executor.run(_load_rest, arrival, kernel.clock, admin, tokens)
    await rest.composition(launch, arrival, rest.identity, kernel, network, rest.secrets).start()


class _Rest(NamedTuple):
    """What is imported and read while the front answers."""

    composition: type[Composition]
    identity: Identity
    secrets: MemberSecrets


def _load_rest(arrival: Arrival, clock: Clock, admin: AdminTokens, tokens: ApiTokens) -> _Rest:
    identity = arrival.identity(clock)
    from frys_node.node import Composition
    from frys_node.trust.credentials import MemberSecrets

    return _Rest(Composition, identity, MemberSecrets(arrival.disk, admin, tokens))


@contextmanager
def signals() -> Iterator[Any]:
    """Receive SIGTERM, SIGINT and SIGHUP; only a main thread can."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        yield received


async def _obey_signals(received: Any, stopper: _Stopper, launch: Launch, everything: trio.CancelScope) -> None:
    """The first SIGTERM or SIGINT stops the node in order, the second at once; SIGHUP reads the settings again."""
    current = launch.config
    async for number in received:
        if number == signal.SIGHUP:
            current = await _reload(stopper.kernel, launch, current)
            continue
        if stopper.reason:
            everything.cancel()
        stopper.stop(signal.Signals(number).name)


async def _reload(kernel: Kernel | None, launch: Launch, current: NodeConfig) -> NodeConfig:
    """Read the settings again and put them into force; returns those in force."""
    if kernel is None:
        return current
    try:
        fresh = await kernel.executor.run(launch.reload)
        changed = await apply(kernel, current, fresh)
    except FrysError as error:
        log.error("boot.reload_refused", code=error.code, error=error.message, hint=error.hint)
        return current
    log.info("boot.reloaded", changed=",".join(change.path for change in changed))
    return fresh
