"""A change of the authority in time: who does not answer holds it up by name, who is dead does not, and comes home."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from frys_node.base.errors import FrysError, NotReady
from frys_node.base.types import NodeId
from frys_node.channel.driver import Channel
from frys_node.testing.network import FakeNetwork
from frys_node.trust.rotation import ASK_AUTHORITY, ROTATE_AUTHORITY, AskAuthority, RotateAuthority
from frys_node.trust.rotation_desk import RotationDesk
from frys_node.trust.rotation_driver import HOLD_S, LOOK_EVERY_S, TELL_S, RotationDriver
from frys_node.trust.trust_keeper import RETURN_EVERY_S
from tests.unit.channel.test_channel_time import ECHO, FakeNode, _cluster


def _driver(node: FakeNode, channel: Channel, live: dict[NodeId, str]) -> RotationDriver:
    desk = RotationDesk(channel.identity, channel.authority, node.disk, node.entropy, node.clock)
    return RotationDriver(
        channel.identity,
        channel.authority,
        desk,
        channel,
        members=lambda: list(live.items()),
        rotate_keys=channel.keys.rotate_older,
    )


async def test_a_silent_member_holds_the_change_up_and_a_dead_one_comes_home(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """While it counts as live it is named as behind; once it is dead the rest goes on, and healing brings it back."""
    network = FakeNetwork()
    async with _cluster(network) as (a, one, b, two), trio.open_nursery() as nursery:
        live = {one.self_id: "a", two.self_id: "b"}
        rotation, other = _driver(a, one, live), _driver(b, two, live)
        rotation.serve()
        other.serve()
        nursery.start_soon(rotation.run)
        nursery.start_soon(other.run)
        old = one.identity.ca_hash
        with pytest.raises(FrysError, match="not the issuer"):
            await one.call(two.self_id, ROTATE_AUTHORITY, RotateAuthority())
        before = await two.call(one.self_id, ASK_AUTHORITY, AskAuthority())
        assert (before.stage, before.moved, before.total) == ("stable", 2, 2)
        network.partition(["a"], ["b"])
        rotation._desk.begin()
        await trio.sleep(LOOK_EVERY_S + 4 * TELL_S)
        view = rotation.view()
        (behind,) = [member for member in view.members if not member.has_moved]
        assert (view.stage, behind.name, bool(behind.error)) == ("introduced", "b", True)
        del live[two.self_id]
        await trio.sleep(2 * TELL_S)
        assert (rotation.view().stage, one.identity.ca_hash != old) == ("stable", True)
        assert two.identity.ca_hash == old
        network.heal()
        await trio.sleep(10)
        with pytest.raises(FrysError):
            await two.call(one.self_id, ECHO, b"x")
        await trio.sleep(RETURN_EVERY_S)
        assert two.identity.ca_hash == one.identity.ca_hash
        assert await two.call(one.self_id, ECHO, b"x") == b"x"
        live[two.self_id] = "b"
        await trio.sleep(LOOK_EVERY_S + TELL_S)
        assert (rotation.view().moved, rotation.view().total) == (2, 2)
        assert two.identity.trust == one.identity.trust
        nursery.cancel_scope.cancel()


async def test_an_issuer_that_restarts_amid_a_change_looks_round_first(autojump_clock: trio.testing.MockClock) -> None:
    """It knows only itself at first: no step for half a minute, in which the members are found and told."""
    network = FakeNetwork()
    async with _cluster(network) as (a, one, _b, two), trio.open_nursery() as nursery:
        live = {one.self_id: "a"}
        rotation = _driver(a, one, live)
        rotation._desk.begin()
        nursery.start_soon(rotation.run)
        await trio.sleep(HOLD_S - 1)
        assert rotation.view().stage == "introduced"
        live[two.self_id] = "b"
        await trio.sleep(10)
        assert (rotation.view().stage, rotation.view().moved) == ("stable", 2)
        assert two.identity.authorities == one.identity.authorities
        rotation._desk.begin()
        with pytest.raises(NotReady, match="already"):
            rotation._desk.begin()
        nursery.cancel_scope.cancel()
