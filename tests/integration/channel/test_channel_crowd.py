"""Many connections of one member: dials that are given up, ones that are never replaced, and hoards of notes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from frys_node.base.types import NodeId
from frys_node.channel import connection as connections
from frys_node.channel import rekey
from frys_node.channel.connection import HELD_BYTES_MAX
from frys_node.channel.driver import ChannelSettings
from frys_node.channel.ending import Ending
from frys_node.channel.messages import GoAway
from frys_node.channel.mux import Event, Mux
from frys_node.channel.peers import OPEN_PER_NODE_MAX
from frys_node.kernel.services.rpc import Method
from frys_node.secure.tls import TlsProfile, TlsStream
from frys_node.trust.messages import Credentials
from tests.integration.channel.channel_rig import ECHO, NETWORK, Node
from tests.integration.channel.test_channel_rekey import OFF, _pair, _rekeys

MIB = 1 << 20
SLOW: Method[bytes, bytes] = Method("test.slow", bytes, bytes)
FIRST = Credentials((), ())


class Raw:
    """A member that sends what it likes, over a connection that it has dialled."""

    def __init__(self, member: Node, stream: TlsStream) -> None:
        self.stream = stream
        self.mux = Mux(dialled=True)
        self.mux.hello(member.channel._greeter._hello())

    async def send(self) -> None:
        """Send what is queued, for as long as the other side reads it."""
        await self.stream.send_all(self.mux.data_to_send())

    async def hear(self) -> list[Event]:
        """Read once."""
        return self.mux.receive_data(await self.stream.receive_some(65_536))


async def _dial(member: Node, other: Node) -> Raw:
    """Dial and say hello, and nothing behind it."""
    stream = TlsStream(await NETWORK.connect(other.address), TlsProfile(member.identity).client, server=False)
    await stream.handshake()
    raw = Raw(member, stream)
    await raw.send()
    return raw


@asynccontextmanager
async def _crowd(directory: Path) -> AsyncIterator[tuple[Node, Node, Callable[[], Awaitable[Raw]]]]:
    """Two members, and what dials `a` as `b` once more; all of that is closed in the end."""
    made: list[Raw] = []
    async with _pair(directory, OFF) as (a, b):

        async def dial() -> Raw:
            made.append(await _dial(b, a))
            return made[-1]

        try:
            yield a, b, dial
        finally:
            with trio.CancelScope(shield=True):
                for raw in made:
                    await raw.stream._transport.aclose()


def _endings(node: Node) -> list[Ending]:
    heard: list[Ending] = []

    def hear(_node: NodeId, _boot: int, ending: Ending | None) -> None:
        if ending is not None:
            heard.append(ending)

    node.channel.on_connection(hear)
    return heard


async def _until_open(node: Node, count: int) -> None:
    while len(node.channel._peers.open()) != count:  # noqa: ASYNC110
        await trio.sleep(0.001)


async def test_a_dial_that_is_given_up_behind_its_hello_leaves_the_old_connection(tmp_path: Path) -> None:
    """Nobody hears of an end, least of all of a crash, and calls under way and new ones go on, both ways."""
    async with _crowd(tmp_path) as (a, b, dial):
        heard = [_endings(node) for node in (a, b)]
        (kept,) = a.channel._peers.all()
        with trio.fail_after(10):
            for _ in range(3):
                raw = await dial()
                await _until_open(a, 2)
                assert await a.channel.call(b.id, ECHO, b"x") == b"x"
                await raw.stream._transport.aclose()
                await _until_open(a, 1)
            assert a.channel._peers.all() == [kept]
            assert await b.channel.call(a.id, ECHO, b"x") == b"x"
        assert heard == [[], []]


async def test_the_first_frame_behind_the_hello_moves_everything_over(tmp_path: Path) -> None:
    """Whoever was dialled drains the old connection then, and calls on the new one."""
    async with _crowd(tmp_path) as (a, _b, dial):
        (kept,) = a.channel._peers.all()
        with trio.fail_after(10):
            raw = await dial()
            await _until_open(a, 2)
            assert a.channel._peers.all() == [kept]
            raw.mux.credentials(FIRST)
            await raw.send()
            while a.channel._peers.all() == [kept]:  # noqa: ASYNC110
                await trio.sleep(0.001)
            assert not kept.is_usable


async def test_a_new_connection_is_used_before_its_first_frame_where_the_old_one_ends(tmp_path: Path) -> None:
    """The last word on the old one may overtake the first on the new one: the node stays connected."""
    async with _crowd(tmp_path) as (a, b, dial):
        heard = _endings(a)
        (kept,) = a.channel._peers.all()
        with trio.fail_after(10):
            await dial()
            await _until_open(a, 2)
            kept._handle(None, GoAway("replaced"))  # type: ignore[arg-type]
            assert a.channel.is_connected(b.id)
            assert a.channel._peers.all() != [kept]
            await _until_open(a, 1)
        assert heard == []


async def test_the_loss_of_the_kept_connection_is_told_when_no_other_stands(tmp_path: Path) -> None:
    """While another to the same life drains its process lives, and nothing is told of a crash."""
    started, gate = trio.Event(), trio.Event()
    async with _crowd(tmp_path) as (a, b, dial):
        heard = _endings(a)

        async def wait(_caller: NodeId, body: bytes) -> bytes:
            started.set()
            await gate.wait()
            return body

        a.channel.serve(SLOW, wait)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(b.channel.call, a.id, SLOW, b"long")
                await started.wait()
                raw = await dial()
                raw.mux.credentials(FIRST)
                await raw.send()
                (old,) = a.channel._peers.open()[:1]
                while old.is_usable:  # noqa: ASYNC110
                    await trio.sleep(0.001)
                await raw.stream._transport.aclose()
                await _until_open(a, 1)
                assert heard == []
                gate.set()
            await _until_open(a, 0)
        assert heard == [Ending.LOST]


async def test_one_member_holds_few_connections_open(tmp_path: Path) -> None:
    """Forty dials, each with a word behind its hello: the oldest make room, and the newest is heard."""
    async with _crowd(tmp_path) as (a, _b, dial):
        with trio.fail_after(30):
            for number in range(40):
                raw = await dial()
                raw.mux.note("n", bytes([number]))
                await raw.send()
                while not any(isinstance(event, Credentials) for event in await raw.hear()):
                    await trio.lowlevel.checkpoint()
                assert sum(each.is_open for each in a.channel._peers.open()) <= OPEN_PER_NODE_MAX
            await a.until_notes(40)
        assert [body for _, body in a.notes] == [bytes([number]) for number in range(40)]


async def test_notes_that_wait_are_bounded_for_all_connections_of_a_member(tmp_path: Path) -> None:
    """Each of four connections sends 15 MiB before the one in front has said its last word: 16 MiB are held in all."""
    async with _crowd(tmp_path) as (a, _b, dial):
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    raw = await dial()
                    raw.mux.credentials(FIRST)
                    await raw.send()
                    nursery.start_soon(_hoard, raw)
                peers = a.channel._peers
                while sum(held.succession.held_bytes for held in peers.open()) < HELD_BYTES_MAX:  # noqa: ASYNC110
                    await trio.sleep(0.001)
                for _ in range(50):
                    await trio.sleep(0.002)
                    assert sum(held.succession.held_bytes for held in peers.open()) < HELD_BYTES_MAX + 5 * MIB
                nursery.cancel_scope.cancel()


async def _hoard(raw: Raw) -> None:
    for _ in range(15):
        raw.mux.is_draining = False
        raw.mux.note("n", bytes(MIB - 1_000))
        try:
            await raw.send()
        except trio.BrokenResourceError:
            return


async def test_a_drained_connection_without_calls_does_not_stand_for_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever never takes leave is not waited for longer than after any other last word."""
    monkeypatch.setattr(connections, "DRAIN_S", 0.2)
    async with _crowd(tmp_path) as (a, _b, dial):
        with trio.fail_after(10):
            first = await dial()
            first.mux.credentials(FIRST)
            await first.send()
            second = await dial()
            second.mux.credentials(FIRST)
            await second.send()
            await _until_open(a, 3)
            await _until_open(a, 1)


