"""The way into a cluster: tokens, names, redirects, and everything that can be wrong with a seed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.bindings.openssl.binding import Binding

from frys_node.base.errors import (
    ConfigError,
    FrysError,
    IssuerUnreachable,
    NodeUnreachable,
    StorageError,
    UnsupportedVersion,
)
from frys_node.base.ports import Stream
from frys_node.base.types import Address
from frys_node.channel import bootstrap
from frys_node.channel.bootstrap import JoinOutcome, SeedsUnreachable, create_cluster, join_cluster, probe_cluster
from frys_node.channel.join import JoinClient
from frys_node.node import accept_premade
from frys_node.secure.errors import (
    ClassicalOnly,
    ForeignCluster,
    HandshakeRefused,
    InvalidCertificate,
    InvalidToken,
    NameTaken,
    NotTls,
    TokenExpired,
    TokenUnknown,
    TokenUsedUp,
    TooManyFailures,
    WrongCluster,
)
from frys_node.secure.identity import load_identity
from frys_node.secure.tls import ALPN_JOIN, TlsStream, _select_alpn, new_context
from frys_node.secure.token import format_token, parse_token
from frys_node.testing.disk import FakeDisk
from frys_node.transport.disk import DirectoryDisk
from frys_node.trust.issuer import JOIN_PATH, IssuerDesk
from frys_node.trust.join_messages import InfoRequest
from tests.integration.channel.channel_rig import (
    CLOCK,
    ENTROPY,
    LOOPBACK,
    NETWORK,
    Node,
    create,
    join,
    open_node,
    running,
)


@pytest.fixture
async def a(tmp_path: Path) -> AsyncIterator[Node]:
    """A running one-node cluster."""
    async with running(await create(tmp_path / "a", "a")) as node:
        yield node


def _desk(node: Node) -> IssuerDesk:
    assert node.channel.desk is not None
    return node.channel.desk


async def _join(
    disk: DirectoryDisk | FakeDisk,
    seeds: list[Address],
    token: str,
    *,
    name: str = "b",
    chosen: bool = True,
    cluster: str | None = None,
) -> JoinOutcome:
    with trio.fail_after(20):
        return await join_cluster(
            NETWORK,
            disk,
            ENTROPY,
            CLOCK,
            seeds=seeds,
            token=token,
            name=name,
            name_chosen=chosen,
            expect_cluster=cluster,
            advertise=LOOPBACK,
        )


async def _refused(error: type[FrysError], seeds: list[Address], token: str, **how: object) -> FrysError:
    """The join fails with the error, its message is not empty, and nothing was written."""
    disk = FakeDisk()
    with pytest.raises(error) as caught:
        await _join(disk, seeds, token, **how)  # type: ignore[arg-type]
    assert type(caught.value) is error
    assert caught.value.message
    assert disk.list("") == []
    return caught.value


async def test_a_wrong_token_is_refused(a: Node) -> None:
    """The right authority with another secret, an unknown id, and text that is no token."""
    read = parse_token(a.token())
    wrong = format_token("test", a.identity.ca_hash, read.id, b"w" * 32)
    assert "token create" in (await _refused(TokenUnknown, [a.address], wrong)).hint
    await _refused(TokenUnknown, [a.address], format_token("test", a.identity.ca_hash, "00000000", read.secret))
    await _refused(InvalidToken, [a.address], "frys1.nonsense")


async def test_a_single_use_token_lets_one_node_in(a: Node, tmp_path: Path) -> None:
    """The second node is told how often it was used and how to get another."""
    token, info = _desk(a).create_token(ttl_s=60, uses=1)
    assert info.uses_left == 1
    await _join(DirectoryDisk(tmp_path / "b"), [a.address], token)
    error = await _refused(TokenUsedUp, [a.address], token, name="c")
    assert "used 1 times" in error.message


async def test_an_expired_token_is_refused(a: Node) -> None:
    """A token of one second, after its time; the issuer's clock alone decides."""
    token, info = _desk(a).create_token(ttl_s=60, uses=1)
    row = _desk(a)._tokens._rows[info.id]
    assert row.expires_unix_s is not None
    row.expires_unix_s -= 60 + 5 * 60
    assert "5 min ago" in (await _refused(TokenExpired, [a.address], token)).message


async def test_a_revoked_token_is_refused(a: Node) -> None:
    """A revoked token is as unknown as one that never was."""
    token, info = _desk(a).create_token(ttl_s=60, uses=1)
    _desk(a).revoke_token(info.id)
    await _refused(TokenUnknown, [a.address], token)


async def test_many_wrong_tokens_make_an_address_wait(a: Node) -> None:
    """Guessing is slowed down, and says so."""
    wrong = format_token("test", a.identity.ca_hash, "00000000", b"w" * 32)
    for _ in range(10):
        await _refused(TokenUnknown, [a.address], wrong)
    await _refused(TooManyFailures, [a.address], a.token())


