"""Who is a member: whoever the issuer admitted and who has not left, whatever certificate somebody shows."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from balancer.methods import JOIN_RING
from frys_node.base.access import ADMIN
from frys_node.base.errors import FrysError, NotFound, NotReady
from frys_node.base.types import NodeId
from frys_node.channel.departed import DEPART, Barred, Depart
from frys_node.channel.join import JoinClient
from frys_node.operations import ADMITTED_ONLY, guard_issuer
from frys_node.secure import certificates
from frys_node.secure.errors import Expelled, HandshakeRefused, NotAdmitted, Unconfirmed
from frys_node.secure.identity import load_identity, save_identity
from frys_node.secure.signer import return_proof
from frys_node.secure.tls import EXPORTER_RETURN
from frys_node.secure.token import parse_token
from frys_node.token_routes import CREATE_TOKEN
from frys_node.transport.disk import DirectoryDisk
from frys_node.trust.authority import AuthorityDriver, AuthorityHolder
from frys_node.trust.expulsion import EXPEL, Expel
from frys_node.trust.join_messages import ReturnRequest
from frys_node.trust.keys import ROTATE_KEYS, RotateKeys
from frys_node.trust.renewal import RENEW, RenewRequest
from frys_node.trust.rotation import ROTATE_AUTHORITY, RotateAuthority, Stage
from tests.integration.channel.channel_rig import (
    CLOCK,
    ECHO,
    ENTROPY,
    LOOPBACK,
    NETWORK,
    Node,
    create,
    join,
    open_node,
    open_unadmitted,
    running,
)
from tests.integration.channel.test_channel_rotation import driver, whole


async def _ghost(directory: Path, issuer: Node) -> Node:
    """A node that nobody admitted, which knows where the issuer is."""
    ghost = await open_unadmitted(issuer.identity, directory)
    ghost.channel.learn(issuer.id, issuer.address)
    return ghost


def _renewal(node: Node) -> RenewRequest:
    return RenewRequest(certificates.create_request(node.identity.key))


async def _come_home(node: Node, issuer: Node) -> None:
    async with await JoinClient.open(NETWORK, issuer.address, CLOCK) as client:
        await client.info()
        proof = return_proof(node.identity.key, client._pipe.stream.export(EXPORTER_RETURN))
        own, request = certificates.der(node.identity.certificate), certificates.create_request(node.identity.key)
        await client.ask(ReturnRequest(own, request, proof))


@pytest.mark.parametrize("is_in_gossip", [False, True])
async def test_a_change_of_the_authority_shuts_out_whoever_made_its_certificate_with_the_old_key(
    tmp_path: Path, *, is_in_gossip: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It asks for a certificate in every stage and gets none; it holds nothing up, also where gossip calls it alive.

    Afterwards it is let in by nobody, and the gossip key is one that it was never told.
    """
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        b = await stack.enter_async_context(running(await join(tmp_path / "b", a, "b")))
        ghost = await stack.enter_async_context(running(await _ghost(tmp_path / "g", a)))
        for one, other in ((a, b), (b, a), (ghost, b)):
            one.channel.learn(other.id, other.address)
        await ghost.channel.connect(a.id)
        rotation = driver(a, (a, b, ghost) if is_in_gossip else (a, b))
        asked: set[str] = set()

        async def ask() -> None:
            while True:
                stage = rotation.view().stage
                with suppress(HandshakeRefused):
                    with pytest.raises(FrysError) as refused:
                        await ghost.channel.call(a.id, RENEW, _renewal(ghost))
                    if isinstance(refused.value, NotAdmitted):
                        asked.add(stage)
                await trio.sleep(0.001)

        def has_asked() -> bool:
            return rotation.view().stage in asked

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            with trio.fail_after(20):
                rotation._desk.begin()
                for stage in (Stage.INTRODUCED, Stage.ISSUING):
                    if rotation.view().stage != stage:
                        await whole(rotation, until=stage)
                    while not has_asked():  # noqa: ASYNC110 - a plain set has nothing to wait on
                        await trio.sleep(0.001)
            await whole(rotation)
            await rotation.round()
            nursery.cancel_scope.cancel()
        view = rotation.view()
        assert (view.moved, view.total) == (2, 2)
        assert view.strangers == ((f"ghost ({ghost.id})",) if is_in_gossip else ())
        assert ("channel.strangers_not_moved" in caplog.text) is is_in_gossip
        refused_lines = [line for line in caplog.records if line.message == "channel.renewal_refused"]
        assert f"node revoke {ghost.id}" in refused_lines[0].fix  # type: ignore[attr-defined]
        for member in (a, b):
            with pytest.raises(FrysError):
                await ghost.channel.connect_address(member.address)
        with pytest.raises(NotAdmitted):
            await _come_home(ghost, a)
        newest = a.channel.secrets.keyring.newest
        assert newest is not None
        assert newest.epoch == 2
        assert newest.key not in {held.key for held in ghost.channel.secrets.keyring.keys}


