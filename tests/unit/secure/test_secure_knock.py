"""The knock in front of a handshake."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from frys_node.base.types import NodeId
from frys_node.secure import knock
from frys_node.secure.keyring import EpochKey, Keyring
from frys_node.secure.knock import KNOCK_BYTES, Knocker, is_knock

A, B, C = NodeId("0a" * 16), NodeId("0b" * 16), NodeId("0c" * 16)


def _ring(*epochs: int) -> Keyring:
    return Keyring(EpochKey(epoch, bytes([epoch]) * 32) for epoch in epochs)


def _nonce(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()[:16]


def test_a_members_knock_is_heard_once_and_by_whom_it_names() -> None:
    """The same bytes again are a replay, and at another node's door they are worth nothing."""
    a, b, c = (Knocker(_ring(1), node) for node in (A, B, C))
    shown = a.knock(B, _nonce(1))
    assert len(shown) == KNOCK_BYTES
    assert is_knock(shown[0])
    assert b.hears(shown)
    assert not b.hears(shown)
    assert not c.hears(shown)
    seed = a.knock(None, _nonce(2))
    assert b.hears(seed)
    assert c.hears(seed)


def test_the_knock_is_an_hmac_under_a_key_of_its_own() -> None:
    """As the format says, so that another implementation can knock; the gossip key itself is not used."""
    shown = Knocker(_ring(7), A).knock(B, bytes(16))
    key = hmac.new(b"\x07" * 32, b"frys knock v1", "sha256").digest()
    nonce = b"\x80" + bytes(15)
    assert shown == nonce + hmac.new(key, nonce + bytes.fromhex(B), "sha256").digest()


def test_no_tls_record_and_no_plain_text_looks_like_a_knock() -> None:
    """What comes first on a port tells the two apart."""
    for first in (b"\x16\x03\x01", b"\x14", b"\x15", b"\x17", b"GET /", b"\x00"):
        assert not is_knock(first[0])
    assert all(is_knock(Knocker(_ring(1), A).knock(None, _nonce(n))[0]) for n in range(50))


def test_every_flipped_bit_of_a_knock_is_refused() -> None:
    """And each wrong length, and a key that the cluster does not have."""
    a, b = Knocker(_ring(1), A), Knocker(_ring(1), B)
    shown = a.knock(B, _nonce(1))
    for bit in range(8 * KNOCK_BYTES):
        mutant = bytearray(shown)
        mutant[bit // 8] ^= 1 << bit % 8
        assert not b.hears(bytes(mutant))
    assert not b.hears(shown[:-1])
    assert not b.hears(shown + b"\0")
    assert not b.hears(Knocker(_ring(9), A).knock(B, _nonce(2)))
    assert b.hears(shown)


def test_knocks_follow_the_keyring() -> None:
    """Every key held is heard, one that was retired no more; without a keyring nobody knocks and nobody is heard."""
    ring_a, ring_b = _ring(1), _ring(1)
    a, b = Knocker(ring_a, A), Knocker(ring_b, B)
    assert b.hears(a.knock(B, _nonce(0)))
    fresh = EpochKey(2, b"f" * 32, expelled=1)
    ring_b.merge((fresh,))
    assert b.hears(a.knock(B, _nonce(1)))
    ring_b.promote()
    ring_b.retire()
    assert not b.hears(a.knock(B, _nonce(2)))
    ring_a.merge((fresh,))
    ring_a.promote()
    assert b.hears(a.knock(B, _nonce(3)))
    empty = Knocker(Keyring(), C)
    assert empty.knock(B, _nonce(4)) == b""
    assert not empty.hears(a.knock(C, _nonce(5)))


def test_the_knocks_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that knock for years cannot grow the memory; strangers do not enter it at all."""
    monkeypatch.setattr(knock, "NONCES_MAX", 100)
    a, b = Knocker(_ring(1), A), Knocker(_ring(1), B)
    for number in range(250):
        assert b.hears(a.knock(B, _nonce(number)))
        assert not b.hears(b"\x80" + bytes(47))
    assert len(b._heard) == 100
