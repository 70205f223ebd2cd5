"""Connections that are replaced to have fresh keys: under load nobody notices."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from frys_node.base.ports import Stream
from frys_node.base.types import NodeId
from frys_node.channel import rekey
from frys_node.channel.connection import Ending
from frys_node.channel.driver import ChannelSettings
from frys_node.channel.messages import REPLACED
from frys_node.kernel.services.rpc import Method
from frys_node.observe.metrics import Counter as MetricCounter
from frys_node.secure.errors import HandshakeRefused
from tests.integration.channel.channel_rig import ECHO, ENTROPY, Node, create, join, running

SMALL = ChannelSettings(rekey_after_bytes=64 << 10, rekey_after_s=1.0)
OFF = ChannelSettings(rekey_after_bytes=0, rekey_after_s=0.0)
COUNT: Method[bytes, bytes] = Method("test.count", bytes, bytes)
REPLACEMENTS = 8
CALLS_AT_ONCE = 8


@asynccontextmanager
async def _pair(directory: Path, settings: ChannelSettings) -> AsyncIterator[tuple[Node, Node]]:
    """Two members; `b` has dialled `a`."""
    async with (
        running(await create(directory / "a", "a", settings=settings)) as a,
        running(await join(directory / "b", a, "b", settings=settings)) as b,
    ):
        a.channel.learn(b.id, b.address)
        with trio.fail_after(10):
            await b.channel.connect(a.id)
            while not a.channel.is_connected(b.id):  # noqa: ASYNC110
                await trio.sleep(0.001)
        yield a, b


def _rekeys(*nodes: Node) -> Counter[str]:
    """Replacements so far, by outcome."""
    found: Counter[str] = Counter()
    for node in nodes:
        counter = next(metric for metric in node.metrics if metric.name == "frys_channel_rekeys_total")
        assert isinstance(counter, MetricCounter)
        found.update({labels[0]: int(value) for labels, value in counter.values.items()})
    return found


class Load:
    """Calls and notes both ways between two nodes, until it is over."""

    def __init__(self, a: Node, b: Node) -> None:
        self.ways = ((a, b), (b, a))
        self.served: Counter[bytes] = Counter()
        self.made: Counter[bytes] = Counter()
        self.sent = {a.id: 0, b.id: 0}
        self.endings: list[Ending] = []
        self.is_over = False
        for node in (a, b):
            node.channel.serve(COUNT, self._count)
            node.channel.on_connection(self._hear)

    def _hear(self, _node: NodeId, _boot: int, ending: Ending | None) -> None:
        if ending is not None:
            self.endings.append(ending)

    async def _count(self, _caller: NodeId, body: bytes) -> bytes:
        self.served[body[:16]] += 1
        await trio.sleep(0.002)
        return body

    async def _call(self, node: Node, other: Node) -> None:
        while not self.is_over:
            body = ENTROPY.token_bytes(16) + bytes(3_000)
            self.made[body[:16]] += 1
            assert await node.channel.call(other.id, COUNT, body) == body

    async def _note(self, node: Node, other: Node) -> None:
        while not self.is_over:
            for _ in range(20):
                body = self.sent[node.id].to_bytes(8, "big") + bytes(200)
                self.sent[node.id] += node.channel.note(other.id, "n", body)
            await trio.sleep(0.003)

    def start(self, nursery: trio.Nursery) -> None:
        """Begin."""
        for node, other in self.ways:
            nursery.start_soon(self._note, node, other)
            for _ in range(CALLS_AT_ONCE):
                nursery.start_soon(self._call, node, other)

    async def check(self) -> None:
        """Every call was served once, every note arrived in its turn, and nobody heard of a connection that ended."""
        for node, other in self.ways:
            await node.until_notes(self.sent[other.id])
            numbers = [int.from_bytes(body[:8], "big") for _, body in node.notes]
            assert numbers == list(range(self.sent[other.id]))
            assert node.channel._peers.notes_dropped == 0
        assert self.served == self.made
        assert self.endings == []


async def test_under_load_no_call_fails_or_is_repeated_and_notes_keep_their_order(tmp_path: Path) -> None:
    """Thresholds of 64 KiB and 1 s: calls and notes both ways over many connections, and no lifeline ever ends."""
    async with _pair(tmp_path, SMALL) as (a, b):
        load = Load(a, b)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                load.start(nursery)
                while _rekeys(a, b)["done"] < REPLACEMENTS:
                    assert a.channel.is_connected(b.id)
                    assert b.channel.is_connected(a.id)
                    await trio.sleep(0.005)
                load.is_over = True
            await load.check()
            while len(a.channel._peers.open()) > 1 or len(b.channel._peers.open()) > 1:  # noqa: ASYNC110
                await trio.sleep(0.005)


async def test_notes_behind_a_long_queue_come_before_those_of_the_new_connection(tmp_path: Path) -> None:
    """The old connection has megabytes to send yet when the new one is up, which therefore is the faster one."""
    async with _pair(tmp_path, OFF) as (a, b):
        with trio.fail_after(30):
            for number in range(100):
                assert b.channel.note(a.id, "n", number.to_bytes(8, "big") + bytes(150_000))
            await b.channel._dial(a.id, a.address)
            for number in range(100, 200):
                assert b.channel.note(a.id, "n", number.to_bytes(8, "big"))
            await a.until_notes(200)
        assert [int.from_bytes(body[:8], "big") for _, body in a.notes] == list(range(200))


class Gated:
    """A stream that sends only once its gate is open."""

    def __init__(self, inner: Stream) -> None:
        self._inner = inner
        self.gate = trio.Event()
        self.receive_some, self.aclose = inner.receive_some, inner.aclose
        self.send_nowait, self.unacknowledged_bytes = inner.send_nowait, inner.unacknowledged_bytes

    async def send_all(self, data: bytes) -> None:
        await self.gate.wait()
        await self._inner.send_all(data)


async def test_between_the_old_connections_last_word_and_the_new_one_nobody_dials(tmp_path: Path) -> None:
    """The last word may be the faster: what is sent meanwhile waits for the new connection, and goes first on it."""
    async with _pair(tmp_path, OFF) as (a, b):
        (old,) = a.channel._peers.all()
        answers: list[bytes] = []

        async def call() -> None:
            answers.append(await a.channel.call(b.id, ECHO, b"x"))

        with trio.fail_after(20):
            b.channel._peers.all()[0].drain(REPLACED, 60.0)
            while not old.is_replaced:  # noqa: ASYNC110
                await trio.sleep(0.001)
            assert a.channel._peers.find(b.id) is None
            assert a.channel.is_connected(b.id)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                for number in range(10):
                    assert a.channel.note(b.id, "n", bytes([number]))
                await b.channel._dial(a.id, a.address)
                while a.channel._peers.find(b.id) is None:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            assert answers == [b"x"]
            assert a.channel.note(b.id, "n", bytes([255]))
            while not b.notes or b.notes[-1][1] != bytes([255]):  # noqa: ASYNC110
                await trio.sleep(0.001)
        assert [body[0] for _, body in b.notes[:10]] == list(range(10))
        assert not any(held.dialled for held in a.channel._peers.open())


async def test_notes_do_not_wait_for_a_connection_that_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last word never comes: whoever has lost it dials anew and is heard before the other side finds out."""
    monkeypatch.setattr("frys_node.channel.connection.HOLD_SILENT_S", 0.3)
    async with _pair(tmp_path, OFF) as (a, b):
        (kept,) = b.channel._peers.all()
        kept._stream = Gated(kept._stream)
        with trio.fail_after(10):
            await b.channel._dial(a.id, a.address)
            for number in range(3):
                assert b.channel.note(a.id, "n", bytes([number]))
            await a.until_notes(3)
            assert len(a.channel._peers.open()) == 2
        assert [body for _, body in a.notes] == [b"\0", b"\1", b"\2"]


