"""Another authority follows the cluster's, over real connections: nobody is refused, and who was away comes home."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio

from frys_node.base.errors import FrysError, NotReady
from frys_node.base.types import NodeId
from frys_node.channel.join import JoinClient
from frys_node.secure import certificates
from frys_node.secure.errors import ForeignCluster, HandshakeRefused
from frys_node.secure.identity import load_identity
from frys_node.secure.signer import NodeSigner, return_proof
from frys_node.secure.tls import EXPORTER_RETURN
from frys_node.secure.token import parse_token
from frys_node.transport.disk import DirectoryDisk
from frys_node.trust.authority import AuthorityDriver
from frys_node.trust.join_messages import Returned, ReturnRequest
from frys_node.trust.pending import ROTATION_PATH
from frys_node.trust.rotation import TRUST, Stage, encode_trust
from frys_node.trust.rotation_desk import RotationDesk
from frys_node.trust.rotation_driver import RotationDriver
from tests.integration.channel.channel_rig import CLOCK, ECHO, ENTROPY, NETWORK, Node, create, join, open_node, running


def driver(node: Node, live: Sequence[Node]) -> RotationDriver:
    """Return the driver of a node that takes these for the live members, and knows where they are, as by gossip."""
    channel = node.channel

    def members() -> list[tuple[NodeId, str]]:
        for one in live:
            channel.learn(one.id, one.address)
        return [(one.id, one.identity.node_name) for one in live]

    desk = RotationDesk(channel.identity, channel.authority, node.disk, ENTROPY, CLOCK)
    made = RotationDriver(
        channel.identity,
        channel.authority,
        desk,
        channel,
        members=members,
        rotate_keys=channel.keys.rotate_older,
    )
    made.serve()
    return made


async def whole(rotation: RotationDriver, *, until: Stage = Stage.STABLE) -> list[str]:
    """Have rounds until a stage begins, the last one when everybody is in it; returns the stages that were seen."""
    seen: list[str] = []
    with trio.fail_after(30):
        while True:
            view = rotation.view()
            seen += [view.stage] if view.stage not in seen else []
            if view.stage == until and (until is not Stage.STABLE or view.moved == view.total):
                return seen
            await rotation.round()
            await trio.sleep(0.001)


def _has_moved(node: Node, issuer: Node) -> None:
    assert node.identity.authorities == (issuer.identity.ca_certificate,)
    stored = load_identity(node.disk)
    assert stored is not None
    assert (stored.authorities, stored.certificate) == (node.identity.authorities, node.identity.certificate)
    certificates.verify_issued(node.identity.certificate, issuer.identity.ca_certificate, CLOCK.unix_ns())
    assert node.refused() == {}


async def test_a_change_of_the_authority_refuses_no_request(tmp_path: Path) -> None:
    """Requests between members and newcomers go on in every stage; at the end only the new authority is known."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        nodes = [a, *[await stack.enter_async_context(running(await join(tmp_path / n, a, n))) for n in "bc"]]
        for node in nodes:
            for other in nodes:
                node.channel.learn(other.id, other.address)
        old_hash, old_token = a.identity.ca_hash, a.token()
        record = NodeSigner(a.identity).sign_with_certificate(b"record")
        rotation, answered = driver(a, nodes), 0

        async def ask(caller: Node, other: Node) -> None:
            nonlocal answered
            while True:
                assert await caller.channel.call(other.id, ECHO, b"x") == b"x"
                answered += 1
                await trio.sleep(0.002)

        async with trio.open_nursery() as nursery, AsyncExitStack() as newcomers:
            for caller in nodes:
                for other in nodes:
                    if caller is not other:
                        nursery.start_soon(ask, caller, other)
            rotation._desk.begin()
            with pytest.raises(NotReady, match="already"):
                rotation._desk.begin()
            for name, stage in (("d", Stage.ISSUING), ("e", Stage.STABLE)):
                nodes.append(await newcomers.enter_async_context(running(await join(tmp_path / name, a, name))))
                nodes[-1].channel.learn(nodes[1].id, nodes[1].address)
                await nodes[-1].channel.connect(nodes[1].id)
                await whole(rotation, until=stage)
            with trio.fail_after(20):
                enough = answered + 50
                while answered < enough:  # noqa: ASYNC110 - a plain count has nothing to wait on
                    await trio.sleep(0.01)
            for node in nodes:
                _has_moved(node, a)
                # What the old authority's certificate signed is believed still, by those who came later too.
                assert NodeSigner(node.identity).verify_signed(record) == a.id
            nursery.cancel_scope.cancel()
        assert a.identity.ca_hash != old_hash
        assert parse_token(a.token()).ca_hash == a.identity.ca_hash
        with pytest.raises(ForeignCluster, match="another authority"):
            await join(tmp_path / "f", a, "f", token=old_token)
        async with running(await join(tmp_path / "f", a, "f")) as newcomer:
            assert NodeSigner(newcomer.identity).verify_signed(record) == a.id
            assert await newcomer.channel.call(a.id, ECHO, b"y") == b"y"


