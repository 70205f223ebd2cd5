"""Membership over real channels, TLS and seals, on a fake network in virtual time: a killed host and a vanished one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from frys_node.base.ports import StreamListener
from frys_node.base.types import Address, BootId, NodeId
from frys_node.channel.bootstrap import create_cluster, join_cluster
from frys_node.channel.driver import Channel
from frys_node.channel.mux import Event, Mux
from frys_node.kernel.bus import Bus
from frys_node.kernel.services.members import Condition, Status
from frys_node.kernel.supervisor import Handle, Supervisor
from frys_node.observe.metrics import Metrics
from frys_node.secure.identity import Identity
from frys_node.secure.packet import PacketSealer
from frys_node.secure.stored import next_boot
from frys_node.secure.voices import NodeVoices
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.network import FakeNetwork
from frys_node.trust.issuer import JOIN_PATH
from membership.config import for_profile
from membership.driver import MembershipDriver, Ports
from membership.effects import Effect, Peer
from membership.member import make_attributes

PORT = 7_946
LAN = for_profile("lan")


class StackNode:
    """One host with its channel and membership."""

    def __init__(self, network: FakeNetwork, name: str) -> None:
        self.network, self.name = network, name
        self.address = Address(f"10.0.0.{name[1:]}", PORT)
        self.host = network.host(self.address.host)
        self.disk, self.entropy = FakeDisk(), FakeEntropy(name)
        self.scope = trio.CancelScope()
        self.channel: Channel
        self.driver: MembershipDriver
        self.handle: Handle

    def _die(self, error: Exception) -> None:
        raise error

    async def run(
        self, identity: Identity, peers: list[Peer], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run both components until cancelled or killed."""
        metrics, clock, boot = Metrics(), FakeClock(), next_boot(self.disk, self.entropy)
        self.channel = channel = Channel(
            identity=identity,
            boot=boot,
            network=self.host,
            listener=await self.host.listen(self.address),
            clock=clock,
            entropy=self.entropy,
            disk=self.disk,
            metrics=metrics,
        )
        sealer = PacketSealer(channel.secrets.keyring, identity.node_id, boot)
        channel.on_connection(lambda node, boot, ending: None if ending else sealer.note_boot(node, BootId(boot)))
        datagram = await self.host.bind(self.address)
        self.driver = MembershipDriver(
            node=identity.node_id,
            boot=boot,
            attributes=make_attributes(self.name, self.address),
            config=LAN,
            ports=Ports(clock, self.entropy, datagram, self.host, self.disk, InlineExecutor()),
            sealer=sealer,
            rpc=channel,
            bus=Bus(),
            metrics=metrics,
            learn=channel.learn,
            voices=NodeVoices(identity, ()),
            introduce=channel.connect_address,
            channel=channel,
            peers=peers,
        )
        for peer in peers:
            channel.learn(peer.node, peer.address)
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(lambda task_status: channel.run(task_status=task_status))
                    supervisor = Supervisor(
                        nursery, bus=Bus(), metrics=metrics, rng=self.entropy.rng("kernel"), on_fatal=self._die
                    )
                    self.handle = await supervisor.start(self.driver)
                    task_status.started()
        except* trio.ClosedResourceError:
            assert self.scope.cancel_called

    def kill(self) -> None:
        """The process is gone in the middle of everything."""
        self.network.kill(self.host.name)
        self.scope.cancel()

    def sees(self, node: NodeId) -> Status | None:
        """What this node says of another one."""
        view = self.driver.get(node)
        return None if view is None else view.status


@asynccontextmanager
async def stack(network: FakeNetwork, count: int) -> AsyncIterator[list[StackNode]]:
    """A cluster that has settled."""
    nodes = [StackNode(network, f"n{number}") for number in range(1, count + 1)]
    first = nodes[0]
    async with trio.open_nursery() as nursery:
        identity = create_cluster(first.disk, first.entropy, FakeClock(), cluster_name="test", node_name="n1")
        await nursery.start(first.run, identity, [])
        for node in nodes[1:]:
            token = first.disk.read(JOIN_PATH)
            assert token is not None
            outcome = await join_cluster(
                node.host,
                node.disk,
                node.entropy,
                FakeClock(),
                seeds=[first.address],
                token=token.decode(),
                name=node.name,
                name_chosen=True,
                expect_cluster="test",
                advertise=node.address,
            )
            await nursery.start(node.run, outcome.identity, [Peer(peer.node, peer.address) for peer in outcome.peers])
        await until(lambda: all(len(n.driver.all()) == count for n in nodes), 30.0)
        await trio.sleep(5.0)
        yield nodes
        nursery.cancel_scope.cancel()


async def until(condition: object, limit_s: float) -> float:
    """Wait for a condition in virtual time; returns how long it took."""
    start_s = trio.current_time()
    with trio.fail_after(limit_s):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 - many sources, none with an event
            await trio.sleep(0.01)
    return trio.current_time() - start_s


async def test_a_killed_host_is_dead_for_all_within_a_second(autojump_clock: trio.testing.MockClock) -> None:
    """Its connections break, its port refuses, two say so: half a second of suspicion, and the news goes round."""
    network = FakeNetwork()
    async with stack(network, 5) as nodes:
        *others, gone = nodes
        node = gone.channel.self_id
        gone.kill()
        took_s = await until(lambda: all(other.sees(node) is Status.DEAD for other in others), 5.0)
        assert 0.5 <= took_s <= 1.0


