"""Changes of the authority that a member missed, who may have one made, and what a member says that missed too many."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from frys_node.base.access import ADMIN, LOCAL
from frys_node.base.errors import NotReady, Overloaded, SecurityError
from frys_node.channel.bootstrap import create_cluster
from frys_node.secure.errors import HandshakeRefused, TrustLost
from frys_node.secure.identity import load_identity
from frys_node.secure.signing_keys import Kind
from frys_node.secure.trust import LINKS_MAX, MISSED_MAX
from frys_node.transport.disk import DirectoryDisk
from frys_node.trust.rotation import ASK_AUTHORITY, ROTATE_AUTHORITY, AskAuthority, RotateAuthority, Stage
from frys_node.trust.rotation_driver import ROTATE_EVERY_S
from tests.integration.channel.channel_rig import CLOCK, ECHO, ENTROPY, Node, create, join, open_node, running
from tests.integration.channel.test_channel_rotation import driver, whole


async def _again(node: Node, directory: Path) -> Node:
    disk = DirectoryDisk(directory)
    identity = load_identity(disk)
    assert identity is not None
    return await open_node(disk, identity)


@pytest.mark.parametrize("kind", ["ed25519", "ml-dsa-65"])
async def test_a_member_that_missed_as_many_changes_as_are_promised_comes_home(tmp_path: Path, kind: Kind) -> None:
    """Whatever the kind of the keys: links of ML-DSA are 6 KB each. One more change, and it is told so plainly."""
    disk = DirectoryDisk(tmp_path / "a")
    identity = create_cluster(disk, ENTROPY, CLOCK, cluster_name="test", node_name="a", kind=kind)
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await open_node(disk, identity)))
        away = [await join(tmp_path / name, a, name) for name in "bc"]
        for node in away:
            async with running(node):
                pass
            node.disk.close()
        rotation = driver(a, (a,))
        for _ in range(MISSED_MAX):
            rotation._desk.begin()
            await whole(rotation)
        async with running(await _again(away[0], tmp_path / "b")) as b:
            await b.channel._upkeep._trust.come_home(a.address)
            b.channel.learn(a.id, a.address)
            with trio.fail_after(10):
                assert await b.channel.call(a.id, ECHO, b"x") == b"x"
            assert len(b.identity.links) == LINKS_MAX
        for _ in range(LINKS_MAX + 1 - MISSED_MAX):
            rotation._desk.begin()
            await whole(rotation)
        async with running(await _again(away[1], tmp_path / "c")) as c:
            with pytest.raises(TrustLost, match=f"more than {MISSED_MAX} changes"):
                await c.channel._upkeep._trust.come_home(a.address)


async def test_a_member_that_cannot_come_home_says_so_and_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As its trouble, which status shows and readiness hears, and in the log; not because an address is silent."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        async with running(await join(tmp_path / "c", a, "c")) as c:
            pass
        c.disk.close()
        rotation = driver(a, (a,))
        rotation._desk.begin()
        await whole(rotation)
        c = await stack.enter_async_context(running(await _again(c, tmp_path / "c")))
        c.channel._upkeep._trust._judge([(a.address, NotReady("nobody answers"))])
        assert c.channel.trouble == ""
        # Its links have been pushed out by later ones.
        a.identity.links = ()
        c.channel.learn(a.id, a.address)
        with pytest.raises(HandshakeRefused):
            await c.channel.connect(a.id)
        with trio.fail_after(20):
            while not c.channel.trouble:  # noqa: ASYNC110 - a plain attribute has nothing to wait on
                await trio.sleep(0.01)
        assert f"more than {MISSED_MAX} changes" in c.channel.trouble
        assert TrustLost.FIX in c.channel.trouble
        (line,) = [line for line in caplog.records if line.message == "channel.not_home" and line.levelname == "ERROR"]
        assert line.fix == TrustLost.FIX  # type: ignore[attr-defined]


async def test_a_member_has_the_authority_replaced_once_a_day_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not for nobody, nor for who is no admin. By the authority's age, so that no restart of the issuer forgets it.

    The issuer's own operator may at once: that is who cleans up.
    """
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        b = await stack.enter_async_context(running(await join(tmp_path / "b", a, "b")))
        rotation = driver(a, (a, b))
        for asked_by in (None, LOCAL):
            with pytest.raises(SecurityError, match="may not replace the authority"):
                await b.channel.call(a.id, ROTATE_AUTHORITY, RotateAuthority(asked_by))
        assert rotation.view().stage == Stage.STABLE
        await b.channel.call(a.id, ROTATE_AUTHORITY, RotateAuthority(ADMIN))
        await whole(rotation)
        (line,) = [line for line in caplog.records if line.message == "channel.rotation_begun"]
        assert (line.levelname, line.asked_by, line.through) == ("WARNING", "admin", b.id)  # type: ignore[attr-defined]
        told = await b.channel.call(a.id, ASK_AUTHORITY, AskAuthority())
        assert told.asked_by == "admin through b"
        assert 0 <= CLOCK.unix_ns() / 1e9 - told.changed_at < ROTATE_EVERY_S
        for method in (ASK_AUTHORITY, ROTATE_AUTHORITY):
            a.channel.unserve(method)
        fresh = driver(a, (a, b))
        with pytest.raises(Overloaded) as refused:
            await b.channel.call(a.id, ROTATE_AUTHORITY, RotateAuthority(ADMIN))
        assert "run it on the issuer" in refused.value.hint
        await a.channel.call(a.id, ROTATE_AUTHORITY, RotateAuthority(ADMIN))
        await whole(fresh)
        assert len(a.identity.links) == 3
