"""Many nodes that dial one another at once while connections keep breaking."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from frys_node.base.errors import NodeUnreachable
from tests.integration.channel.channel_rig import ECHO, Node, create, join, running


async def test_connections_settle_whatever_breaks(tmp_path: Path) -> None:
    """Five nodes, all pairs both ways, random cuts: wrong answers never, and afterwards one connection per pair."""
    generator = random.Random(1)
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(running(await create(tmp_path / "0", "n0")))]
        for number in range(1, 5):
            joined = await join(tmp_path / str(number), nodes[0], f"n{number}")
            nodes.append(await stack.enter_async_context(running(joined)))
        pairs = [(one, other) for one in nodes for other in nodes if one is not other]
        for one, other in pairs:
            one.channel.learn(other.id, other.address)
        with trio.fail_after(60):
            for _ in range(10):
                async with trio.open_nursery() as nursery:
                    for one, other in pairs:
                        nursery.start_soon(_echo_or_unreachable, one, other)
                for node in nodes:
                    for connection in node.channel._peers.all():
                        if generator.random() < 0.5:
                            connection.close()
                await trio.sleep(generator.choice([0, 0.01, 0.05]))
            for one, other in pairs:
                while not await _echo_or_unreachable(one, other):  # noqa: ASYNC110 - the backoff has no event
                    await trio.sleep(0.05)
        for node in nodes:
            assert len(node.channel._peers.all()) == len(nodes) - 1
            assert node.refused() == {}


async def _echo_or_unreachable(one: Node, other: Node) -> bool:
    try:
        body = one.id.encode()
        assert await one.channel.call(other.id, ECHO, body) == body
    except NodeUnreachable:
        return False
    return True
