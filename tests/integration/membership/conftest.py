"""Membership components on the shipped fakes: a fake network, an RPC that passes bytes, a seal that only labels."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio

from frys_node.base.errors import NodeUnreachable
from frys_node.base.types import Address, NodeId
from frys_node.kernel.bus import Bus
from frys_node.kernel.services.members import MemberChanged, Status
from frys_node.observe.metrics import Metrics
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.network import FakeNetwork
from frys_node.testing.voices import Ed25519Voices
from membership.config import MembershipConfig, for_profile
from membership.driver import MembershipDriver, Ports
from membership.effects import Peer
from membership.member import make_attributes

PORT = 7946


class LabelSealer:
    """Seals nothing and says who sent: the real one is tested with `secure`. Without a key it refuses."""

    def __init__(self, node: NodeId, boot: int) -> None:
        self.node, self.boot, self.has_key = node, boot, True

    def seal(self, payload: bytes, *, is_short: bool = False) -> bytes | None:
        return msgspec.msgpack.encode((self.node, self.boot, payload, is_short)) if self.has_key else None

    def open(self, packet: bytes, now_s: float) -> tuple[NodeId, int, bytes, bool] | None:
        try:
            sender, boot, payload, is_short = msgspec.msgpack.decode(packet, type=tuple[str, int, bytes, bool])
        except msgspec.MsgspecError:
            return None
        return (NodeId(sender), boot, payload, is_short) if self.has_key else None


class Exchange:
    """An RPC between nodes of one test: real codecs, addresses as the channel learnt them, partitions obeyed."""

    def __init__(self, network: FakeNetwork) -> None:
        self.network = network
        self.endpoints: dict[str, Endpoint] = {}


class Endpoint:
    """One node's end of the exchange."""

    def __init__(self, exchange: Exchange, node: NodeId, host: str) -> None:
        self.exchange, self.self_id, self.host = exchange, node, host
        self.addresses: dict[NodeId, Address] = {}
        self.handlers: dict[str, tuple[Any, Callable[[NodeId, Any], Awaitable[Any]]]] = {}
        self.is_up = True
        exchange.endpoints[host] = self

    def learn(self, node: NodeId, address: Address) -> None:
        self.addresses[node] = address

    def serve(self, method: Any, handler: Any) -> None:
        self.handlers[method.name] = (method, handler)

    async def call(self, node: NodeId, method: Any, request: Any) -> Any:
        await trio.sleep(0.001)
        address = self.addresses.get(node)
        other = self.exchange.endpoints.get(address.host) if address else None
        if other is None or not other.is_up or other.self_id != node or method.name not in other.handlers:
            raise NodeUnreachable(f"no connection to {node}")
        if self.exchange.network.is_cut(self.host, other.host):
            await trio.sleep_forever()
        served, handler = other.handlers[method.name]
        reply = await handler(self.self_id, served.request.decode(method.request.encode(request)))
        await trio.sleep(0.001)
        return method.reply.decode(served.reply.encode(reply))

    def on_note(self, name: str, handler: Any) -> None:
        raise AssertionError("membership sends no notes")

    def note(self, node: NodeId, name: str, payload: bytes) -> bool:
        raise AssertionError("membership sends no notes")

    def is_connected(self, node: NodeId) -> bool:
        return node in self.addresses


class RunningNode:
    """One component and everything around it."""

    def __init__(self, host: str, node: NodeId, driver: MembershipDriver, sealer: LabelSealer, bus: Bus) -> None:
        self.host, self.node, self.driver, self.sealer, self.bus = host, node, driver, sealer, bus
        self.metrics = Metrics()
        self.events: list[MemberChanged] = []
        self.scope = trio.CancelScope()

    def status(self, node: NodeId) -> Status | None:
        view = self.driver.get(node)
        return None if view is None else view.status

    def alive(self) -> list[str]:
        return [view.name for view in self.driver.all() if view.status is Status.ALIVE]


class Cluster:
    """Starts, kills and restarts nodes in one nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.network = FakeNetwork(seed=1)
        self.exchange = Exchange(self.network)
        self.clock = FakeClock()
        self.disks: dict[str, FakeDisk] = {}
        self.boots: dict[str, int] = {}
        self.nodes: dict[str, RunningNode] = {}
        self.config = for_profile("lan")

    async def start(
        self, name: str, *, host: str = "", config: MembershipConfig | None = None, peers: list[Peer] | None = None
    ) -> RunningNode:
        host = host or f"10.0.0.{name[1:]}"
        node = NodeId(f"{name:0>32}")
        self.boots[name] = self.boots.get(name, 0) + 1
        boot = self.boots[name] << 32
        disk = self.disks.setdefault(name, FakeDisk())
        endpoint = Endpoint(self.exchange, node, host)
        datagram = await self.network.host(host).bind(Address(host, PORT))
        bus, sealer = Bus(), LabelSealer(node, boot)
        metrics = Metrics()
        driver = MembershipDriver(
            node=node,
            boot=boot,
            attributes=make_attributes(name, Address(host, PORT)),
            config=config or self.config,
            ports=Ports(
                self.clock,
                FakeEntropy(f"{name}/{boot}"),
                datagram,
                self.network.host(host),
                disk,
                InlineExecutor(),
            ),
            sealer=sealer,
            rpc=endpoint,
            bus=bus,
            metrics=metrics,
            learn=endpoint.learn,
            voices=Ed25519Voices(node),
            peers=peers or (),
        )
        running = self.nodes[name] = RunningNode(host, node, driver, sealer, bus)
        running.metrics = metrics
        bus.on(MemberChanged, running.events.append)

        async def run(task_status: trio.TaskStatus[None]) -> None:
            try:
                with running.scope:
                    await driver.run(task_status=task_status)
            except* trio.ClosedResourceError:
                # A kill takes the host off the network in the same breath: either end may come first.
                assert running.scope.cancel_called

        await self.nursery.start(run)
        return running

    async def start_all(self, count: int) -> list[RunningNode]:
        first = await self.start("n1")
        rest = [await self.start(f"n{i}", peers=[self.peer("n1")]) for i in range(2, count + 1)]
        await self.settle(count)
        return [first, *rest]

    def peer(self, name: str) -> Peer:
        running = self.nodes[name]
        return Peer(running.node, Address(running.host, PORT))

    async def settle(self, count: int) -> None:
        """Wait until every running node sees `count` alive members."""
        await self.until(
            lambda: all(len(n.driver.all()) >= count and len(n.alive()) == count for n in self.nodes.values())
        )

    async def until(self, condition: Callable[[], bool], seconds: float = 120.0) -> float:
        """Wait for a condition; returns the virtual seconds it took."""
        start_s = trio.current_time()
        with trio.fail_after(seconds):
            while True:
                if condition():
                    return trio.current_time() - start_s
                await trio.sleep(0.02)

    def kill(self, name: str) -> RunningNode:
        running = self.nodes.pop(name)
        running.scope.cancel()
        self.network.kill(running.host)
        endpoint = self.exchange.endpoints.get(running.host)
        if endpoint is not None and endpoint.self_id == running.node:
            endpoint.is_up = False
        return running


@pytest.fixture
async def cluster(nursery: trio.Nursery) -> Cluster:
    """A cluster; ask for `autojump_clock` beside it, or the test runs in real time."""
    return Cluster(nursery)
