"""The in-process `Rpc` behaves as the channel does, faults included."""

from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing

from frys_node.base.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FrameTooLarge,
    NodeUnreachable,
    NotFound,
    RemoteError,
    StaleEpoch,
)
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.testing.rpc import CALL_S, open_rpc_network


class Ask(msgspec.Struct, frozen=True):
    """A request."""

    text: str


ECHO: Method[Ask, str] = Method("test.echo", Ask, str)
ONE, TWO = NodeId("n1"), NodeId("n2")


async def test_a_call_carries_the_caller_and_the_bytes() -> None:
    """The handler sees who asked; a call to oneself works without a wire."""
    async with open_rpc_network() as network:
        one: Rpc = network.node(ONE)
        two = network.node(TWO)

        async def echo(caller: NodeId, ask: Ask) -> str:
            await trio.lowlevel.checkpoint()
            return f"{caller}:{ask.text}"

        for node in (one, two):
            node.serve(ECHO, echo)
        assert await one.call(TWO, ECHO, Ask("hi")) == "n1:hi"
        assert await one.call(ONE, ECHO, Ask("self")) == "n1:self"
        with pytest.raises(AlreadyExists):
            one.serve(ECHO, echo)


async def test_errors_cross_by_their_code() -> None:
    """The same class arrives; what nobody foresaw becomes a RemoteError."""
    async with open_rpc_network() as network:
        one, two = network.node(ONE), network.node(TWO)

        async def fail(caller: NodeId, ask: Ask) -> str:
            await trio.lowlevel.checkpoint()
            if ask.text == "large":
                return "x" * (2 << 20)
            if ask.text == "bug":
                raise ZeroDivisionError
            raise StaleEpoch("old", hint="refresh")

        two.serve(ECHO, fail)
        with pytest.raises(StaleEpoch) as caught:
            await one.call(TWO, ECHO, Ask(""))
        assert (caught.value.message, caught.value.hint) == ("old", "refresh")
        with pytest.raises(RemoteError):
            await one.call(TWO, ECHO, Ask("bug"))
        with pytest.raises(FrameTooLarge):
            await one.call(TWO, ECHO, Ask("large"))
        with pytest.raises(NotFound):
            await two.call(ONE, ECHO, Ask(""))


async def test_an_unreachable_node_and_a_break_in_flight(autojump_clock: trio.testing.MockClock) -> None:
    """Both are NodeUnreachable; after a heal calls work again."""
    async with open_rpc_network() as network:
        one, two = network.node(ONE), network.node(TWO)

        async def slow(caller: NodeId, ask: Ask) -> str:
            await trio.sleep(5)
            return ask.text

        two.serve(ECHO, slow)
        with pytest.raises(NodeUnreachable):
            await one.call(NodeId("n3"), ECHO, Ask(""))
        async with trio.open_nursery() as nursery:

            async def cut() -> None:
                await trio.sleep(1)
                network.partition([ONE], [TWO])

            nursery.start_soon(cut)
            with pytest.raises(NodeUnreachable):
                await one.call(TWO, ECHO, Ask(""))
        assert not one.is_connected(TWO)
        network.heal()
        assert await one.call(TWO, ECHO, Ask("again")) == "again"
        network.stop(TWO)
        with pytest.raises(NodeUnreachable):
            await one.call(TWO, ECHO, Ask(""))
        network.restart(TWO)
        with pytest.raises(NotFound):
            await one.call(TWO, ECHO, Ask(""))


async def test_a_deadline_ends_a_call(autojump_clock: trio.testing.MockClock) -> None:
    """The caller's scope counts; without one there are 30 s."""
    async with open_rpc_network() as network:
        one, two = network.node(ONE), network.node(TWO)
        cancelled = 0

        async def hang(caller: NodeId, ask: Ask) -> str:
            nonlocal cancelled
            try:
                await trio.sleep_forever()
            finally:
                cancelled += 1

        two.serve(ECHO, hang)
        started_s = trio.current_time()
        with pytest.raises(DeadlineExceeded):
            await one.call(TWO, ECHO, Ask(""))
        assert trio.current_time() == started_s + CALL_S
        with trio.move_on_after(60):
            await one.call(TWO, ECHO, Ask(""))
        assert trio.current_time() == started_s + CALL_S + 60
        assert cancelled == 2


async def test_notes_arrive_in_order_and_never_reenter_the_sender(autojump_clock: trio.testing.MockClock) -> None:
    """A handler that notes back does not recurse; loss is counted; what no frame takes is refused, as it really is."""
    async with open_rpc_network(delay_s=0.5) as network:
        one, two = network.node(ONE), network.node(TWO)
        seen: list[tuple[NodeId, bytes]] = []
        two.on_note("n", lambda node, payload: seen.append((node, payload)))
        assert one.note(TWO, "n", b"1")
        assert one.note(TWO, "n", b"2")
        assert not one.note(NodeId("n3"), "n", b"x")
        for node in (TWO, NodeId("n3")):
            with pytest.raises(FrameTooLarge):
                one.note(node, "n", b"x" * (2 << 20))
        assert seen == []
        await trio.sleep(1)
        assert seen == [(ONE, b"1"), (ONE, b"2")]
        network.note_loss = 1.0
        assert one.note(TWO, "n", b"3")
        await trio.sleep(1)
        assert len(seen) == 2
        assert network.counts["notes_lost"] == 1
