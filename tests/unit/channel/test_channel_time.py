"""The channel's deadlines on a fake network and a fake clock: silence, half handshakes, partitions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from frys_node.base.errors import DeadlineExceeded, NodeUnreachable
from frys_node.base.types import Address, BootId, NodeId
from frys_node.channel.bootstrap import create_cluster, join_cluster
from frys_node.channel.connection import Ending
from frys_node.channel.driver import Channel
from frys_node.channel.mux import Event, Mux
from frys_node.kernel.services.rpc import Method
from frys_node.observe.metrics import Counter, Metrics
from frys_node.secure import certificates
from frys_node.secure.identity import Identity, load_identity
from frys_node.secure.stored import next_boot
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.testing.network import FakeNetwork
from frys_node.trust.issuer import JOIN_PATH

ECHO: Method[bytes, bytes] = Method("test.echo", bytes, bytes)
HANG: Method[bytes, bytes] = Method("test.hang", bytes, bytes)
PORT = 7946


class FakeNode:
    """A channel on one host of a fake network."""

    def __init__(self, network: FakeNetwork, name: str) -> None:
        self.host = network.host(name)
        self.disk = FakeDisk()
        self.entropy = FakeEntropy(name)
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.seen: list[bool] = []

    async def open(self, identity: Identity) -> Channel:
        """Bind and build."""
        channel = Channel(
            identity=identity,
            boot=next_boot(self.disk, self.entropy),
            network=self.host,
            listener=await self.host.listen(Address(self.host.name, PORT)),
            clock=self.clock,
            entropy=self.entropy,
            disk=self.disk,
            metrics=self.metrics,
        )

        async def echo(_caller: NodeId, body: bytes) -> bytes:
            return body

        channel.serve(ECHO, echo)
        channel.on_connection(lambda _node, _boot, ending: self.seen.append(ending is None))
        return channel

    def refused(self) -> dict[tuple[str, ...], float]:
        """Refusals so far."""
        counter = next(metric for metric in self.metrics if metric.name == "frys_channel_refused_total")
        assert isinstance(counter, Counter)
        return counter.values


@asynccontextmanager
async def _cluster(network: FakeNetwork) -> AsyncIterator[tuple[FakeNode, Channel, FakeNode, Channel]]:
    a, b = FakeNode(network, "a"), FakeNode(network, "b")
    async with trio.open_nursery() as nursery:
        one = await a.open(create_cluster(a.disk, a.entropy, a.clock, cluster_name="test", node_name="a"))
        await nursery.start(lambda task_status: one.run(task_status=task_status))
        token = a.disk.read(JOIN_PATH)
        assert token is not None
        outcome = await join_cluster(
            b.host,
            b.disk,
            b.entropy,
            b.clock,
            seeds=[Address("a", PORT)],
            token=token.decode(),
            name="b",
            name_chosen=True,
            expect_cluster="test",
            advertise=Address("b", PORT),
        )
        two = await b.open(outcome.identity)
        two.learn(one.self_id, Address("a", PORT))
        one.learn(two.self_id, Address("b", PORT))
        await nursery.start(lambda task_status: two.run(task_status=task_status))
        yield a, one, b, two
        nursery.cancel_scope.cancel()


async def test_an_idle_connection_stays_and_a_silent_one_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """An hour of idleness is bridged by pings; a partition is noticed within 45 s, and healed by the next call."""
    network = FakeNetwork()
    async with _cluster(network) as (a, one, b, two):
        assert await two.call(one.self_id, ECHO, b"x") == b"x"
        await trio.sleep(3_600)
        assert one.is_connected(two.self_id)
        assert b.seen == [True]
        network.partition(["a"], ["b"])
        await trio.sleep(46)
        assert not one.is_connected(two.self_id)
        assert not two.is_connected(one.self_id)
        assert (a.seen, b.seen) == ([True, False], [True, False])
        with pytest.raises(NodeUnreachable):
            await two.call(one.self_id, ECHO, b"x")
        network.heal()
        await trio.sleep(10)
        assert await two.call(one.self_id, ECHO, b"y") == b"y"


async def _cut_soon(network: FakeNetwork) -> None:
    await trio.sleep(1)
    network.partition(["a"], ["b"])


def _endings_at(channel: Channel) -> list[Ending | None]:
    """Note what the channel tells of its connections."""
    endings: list[Ending | None] = []
    channel.on_connection(lambda _node, _boot, ending: endings.append(ending))
    return endings


async def test_a_call_under_way_has_the_connection_watched_closely(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever waits for an answer learns within 20 s that the other side is cut off, well before its own deadline."""
    network = FakeNetwork()
    async with _cluster(network) as (_a, one, _b, two):

        async def hang(_caller: NodeId, _body: bytes) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        one.serve(HANG, hang)
        await two.call(one.self_id, ECHO, b"x")
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cut_soon, network)
            with pytest.raises(NodeUnreachable):
                await two.call(one.self_id, HANG, b"")
        assert trio.current_time() - start <= 21


