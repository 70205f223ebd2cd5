"""A real listener whose backlog is full, which real dials must not take for a closed port."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from frys_node.base.types import Address
from frys_node.transport.network import SystemNetwork
from membership.driver_lifelines import try_port
from membership.findings import PortState

ABORT = Path("/proc/sys/net/ipv4/tcp_abort_on_overflow")
FILLERS = 8
WAITING = 128


@contextlib.contextmanager
def overflowing() -> Iterator[Address]:
    """A listener with the shortest backlog, that is full, and nobody who accepts."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(FILLERS):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(address)
        yield Address(*address)


@pytest.mark.skipif(not ABORT.exists() or ABORT.read_text().strip() != "0", reason="the kernel resets on overflow")
async def test_a_full_backlog_is_no_refusal() -> None:
    """F12: the kernel drops the SYN, every racing attempt waits, and the port counts as silent: no evidence."""
    with overflowing() as address:
        with trio.fail_after(10.0):
            assert await try_port(SystemNetwork(), address) is PortState.SILENT


async def test_a_closed_port_is_a_refusal() -> None:
    """The same dial to the same port a moment later, when nobody listens any more."""
    with overflowing() as address:
        pass
    with trio.fail_after(10.0):
        assert await try_port(SystemNetwork(), address) is PortState.REFUSED


async def test_a_node_that_is_busy_keeps_128_dials_waiting() -> None:
    """F12: nobody accepts, and each of them stands: a burst of reconnections does not find the port silent."""
    listener = await SystemNetwork().listen(Address("127.0.0.1", 0))
    with contextlib.ExitStack() as stack:
        dials = [stack.enter_context(socket.socket()) for _ in range(WAITING)]
        for dial in dials:
            dial.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                dial.connect((listener.address.host, listener.address.port))
        # One that the kernel has dropped has no peer yet.
        assert [dial.getpeername()[1] for dial in dials] == [listener.address.port] * WAITING
    await listener.aclose()