async def test_a_member_that_was_away_for_two_changes_comes_home_by_itself(tmp_path: Path) -> None:
    """Its dials fail, it asks over the join protocol through a member that redirects it, and its requests go on."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        b = await stack.enter_async_context(running(await join(tmp_path / "b", a, "b")))
        async with running(await join(tmp_path / "c", a, "c")):
            pass
        rotation = driver(a, (a, b))
        for _ in range(2):
            rotation._desk.begin()
            assert await whole(rotation) == ["introduced", "issuing", "stable"]
        disk = DirectoryDisk(tmp_path / "c")
        identity = load_identity(disk)
        assert identity is not None
        before = identity.ca_hash
        c = await stack.enter_async_context(running(await open_node(disk, identity)))
        c.channel.learn(b.id, b.address)
        with pytest.raises(HandshakeRefused):
            await c.channel.call(b.id, ECHO, b"x")
        with trio.fail_after(20):
            while c.identity.ca_hash == before:  # noqa: ASYNC110 - a plain attribute has nothing to wait on
                await trio.sleep(0.01)
            while True:
                try:
                    assert await c.channel.call(b.id, ECHO, b"x") == b"x"
                    break
                except FrysError:
                    await trio.sleep(0.05)
        assert c.identity.authorities == a.identity.authorities
        assert c.identity.retired == a.identity.retired
        stored = load_identity(disk)
        assert stored is not None
        assert stored.certificate == c.identity.certificate


async def test_an_expelled_node_stays_out_when_the_authority_is_replaced(tmp_path: Path) -> None:
    """Also at a member that was away for both: what the old authority said is signed anew before it counts no more."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        b = await stack.enter_async_context(running(await join(tmp_path / "b", a, "b")))
        x = await stack.enter_async_context(running(await join(tmp_path / "x", a, "x")))
        async with running(await join(tmp_path / "c", a, "c")):
            pass
        a.channel.revoke(x.id)
        rotation = driver(a, (a, b))
        rotation._desk.begin()
        await whole(rotation)
        disk = DirectoryDisk(tmp_path / "c")
        identity = load_identity(disk)
        assert identity is not None
        c = await stack.enter_async_context(running(await open_node(disk, identity)))
        c.channel.learn(b.id, b.address)
        assert x.id not in c.channel.secrets.revoked
        with trio.fail_after(20):
            while x.id not in c.channel.secrets.revoked:
                with suppress(FrysError):
                    await c.channel.connect(b.id)
                await trio.sleep(0.02)
            for node in (a, b, c):
                said = node.channel.secrets.statements
                assert said is not None
                assert x.id in node.channel.secrets.revoked
                for expulsion in node.channel.secrets.expulsions:
                    assert said.is_said(expulsion, by_the_issuing=True)
                newest = node.channel.secrets.keyring.newest
                assert newest is not None
                assert newest.expelled == 1
                x.channel.secrets.revoked.clear()
                with pytest.raises(FrysError):
                    await x.channel.connect_address(node.address)
                with pytest.raises(FrysError):
                    await x.channel._upkeep._trust.come_home(node.address)