class DeafMux:
    """The mux of a process that stands still: nothing is read by it, and nothing said."""

    def __init__(self, mux: Mux) -> None:
        self._mux = mux

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes for nothing."""
        return []

    def data_to_send(self) -> bytes:
        """Say nothing."""
        return b""

    def __getattr__(self, name: str) -> object:
        return getattr(self._mux, name)


async def test_a_process_that_stands_still_keeps_its_connection(autojump_clock: trio.testing.MockClock) -> None:
    """Its kernel acknowledges: whoever waits for it is told, and its connection stays for when it goes on."""
    network = FakeNetwork()
    async with _cluster(network) as (_a, one, _b, two):
        await two.call(one.self_id, ECHO, b"x")
        line = one.lifeline(two.self_id, two.boot)
        assert line is not None
        line.mux = DeafMux(line.mux)  # type: ignore[assignment]
        start = trio.current_time()
        with pytest.raises(NodeUnreachable, match="stands still"):
            await two.call(one.self_id, ECHO, b"x")
        assert trio.current_time() - start <= 21
        await trio.sleep(80)
        assert two.lifeline(one.self_id, one.boot) is not None
        await trio.sleep(60)
        assert two.lifeline(one.self_id, one.boot) is None


async def test_how_a_connection_ended_is_told(autojump_clock: trio.testing.MockClock) -> None:
    """A killed host is LOST, a stopped one said so, a connection too many said GOODBYE: only the first is evidence."""
    for do, expected in (
        ("kill", Ending.LOST),
        ("drain", Ending.STOPPED),
        ("duplicate", Ending.GOODBYE),
    ):
        network = FakeNetwork()
        async with _cluster(network) as (_a, one, _b, two):
            endings = _endings_at(one)
            await two.call(one.self_id, ECHO, b"x")
            if do == "kill":
                network.kill("b")
            elif do == "drain":
                await two.drain()
            else:
                connection = two._peers.find(one.self_id)
                assert connection is not None
                connection.drain("duplicate")
            await trio.sleep(1)
            assert endings == [None, expected]


async def test_a_nudge_is_acknowledged_by_a_host_that_is_reached(autojump_clock: trio.testing.MockClock) -> None:
    """`nudge` sends bytes whose fate `unacknowledged_bytes` tells; the lifeline is that of one boot alone."""
    network = FakeNetwork()
    async with _cluster(network) as (_a, one, _b, two):
        await two.call(one.self_id, ECHO, b"x")
        line = two.lifeline(one.self_id, one.boot)
        assert line is not None
        assert two.lifeline(one.self_id, BootId(one.boot + 1)) is None
        line.nudge()
        await trio.sleep(0.1)
        assert line.unacknowledged_bytes() == 0
        network.partition(["a"], ["b"])
        line.nudge()
        await trio.sleep(0.3)
        assert line.unacknowledged_bytes()


async def test_a_call_without_a_deadline_ends_on_both_sides(autojump_clock: trio.testing.MockClock) -> None:
    """Thirty seconds, and at most one look at the clock more; the handler is cancelled too, and later calls go on."""
    network = FakeNetwork()
    async with _cluster(network) as (_a, one, _b, two):
        ended = trio.Event()

        async def hang(_caller: NodeId, _body: bytes) -> bytes:
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

        one.serve(HANG, hang)
        start = trio.current_time()
        with pytest.raises(DeadlineExceeded):
            await two.call(one.self_id, HANG, b"")
        assert 30 <= trio.current_time() - start <= 35
        await ended.wait()
        assert await two.call(one.self_id, ECHO, b"x") == b"x"


async def test_reading_goes_on_while_a_lone_call_is_answered(autojump_clock: trio.testing.MockClock) -> None:
    """The task that read a call carries it out; a second call, which the first waits for, is read meanwhile."""
    network = FakeNetwork()
    async with _cluster(network) as (_a, one, _b, two):
        second = trio.Event()

        async def hang(_caller: NodeId, body: bytes) -> bytes:
            if body == b"second":
                second.set()
            await second.wait()
            return body

        one.serve(HANG, hang)
        answers: list[bytes] = []

        async def call(body: bytes) -> None:
            answers.append(await two.call(one.self_id, HANG, body))

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, b"first")
                await trio.sleep(1)
                nursery.start_soon(call, b"second")
        assert sorted(answers) == [b"first", b"second"]


async def test_a_call_given_up_in_the_instant_of_its_answer_hurts_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whichever of the deadline and the answer is seen first, the call ends once and the connection lives."""
    network = FakeNetwork()
    async with _cluster(network) as (_a, one, b, two):

        async def hang(_caller: NodeId, body: bytes) -> bytes:
            await trio.sleep(1)
            return body

        one.serve(HANG, hang)
        outcomes = []
        for step in range(-20, 21):
            with trio.move_on_after(1 + step * 0.000_1) as scope:
                assert await two.call(one.self_id, HANG, b"x") == b"x"
            outcomes.append(scope.cancelled_caught)
        assert set(outcomes) == {True, False}
        assert await two.call(one.self_id, ECHO, b"x") == b"x"
        assert b.seen == [True]


