"""A cluster with ML-DSA-65 identities over real connections: join, calls, restart, sizes, and who may not join."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from frys_node.channel.bootstrap import create_cluster, join_cluster
from frys_node.secure import certificates
from frys_node.secure.errors import WrongIdentityKind
from frys_node.secure.identity import load_identity
from frys_node.secure.observe_tls import parse_server_hello
from frys_node.secure.tls import HANDSHAKE_BYTES_MAX
from frys_node.transport.disk import DirectoryDisk
from frys_node.trust.join_messages import JOIN_BYTES_MAX, JOIN_CODEC, PEERS_MAX, JoinAccepted, PeerAddress
from tests.integration.channel.channel_rig import (
    CLOCK,
    ECHO,
    ENTROPY,
    LOOPBACK,
    NETWORK,
    Node,
    join,
    open_node,
    running,
)


async def _found(directory: Path) -> Node:
    disk = DirectoryDisk(directory)
    return await open_node(
        disk, create_cluster(disk, ENTROPY, CLOCK, cluster_name="test", node_name="a", kind="ml-dsa-65")
    )


async def test_nodes_with_ml_dsa_identities_join_talk_and_come_back(tmp_path: Path) -> None:
    """The joiner makes a key of the cluster's kind; every certificate is ML-DSA-65; a restart needs no setting."""
    async with running(await _found(tmp_path / "a")) as a:
        async with (
            running(await join(tmp_path / "b", a, "b")) as b,
            running(await join(tmp_path / "c", b, "c", token=a.token())) as c,
        ):
            assert {node.identity.kind for node in (a, b, c)} == {"ml-dsa-65"}
            c.channel.learn(b.id, b.address)
            with trio.fail_after(20):
                assert await c.channel.call(b.id, ECHO, b"x" * 500_000) == b"x" * 500_000
                assert await b.channel.call(a.id, ECHO, b"x") == b"x"
            assert b.channel.secrets.keyring.keys == a.channel.secrets.keyring.keys
            assert len(certificates.der(b.identity.certificate)) > 5_000
        b.disk.close()
        again = DirectoryDisk(tmp_path / "b")
        identity = load_identity(again)
        assert identity is not None
        async with running(await open_node(again, identity)) as restarted:
            restarted.channel.learn(a.id, a.address)
            with trio.fail_after(20):
                assert await restarted.channel.call(a.id, ECHO, b"y") == b"y"


async def test_a_joiner_that_wants_another_kind_is_told_before_it_proves_its_token(tmp_path: Path) -> None:
    """Nothing is written and no use of the token is spent; the hint says to leave the setting out."""
    async with running(await _found(tmp_path / "a")) as a:
        assert a.channel.desk is not None
        token, info = a.channel.desk.create_token(ttl_s=60, uses=1)
        disk = DirectoryDisk(tmp_path / "b")
        with pytest.raises(WrongIdentityKind, match="of kind ml-dsa-65, not ed25519") as caught:
            await join_cluster(
                NETWORK,
                disk,
                ENTROPY,
                CLOCK,
                seeds=[a.address],
                token=token,
                name="b",
                name_chosen=True,
                expect_cluster=None,
                expect_kind="ed25519",
                advertise=LOOPBACK,
            )
        assert "leave [cluster] identity" in caught.value.hint
        assert load_identity(disk) is None
        (left,) = [row for row in a.channel.desk.list_tokens() if row.id == info.id]
        assert left.uses_left == 1


async def test_ml_dsa_certificates_fit_the_limits_with_room(tmp_path: Path) -> None:
    """The largest join answer and a whole handshake stay under half of what a side may send."""
    async with running(await _found(tmp_path / "a")) as a:
        peer = PeerAddress("f" * 32, "n" * 63, "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535")
        der = certificates.der(a.identity.certificate)
        answer = JoinAccepted(
            bytes(48), der, der, "c" * 32, "c" * 48, "n" * 63, "f" * 32, tuple(peer for _ in range(PEERS_MAX))
        )
        assert len(JOIN_CODEC.encode(answer)) * 2 < JOIN_BYTES_MAX
        async with running(await join(tmp_path / "b", a, "b")) as b:
            transport = await NETWORK.connect(a.address)
            relay = _Counting(transport)
            await b.channel.greet(a.id, relay, a.address)
            assert parse_server_hello(relay.received) is not None
            assert 2_000 < relay.sent * 2 < HANDSHAKE_BYTES_MAX
            assert 2_000 < len(relay.received) * 2 < HANDSHAKE_BYTES_MAX


class _Counting:
    """A stream that notes what passes through it."""

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self.received = b""
        self.sent = 0

    async def send_all(self, data: bytes) -> None:
        """Send."""
        self.sent += len(data)
        await self._inner.send_all(data)  # type: ignore[attr-defined]

    async def receive_some(self, max_bytes: int = 65_536) -> bytes:
        """Receive."""
        data: bytes = await self._inner.receive_some(max_bytes)  # type: ignore[attr-defined]
        self.received += data
        return data

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)