async def test_only_a_member_that_proves_its_key_is_brought_home(tmp_path: Path) -> None:
    """An expelled node, one that left, a proof of another connection, and a stranger's certificate are refused."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        away = [await join(tmp_path / name, a, name) for name in "bcd"]
        stranger = await create(tmp_path / "s", "s", cluster="other")
        for node in (*away, stranger):
            await stack.enter_async_context(running(node))
        rotation = driver(a, (a,))
        rotation._desk.begin()
        await whole(rotation)
        a.channel.revoke(away[0].id)
        assert a.channel.desk is not None
        assert a.channel.desk.depart(away[1].id)

        async def ask(node: Node, *, exporter: bytes = b"") -> object:
            async with await JoinClient.open(NETWORK, a.address, CLOCK) as client:
                await client.info()
                shown = exporter or client._pipe.stream.export(EXPORTER_RETURN)
                key, own = node.identity.key, certificates.der(node.identity.certificate)
                return await client.ask(ReturnRequest(own, certificates.create_request(key), return_proof(key, shown)))

        for node in (*away[:2], stranger):
            with pytest.raises(FrysError, match=r"no member|cannot come back"):
                await ask(node)
        with pytest.raises(FrysError, match="not proved"):
            await ask(away[2], exporter=b"x" * 32)
        assert isinstance(await ask(away[2]), Returned)
        # A seed of another cluster vouches for nobody, and learns nothing.
        with pytest.raises(ForeignCluster, match="does not follow"):
            await away[2].channel._upkeep._trust.come_home(stranger.address)


async def test_members_obey_the_issuer_alone_and_believe_what_is_vouched_for_alone(tmp_path: Path) -> None:
    """A member's own order, an authority without a link, and one that would cut the member off change nothing."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        b = await stack.enter_async_context(running(await join(tmp_path / "b", a, "b")))
        other = await stack.enter_async_context(running(await create(tmp_path / "o", "o")))
        before = b.identity.trust
        with pytest.raises(FrysError, match="only the issuer"):
            await b.channel.call(a.id, TRUST, encode_trust(a.identity.trust))
        foreign = a.identity.trust._replace(authorities=(a.identity.ca_certificate, other.identity.ca_certificate))
        with pytest.raises(FrysError, match="vouches"):
            await a.channel.call(b.id, TRUST, encode_trust(foreign))
        rotation = driver(a, (a, b))
        rotation._desk.begin()
        cut_off = a.identity.trust._replace(authorities=a.identity.authorities[1:])
        with pytest.raises(FrysError, match=r"vouches|renewed first"):
            await a.channel.call(b.id, TRUST, encode_trust(cut_off))
        assert b.identity.trust == before


@pytest.mark.parametrize("stage", [Stage.INTRODUCED, Stage.ISSUING])
async def test_a_restart_amid_a_change_goes_on_with_it(tmp_path: Path, stage: Stage) -> None:
    """The stage is on disk; the key of the next authority is kept until it issues, and no longer."""
    a = await create(tmp_path / "a", "a")
    async with running(a):
        b = await join(tmp_path / "b", a, "b")
        async with running(b):
            rotation = driver(a, (a, b))
            rotation._desk.begin()
            if stage is Stage.ISSUING:
                await whole(rotation, until=Stage.ISSUING)
    again = []
    for name, node in (("a", a), ("b", b)):
        node.disk.close()
        disk = DirectoryDisk(tmp_path / name)
        identity = load_identity(disk)
        assert identity is not None
        again.append(await open_node(disk, identity))
    a, b = again
    assert (a.disk.read(ROTATION_PATH) is not None) is (stage is Stage.INTRODUCED)
    async with running(a), running(b):
        a.channel.learn(b.id, b.address)
        rotation = driver(a, (a, b))
        assert rotation.view().stage == stage
        await whole(rotation)
        assert b.identity.authorities == a.identity.authorities
        assert len(a.identity.authorities) == 1
        assert a.disk.read(ROTATION_PATH) is None


@pytest.mark.parametrize("stage", [Stage.INTRODUCED, Stage.ISSUING])
async def test_a_successor_goes_on_with_the_change(tmp_path: Path, stage: Stage) -> None:
    """The copy of the authority carries the next key; afterwards the successor admits, and the old issuer obeys it."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        b, c = [await stack.enter_async_context(running(await join(tmp_path / name, a, name))) for name in "bc"]
        nodes = [a, b, c]
        first, second = driver(a, nodes), driver(b, nodes)
        giver, taker = (
            AuthorityDriver(node.channel.authority, node.channel, standby=(), members=list) for node in (a, b)
        )
        taker.serve()
        first._desk.begin()
        assert first.view().stage == Stage.INTRODUCED
        if stage is Stage.ISSUING:
            await whole(first, until=Stage.ISSUING)
        # What is behind is told, and nobody steps: the role moves in the middle.
        for node in first._machine.behind(first._desk.wanted, [b.id, c.id]):
            await first._tell(node, trio.CapacityLimiter(1))
        await giver.entrust(b.id)
        for node in nodes:
            node.channel.issuer = b.id
        assert second.view().stage == stage
        await whole(second)
        assert a.identity.ca_hash == b.identity.ca_hash == c.identity.ca_hash
        assert [len(node.identity.authorities) for node in nodes] == [1, 1, 1]
        assert a.disk.read(ROTATION_PATH) is b.disk.read(ROTATION_PATH) is None
        assert b.channel.desk is not None
        token, _ = b.channel.desk.create_token(ttl_s=60, uses=1)
        async with running(await join(tmp_path / "d", b, "d", token=token)) as d:
            assert await d.channel.call(b.id, ECHO, b"x") == b"x"
        assert a.identity.ca_key is not None
        assert a.identity.ca_key.public_key() == b.identity.ca_certificate.public_key()