async def test_a_node_that_nobody_admitted_can_be_expelled(tmp_path: Path) -> None:
    """By its id: at the issuer by any member while it is connected there, and by the issuer's operator at all times."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        b = await stack.enter_async_context(running(await join(tmp_path / "b", a, "b")))
        met, unmet = [await _ghost(tmp_path / name, a) for name in ("met", "unmet")]
        await b.channel.connect(a.id)
        async with running(unmet), running(met):
            await met.channel.connect(a.id)
            with trio.fail_after(10):
                while not a.channel.is_connected(met.id):  # noqa: ASYNC110 - a plain map has nothing to wait on
                    await trio.sleep(0.005)
            assert (await b.channel.call(a.id, EXPEL, Expel(met.id, ADMIN))).is_new
        with pytest.raises(NotFound) as refused:
            await b.channel.call(a.id, EXPEL, Expel(unmet.id, ADMIN))
        assert "run it on the issuer" in refused.value.hint
        assert (await a.channel.call(a.id, EXPEL, Expel(unmet.id, ADMIN))).is_new
        assert list(a.channel.secrets.revoked) == [met.id, unmet.id]


async def _copied(node: Node, directory: Path) -> Node:
    """Another machine with a copy of a node's disk."""
    identity = load_identity(node.disk)
    assert identity is not None
    disk = DirectoryDisk(directory)
    save_identity(disk, identity)
    return await open_node(disk, identity)


async def test_a_leave_ends_an_admission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who copied the leaver's disk is refused at every member after the grace, is renewed nowhere, and told no key.

    A member that was away learns it from the issuer, for good; and the leaver's id can be revoked.
    """
    monkeypatch.setattr("frys_node.channel.departed.GRACE_S", 0.3)
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        b = await stack.enter_async_context(running(await join(tmp_path / "b", a, "b")))
        await b.channel.connect(a.id)
        async with running(await join(tmp_path / "c", a, "c")) as c:
            pass
        async with running(await join(tmp_path / "w", a, "w")) as w:
            await w.channel.connect(a.id)
            await w.channel.call(a.id, DEPART, Depart())
            assert a.channel.desk is not None
            assert a.channel.desk.names.find(w.id) is None
            with pytest.raises(NotAdmitted, match="has left"):
                await w.channel.call(a.id, RENEW, _renewal(w))
            # It is heard out: `leave` says goodbye after this.
            assert await w.channel.call(a.id, ECHO, b"x") == b"x"
            with trio.fail_after(10):
                while a.channel.is_connected(w.id):  # noqa: ASYNC110 - a plain map has nothing to wait on
                    await trio.sleep(0.01)
        copy = await stack.enter_async_context(running(await _copied(w, tmp_path / "copy")))
        for member in (a, b):
            with trio.fail_after(10):
                while w.id not in member.channel.departed:  # noqa: ASYNC110 - a plain set has nothing to wait on
                    await trio.sleep(0.01)
            with pytest.raises(HandshakeRefused):
                await copy.channel.connect_address(member.address)
            await member.until_refused("left")
            assert w.id in Barred(member.channel.secrets.revoked, member.channel.departed)
        assert copy.channel.secrets.keyring.newest is None
        disk = DirectoryDisk(tmp_path / "c-again")
        identity = load_identity(c.disk)
        assert identity is not None
        save_identity(disk, identity)
        async with running(await open_node(disk, identity)) as again:
            again.channel.learn(a.id, a.address)
            await again.channel.connect(a.id)
            with trio.fail_after(10):
                while w.id not in again.channel.departed:  # noqa: ASYNC110 - a plain set has nothing to wait on
                    await trio.sleep(0.01)
        async with running(await open_node(disk, identity)) as later:
            assert w.id in later.channel.departed
        assert (await b.channel.call(a.id, EXPEL, Expel(w.id, ADMIN))).is_new


async def test_only_the_issuer_says_who_has_left_and_nodes_only_of_themselves(tmp_path: Path) -> None:
    """A member that tells others that a third one left is not believed; a standby's copy knows who has."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        b, c, x = [await stack.enter_async_context(running(await join(tmp_path / name, a, name))) for name in "bcx"]
        for node in (b, c, x):
            await node.channel.connect(a.id)
        x.channel.secrets.depart(c.id)
        x.channel.learn(b.id, b.address)
        await x.channel.connect(b.id)
        assert await x.channel.call(b.id, ECHO, b"x") == b"x"
        assert not b.channel.secrets.departed
        await x.channel.call(a.id, DEPART, Depart())
        members = [(node.id, node.identity.node_name) for node in (a, b)]
        taker = AuthorityDriver(b.channel.authority, b.channel, standby=(), members=lambda: members)
        taker.serve()
        await AuthorityDriver(a.channel.authority, a.channel, standby=(), members=lambda: members).entrust(b.id)
        for node in (a, b):
            node.channel.issuer = b.id
        assert b.channel.desk is not None
        assert [b.channel.desk.is_admitted(node.id) for node in (a, b, c, x)] == [True, True, True, False]
        assert b.channel.desk.was_admitted(x.id)


