"""Certificates for HTTP from the issuer, over real connections: for which names, kept, renewed, refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cryptography import x509

from frys_node.base.errors import FrysError, NotReady
from frys_node.base.ports import Clock
from frys_node.secure.errors import InvalidCertificate
from frys_node.secure.web_certificates import covers, free_names, is_for
from frys_node.testing.clock import FakeClock
from frys_node.trust.web_certificates import AUTHORITY_PATH, ISSUE_WEB, RENEW_AT_S, WEB_PATH, WebCertificateDesk
from tests.integration.channel.channel_rig import CLOCK, ENTROPY, Node, create, join, running
from tests.integration.channel.test_channel_rotation import driver, whole


def desk_of(node: Node, *permitted: str, clock: Clock = CLOCK) -> WebCertificateDesk:
    """A node's desk, answering; members are known by their name and 10.0.0.<number of letters>."""
    names = {node.id: node.identity.node_name}
    made = WebCertificateDesk(
        node.identity,
        node.channel,
        node.disk,
        ENTROPY,
        clock,
        issuer=lambda: node.channel.issuer,
        names_of=lambda other: [names.get(other, "b"), "10.0.0.5"],
        permitted=permitted,
    )
    node.channel.unserve(ISSUE_WEB)
    made.serve()
    return made


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    """An issuer `a` and a member `b`."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(running(await create(tmp_path / "a", "a")))
        b = await stack.enter_async_context(running(await join(tmp_path / "b", a, "b")))
        yield a, b


def leaf(pem: bytes) -> x509.Certificate:
    """Read a certificate."""
    return x509.load_pem_x509_certificate(pem)


async def test_a_certificate_whose_key_others_could_read_is_replaced(pair: tuple[Node, Node]) -> None:
    """The port is served with a key that nobody has seen, instead of not at all."""
    a, b = pair
    desk_of(a)
    made = await desk_of(b).obtain([])
    file = b.disk.root / WEB_PATH
    file.chmod(0o644)
    again = await desk_of(b).obtain([])
    assert again.key_pem != made.key_pem
    assert file.stat().st_mode & 0o777 == 0o600
    assert (await desk_of(b).obtain([])).key_pem == again.key_pem


async def test_a_member_gets_a_certificate_of_the_authority_and_keeps_it(pair: tuple[Node, Node]) -> None:
    """For its name, its address, loopback and what the issuer permits; a second start asks nobody."""
    a, b = pair
    desk_of(a, "API.example.org", "*.b.example.org")
    made = await desk_of(b).obtain(["api.example.org", "*.b.example.org"])
    certificate = leaf(made.chain_pem)
    certificate.verify_directly_issued_by(leaf(made.authority_pem))
    hosts = ("b", "10.0.0.5", "localhost", "127.0.0.1", "::1", "api.example.org", "x.b.example.org")
    assert all(is_for(certificate, host) for host in hosts)
    assert not is_for(certificate, "a")
    assert b.disk.read(AUTHORITY_PATH) == made.authority_pem
    assert (b.disk.mode(WEB_PATH) or 0) & 0o077 == 0
    await a.channel.drain()
    again = await desk_of(b).obtain(["api.example.org"])
    assert (again.chain_pem, again.key_pem) == (made.chain_pem, made.key_pem)
    assert 0 < again.fresh_for_s <= 60 * 86_400


async def test_a_change_of_the_authority_asks_for_another_certificate_at_once(pair: tuple[Node, Node]) -> None:
    """Listeners hear of it when the new authority issues, not while it is only trusted; what they get is of it."""
    a, b = pair
    desk_of(a)
    desk = desk_of(b)
    b.channel.authority.on_trust.append(desk.authority_changed)
    before = await desk.obtain([])
    changed = desk.changed
    a.channel.learn(b.id, b.address)
    rotation = driver(a, pair)
    rotation._desk.begin()
    assert not changed.is_set()
    await whole(rotation)
    assert changed.is_set()
    assert not desk.changed.is_set()
    after = await desk.obtain([])
    assert after.authority_pem != before.authority_pem
    leaf(after.chain_pem).verify_directly_issued_by(b.identity.ca_certificate)
    assert b.disk.read(AUTHORITY_PATH) == after.authority_pem


async def test_no_name_is_issued_that_neither_the_member_nor_the_issuers_settings_have(
    pair: tuple[Node, Node],
) -> None:
    """Another member's name, a stranger's, a star: refused with the setting that would permit it, nothing stored."""
    a, b = pair
    desk_of(a, "api.example.org")
    desk = desk_of(b, "www.example.com")
    for name in ("a", "www.example.com", "*.example.org", "api.example.org.evil.example", "10.0.0.6", "*.b"):
        with pytest.raises(InvalidCertificate, match="is issued to this node") as caught:
            await desk.obtain([name])
        assert "tls_names" in caught.value.hint
    assert b.disk.read(WEB_PATH) is None


async def test_only_the_issuer_issues(pair: tuple[Node, Node]) -> None:
    """A member without the authority's key, or without the role, says who does."""
    a, b = pair
    desk_a, desk_b = desk_of(a), desk_of(b)
    await b.channel.connect(a.id)
    for node in (a, b):
        node.channel.issuer = b.id
    for desk in (desk_a, desk_b):
        with pytest.raises(NotReady, match="does not issue"):
            await desk.obtain([])


