"""An expelled node: its connections end, it is told why, and nothing that is sealed afterwards can be opened by it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from frys_node.base.access import ADMIN, LOCAL
from frys_node.base.errors import FrysError, NotFound, NotReady, Overloaded, SecurityError, UsageError
from frys_node.base.types import NodeId
from frys_node.channel.exchange import FORGERIES_MAX
from frys_node.channel.join import JoinClient
from frys_node.channel.messages import Request
from frys_node.channel.mux import Mux
from frys_node.kernel.services.rpc import Method
from frys_node.secure import certificates
from frys_node.secure.errors import Expelled, HandshakeRefused, HoldsAuthority
from frys_node.secure.identity import Identity, load_identity
from frys_node.secure.keyring import KEYRING_PATH
from frys_node.secure.packet import PacketSealer
from frys_node.secure.statements import Expulsion
from frys_node.secure.tls import TlsProfile, TlsStream
from frys_node.secure.token import parse_token
from frys_node.transport.disk import DirectoryDisk
from frys_node.trust.authority import AuthorityDriver
from frys_node.trust.entrusted import EntrustedTable
from frys_node.trust.expulsion import EXPEL, EXPEL_EVERY_S, Expel
from frys_node.trust.key_rotation import KEY_RETIRE_S, KEY_SETTLE_S
from frys_node.trust.keys import HELD_KEYS, ROTATE_EVERY_MIN_S, ROTATE_KEYS, AskKeys, HeldKeys, KeySurvey, RotateKeys
from frys_node.trust.messages import Credentials
from frys_node.trust.renewal import RenewRequest
from tests.integration.channel.channel_rig import CLOCK, ECHO, LOOPBACK, NETWORK, Node, create, join, open_node, running

EXPELLED_WITHIN_S = 10.0


def _sealer(node: Node) -> PacketSealer:
    return PacketSealer(node.channel.secrets.keyring, node.id, node.channel.boot, node.channel.secrets.revoked)


@asynccontextmanager
async def _cluster(directory: Path, names: str) -> AsyncIterator[list[Node]]:
    """A cluster in which everybody is connected to everybody; the first node is the issuer."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(running(await create(directory / names[0], names[0])))]
        for name in names[1:]:
            nodes.append(await stack.enter_async_context(running(await join(directory / name, nodes[0], name))))
        for node in nodes:
            for other in nodes:
                if other is not node:
                    node.channel.learn(other.id, other.address, other.identity.node_name)
                    await node.channel.connect(other.id)
        yield nodes


async def _survey(nodes: list[Node]) -> KeySurvey:
    return await nodes[0].channel.keys.converged(lambda: [(node.id, node.identity.node_name) for node in nodes])


async def test_an_expelled_node_opens_nothing_that_is_sealed_afterwards(tmp_path: Path) -> None:
    """Asked through a member that is not the issuer: within ten seconds all have a key that the node never gets."""
    async with _cluster(tmp_path, "abcx") as nodes:
        *members, x = nodes
        a, b, c, _ = nodes
        thief = _sealer(x)
        with trio.fail_after(EXPELLED_WITHIN_S):
            assert thief.open(_sealer(b).seal(b"before"), 0.0) is not None
            made = await c.channel.call(a.id, EXPEL, Expel(x.id, ADMIN))
            survey = await _survey(members)
        assert (made.epoch, made.expelled, made.is_new) == (2, 1, True)
        for node in members:
            assert node.gauge("frys_channel_key_epoch") == 2
            assert node.gauge("frys_channel_expelled_nodes") == 1
            assert node.gauge("frys_channel_post_quantum_connections") == node.gauge("frys_channel_connections") == 2
            assert node.gauge("frys_channel_certificate_left_seconds") > 300 * 86_400
        assert (survey.converged, survey.refusing, survey.total, survey.epoch) == (3, 3, 3, 2)
        # What it held, and whatever it could still be given by anybody.
        for node in members:
            sealed = _sealer(node)
            for _ in range(20):
                assert thief.open(sealed.seal(b"afterwards"), 0.0) is None
                assert thief.open(sealed.seal(b"afterwards", is_short=True), 0.0) is None
        assert [key.epoch for key in x.channel.secrets.keyring.keys] == [1]
        for node in members:
            assert not node.channel.is_connected(x.id)
            assert _sealer(node).open(thief.seal(b"forged"), 0.0) is None
            with pytest.raises(Expelled, match="was expelled"):
                await node.channel.call(x.id, ECHO, b"x")
        with trio.fail_after(5):
            assert not (await c.channel.call(a.id, EXPEL, Expel(x.id, ADMIN))).is_new


