"""A channel whose task crashed: the supervisor runs it again on the same object."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from frys_node.base.ports import Stream, StreamListener
from frys_node.base.types import Address
from frys_node.channel.driver import Channel
from frys_node.observe.metrics import Metrics
from frys_node.secure.stored import next_boot
from tests.integration.channel.channel_rig import CLOCK, ECHO, ENTROPY, LOOPBACK, NETWORK, create, join, running


class BreaksOnce:
    """A listener whose first `accept` fails with an error that nobody foresaw."""

    def __init__(self, inner: StreamListener) -> None:
        self._inner = inner
        self.has_broken = False

    @property
    def address(self) -> Address:
        """The bound address."""
        return self._inner.address

    async def accept(self) -> tuple[Stream, Address]:
        """Break, then accept."""
        if not self.has_broken:
            self.has_broken = True
            raise OSError(99, "planted")
        return await self._inner.accept()

    async def aclose(self) -> None:
        """Close."""
        await self._inner.aclose()


async def test_a_channel_that_crashed_listens_again(tmp_path: Path) -> None:
    """After a crash the port is still open, and members connect and call as before."""
    a = await create(tmp_path / "a", "a")
    listener = BreaksOnce(await NETWORK.listen(LOOPBACK))
    channel = Channel(
        identity=a.identity,
        boot=next_boot(a.disk, ENTROPY),
        network=NETWORK,
        listener=listener,
        clock=CLOCK,
        entropy=ENTROPY,
        disk=a.disk,
        metrics=Metrics(),
    )

    async def echo(_caller: str, body: bytes) -> bytes:
        return body

    channel.serve(ECHO, echo)
    async with running(a):
        b = await join(tmp_path / "b", a, "b")
    with pytest.raises(ExceptionGroup):
        await channel.run()
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: channel.run(task_status=task_status))
        b.channel.learn(a.id, listener.address)
        async with running(b):
            with trio.fail_after(10):
                assert await b.channel.call(a.id, ECHO, b"again") == b"again"
        nursery.cancel_scope.cancel()
    assert listener.has_broken
