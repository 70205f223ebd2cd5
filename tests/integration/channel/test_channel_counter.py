"""A node whose packets are nearly counted out gets a new key, and says so if it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from frys_node.secure.errors import CounterExhausted
from frys_node.secure.packet import COUNTER_MAX, COUNTER_WORN, PacketSealer
from tests.integration.channel.channel_rig import Node, create, join, running


def _sealer(node: Node) -> PacketSealer:
    sealer = PacketSealer(node.channel.secrets.keyring, node.id, node.channel.boot)
    node.channel.watch_counter(sealer)
    return sealer


async def test_a_node_asks_the_issuer_for_a_key_before_its_counter_stops(tmp_path: Path) -> None:
    """It goes on under the new key; nothing has to be restarted, and nobody has to be woken."""
    async with running(await create(tmp_path / "a", "a")) as a, running(await join(tmp_path / "b", a, "b")) as b:
        with trio.fail_after(20):
            await b.channel.connect(a.id)
            while not b.channel.secrets.keyring.keys:  # noqa: ASYNC110
                await trio.sleep(0.005)
            sealer, reader = _sealer(b), _sealer(a)
            assert reader.open(sealer.seal(b"x"), 0.0) is not None
            assert sealer._own is not None
            sealer._own.count = COUNTER_WORN
            assert b.channel.trouble == ""
            b.channel.keys.keeper.changed()
            while sealer.is_worn:  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert reader.open(sealer.seal(b"under the new key"), 0.0) is not None
            assert sealer._own.count == 1
            assert a.channel.keys.held().epochs == (2, 1)


async def test_a_node_that_is_counted_out_is_in_trouble_and_not_silently_mute(tmp_path: Path) -> None:
    """Alone without an issuer that rotates it stops sealing, and its status and readiness say what to do."""
    async with running(await create(tmp_path / "a", "a")) as a, running(await join(tmp_path / "b", a, "b")) as b:
        with trio.fail_after(20):
            await b.channel.connect(a.id)
            while not b.channel.secrets.keyring.keys:  # noqa: ASYNC110
                await trio.sleep(0.005)
            sealer = _sealer(b)
            sealer.seal(b"x")
            assert sealer._own is not None
            sealer._own.count = COUNTER_MAX
            with pytest.raises(CounterExhausted):
                sealer.seal(b"x")
            assert "keys rotate" in b.channel.trouble
            assert a.channel.trouble == ""