async def test_what_is_queued_still_goes_when_the_other_side_takes_leave(tmp_path: Path) -> None:
    """Whoever reads the last word of the other side may close, but not before its own has been sent."""
    async with _pair(tmp_path, OFF) as (a, b):
        (kept,) = b.channel._peers.all()
        slow = Gated(kept._stream)
        kept._stream = slow
        with trio.fail_after(30):
            for number in range(3):
                assert b.channel.note(a.id, "n", bytes([number]))
            a.channel._peers.all()[0].drain("over")
            while not kept._got_go_away:  # noqa: ASYNC110
                await trio.sleep(0.001)
            with trio.move_on_after(0.2):  # four times as long as the side that may close waits
                await b.until_notes(1)
            slow.gate.set()
            await a.until_notes(3)
        assert [body for _, body in a.notes] == [b"\0", b"\1", b"\2"]


async def test_a_long_call_ends_on_the_connection_where_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take longer than a drain usually waits; the connections that it and others hold open are bounded."""
    monkeypatch.setattr("frys_node.channel.connection.DRAIN_S", 0.2)
    started, gate = trio.Event(), trio.Event()
    slow: Method[bytes, bytes] = Method("test.slow", bytes, bytes)
    answers: list[bytes] = []
    async with _pair(tmp_path, ChannelSettings(rekey_after_s=0.2)) as (a, b):

        async def wait(_caller: NodeId, body: bytes) -> bytes:
            started.set()
            await gate.wait()
            return body

        async def call() -> None:
            answers.append(await b.channel.call(a.id, slow, b"long"))

        a.channel.serve(slow, wait)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await started.wait()
                while _rekeys(b)["done"] < 3:
                    assert await b.channel.call(a.id, ECHO, b"x") == b"x"
                    assert len(b.channel._peers.open()) <= rekey.DRAINING_MAX + 1
                    await trio.sleep(0.01)
                gate.set()
    assert answers == [b"long"]


async def test_a_node_that_stops_waits_for_calls_on_replaced_connections_too(tmp_path: Path) -> None:
    """They are under way as those on the connection that is kept."""
    started, gate = trio.Event(), trio.Event()
    slow: Method[bytes, bytes] = Method("test.slow", bytes, bytes)
    answers: list[bytes] = []
    async with _pair(tmp_path, OFF) as (a, b):

        async def wait(_caller: NodeId, body: bytes) -> bytes:
            started.set()
            await gate.wait()
            return body

        async def call() -> None:
            answers.append(await b.channel.call(a.id, slow, b"late"))

        async def stop() -> None:
            await a.channel.drain()
            assert answers or gate.is_set()

        a.channel.serve(slow, wait)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await started.wait()
                await b.channel._dial(a.id, a.address)
                while len(a.channel._peers.open()) < 2:  # noqa: ASYNC110
                    await trio.sleep(0.001)
                nursery.start_soon(stop)
                await trio.testing.wait_all_tasks_blocked(0.05)
                gate.set()
    assert answers == [b"late"]


async def test_only_the_side_that_dialled_replaces_and_what_fails_leaves_the_old_one(tmp_path: Path) -> None:
    """An attempt that comes to nothing is counted and tried again later; the connection that stands goes on."""
    async with _pair(tmp_path, ChannelSettings(rekey_after_s=0.3)) as (a, b):
        with trio.fail_after(20):
            while _rekeys(b)["done"] < 1:  # noqa: ASYNC110
                await trio.sleep(0.005)
            assert _rekeys(a) == {}
            b.channel._peers._addresses[a.id] = b.address  # nobody else answers there: it reaches itself
            while _rekeys(b)["failed"] < 1:  # noqa: ASYNC110
                await trio.sleep(0.005)
            assert await b.channel.call(a.id, ECHO, b"x") == b"x"
            assert b.channel.is_connected(a.id)


async def test_a_peer_whose_certificate_ran_out_is_not_kept_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that could not be made anew must not stand for ever by never being made anew."""
    async with _pair(tmp_path, ChannelSettings(rekey_after_s=0.3)) as (a, b):

        def refuse(*_arguments: object, **_named: object) -> None:
            raise HandshakeRefused("expired", "long ago")

        monkeypatch.setattr("frys_node.channel.greeting.check_peer", refuse)
        with trio.fail_after(20):
            while a.channel.is_connected(b.id) or b.channel.is_connected(a.id):  # noqa: ASYNC110
                await trio.sleep(0.005)