async def test_a_token_of_another_cluster_is_refused_before_it_is_shown(a: Node, tmp_path: Path) -> None:
    """Both clusters carry the same name; the pinned authority tells them apart, and the issuer sees no attempt."""
    async with running(await create(tmp_path / "o", "o")) as other:
        error = await _refused(ForeignCluster, [a.address], other.token())
        assert "another authority" in error.message
    assert [info.used for info in _desk(a).list_tokens()] == [0]


async def test_another_clusters_name_is_refused(a: Node) -> None:
    """The cluster's name that the operator wrote is not the seed's."""
    error = await _refused(WrongCluster, [a.address], a.token(), cluster="prod")
    assert "'test'" in error.message
    assert "'prod'" in error.message
    await _join(FakeDisk(), [a.address], a.token(), cluster="test")
    await _join(FakeDisk(), [a.address], a.token(), cluster=a.identity.cluster_id, name="c")


async def test_a_seed_that_is_not_the_issuer_redirects(a: Node, tmp_path: Path) -> None:
    """Any member will do as a seed."""
    async with running(await join(tmp_path / "b", a, "b")) as b:
        outcome = await _join(DirectoryDisk(tmp_path / "c"), [b.address], a.token(), name="c")
        assert outcome.issuer == a.id
        assert {peer.name for peer in outcome.peers} >= {"a"}
        assert outcome.peers[0] == (a.id, a.address, "a")


async def test_a_join_through_a_member_names_the_issuer_that_is_down(tmp_path: Path) -> None:
    """Whoever gave a live seed hears that the seed is fine and whose answer is missing."""
    async with running(await create(tmp_path / "a", "a")) as a:
        b = await join(tmp_path / "b", a, "b")
        token = a.token()
    async with running(b):
        error = await _refused(IssuerUnreachable, [b.address], token, name="c")
        assert f"{b.address} is a member" in error.message
        assert f"the issuer at {a.address} does not answer" in error.message


async def test_dead_seeds_do_not_stop_a_join(a: Node, tmp_path: Path) -> None:
    """One good seed among bad ones is enough; the others are tried side by side."""
    async with _server(_silent) as silent:
        dead = Address("127.0.0.1", 1)
        outcome = await _join(DirectoryDisk(tmp_path / "b"), [dead, silent, a.address], a.token())
        assert outcome.identity.node_name == "b"


async def test_no_seed_answers(a: Node) -> None:
    """Each seed is named with its reason."""
    token = a.token()
    await _refused(type(await _connect_error()), [Address("127.0.0.1", 1)], token)
    error = await _refused(SeedsUnreachable, [Address("127.0.0.1", 1), Address("127.0.0.1", 2)], token)
    assert "127.0.0.1:1:" in error.message
    assert "127.0.0.1:2:" in error.message
    with pytest.raises(ConfigError, match="seed"):
        await _join(FakeDisk(), [], token)


async def _connect_error() -> NodeUnreachable:
    with pytest.raises(NodeUnreachable) as caught:
        await NETWORK.connect(Address("127.0.0.1", 1))
    return caught.value


async def test_names_that_nobody_chose_get_a_number(a: Node, tmp_path: Path) -> None:
    """Machines with one host name become a-2 and a-3, even when they join at the same moment."""
    names: list[str] = []

    async def one(number: int) -> None:
        outcome = await _join(DirectoryDisk(tmp_path / str(number)), [a.address], a.token(), name="a", chosen=False)
        names.append(outcome.identity.node_name)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(one, number)
    assert sorted(names) == [f"a-{number}" for number in range(2, 10)]


async def test_a_chosen_name_that_is_taken_is_refused_until_its_node_left(a: Node, tmp_path: Path) -> None:
    """The refusal names the way out; after the node left the name is free. The token's use is not lost."""
    token, _ = _desk(a).create_token(ttl_s=60, uses=1)
    error = await _refused(NameTaken, [a.address], token, name="a")
    assert "leave" in error.hint
    _desk(a).release_name(a.id)
    outcome = await _join(DirectoryDisk(tmp_path / "b"), [a.address], token, name="a")
    assert outcome.identity.node_name == "a"


@pytest.mark.parametrize("name", ["", "UPPER", "a b", "-a", "x" * 64, "a/b", "a\nb"])
async def test_a_name_that_cannot_be_one_is_refused(a: Node, name: str) -> None:
    """Bad names never reach the issuer."""
    await _refused(InvalidCertificate, [a.address], a.token(), name=name)


