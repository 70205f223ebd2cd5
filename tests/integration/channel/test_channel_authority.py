"""The authority's key on its way to a successor and to standbys, over real connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from frys_node.base.errors import FrysError, SecurityError
from frys_node.trust.authority import ENTRUST, AuthorityDriver
from tests.integration.channel.channel_rig import Node, create, join, running


def driver(node: Node, *standby: str, others: tuple[Node, ...] = ()) -> AuthorityDriver:
    """Return the driver of a node that knows these others, ready to take copies."""
    members = [(other.channel.self_id, other.channel.identity.node_name) for other in (node, *others)]
    made = AuthorityDriver(node.channel.authority, node.channel, standby=standby, members=lambda: members)
    made.serve()
    return made


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    """An issuer `a` and a member `b`."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        b = await stack.enter_async_context(running(await join(tmp_path / "b", a, "b")))
        await b.channel.connect(a.id)
        yield a, b


async def test_a_successor_with_the_key_admits_nodes_with_the_tokens_of_before(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    """The old issuer made the token; once the role has moved it redirects, and the successor lets the joiner in."""
    a, b = pair
    giver = driver(a, others=(b,))
    driver(b, others=(a,))
    assert a.channel.desk is not None
    token, _ = a.channel.desk.create_token(ttl_s=600, uses=1)
    await giver.entrust(b.channel.self_id)
    assert b.channel.authority.can_admit
    assert b.channel.desk is None
    for node in (a, b):
        node.channel.issuer = b.channel.self_id
    assert a.channel.desk is None
    assert b.channel.desk is not None
    async with running(await join(tmp_path / "c", a, "c", token=token)) as c:
        assert (c.identity.node_name, c.identity.issuer) == ("c", b.channel.self_id)
        assert b.channel.desk.names.find(c.id) == "c"


async def test_only_the_issuer_entrusts_and_only_this_clusters_key_is_kept(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    """A member that offers a key, and a key of another cluster, are refused; nothing is stored."""
    a, b = pair
    driver(a, others=(b,))
    driver(b, others=(a,))
    async with running(await create(tmp_path / "other", "other")) as other:
        foreign = other.channel.authority.export()
    own = a.channel.authority.export()
    with pytest.raises(FrysError, match="only the issuer"):
        await b.channel.call(a.channel.self_id, ENTRUST, own)
    for bad in (foreign, foreign.__class__(b"short", b"", b"")):
        with pytest.raises(FrysError):
            await a.channel.call(b.channel.self_id, ENTRUST, bad)
        with pytest.raises(SecurityError):
            b.channel.authority.take(bad)
    assert not b.channel.authority.can_admit


async def test_named_members_are_kept_up_to_date_and_nobody_else_gets_the_key(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    """`b` is a standby, `c` is not; the copy survives a restart of the process, and can be dropped."""
    a, b = pair
    async with running(await join(tmp_path / "c", a, "c")) as c:
        await c.channel.connect(a.id)
        giver = driver(a, "b", others=(b, c))
        driver(b)
        driver(c)
        with trio.fail_after(10):
            await giver.spread()
        assert (b.channel.authority.can_admit, c.channel.authority.can_admit) == (True, False)
        assert giver.standby() == ["b"]
        assert a.channel.desk is not None
        a.channel.desk.create_token(ttl_s=600, uses=1)
        assert giver.standby() == []
        await giver.spread()
        assert giver.standby() == ["b"]
        assert b.channel.authority.export() == a.channel.authority.export()
        b.channel.authority.drop()
        assert not b.channel.authority.can_admit


async def test_a_standby_is_the_node_that_was_chosen_and_not_whoever_has_its_name(
    pair: tuple[Node, Node], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A name goes to another machine when its node is dead for long, and in gossip everybody names itself."""
    a, b = pair
    async with running(await join(tmp_path / "c", a, "c")) as c:
        await c.channel.connect(a.id)
        names = {b.id: "b", c.id: "c"}
        giver = AuthorityDriver(
            a.channel.authority, a.channel, standby=["b"], members=lambda: [(node, names[node]) for node in names]
        )
        for node in (b, c):
            driver(node)
        names[c.id] = "b"
        with trio.fail_after(10):
            await giver.spread()
        assert (b.channel.authority.can_admit, c.channel.authority.can_admit) == (True, False)
        # Also if the registry gives it the name: the operator has to say so.
        assert a.channel.desk is not None
        a.channel.desk.names._nodes["b"] = c.id
        a.channel.desk.names._nodes.pop("c")
        del names[b.id]
        await giver.spread()
        assert not c.channel.authority.can_admit
        told = [record for record in caplog.records if record.message == "channel.standby_is_another"]
        assert len(told) == 1
        assert c.id in told[0].__dict__["fix"]
        by_id = AuthorityDriver(
            a.channel.authority, a.channel, standby=[c.id], members=lambda: [(node, names[node]) for node in names]
        )
        await by_id.spread()
        assert c.channel.authority.can_admit