async def test_a_replacement_uses_a_certificate_that_was_renewed_meanwhile(tmp_path: Path) -> None:
    """The other side sees the new one without a restart and without a lost connection."""
    async with _pair(tmp_path, ChannelSettings(rekey_after_s=0.5)) as (a, b):
        (kept,) = a.channel._peers.all()
        before = kept.peer.certificate.serial_number
        with trio.fail_after(20):
            await b.channel._upkeep.renewal.renew()
            while a.channel._peers.all()[0].peer.certificate.serial_number == before:
                assert await b.channel.call(a.id, ECHO, b"x") == b"x"
                assert a.channel.is_connected(b.id)
                await trio.sleep(0.01)


async def test_it_can_be_switched_off(tmp_path: Path) -> None:
    """With thresholds of 0 a connection stands as long as it likes."""
    async with _pair(tmp_path, OFF) as (a, b):
        (kept,) = b.channel._peers.all()
        kept.since_s -= 1e9
        kept.bytes_moved = 1 << 60
        b.channel.rekeying._shares = {kept: 1.0}
        b.channel.rekeying._retry_s = {kept.node: 0.0}
        assert not b.channel.rekeying._is_due(kept)
        assert b.channel.rekeying.due_in_s(kept) is None
        assert await a.channel.call(b.id, ECHO, b"x") == b"x"