async def test_half_a_handshake_ends_after_five_seconds(autojump_clock: trio.testing.MockClock) -> None:
    """A client that stops in the middle, or greets without a hello, is refused in time and gives its place back."""
    network = FakeNetwork()
    async with _cluster(network) as (a, one, b, _two):
        stream = await b.host.connect(Address("a", PORT))
        await stream.send_all(b"\x16\x03\x01\x02\x00")
        start = trio.current_time()
        with suppress(trio.BrokenResourceError):
            assert await stream.receive_some() == b""
        assert 4.9 < trio.current_time() - start < 5.5
        assert a.refused() == {("timeout",): 1}
        assert one._door._half_open.total == 0


async def test_a_dial_into_nowhere_fails_in_time_and_backs_off(autojump_clock: trio.testing.MockClock) -> None:
    """A host that swallows everything costs one deadline; calls in the backoff cost nothing."""
    network = FakeNetwork()
    async with _cluster(network) as (_a, one, _b, two):
        network.partition(["a"], ["b"])
        start = trio.current_time()
        with pytest.raises(NodeUnreachable):
            await one.call(two.self_id, ECHO, b"x")
        assert trio.current_time() - start <= 5.5
        start = trio.current_time()
        with pytest.raises(NodeUnreachable):
            await one.call(two.self_id, ECHO, b"x")
        assert trio.current_time() == start


async def test_the_join_token_is_renewed_while_the_node_runs(autojump_clock: trio.testing.MockClock) -> None:
    """Thirteen hours later there is a fresh token in the file."""
    network = FakeNetwork()
    async with _cluster(network) as (a, _one, _b, _two):
        first = a.disk.read(JOIN_PATH)
        await trio.sleep(11 * 3_600)
        assert a.disk.read(JOIN_PATH) == first
        await trio.sleep(2 * 3_600)
        assert a.disk.read(JOIN_PATH) != first


async def test_certificates_are_renewed_long_before_they_expire(autojump_clock: trio.testing.MockClock) -> None:
    """With a third of its life left each node has a new certificate, durable, and new connections use it."""
    network = FakeNetwork()
    async with _cluster(network) as (a, one, b, two):
        first = [channel.identity.certificate for channel in (one, two)]
        for days, are_old in ((200, True), (60, False)):
            for node in (a, b):
                node.clock.step(days * 86_400)
            await trio.sleep(13 * 3_600)
            assert ([channel.identity.certificate for channel in (one, two)] == first) is are_old
        for node, channel, old in zip((a, b), (one, two), first, strict=True):
            renewed = channel.identity.certificate
            assert renewed.not_valid_after_utc > old.not_valid_after_utc
            assert certificates.read_subject(renewed) == certificates.read_subject(old)
            stored = load_identity(node.disk)
            assert stored is not None
            assert stored.certificate == renewed
        for connection in (*one._peers.all(), *two._peers.all()):
            connection.close()
        await trio.sleep(1)
        assert await one.call(two.self_id, ECHO, b"x") == b"x"
        (kept,) = one._peers.all()
        assert kept.peer.certificate == two.identity.certificate