async def test_what_an_expelled_node_holds_is_deleted_everywhere_soon_after(tmp_path: Path) -> None:
    """Its packets under the old key, in whosever name, open nowhere once the members have converged and retired it."""
    async with _cluster(tmp_path, "abx") as (a, b, x):
        old = a.channel.secrets.keyring.keys[0].key
        with trio.fail_after(EXPELLED_WITHIN_S + KEY_SETTLE_S + KEY_RETIRE_S):
            await b.channel.call(a.id, EXPEL, Expel(x.id, ADMIN))
            for node in (a, b):
                while len(node.channel.secrets.keyring.keys) > 1:  # noqa: ASYNC110
                    await trio.sleep(0.05)
        for node in (a, b):
            assert old not in (node.disk.read(KEYRING_PATH) or b"")
            in_anothers_name = PacketSealer(x.channel.secrets.keyring, NodeId("77" * 16), x.channel.boot)
            assert _sealer(node).open(in_anothers_name.seal(b"forged"), 0.0) is None


async def test_an_expelled_node_is_told_by_the_authority_and_stops_dialling(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so once in its log and refuses itself, instead of trying again and again; after a restart it knows."""
    async with _cluster(tmp_path, "abx") as (a, b, x):
        with trio.fail_after(10), caplog.at_level(logging.ERROR, "frys_node.channel.driver"):
            await b.channel.call(a.id, EXPEL, Expel(x.id, ADMIN))
            while not x.channel.is_expelled or x.channel._peers.open():  # noqa: ASYNC110
                await trio.sleep(0.01)
        told = [record for record in caplog.records if record.message == "channel.expelled"]
        assert len(told) == 1
        assert "new token" in told[0].__dict__["fix"]
        before = a.refused().get("revoked", 0)
        for _ in range(50):
            with pytest.raises(Expelled, match="this node was expelled"):
                await x.channel.call(a.id, ECHO, b"x")
            with pytest.raises(HandshakeRefused, match="was expelled"):
                await x.channel.connect_address(b.address)
        assert a.refused().get("revoked", 0) == before
    disk = DirectoryDisk(tmp_path / "x")
    identity = load_identity(disk)
    assert identity is not None
    again = await open_node(disk, identity)
    assert again.channel.is_expelled
    await again.channel.drain()


async def test_a_node_that_was_off_while_it_was_expelled_is_told_at_the_door(tmp_path: Path) -> None:
    """The refusal comes with the authority's statement, so that the node does not take it for a fault and retry."""
    async with _cluster(tmp_path, "ab") as (a, b):
        x = await join(tmp_path / "x", a, "x")
        with trio.fail_after(10):
            await b.channel.call(a.id, EXPEL, Expel(x.id, ADMIN))
            await _survey([a, b])
            async with running(x):
                x.channel.learn(b.id, b.address)
                while not x.channel.is_expelled:
                    with suppress(FrysError):
                        await x.channel.connect(b.id)
                    await trio.sleep(0.005)
                assert x.channel.secrets.keyring.keys == ()
        assert b.refused()["revoked"] == 1


async def test_a_member_that_was_away_learns_of_it_with_its_first_connection(tmp_path: Path) -> None:
    """From a member that is not the issuer; from then on it refuses the node too, which never gets the key from it."""
    async with _cluster(tmp_path, "abx") as (a, b, x):
        away = await join(tmp_path / "w", a, "w")
        with trio.fail_after(10):
            await b.channel.call(a.id, EXPEL, Expel(x.id, ADMIN))
            await _survey([a, b])
        async with running(away):
            away.channel.learn(b.id, b.address)
            with trio.fail_after(10):
                await away.channel.connect(b.id)
                while not away.channel.secrets.revoked:  # noqa: ASYNC110
                    await trio.sleep(0.005)
                assert away.channel.secrets.keyring.keys[0].epoch == 2
                stream = TlsStream(await NETWORK.connect(away.address), TlsProfile(x.identity).client, server=False)
                await stream.handshake()
                data = await _until_closed(stream)
                assert all(key.key not in data for key in away.channel.secrets.keyring.keys)
                await stream.aclose()
                await away.until_refused("revoked")


async def _until_closed(stream: TlsStream) -> bytes:
    """Everything that the other side still says."""
    data = b""
    with suppress(trio.BrokenResourceError):
        while part := await stream.receive_some():
            data += part
    return data


async def test_one_that_is_expelled_between_the_gate_and_its_hello_gets_no_key(tmp_path: Path) -> None:
    """A slow hello must not be a way round: it is checked again when the connection is taken up."""
    async with _cluster(tmp_path, "ax") as (a, x):
        stream = TlsStream(await NETWORK.connect(a.address), TlsProfile(x.identity).client, server=False)
        with trio.fail_after(10):
            await stream.handshake()
            assert await stream.receive_some()  # a's hello: the gate has let it in
            a.channel.secrets.expel(x.id, b"k" * 32, 1)
            mux = Mux(dialled=True)
            mux.hello(x.channel._greeter._hello())
            await stream.send_all(mux.data_to_send())
            data = await _until_closed(stream)
            assert data == b""
            assert not a.channel.is_connected(x.id)
            await stream.aclose()


async def test_who_may_not_be_expelled_and_by_whom(tmp_path: Path) -> None:
    """Not the issuer, not oneself, and only the issuer does it; each refusal names the way."""
    async with _cluster(tmp_path, "ab") as (a, b):
        with trio.fail_after(10):
            with pytest.raises(UsageError, match="issuer cannot be expelled") as caught:
                await b.channel.call(a.id, EXPEL, Expel(a.id, ADMIN))
            assert "handover" in caught.value.hint
            with pytest.raises(UsageError, match="is no node id"):
                await b.channel.call(a.id, EXPEL, Expel("everybody", ADMIN))
            with pytest.raises(UsageError, match="expel itself"):
                await b.channel.call(a.id, EXPEL, Expel(b.id, ADMIN))
            with pytest.raises(NotReady) as refused:
                await a.channel.call(b.id, EXPEL, Expel(a.id, ADMIN))
            assert "issuer show" in refused.value.hint
        assert not a.channel.secrets.revoked
        assert not b.channel.secrets.revoked


async def test_an_expelled_node_is_served_nothing_while_it_is_told_so(tmp_path: Path) -> None:
    """A hostile one goes on asking on the connection that parts: a join token of that moment would be its way back."""
    async with _cluster(tmp_path, "ax") as (a, x):
        served: list[bytes] = []

        async def mint(caller: NodeId, request: bytes) -> bytes:
            served.append(request)
            return a.token().encode()

        a.channel.serve(Method("test.mint", bytes, bytes), mint)
        noted: list[bytes] = []
        a.channel.on_note("test.note", lambda _sender, body: noted.append(body))
        with trio.fail_after(10):
            stream = TlsStream(await NETWORK.connect(a.address), TlsProfile(x.identity).client, server=False)
            await stream.handshake()
            mux = Mux(dialled=True)
            mux.hello(x.channel._greeter._hello())
            mux.request("test.mint", 1_000, b"\xc4\x01a")
            await stream.send_all(mux.data_to_send())
            while served != [b"a"]:  # noqa: ASYNC110
                await trio.sleep(0.001)
            connection = a.channel._peers.open()[-1]
            a.channel.secrets.expel(x.id, b"k" * 32, 1)
            # One whose task was begun before, one that arrives alone, and two together.
            await connection._serve(Request(99, "test.mint", 1_000, b"\xc4\x01b"))
            for count in (1, 2):
                for _ in range(count):
                    mux.request("test.mint", 1_000, b"\xc4\x01c")
                if count == 2:
                    mux.note("test.note", b"n")
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(mux.data_to_send())
            await _until_closed(stream)
            await stream.aclose()
        assert served == [b"a"]
        assert noted == []
        with pytest.raises(Expelled, match="was expelled"):
            await a.channel._dispatch.answer(x.id, "test.mint", b"\xc4\x01d")
        assert not a.channel._dispatch.note(x.id, "test.note", b"n")


async def test_a_member_in_wrong_hands_expels_neither_inventions_nor_many_nor_for_nobody(tmp_path: Path) -> None:
    """Three hundred ids that never were filled the table, and one member could expel all others at once, for good."""
    async with _cluster(tmp_path, "abcx") as (a, b, c, x):
        with trio.fail_after(10):
            for asked_by in (None, LOCAL):
                with pytest.raises(SecurityError, match="may not expel"):
                    await x.channel.call(a.id, EXPEL, Expel(b.id, asked_by))
            for number in range(3):
                with pytest.raises(NotFound, match="ever admitted"):
                    await x.channel.call(a.id, EXPEL, Expel(f"{number:032x}", ADMIN))
            assert (await x.channel.call(a.id, EXPEL, Expel(b.id, ADMIN))).is_new
            with pytest.raises(Overloaded, match="just had another") as refused:
                await x.channel.call(a.id, EXPEL, Expel(c.id, ADMIN))
            assert f"retry in {EXPEL_EVERY_S:.0f} s" in refused.value.hint
            # The same again changes nothing, and the issuer's own operator is not kept waiting.
            assert not (await x.channel.call(a.id, EXPEL, Expel(b.id, ADMIN))).is_new
            assert (await a.channel.call(a.id, EXPEL, Expel(x.id, ADMIN))).is_new
        assert list(a.channel.secrets.revoked) == [b.id, x.id]


async def test_members_do_not_use_the_epochs_up(tmp_path: Path) -> None:
    """Each rotation goes to the disks of all: a member asks for one in ten seconds, the issuer's operator for any."""
    async with _cluster(tmp_path, "ab") as (a, b):
        await b.channel.call(a.id, ROTATE_KEYS, RotateKeys())
        await _survey([a, b])
        with pytest.raises(NotReady, match="just rotated"):
            await b.channel.call(a.id, ROTATE_KEYS, RotateKeys())
        await a.channel.call(a.id, ROTATE_KEYS, RotateKeys())
        a.channel.keys._rotated_s -= ROTATE_EVERY_MIN_S
        await _survey([a, b])
        assert (await b.channel.call(a.id, ROTATE_KEYS, RotateKeys())).epochs[0] == 4


async def test_a_member_cannot_move_the_goal_by_what_it_says_of_itself(tmp_path: Path) -> None:
    """One that boasts of an epoch and of expulsions that never were is behind; the others are done without it."""
    async with _cluster(tmp_path, "abx") as (a, b, x):
        x.channel.unserve(HELD_KEYS)

        async def boast(_caller: NodeId, _request: AskKeys) -> HeldKeys:
            return HeldKeys((1 << 31,), 1 << 31, 7, b"d" * 32)

        x.channel.serve(HELD_KEYS, boast)
        with trio.fail_after(10):
            survey = await b.channel.keys.survey([(node.id, node.identity.node_name) for node in (a, b, x)])
        assert (survey.epoch, survey.expelled) == (1, 0)
        assert (survey.converged, survey.refusing, survey.total) == (2, 2, 3)
        assert [member.refuses for member in survey.members] == [True, True, False]


async def test_whoever_had_the_authoritys_key_is_expelled_only_with_open_eyes(tmp_path: Path) -> None:
    """It can make itself a new node. Known to later issuers and after restarts; until the authority is replaced."""
    async with _cluster(tmp_path, "abx") as (a, b, x):
        members = [(node.id, node.identity.node_name) for node in (a, b, x)]
        drivers = [
            AuthorityDriver(node.channel.authority, node.channel, standby=["x"], members=lambda: members)
            for node in (a, b, x)
        ]
        for driver in drivers:
            driver.serve()
        with trio.fail_after(10):
            await drivers[0].spread()
            await drivers[0].entrust(b.id)
            for node in (a, b, x):
                node.channel.issuer = b.id
            # The founder, and the standby that an issuer before this one chose.
            for node in (a, x):
                asked = Expel(node.id, ADMIN)
                with pytest.raises(HoldsAuthority) as refused:
                    await b.channel.call(b.id, EXPEL, asked)
                assert "--holds-authority" in refused.value.hint
            assert not b.channel.secrets.revoked
            disk = DirectoryDisk(tmp_path / "b")
            assert EntrustedTable(disk).has(x.id, [b.identity.ca_hash])
            made = await b.channel.call(b.id, EXPEL, Expel(x.id, ADMIN, accepts_authority=True))
        assert made.held_authority
        assert x.id in b.channel.secrets.revoked


async def test_an_expelled_node_gets_neither_a_renewal_nor_a_new_certificate_for_its_key(tmp_path: Path) -> None:
    """Also where its call was under way, and with a join token that it still has."""
    async with _cluster(tmp_path, "ax") as (a, x):
        a.channel.secrets.expel(x.id, b"k" * 32, 1)
        request = RenewRequest(certificates.create_request(x.identity.key))
        with pytest.raises(Expelled, match="not renewed"):
            await a.channel._upkeep.renewal.answer(x.id, request)
        with trio.fail_after(10), pytest.raises(Expelled, match="was expelled"):
            await _join_again(a, x.identity)


async def _join_again(seed: Node, identity: Identity) -> None:
    """Join with the key of an identity that the cluster knows."""
    async with await JoinClient.open(NETWORK, seed.address, CLOCK) as client:
        await client.join(
            await client.info(),
            parse_token(seed.token()),
            identity.key,
            name="again",
            is_name_chosen=False,
            advertise=LOOPBACK,
            expect_cluster=None,
        )


async def test_a_member_that_brings_forgery_after_forgery_is_cut_off(tmp_path: Path) -> None:
    """Each costs a signature's verification: the same few again and again do not, and are what honest members bring."""
    async with _cluster(tmp_path, "ax") as (a, x):
        connection = next(held for held in a.channel._peers.open() if held.node == x.id)
        one = Credentials((), expulsions=(Expulsion((x.id,), b"0" * 64),))
        for _ in range(2 * FORGERIES_MAX):
            a.channel._exchange.take(connection, one)
        assert connection.is_open
        for number in range(FORGERIES_MAX):
            forged = Expulsion((x.id,), number.to_bytes(64, "big"))
            a.channel._exchange.take(connection, Credentials((), expulsions=(forged,)))
        assert not connection.is_open
        await a.until_refused("forged")


async def test_a_connection_that_drains_ends_with_its_node_too(tmp_path: Path) -> None:
    """Calls under way on a connection that was replaced must not keep a way in open."""
    async with _cluster(tmp_path, "ax") as (a, x):
        with trio.fail_after(10):
            await x.channel._dial(a.id, a.address)
            while len(a.channel._peers.open()) < 2:  # noqa: ASYNC110
                await trio.sleep(0.001)
            a.channel.secrets.expel(x.id, b"k" * 32, 1)
            assert not any(held.is_open for held in a.channel._peers.open())
            while a.channel._peers.open():  # noqa: ASYNC110
                await trio.sleep(0.005)