async def test_a_certificate_is_renewed_with_a_third_of_its_life_left_or_for_other_names(
    pair: tuple[Node, Node],
) -> None:
    """And whatever the file holds that is no good is replaced."""
    a, b = pair
    desk_of(a, "api.example.org")
    first = await desk_of(b).obtain([])
    later = FakeClock(unix_start_ns=CLOCK.unix_ns() + int(first.fresh_for_s + 60) * 10**9)
    second = await desk_of(b, clock=later).obtain([])
    assert second.chain_pem != first.chain_pem
    third = await desk_of(b).obtain(["api.example.org"])
    assert covers(leaf(third.chain_pem), ["api.example.org"])
    assert third.fresh_for_s > RENEW_AT_S / 2
    b.disk.write(WEB_PATH, b"junk")
    assert (await desk_of(b).obtain([])).chain_pem != third.chain_pem


async def test_an_issuer_that_is_down_leaves_what_was_there(pair: tuple[Node, Node]) -> None:
    """Nothing is lost by asking in vain."""
    a, b = pair
    desk_of(a)
    first = await desk_of(b).obtain([])
    a.channel.unserve(ISSUE_WEB)
    with pytest.raises(FrysError):
        await desk_of(b).obtain(["api.example.org"])
    assert (await desk_of(b).obtain([])).chain_pem == first.chain_pem


@pytest.mark.parametrize("name", ["bank.com", "api.example.org", "10.0.0.9", "a.b"])
def test_a_node_that_chose_the_name_of_somebody_else_gets_no_certificate_for_it(name: str) -> None:
    """Names come free without dots alone, addresses only as those that the connection has."""
    assert free_names(name, "10.0.0.5") == ["10.0.0.5"]
    assert free_names(name, "node.example") == []
    assert free_names("b", "::1") == ["b", "::1"]
    assert free_names("", "") == []


async def test_what_the_issuer_does_not_know_of_a_member_is_left_out_and_told(
    pair: tuple[Node, Node], caplog: pytest.LogCaptureFixture
) -> None:
    """A member that comes from another address than it advertises has TLS all the same, and the log says what to do."""
    a, b = pair
    desk = desk_of(a)
    desk._names_of = lambda _node: ["b"]
    made = await desk_of(b).obtain([])
    assert [is_for(leaf(made.chain_pem), host) for host in ("b", "localhost", "10.0.0.5")] == [True, True, False]
    told = [record for record in caplog.records if record.getMessage() == "channel.web_certificate_without"]
    assert [(vars(record)["names"], "tls_names" in vars(record)["fix"]) for record in told] == [("10.0.0.5", True)]
    assert (await desk_of(b).obtain([])).chain_pem == made.chain_pem


async def test_the_address_and_name_that_count_are_those_of_the_connection(pair: tuple[Node, Node]) -> None:
    """Not what gossip says, nor what the greeting advertises: the certificate's name, and where the bytes come from."""
    a, b = pair
    await b.channel.connect(a.id)
    assert a.channel.proven(b.id) == ("b", "127.0.0.1")
    assert a.channel.proven(a.id) == ("", "")
