"""What every network promises. Real sockets on loopback, so waits are on events with a generous limit."""

from __future__ import annotations

import pytest
import trio

from frys_node.base.ports import Network, Stream
from frys_node.base.types import Address
from frys_node.transport.errors import AddressInUse, AddressRefused, ConnectFailed

LIMIT_S = 10


async def _pair(network: Network, host: str) -> tuple[Stream, Stream]:
    """Two ends of a connection."""
    listener = await network.listen(Address(host, 0))
    near = await network.connect(listener.address)
    far, _ = await listener.accept()
    await listener.aclose()
    return near, far


async def _receive_exactly(stream: Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await stream.receive_some()
        assert part, "the stream ended early"
        data += part
    return data


async def test_bytes_arrive_in_order_in_both_directions(network: Network, host: str) -> None:
    """A stream is a reliable sequence of bytes."""
    with trio.fail_after(LIMIT_S):
        near, far = await _pair(network, host)
        await near.send_all(b"hello ")
        await near.send_all(b"world")
        await far.send_all(b"back")
        assert await _receive_exactly(far, 11) == b"hello world"
        assert await _receive_exactly(near, 4) == b"back"
        await near.aclose()
        await far.aclose()


async def test_the_other_kernel_acknowledges_what_nobody_reads(network: Network, host: str) -> None:
    """A process that stands still has its bytes acknowledged all the same; a closed stream knows nothing."""
    with trio.fail_after(LIMIT_S):
        near, far = await _pair(network, host)
        await near.send_all(b"are you there")
        while near.unacknowledged_bytes():  # noqa: ASYNC110 - a kernel counter has nothing to wait on
            await trio.sleep(0.001)
        assert near.unacknowledged_bytes() == 0
        await near.aclose()
        assert near.unacknowledged_bytes() is None
        await far.aclose()


async def test_a_large_transfer_waits_for_a_slow_reader(network: Network, host: str) -> None:
    """Backpressure: send_all returns only as the reader takes bytes, and nothing is lost."""
    data = bytes(range(256)) * 32_768
    received = bytearray()
    with trio.fail_after(LIMIT_S):
        near, far = await _pair(network, host)
        sent = trio.Event()

        async def send() -> None:
            await near.send_all(data)
            sent.set()
            await near.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not sent.is_set()
            while part := await far.receive_some():
                received += part
        await far.aclose()
    assert received == data


async def test_a_send_without_waiting_takes_everything_and_keeps_the_rest(network: Network, host: str) -> None:
    """What did not go at once goes first with the next send_all; until then the stream takes nothing else."""
    data = bytes(range(256)) * 65_536
    received = bytearray()
    with trio.fail_after(LIMIT_S):
        near, far = await _pair(network, host)
        assert near.send_nowait(b"small")
        assert await _receive_exactly(far, 5) == b"small"
        assert not near.send_nowait(data)
        with pytest.raises(trio.BusyResourceError):
            near.send_nowait(b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, b"end")
            while len(received) < len(data) + 3:
                received += await far.receive_some()
        assert received == data + b"end"
        assert near.send_nowait(b"again")
        assert await _receive_exactly(far, 5) == b"again"
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            near.send_nowait(b"x")
        await far.aclose()


async def test_the_end_of_a_stream_is_empty_bytes_after_what_was_sent(network: Network, host: str) -> None:
    """An orderly close loses nothing."""
    with trio.fail_after(LIMIT_S):
        near, far = await _pair(network, host)
        await near.send_all(b"last words")
        await near.aclose()
        assert await _receive_exactly(far, 10) == b"last words"
        assert await far.receive_some() == b""
        assert await far.receive_some() == b""
        await far.aclose()


async def test_sending_to_a_peer_that_is_gone_breaks(network: Network, host: str) -> None:
    """The sender learns of it after a few sends at most."""
    with trio.fail_after(LIMIT_S):
        near, far = await _pair(network, host)
        await far.aclose()

        async def send_on() -> None:
            while True:
                await near.send_all(b"x" * 1_000)

        with pytest.raises(trio.BrokenResourceError):
            await send_on()
        await near.aclose()


async def test_a_closed_stream_refuses_and_wakes_its_reader(network: Network, host: str) -> None:
    """Closing ends waiting calls of the same end."""
    with trio.fail_after(LIMIT_S):
        near, far = await _pair(network, host)

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await near.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await near.receive_some()
        await near.aclose()
        await far.aclose()


async def test_two_tasks_may_not_receive_at_once(network: Network, host: str) -> None:
    """Interleaved bytes would be worse than an error."""
    with trio.fail_after(LIMIT_S):
        near, far = await _pair(network, host)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await near.receive_some()
            nursery.cancel_scope.cancel()
        await far.send_all(b"still works")
        assert await _receive_exactly(near, 11) == b"still works"
        await near.aclose()
        await far.aclose()


async def test_a_taken_port_is_named_with_its_fix(network: Network, host: str) -> None:
    """TCP and UDP alike."""
    with trio.fail_after(LIMIT_S):
        listener = await network.listen(Address(host, 0))
        datagram = await network.bind(Address(host, 0))
        for bind, taken in ((network.listen, listener), (network.bind, datagram)):
            with pytest.raises(AddressInUse) as caught:
                await bind(taken.address)
            assert caught.value.code == "transport.address_in_use"
            assert str(taken.address.port) in caught.value.message
            assert caught.value.hint
        await listener.aclose()
        await datagram.aclose()
        await (await network.listen(listener.address)).aclose()
        await (await network.bind(datagram.address)).aclose()


async def test_an_address_of_another_machine_is_refused(network: Network, host: str) -> None:
    """Binding what this machine does not have is a configuration error."""
    for bind in (network.listen, network.bind):
        with pytest.raises(AddressRefused):
            await bind(Address("2001:db8::1" if ":" in host else "192.0.2.1", 0))


async def test_a_connect_that_nobody_answers_says_refused(network: Network, host: str) -> None:
    """The reason is data, not text."""
    with trio.fail_after(LIMIT_S):
        listener = await network.listen(Address(host, 0))
        await listener.aclose()
        with pytest.raises(ConnectFailed) as caught:
            await network.connect(listener.address)
        assert caught.value.reason == "refused"
        assert str(listener.address) in caught.value.message


async def test_an_unknown_name_says_unresolved(network: Network, host: str) -> None:
    """And resolve answers with nothing instead of raising."""
    with trio.fail_after(LIMIT_S):
        assert list(await network.resolve("frys-test.invalid")) == []
        with pytest.raises(ConnectFailed) as caught:
            await network.connect(Address("frys-test.invalid", 1))
        assert caught.value.reason == "unresolved"
        assert list(await network.resolve(host)) == [host]


async def test_a_closed_listener_ends_accept(network: Network, host: str) -> None:
    """A pending accept raises ClosedResourceError."""
    with trio.fail_after(LIMIT_S):
        listener = await network.listen(Address(host, 0))

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await listener.aclose()


async def test_datagrams_arrive_with_their_source_in_batches(network: Network, host: str) -> None:
    """A burst of 100 packets comes in batches of 1 to 64, each with the sender's address."""
    with trio.fail_after(LIMIT_S):
        one = await network.bind(Address(host, 0))
        two = await network.bind(Address(host, 0))
        for number in range(100):
            assert one.send(bytes([number]), two.address)
        packets: list[tuple[bytes, Address]] = []
        while len(packets) < 100:
            batch = await two.receive()
            assert 1 <= len(batch) <= 64
            packets += batch
        assert [payload for payload, _ in packets] == [bytes([number]) for number in range(100)]
        assert {source for _, source in packets} == {one.address}
        await one.aclose()
        await two.aclose()


async def test_a_packet_that_cannot_be_sent_is_false_and_never_raised(network: Network, host: str) -> None:
    """Too large, port zero, after close."""
    with trio.fail_after(LIMIT_S):
        one = await network.bind(Address(host, 0))
        assert one.send(b"x" * 70_000, one.address) is False
        assert one.send(b"x", Address(host, 0)) is False
        await one.aclose()
        assert one.send(b"x", one.address) is False
        with pytest.raises(trio.ClosedResourceError):
            await one.receive()


async def test_closing_a_datagram_socket_wakes_its_reader(network: Network, host: str) -> None:
    """A pending receive raises ClosedResourceError."""
    with trio.fail_after(LIMIT_S):
        one = await network.bind(Address(host, 0))

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await one.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await one.aclose()
