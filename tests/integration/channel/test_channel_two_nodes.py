"""Two real nodes on loopback: create, join, call, note, drain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from frys_node.base.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FrameTooLarge,
    MalformedFrame,
    NodeUnreachable,
    NotFound,
    NotReady,
    Overloaded,
    UsageError,
)
from frys_node.base.types import NodeId
from frys_node.channel import connection
from frys_node.channel.dispatch import InternalError
from frys_node.channel.messages import BODY_BYTES_MAX
from frys_node.channel.mux import IN_FLIGHT_MAX
from frys_node.kernel.services.rpc import Method
from frys_node.transport.disk import DirectoryDisk
from frys_node.trust.credentials import MemberSecrets
from frys_node.trust.keys import ROTATE_KEYS, RotateKeys
from tests.integration.channel.channel_rig import ECHO, ENTROPY, Node, create, join, open_node, running


async def test_two_nodes_join_and_call_each_other(tmp_path: Path) -> None:
    """A token that the issuer wrote lets a second node in, and calls and notes work in both directions."""
    async with running(await create(tmp_path / "a", "a")) as a, running(await join(tmp_path / "b", a, "b")) as b:
        with trio.fail_after(10):
            assert await b.channel.call(a.id, ECHO, b"up") == b"up"
            assert await a.channel.call(b.id, ECHO, b"down") == b"down"
            assert await a.channel.call(a.id, ECHO, b"self") == b"self"
            assert b.channel.note(a.id, "n", b"1")
            assert a.channel.note(a.id, "n", b"2")
            await a.until_notes(2)
        assert sorted(a.notes) == sorted([(b.id, b"1"), (a.id, b"2")])
        assert a.channel.is_connected(b.id)
        assert b.identity.cluster_id == a.identity.cluster_id
        assert b.channel.secrets.keyring.keys == a.channel.secrets.keyring.keys
        assert b.channel.secrets.admin.hashes == a.channel.secrets.admin.hashes


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    """Two running members of one cluster, not yet connected."""
    async with running(await create(tmp_path / "a", "a")) as a, running(await join(tmp_path / "b", a, "b")) as b:
        a.channel.learn(b.id, b.address)
        yield a, b


async def test_simultaneous_dials_leave_one_connection(pair: tuple[Node, Node]) -> None:
    """Both dial at once, twenty calls each: every call is answered, and both ends keep the same single connection."""
    a, b = pair
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(_echo, a, b)
                nursery.start_soon(_echo, b, a)
        await settled(a, b)
        await _echo(a, b)
    smaller = min(a.id, b.id)
    for node, other in ((a, b), (b, a)):
        (kept,) = node.channel._peers.all()
        assert kept.is_usable
        assert kept.dialled == (node.id == smaller) or _dialled_once(a, b)
        assert node.channel.is_connected(other.id)


def _dialled_once(a: Node, b: Node) -> bool:
    """True if the two ends agree on who dialled: all there is to see when one dial won before the other began."""
    return a.channel._peers.all()[0].dialled != b.channel._peers.all()[0].dialled


async def settled(a: Node, b: Node) -> None:
    """Wait until both ends keep one connection that takes calls, and the same one."""
    while not (a.channel.is_connected(b.id) and b.channel.is_connected(a.id) and _dialled_once(a, b)):  # noqa: ASYNC110
        await trio.sleep(0.005)


async def _echo(node: Node, other: Node) -> None:
    body = ENTROPY.token_bytes(100)
    assert await node.channel.call(other.id, ECHO, body) == body


async def test_errors_of_the_other_side_come_back_as_they_were(pair: tuple[Node, Node]) -> None:
    """Class, message and hint travel; an unforeseen error says where, and the connection goes on."""
    a, b = pair

    async def fail(_caller: NodeId, kind: bytes) -> bytes:
        if kind == b"usage":
            raise UsageError("no such thing", hint="try another")
        if kind == b"group":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise ValueError("inside")
        raise KeyError(kind)

    method: Method[bytes, bytes] = Method("test.fail", bytes, bytes)
    a.channel.serve(method, fail)
    with trio.fail_after(10):
        with pytest.raises(UsageError, match="no such thing") as caught:
            await b.channel.call(a.id, method, b"usage")
        assert caught.value.hint == "try another"
        for kind in (b"x", b"group"):
            for node in (a, b):
                with pytest.raises(InternalError, match="failed: "):
                    await node.channel.call(a.id, method, kind)
        with pytest.raises(NotFound, match="unknown"):
            await b.channel.call(a.id, Method("test.unknown", bytes, bytes), b"")
        with pytest.raises(MalformedFrame):
            await b.channel.call(a.id, Method("test.echo", int, bytes), 5)
        await _echo(b, a)
    with pytest.raises(AlreadyExists):
        a.channel.serve(method, fail)


async def test_the_callers_deadline_reaches_the_handler(pair: tuple[Node, Node]) -> None:
    """The handler's scope ends when the caller's does, and a call given up is cancelled over there."""
    a, b = pair
    ended: list[str] = []
    started, done = trio.Event(), trio.Event()

    async def slow(_caller: NodeId, _body: bytes) -> bytes:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.append(f"{trio.current_effective_deadline() - trio.current_time() < 60}")
            done.set()

    method: Method[bytes, bytes] = Method("test.slow", bytes, bytes)
    a.channel.serve(method, slow)
    with trio.fail_after(10):
        with trio.move_on_after(0.1) as scope:
            await b.channel.call(a.id, method, b"")
        assert scope.cancelled_caught
        await done.wait()
        started, done = trio.Event(), trio.Event()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(b.channel.call, a.id, method, b"")
                await started.wait()
                scope.cancel()
        await done.wait()
        assert ended == ["True", "True"]
        await _echo(b, a)
    (kept,) = b.channel._peers.all()
    assert kept.mux.in_flight == 0
    assert kept._waiters == {}


async def test_a_handler_that_overruns_is_a_deadline_exceeded(
    pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller without a deadline gets one."""
    a, b = pair
    monkeypatch.setattr(connection, "BUDGET_S", 0.1)

    async def slow(_caller: NodeId, _body: bytes) -> bytes:
        await trio.sleep_forever()
        return b""

    method: Method[bytes, bytes] = Method("test.slow", bytes, bytes)
    a.channel.serve(method, slow)
    with pytest.raises(DeadlineExceeded):
        await b.channel.call(a.id, method, b"")