async def test_a_premade_token_lets_nodes_in(a: Node, tmp_path: Path) -> None:
    """A secret that both sides were given proves each to the other; a seed that does not know it is refused."""
    premade = "frys0." + "s" * 40
    await _refused(TokenUnknown, [a.address], premade)
    _desk(a).accept_premade(premade)
    outcome = await _join(DirectoryDisk(tmp_path / "b"), [a.address], premade)
    assert outcome.identity.cluster_id == a.identity.cluster_id


async def test_a_revoked_premade_token_stays_revoked_when_the_issuer_starts_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its environment offers it at each start: it is not accepted again, the log says so, and nobody joins with it."""
    premade = "frys0." + "s" * 40
    async with running(await create(tmp_path / "a", "a")) as first:
        accept_premade(_desk(first), premade)
        await _join(DirectoryDisk(tmp_path / "b"), [first.address], premade)
        _desk(first).revoke_token(parse_token(premade).id)
        first.disk.close()
    disk = DirectoryDisk(tmp_path / "a")
    identity = load_identity(disk)
    assert identity is not None
    async with running(await open_node(disk, identity)) as again:
        accept_premade(_desk(again), premade)
        assert parse_token(premade).id not in [info.id for info in _desk(again).list_tokens()]
        await _refused(TokenUnknown, [again.address], premade)
    (told,) = [record for record in caplog.records if record.message == "channel.revoked_token_offered"]
    assert "FRYS_TOKEN" in told.fix
    assert premade not in str(vars(told))


async def test_a_full_or_read_only_disk_leaves_nothing_half_done(a: Node) -> None:
    """The joiner's disk refuses: the error is the disk's, and there is no identity."""
    disk = FakeDisk(read_only=True)
    with pytest.raises(StorageError):
        await _join(disk, [a.address], a.token())
    assert load_identity(disk) is None


async def test_tokens_and_names_survive_the_issuers_restart(tmp_path: Path) -> None:
    """The same tokens are good, and the same names taken, after the issuer came back."""
    async with running(await create(tmp_path / "a", "a")) as first:
        token, _ = _desk(first).create_token(ttl_s=3600, uses=1)
        old = first.token()
        await _join(DirectoryDisk(tmp_path / "b"), [first.address], old, name="b")
        first.disk.close()
    disk = DirectoryDisk(tmp_path / "a")
    identity = load_identity(disk)
    assert identity is not None
    async with running(await open_node(disk, identity)) as again:
        assert again.token() == old
        assert again.channel.boot > first.channel.boot
        error = await _refused(NameTaken, [again.address], token, name="b")
        assert "'b'" in error.message
        await _join(DirectoryDisk(tmp_path / "c"), [again.address], token, name="c")


async def test_the_join_token_is_renewed_at_half_of_its_life(a: Node) -> None:
    """The file changes only when less than twelve hours are left; the old token stays good until it expires."""
    desk, first = _desk(a), a.token()
    assert desk.renew_join_token() > 11 * 3_600
    assert a.token() == first
    row = desk._tokens._rows[parse_token(first).id]
    assert row.expires_unix_s is not None
    row.expires_unix_s -= 13 * 3_600
    desk.renew_join_token()
    assert a.token() != first
    await _join(FakeDisk(), [a.address], first)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
async def test_a_join_token_that_others_could_read_is_revoked_and_replaced(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    """At the issuer's start: whoever has read it cannot join with it, and the new one is the owner's alone."""
    async with running(await create(tmp_path / "a", "a")) as first:
        known = first.token()
        first.disk.close()
    file = tmp_path / "a" / JOIN_PATH
    file.chmod(mode)
    disk = DirectoryDisk(tmp_path / "a")
    identity = load_identity(disk)
    assert identity is not None
    async with running(await open_node(disk, identity)) as again:
        assert again.token() != known
        assert file.stat().st_mode & 0o777 == 0o600
        await _refused(TokenUnknown, [again.address], known)
        await _join(DirectoryDisk(tmp_path / "b"), [again.address], again.token())
        assert len(_desk(again).list_tokens()) == 1
    (told,) = [record for record in caplog.records if record.message == "channel.join_token_replaced"]
    assert told.token_id == parse_token(known).id


async def test_the_text_of_the_join_token_goes_with_its_token(a: Node) -> None:
    """What is revoked is not offered to the next `join` on this machine: there is a new one at once."""
    known = a.token()
    other, _ = _desk(a).create_token(ttl_s=60, uses=1)
    _desk(a).revoke_token(parse_token(other).id)
    assert a.token() == known
    _desk(a).revoke_token(parse_token(known).id)
    assert a.token() != known
    await _join(FakeDisk(), [a.address], a.token())


async def test_a_seed_tells_its_cluster_to_anybody(a: Node) -> None:
    """`join` picks its local token by this answer."""
    with trio.fail_after(10):
        summary = await probe_cluster(NETWORK, a.address, CLOCK)
    assert summary.cluster_name == "test"
    assert summary.ca_hash == a.identity.ca_hash == parse_token(a.token()).ca_hash
    assert summary.is_issuer
    assert summary.node_id == a.id


@asynccontextmanager
async def _server(serve: Callable[[Stream], Awaitable[None]]) -> AsyncIterator[Address]:
    """A server that is no frys node."""
    listener = await NETWORK.listen(LOOPBACK)

    async def accept(nursery: trio.Nursery) -> None:
        while True:
            stream, _ = await listener.accept()
            nursery.start_soon(one, stream)

    async def one(stream: Stream) -> None:
        with suppress(trio.BrokenResourceError, HandshakeRefused):
            await serve(stream)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept, nursery)
        yield listener.address
        nursery.cancel_scope.cancel()
    await listener.aclose()


async def _silent(stream: Stream) -> None:
    while await stream.receive_some():
        pass


async def _web(stream: Stream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def test_a_plain_text_server_is_refused(a: Node) -> None:
    """The HTTP port given as seed is the commonest mistake: the hint says so."""
    async with _server(_web) as address:
        error = await _refused(NotTls, [address], a.token())
        assert "7946" in error.hint


@pytest.mark.parametrize("groups", [b"X25519", b"P-256"])
async def test_a_classical_only_server_is_refused(a: Node, groups: bytes) -> None:
    """TLS 1.3 without the hybrid group is not enough."""
    context = new_context()
    context.use_privatekey(a.identity.key)  # type: ignore[arg-type]
    context.use_certificate(a.identity.certificate)
    context.set_alpn_select_callback(_select_alpn)
    assert Binding().lib.SSL_CTX_set1_curves_list(context._context, groups) == 1

    async def serve(stream: Stream) -> None:
        await TlsStream(stream, context, server=True).handshake()

    async with _server(serve) as address:
        await _refused(ClassicalOnly, [address], a.token())


async def test_a_silent_server_is_given_up(a: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed that accepts and says nothing costs the deadline and no more."""
    monkeypatch.setattr(bootstrap, "JOIN_S", 0.2)
    async with _server(_silent) as address:
        error = await _refused(NodeUnreachable, [address], a.token())
        assert "did not answer" in error.message