async def test_only_admitted_nodes_have_done_what_makes_members_or_lasts(tmp_path: Path) -> None:
    """Whatever certificate another one shows, and on the issuer; a node composes this guard."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        b = await stack.enter_async_context(running(await join(tmp_path / "b", a, "b")))
        ghost = await stack.enter_async_context(running(await _ghost(tmp_path / "g", a)))
        guard_issuer(a.channel)
        assert {JOIN_RING, CREATE_TOKEN} <= set(ADMITTED_ONLY)
        assert set(a.channel._dispatch.guards) == {method.name for method in ADMITTED_ONLY}
        await b.channel.call(a.id, ROTATE_KEYS, RotateKeys())
        with pytest.raises(NotAdmitted, match="never admitted"):
            await ghost.channel.call(a.id, ROTATE_KEYS, RotateKeys())
        with pytest.raises(NotAdmitted, match="never admitted"):
            await ghost.channel.call(a.id, EXPEL, Expel(b.id, ADMIN))


async def test_whom_a_record_alone_speaks_for_is_no_member_until_an_operator_confirms_it(tmp_path: Path) -> None:
    """Not renewed, not taken home, heard in nothing that lasts, and named; no change of the authority begins meanwhile.

    The issuer may have an old copy of the registry, or somebody may have made itself the issuer for one record.
    """
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        b = await stack.enter_async_context(running(await join(tmp_path / "b", a, "b")))
        ghost = await stack.enter_async_context(running(await _ghost(tmp_path / "g", a)))
        guard_issuer(a.channel)
        desk, holder = a.channel.desk, a.channel.authority
        assert desk is not None
        desk.names.release(b.id)
        ring = [(a.id, "a"), (b.id, "B is no name"), (ghost.id, "ghost")]
        assert desk.adopt(ring) == [b.id, ghost.id]
        assert desk.adopt(ring) == []
        rotation = driver(a, (a, b))
        for node in (b, ghost):
            for asked in (
                node.channel.call(a.id, RENEW, _renewal(node)),
                node.channel.call(a.id, ROTATE_KEYS, RotateKeys()),
                _come_home(node, a),
            ):
                with pytest.raises(Unconfirmed) as refused:
                    await asked
                assert "frys-node node admit" in refused.value.hint
        assert holder.strangers([(b.id, "b")]) == [(b.id, "b"), (ghost.id, "ghost")]
        assert set(rotation.view().strangers) == {f"b ({b.id})", f"ghost ({ghost.id})"}
        with pytest.raises(Unconfirmed, match=ghost.id) as refused:
            await a.channel.call(a.id, ROTATE_AUTHORITY, RotateAuthority(ADMIN))
        assert "frys-node node admit" in refused.value.hint
        assert rotation.view().stage == Stage.STABLE
        giver = AuthorityDriver(holder, a.channel, standby=["ghost"], members=lambda: [(ghost.id, "ghost")])
        await giver.spread()
        with pytest.raises(Unconfirmed):
            await giver.entrust(ghost.id)
        assert giver.standby() == []
        assert AuthorityHolder(a.identity, a.disk, ENTROPY, CLOCK, issuer=lambda: a.id).strangers([]) != []
        assert holder.admit(b.id)
        assert not holder.admit(b.id)
        await b.channel.renew_certificate()
        assert (desk.names.find(b.id), certificates.read_subject(b.identity.certificate).name) == ("node", "node")
        await a.channel.call(a.id, EXPEL, Expel(ghost.id, ADMIN))
        with pytest.raises(Expelled):
            holder.admit(ghost.id)
        with pytest.raises(NotFound, match="no topology record"):
            holder.admit(NodeId("0" * 32))
        with pytest.raises(NotReady):
            b.channel.authority.admit(ghost.id)
        assert (await a.channel.call(a.id, ROTATE_AUTHORITY, RotateAuthority(ADMIN))).stage == Stage.INTRODUCED


async def test_a_token_admits_whom_a_record_alone_spoke_for(tmp_path: Path) -> None:
    """It joins with the same key: its row says no more that nobody confirmed it."""
    async with running(await create(tmp_path / "a", "a")) as a:
        desk = a.channel.desk
        assert desk is not None
        async with running(await join(tmp_path / "b", a, "b")) as b:
            desk.names.release(b.id)
            desk.adopt([(b.id, "b")])
            assert not desk.is_admitted(b.id)
            async with await JoinClient.open(NETWORK, a.address, CLOCK) as client:
                await client.join(
                    await client.info(),
                    parse_token(a.token().strip()),
                    b.identity.key,
                    name="b",
                    is_name_chosen=True,
                    advertise=LOOPBACK,
                    expect_cluster=None,
                )
            assert desk.is_admitted(b.id)