async def test_large_bodies_pass_up_to_the_limit_and_not_beyond(pair: tuple[Node, Node]) -> None:
    """One MiB passes both ways; one byte more is refused before anything is sent, and too large a reply as an error."""
    a, b = pair
    grow: Method[bytes, bytes] = Method("test.grow", bytes, bytes)

    async def double(_caller: NodeId, body: bytes) -> bytes:
        return body * 2

    a.channel.serve(grow, double)
    body = ENTROPY.token_bytes((1 << 20) - 8)
    with trio.fail_after(20):
        assert await b.channel.call(a.id, ECHO, body) == body
        with pytest.raises(FrameTooLarge):
            await b.channel.call(a.id, ECHO, body + b"123456789")
        with pytest.raises(FrameTooLarge):
            await b.channel.call(a.id, grow, body)
        with pytest.raises(FrameTooLarge):
            b.channel.note(a.id, "n", bytes(BODY_BYTES_MAX + 1))
        await _echo(b, a)


async def test_many_calls_at_once_are_all_answered(pair: tuple[Node, Node]) -> None:
    """Two thousand calls: those over the limit in flight are refused at once as overloaded, the rest answered."""
    a, b = pair
    gate, results = trio.Event(), {"ok": 0, "overloaded": 0}

    async def wait(_caller: NodeId, body: bytes) -> bytes:
        await gate.wait()
        return body

    method: Method[bytes, bytes] = Method("test.wait", bytes, bytes)
    a.channel.serve(method, wait)

    async def one() -> None:
        try:
            await b.channel.call(a.id, method, b"x")
            results["ok"] += 1
        except Overloaded:
            results["overloaded"] += 1
            if results["overloaded"] == 2_000 - IN_FLIGHT_MAX:
                gate.set()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(2_000):
                nursery.start_soon(one)
    assert results == {"ok": IN_FLIGHT_MAX, "overloaded": 2_000 - IN_FLIGHT_MAX}


async def test_a_node_that_is_gone_is_unreachable_and_comes_back(pair: tuple[Node, Node], tmp_path: Path) -> None:
    """Calls under way fail as unreachable, calls during the backoff at once, and a restart with a new boot is found."""
    a, b = pair
    forever: Method[bytes, bytes] = Method("test.forever", bytes, bytes)
    seen: list[tuple[int, bool]] = []
    b.channel.on_connection(lambda node, boot, ending: seen.append((boot, ending is None)))
    disk = DirectoryDisk(tmp_path / "c")
    async with running(await join(tmp_path / "c", a, "c")) as first:
        started = trio.Event()

        async def wait(_caller: NodeId, _body: bytes) -> bytes:
            started.set()
            await trio.sleep_forever()
            return b""

        first.channel.serve(forever, wait)
        b.channel.learn(first.id, first.address)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    with pytest.raises(NodeUnreachable, match="ended"):
                        await b.channel.call(first.id, forever, b"")

                nursery.start_soon(call)
                await started.wait()
                first.channel._peers.all()[0].close()
    with trio.fail_after(10):
        while b.channel.is_connected(first.id):  # noqa: ASYNC110
            await trio.sleep(0.005)
        with pytest.raises(NodeUnreachable):
            await b.channel.call(first.id, ECHO, b"x")
        assert not b.channel.note(first.id, "n", b"x")
        with pytest.raises(NodeUnreachable):
            await b.channel.call(first.id, ECHO, b"x")
        assert b.channel._peers.notes_dropped == 1
        async with running(await open_node(disk, first.identity)) as second:
            b.channel.learn(second.id, second.address)
            assert await b.channel.call(second.id, ECHO, b"again") == b"again"
            assert b.channel.boot_of(second.id) == second.channel.boot
    boots = [first.channel.boot, first.channel.boot, second.channel.boot]
    assert [boot for boot, _ in seen[:3]] == boots
    assert first.channel.boot >> 32 < second.channel.boot >> 32