async def test_whoever_was_dialled_drains_what_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dialling side never rekeys; half as far again over the threshold no new call is taken, and none fails."""
    monkeypatch.setattr(rekey, "OVERDUE_S", 0.2)
    settings = ChannelSettings(rekey_after_s=0.4)
    async with _pair(tmp_path, settings) as (a, b):
        b.channel.rekeying._after_s = 0.0
        b.channel.rekeying._after_bytes = 0
        (kept,) = a.channel._peers.all()
        with trio.fail_after(20):
            while kept.is_usable:
                assert await a.channel.call(b.id, ECHO, b"x") == b"x"
                await trio.sleep(0.01)
            # Nobody waits for a connection that was said to be there: the next call makes it.
            assert not any(held.is_replaced for held in b.channel._peers.open())
            assert await b.channel.call(a.id, ECHO, b"x") == b"x"
        assert _rekeys(a)["overdue"] == 1


async def test_a_certificate_that_has_run_out_on_a_standing_connection_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past its grace it would be refused at a handshake; so it is when it was shown before."""
    monkeypatch.setattr(rekey, "OVERDUE_S", 0.2)
    async with _pair(tmp_path, ChannelSettings(rekey_after_bytes=0, rekey_after_s=3.0)) as (a, b):
        (kept,) = a.channel._peers.all()
        a.channel.rekeying._is_over = lambda held: held is kept
        b.channel.rekeying._after_s = 0.0
        with trio.fail_after(20):
            while kept.is_usable:  # noqa: ASYNC110
                await trio.sleep(0.005)
            assert await b.channel.call(a.id, ECHO, b"x") == b"x"


async def test_a_rekey_that_changes_nothing_is_counted_apart_and_tried_later(tmp_path: Path) -> None:
    """No address is known: the connection is kept, and not looked at again at once."""
    async with _pair(tmp_path, ChannelSettings(rekey_after_s=0.2)) as (a, b):
        b.channel._peers._addresses.clear()
        a.channel.rekeying._after_s = 0.0
        with trio.fail_after(20):
            while _rekeys(b)["kept"] < 1:  # noqa: ASYNC110
                await trio.sleep(0.005)
        assert b.channel.rekeying._retry_s[a.id] > trio.current_time()
        assert _rekeys(b)["done"] == 0