async def test_a_vanished_host_is_gone_and_not_crashed(autojump_clock: trio.testing.MockClock) -> None:
    """Cut off without a word it leaves no evidence of a crash: phi, a nudge that nobody acknowledges, a suspicion."""
    network = FakeNetwork()
    async with stack(network, 4) as nodes:
        *others, gone = nodes
        node = gone.channel.self_id
        network.partition([gone.host.name], [other.host.name for other in others])
        took_s = await until(lambda: all(other.sees(node) is Status.SUSPECT for other in others), 5.0)
        assert took_s >= 1.0
        took_s += await until(lambda: all(other.sees(node) is Status.DEAD for other in others), 20.0)
        assert took_s >= 2.5


async def answer_as_a_web_server(listener: StreamListener) -> None:
    """Answer whatever comes as one that does not know TLS, and close."""
    while True:
        stream, _ = await listener.accept()
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.0 400 Bad request syntax\r\n\r\n")
        await stream.aclose()


async def test_a_stranger_on_the_port_of_a_killed_host_is_no_life(autojump_clock: trio.testing.MockClock) -> None:
    """F17: nobody finds the port refusing, and nobody takes what listens there for a process that stands still."""
    network = FakeNetwork()
    async with stack(network, 5) as nodes, trio.open_nursery() as nursery:
        *others, gone = nodes
        node = gone.channel.self_id
        gone.kill()
        # At once: nobody has dialled a closed port.
        nursery.start_soon(answer_as_a_web_server, gone.host._listen(PORT, gone.address))
        took_s = await until(lambda: all(other.sees(node) is Status.DEAD for other in others), 10.0)
        assert took_s >= 2.0
        stories = [turn.what for other in others for turn in other.driver.insight.why("n5").story]
        assert "stalled" not in stories
        nursery.cancel_scope.cancel()


class DeafMux:
    """The mux of a process that stands still: nothing is read by it, and nothing said."""

    def __init__(self, mux: Mux) -> None:
        self.mux = mux

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes for nothing."""
        return []

    def data_to_send(self) -> bytes:
        """Say nothing."""
        return b""

    def __getattr__(self, name: str) -> object:
        return getattr(self.mux, name)


def conditions(node: NodeId, others: list[StackNode]) -> set[Condition]:
    """How a node does for others."""
    views = [other.driver.get(node) for other in others]
    return {view.condition for view in views if view is not None}


async def test_a_member_that_answers_nothing_and_whose_kernel_does_is_stalled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Neither packets nor connections are read, and the latter stand: STALLED for all, DEAD for nobody; then well."""
    network = FakeNetwork()
    async with stack(network, 4) as nodes:
        *others, still = nodes
        node = still.channel.self_id
        datagrams = dict(still.host.datagrams)
        still.host.datagrams.clear()
        lines = [still.channel.lifeline(other.channel.self_id, other.channel.boot) for other in others]
        muxes = [(line, line.mux) for line in lines if line is not None]
        for line, mux in muxes:
            line.mux = DeafMux(mux)  # type: ignore[assignment]
        await until(lambda: conditions(node, others) == {Condition.STALLED}, 6.0)
        await trio.sleep(8.0)
        assert conditions(node, others) == {Condition.STALLED}
        assert all(other.sees(node) is not Status.DEAD for other in others)
        still.host.datagrams.update(datagrams)
        for line, mux in muxes:
            line.mux = mux
        await until(lambda: conditions(node, others) == {Condition.OK}, 12.0)
        await until(lambda: all(other.sees(node) is Status.ALIVE for other in others), 12.0)


async def test_a_member_that_answers_on_its_connections_alone_is_degraded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A firewall that knows nothing of UDP: its lifelines answer and it hears over them what is said of it."""
    network = FakeNetwork()
    async with stack(network, 4) as nodes:
        *others, cut = nodes
        node = cut.channel.self_id
        datagrams = dict(cut.host.datagrams)
        cut.host.datagrams.clear()
        await until(lambda: conditions(node, others) == {Condition.DEGRADED}, 8.0)
        for _ in range(60):
            await trio.sleep(1.0)
            assert conditions(node, others) == {Condition.DEGRADED}
            assert all(other.sees(node) is not Status.DEAD for other in others)
        assert all(other.sees(node) is Status.ALIVE for other in others)
        cut.host.datagrams.update(datagrams)
        await until(lambda: conditions(node, others) == {Condition.OK}, 12.0)


async def test_membership_that_crashed_and_was_restarted_watches_as_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The kernel runs the same object again: it has its lifelines, and what happened meanwhile harmed nobody."""
    network = FakeNetwork()
    async with stack(network, 4) as nodes:
        *others, crashing = nodes
        driver, channel = crashing.driver, crashing.channel
        advance = driver._machine.advance

        def fail(now_s: float) -> list[Effect]:
            driver._machine.advance = advance  # type: ignore[method-assign]
            raise RuntimeError("a bug")

        driver._machine.advance = fail  # type: ignore[method-assign]
        await until(lambda: crashing.handle.restarts == 1, 5.0)
        for other in others:
            line = channel.lifeline(other.channel.self_id, other.channel.boot)
            if line is not None:
                line.close()
        await until(lambda: all(channel.is_connected(other.channel.self_id) for other in others), 12.0)
        await trio.sleep(10.0)
        assert crashing.handle.restarts == 1
        gone = others.pop()
        gone.kill()
        survivors = [*others, crashing]
        took_s = await until(lambda: all(n.sees(gone.channel.self_id) is Status.DEAD for n in survivors), 5.0)
        assert 0.5 <= took_s <= 1.0