async def test_notes_sent_while_a_dial_is_under_way_arrive_in_order(pair: tuple[Node, Node]) -> None:
    """The first notes to a node wait for its connection instead of getting lost."""
    a, b = pair
    for number in range(100):
        assert a.channel.note(b.id, "n", bytes([number]))
    assert not a.channel.note(NodeId("7" * 32), "n", b"nobody")
    assert a.channel.note(b.id, "nobody.listens", b"x")
    with trio.fail_after(10):
        await b.until_notes(100)
    assert b.notes == [(a.id, bytes([number])) for number in range(100)]


async def test_a_note_that_no_frame_takes_is_refused_before_it_waits_for_a_dial(pair: tuple[Node, Node]) -> None:
    """Behind the dial nobody hears of it any more, and the channel would end with it."""
    a, b = pair
    assert a.channel.note(b.id, "n", b"1")
    with pytest.raises(FrameTooLarge):
        a.channel.note(b.id, "n", bytes(BODY_BYTES_MAX + 1))
    assert a.channel.note(b.id, "n", b"2")
    with trio.fail_after(10):
        await b.until_notes(2)
    assert b.notes == [(a.id, b"1"), (a.id, b"2")]


async def test_a_draining_node_finishes_what_is_under_way(pair: tuple[Node, Node]) -> None:
    """`drain` lets the call end, takes no new ones, and no new connections."""
    a, b = pair
    started, gate = trio.Event(), trio.Event()

    async def wait(_caller: NodeId, body: bytes) -> bytes:
        started.set()
        await gate.wait()
        return body

    method: Method[bytes, bytes] = Method("test.wait", bytes, bytes)
    a.channel.serve(method, wait)
    answers: list[bytes] = []

    async def call() -> None:
        answers.append(await b.channel.call(a.id, method, b"late"))

    async with trio.open_nursery() as nursery:
        with trio.fail_after(10):
            nursery.start_soon(call)
            await started.wait()
            nursery.start_soon(a.channel.drain)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
    assert answers == [b"late"]
    with trio.fail_after(10), pytest.raises(NodeUnreachable):
        await b.channel.call(a.id, ECHO, b"x")


async def test_a_rotated_keyring_reaches_every_connected_member(pair: tuple[Node, Node]) -> None:
    """A new epoch spreads inside the channel and is durable at the other end."""
    a, b = pair
    with trio.fail_after(10):
        await _echo(b, a)
        a.channel.secrets.rotate(b"k" * 32)
        while len(b.channel.secrets.keyring.keys) < 2:  # noqa: ASYNC110
            await trio.sleep(0.005)
    assert MemberSecrets(b.disk).keyring.keys == a.channel.secrets.keyring.keys
    token = a.disk.read("admin-token")
    assert token is not None
    assert b.channel.secrets.admin.check(token.decode())
    assert not b.channel.secrets.admin.check("frysadmin.wrong")
    assert b.disk.read("admin-token") is None


async def test_a_rotation_converges_and_names_who_does_not_answer(pair: tuple[Node, Node]) -> None:
    """The issuer makes the key, every member seals with it, and an absent member is named instead of waited for."""
    a, b = pair
    absent = NodeId("f" * 32)
    members = [(a.id, "a"), (b.id, "b")]
    with trio.fail_after(10):
        await _echo(b, a)
        with pytest.raises(NotReady):
            await a.channel.call(b.id, ROTATE_KEYS, RotateKeys())
        made = await b.channel.call(a.id, ROTATE_KEYS, RotateKeys())
        assert made.epochs == (2, 1)
        with pytest.raises(NotReady, match="still spreading"):
            await b.channel.call(a.id, ROTATE_KEYS, RotateKeys())
        survey = await b.channel.keys.converged(lambda: members)
        assert (survey.epoch, survey.converged, survey.total) == (2, 2, 2)
        lacking = await b.channel.keys.survey([*members, (absent, "absent")])
    assert (lacking.converged, lacking.total) == (2, 3)
    assert [held.name for held in lacking.members if held.error] == ["absent"]
