"""Messages of the join and the copy of the authority, as earlier releases wrote them, decode for good."""

from __future__ import annotations

from pathlib import Path

from frys_node.trust.authority import ENTRUST, Authority
from frys_node.trust.join_messages import (
    JOIN_CODEC,
    ClusterInfo,
    InfoRequest,
    JoinAccepted,
    JoinRedirect,
    JoinRefused,
    JoinRequest,
    PeerAddress,
    Returned,
    ReturnRequest,
)
from frys_node.trust.rotation import TRUST, Trust, Trusted

GOLDEN = Path(__file__).parent
A, C = "a" * 32, "c" * 32


def _lines(version: int) -> list[bytes]:
    return [bytes.fromhex(line) for line in (GOLDEN / f"join-messages-{version}.hex").read_text().split()]


def test_join_messages_of_version_1_decode_with_one_authority_for_good() -> None:
    """They had no links, no second and no retired authority; the copy of the authority had no next key."""
    *join, entrusted = _lines(1)
    assert [JOIN_CODEC.decode(line) for line in join] == [
        InfoRequest(1, 1),
        ClusterInfo(1, 1, C, "prod", b"ca", A, "n1", True, "127.0.0.1:7946", ()),
        JoinRequest("0badcafe", b"p" * 48, b"csr", "n2", True, "127.0.0.1:7947", "prod"),
        JoinAccepted(b"s" * 48, b"cert", b"ca", C, "prod", "n2", A, (PeerAddress(A, "n1", "127.0.0.1:7946"),), (), ()),
        JoinRefused("security.token_unknown", "no", "ask"),
        JoinRedirect("127.0.0.1:7946"),
    ]
    assert ENTRUST.request.decode(entrusted) == Authority(b"k" * 32, b"tokens", b"names", b"")


def test_messages_of_a_change_of_the_authority_are_frozen() -> None:
    """What this release writes, byte for byte: the fields' order and the tags are promises."""
    messages = [
        JOIN_CODEC.encode(ClusterInfo(1, 1, C, "prod", b"ca", A, "n1", True, "", (b"l1", b"l2"))),
        JOIN_CODEC.encode(JoinAccepted(b"s", b"cert", b"ca", C, "prod", "n2", A, (), (b"old",), (b"older",))),
        JOIN_CODEC.encode(ReturnRequest(b"cert", b"csr", b"proof")),
        JOIN_CODEC.encode(Returned(b"cert", (b"old",), (b"l1",), (b"older",))),
        ENTRUST.request.encode(Authority(b"k" * 32, b"tokens", b"names", b"next", b"[]", b"{}")),
        TRUST.request.encode(Trust((b"new", b"old"), (b"l1",), (b"older",))),
        TRUST.reply.encode(Trusted(("n" * 32, "o" * 32), "n" * 32)),
    ]
    before = _lines(2)
    assert messages == [*before[:4], _lines(4)[0], *before[5:]]
    assert JOIN_CODEC.encode(InfoRequest(1, 1, ("o" * 32,))) == _lines(4)[1]


def test_copies_of_the_authority_of_before_say_nothing_of_who_has_it() -> None:
    """The table of whom the key was given came with the third version, that of who has left with the fourth."""
    assert ENTRUST.request.decode(_lines(3)[0]) == Authority(b"k" * 32, b"tokens", b"names", b"next", b"[]", b"")
    assert ENTRUST.request.decode(_lines(2)[4]) == Authority(b"k" * 32, b"tokens", b"names", b"next", b"")
