"""A cluster whose port answers nobody but members, and newcomers while a token is valid."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from frys_node.base.errors import FrysError
from frys_node.channel.driver import ChannelSettings
from frys_node.secure.errors import HandshakeRefused
from frys_node.secure.tls import TlsProfile, TlsStream
from frys_node.secure.token import parse_token
from frys_node.trust.issuer import JOIN_PATH
from tests.integration.channel.channel_rig import ECHO, ENTROPY, NETWORK, Node, create, join, open_node, running
from tests.integration.channel.test_channel_rotation import driver, whole

ON = ChannelSettings(knock="on")
SEND = ChannelSettings(knock="send")
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(506)
"""The beginning of a handshake, as any scanner sends it."""


@pytest.fixture
async def a(tmp_path: Path) -> AsyncIterator[Node]:
    """An issuer that wants everybody to knock."""
    async with running(await create(tmp_path / "a", "a", settings=ON)) as node:
        yield node


def _token(issuer: Node) -> tuple[str, str]:
    desk = issuer.channel.desk
    assert desk is not None
    text, info = desk.create_token(ttl_s=600, uses=None)
    return text, info.id


async def _answer(node: Node, data: bytes) -> bytes:
    """Send bytes and return all that comes back until the node closes."""
    stream, answer = await NETWORK.connect(node.address), b""
    try:
        await stream.send_all(data)
        while part := await stream.receive_some():
            answer += part
    except trio.BrokenResourceError:
        return answer
    finally:
        await stream.aclose()
    return answer


async def test_strangers_get_no_byte_and_members_come_in(a: Node, tmp_path: Path) -> None:
    """A newcomer joins by token at the issuer; once the token is gone only who knocks is greeted, at every node."""
    text, token_id = _token(a)
    async with running(await join(tmp_path / "b", a, "b", token=text, settings=ON)) as b:
        with trio.fail_after(30):
            assert await b.channel.call(a.id, ECHO, b"x") == b"x"
            assert await _answer(b, HELLO) == b""  # no issuer: closed at all times
            desk = a.channel.desk
            assert desk is not None
            desk.revoke_token(token_id)
            for data in (HELLO, b"GET / HTTP/1.1\r\n\r\n", b"\xff" + ENTROPY.token_bytes(200), b"\x80" + bytes(47)):
                assert await _answer(a, data) == b""
            with pytest.raises(FrysError):
                await join(tmp_path / "c", a, "c", token=text)
            assert set(a.refused()) == {"knock"}
            await a.channel._dial(b.id, b.address)
            await b.channel._dial(a.id, a.address)
            assert await b.channel.connect_address(a.address) == a.id  # a seed, whose id is not known
            assert await a.channel.call(b.id, ECHO, b"y") == b"y"


async def test_a_certificate_without_a_knock_and_a_knock_without_one_are_both_refused(a: Node, tmp_path: Path) -> None:
    """The knock comes before the certificate and does not stand for it; one that was heard is not heard again."""
    text, token_id = _token(a)
    async with running(await join(tmp_path / "b", a, "b", token=text, settings=ON)) as b:
        with trio.fail_after(30):
            await b.channel.connect(a.id)
            desk = a.channel.desk
            assert desk is not None
            desk.revoke_token(token_id)
            member = TlsStream(await NETWORK.connect(a.address), TlsProfile(b.identity).client, server=False)
            with pytest.raises(HandshakeRefused) as caught:
                await member.handshake()
            assert caught.value.reason in ("eof", "reset")
            await member.aclose()
            await a.until_refused("knock")
            while not b.channel.secrets.keyring.keys:  # noqa: ASYNC110
                await trio.sleep(0.005)
            knock = b.channel._knocker.knock(a.id, ENTROPY.token_bytes(16))
            await _answer(a, knock + b"no handshake")
            await a.until_refused("not_tls")
            assert await _answer(a, knock + HELLO) == b""
            await a.until_refused("knock", 2)


async def test_a_cluster_changes_over_without_a_gap(tmp_path: Path) -> None:
    """Nodes that do not want a knock take one; nodes that show one are taken by those that want it."""
    async with (
        running(await create(tmp_path / "a", "a")) as a,
        running(await join(tmp_path / "b", a, "b", settings=SEND)) as b,
    ):
        a.channel.learn(b.id, b.address)
        with trio.fail_after(20):
            assert await b.channel.call(a.id, ECHO, b"x") == b"x"
            while not b.channel.secrets.keyring.keys:  # noqa: ASYNC110
                await trio.sleep(0.005)
            await b.channel._dial(a.id, a.address)
            await a.channel._dial(b.id, b.address)
            assert await a.channel.call(b.id, ECHO, b"y") == b"y"
        assert a.refused() == b.refused() == {}


async def test_an_issuer_that_wants_a_knock_makes_no_standing_token(a: Node) -> None:
    """A token that is always valid would open its door to every stranger; a token that is made opens it for so long."""
    assert a.disk.read(JOIN_PATH) is None
    assert not a.channel._may_join()
    _, token_id = _token(a)
    assert a.channel._may_join()
    desk = a.channel.desk
    assert desk is not None
    desk.revoke_token(token_id)
    assert not a.channel._may_join()


async def test_another_authority_does_not_open_a_door_that_wants_a_knock(a: Node) -> None:
    """No standing token is made where there was none, and one of before the knock is gone with the old authority."""
    rotation = driver(a, (a,))
    for before in (None, "a token of before the setting was changed"):
        if before is not None:
            a.disk.write(JOIN_PATH, before.encode())
        rotation._desk.begin()
        await whole(rotation)
        assert not a.channel._may_join()
        assert a.disk.read(JOIN_PATH) is None


async def test_a_standing_token_that_is_revoked_leaves_no_dead_text_behind(tmp_path: Path) -> None:
    """The next join on this machine reads the file: it holds a new token at once, or where one knocks there is none."""
    async with running(await create(tmp_path / "a", "a")) as a:
        desk, before = a.channel.desk, a.token()
        assert desk is not None
        desk.revoke_token(parse_token(before).id)
        assert a.token() != before
        async with running(await join(tmp_path / "b", a, "b")):
            pass
        a.disk.close()
    async with running(await open_node(a.disk, a.identity, ON)) as a:
        desk = a.channel.desk
        assert desk is not None
        desk.revoke_token(parse_token(a.token()).id)
        assert a.disk.read(JOIN_PATH) is None
