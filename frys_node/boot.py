"""From a command to a live node: arrival, kernel, the HTTP front, then everything else.

The HTTP plugin comes first, so that `/livez` and `/readyz` answer while the rest is still being imported and started.
SIGTERM and SIGINT stop a node (it keeps its place in the cluster; only a leave gives it up), SIGHUP reads the settings
again.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from frys_node.arrival import Arrival, Launch, arrive
from frys_node.base.errors import FrysError
from frys_node.base.ports import Clock
from frys_node.base.types import NodeId
from frys_node.config import apply
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.services.access import ACCESS
from frys_node.observe import log as observe_log
from frys_node.transport import memory
from frys_node.transport.clock import SystemClock
from frys_node.transport.entropy import SystemEntropy
from frys_node.transport.executor import ThreadExecutor
from frys_node.transport.network import SystemNetwork

if TYPE_CHECKING:
    from frys_node.channel.credentials import MemberSecrets
    from frys_node.node import Composition
    from frys_node.secure.identity import Identity

FRONT = ("network",)
"""Plugins that start before there is a topology record, so that health can be asked from the beginning."""

log = observe_log.get_logger(__name__)


async def run_node(launch: Launch) -> None:
    """Be a node until a signal, a leave or an essential failure ends it.

    Raises:
        FrysError: The node could not start or cannot go on; the message names the fix.
    """
    memory.share_one_heap()
    clock, entropy, network, executor = SystemClock(), SystemEntropy(), SystemNetwork(), ThreadExecutor()
    config = launch.config
    level, form = config.system.log_level, config.system.log_format
    # The arrival logs too, before anybody knows what the node will be called.
    observe_log.configure(level=level, form=form, fields={})
    arrival = await arrive(launch, network, entropy, clock)
    names = {"node": arrival.stored.node_name, "cluster": arrival.stored.cluster_name}
    observe_log.configure(level=level, form=form, fields=names)
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
    with signals() as received:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey_signals, received, kernel, launch, nursery.cancel_scope)
            async with kernel.running():
                await _start(launch, arrival, kernel, network)
                memory.settle()
                await kernel.wait_stop()
            nursery.cancel_scope.cancel()


async def _start(launch: Launch, arrival: Arrival, kernel: Kernel, network: SystemNetwork) -> None:
    """Open the front, then import the rest in a thread, so that the front answers meanwhile, and start it."""
    config = launch.config
    secrets = await kernel.executor.run(_load_secrets, arrival)
    kernel.services.provide(ACCESS, secrets.admin)
    front = [spec for spec in config.specs if spec.name in FRONT]
    await kernel.load_plugins(front, config.plugins, config.modules, chosen=config.chosen())
    composition, identity = await kernel.executor.run(_load_rest, arrival, kernel.clock)
    await composition(launch, arrival, identity, kernel, network, secrets).start()


def _load_secrets(arrival: Arrival) -> MemberSecrets:
    from frys_node.channel.credentials import MemberSecrets

    return MemberSecrets(arrival.disk)


def _load_rest(arrival: Arrival, clock: Clock) -> tuple[type[Composition], Identity]:
    from frys_node.node import Composition

    return Composition, arrival.identity(clock)


@contextmanager
def signals() -> Iterator[Any]:
    """Receive SIGTERM, SIGINT and SIGHUP; only a main thread can."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        yield received


async def _obey_signals(received: Any, kernel: Kernel, launch: Launch, everything: trio.CancelScope) -> None:
    """The first SIGTERM or SIGINT stops the node in order, the second at once; SIGHUP reads the settings again."""
    is_stopping = False
    current = launch.config
    async for number in received:
        if number == signal.SIGHUP:
            try:
                fresh = await kernel.executor.run(launch.reload)
                changed = await apply(kernel, current, fresh)
            except FrysError as error:
                log.error("boot.reload_refused", code=error.code, error=error.message, hint=error.hint)
                continue
            current = fresh
            log.info("boot.reloaded", changed=",".join(change.path for change in changed))
            continue
        if is_stopping:
            everything.cancel()
        kernel.request_stop(signal.Signals(number).name)
        is_stopping = True