async def test_a_seed_that_ends_the_connection_is_refused(a: Node) -> None:
    """A server that shakes hands as a node should and then hangs up."""
    context = new_context()
    context.use_privatekey(a.identity.key)  # type: ignore[arg-type]
    context.use_certificate(a.identity.certificate)
    context.set_alpn_select_callback(lambda _connection, _offered: ALPN_JOIN)

    async def serve(stream: Stream) -> None:
        tls = TlsStream(stream, context, server=True)
        await tls.handshake()
        await tls.receive_some()
        await tls.aclose()

    async with _server(serve) as address:
        await _refused(HandshakeRefused, [address], a.token())


async def test_an_impostor_with_a_stolen_authority_certificate_is_refused(a: Node, tmp_path: Path) -> None:
    """The authority's certificate is public; a server that shows it without a certificate signed by it is refused."""
    foreign = create_cluster(FakeDisk(), ENTROPY, CLOCK, cluster_name="test", node_name="a")
    impostor = await open_node(DirectoryDisk(tmp_path / "i"), foreign)
    foreign.ca_certificate = a.identity.ca_certificate
    async with running(impostor) as seed:
        await _refused(ForeignCluster, [seed.address], a.token())


async def test_a_joiner_of_another_protocol_is_told_both_ranges(a: Node) -> None:
    """The seed refuses a protocol that it does not speak, and says who has to be upgraded."""
    with trio.fail_after(20):
        for lowest, highest, older in ((7, 9, "seed 'a' of cluster 'test'"), (0, 0, "the joiner")):
            async with await JoinClient.open(NETWORK, a.address, CLOCK) as client:
                with pytest.raises(UnsupportedVersion) as refusal:
                    await client.ask(InfoRequest(lowest, highest))
            assert refusal.value.message == (
                f"seed 'a' of cluster 'test' speaks protocol 1-1, the joiner {lowest}-{highest}"
            )
            assert refusal.value.hint.startswith(f"upgrade {older} first")


async def test_a_version_that_does_not_fit_is_told_before_a_seed_that_is_silent(
    a: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one seed of another protocol and one that is down, the error is about the protocol, of both."""
    monkeypatch.setattr("frys_node.channel.join.PROTOCOL_MIN", 7)
    monkeypatch.setattr("frys_node.channel.join.PROTOCOL_MAX", 9)
    error = await _refused(UnsupportedVersion, [Address("127.0.0.1", 1), a.address], a.token())
    assert "the joiner 7-9" in error.message
