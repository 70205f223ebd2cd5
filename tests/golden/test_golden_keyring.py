"""Stored gossip keys and expulsions of each format are read forever."""

from __future__ import annotations

from pathlib import Path

import msgspec

from frys_node.base.types import NodeId
from frys_node.secure.admin import ADMIN_WORD_PATH, AdminWord
from frys_node.secure.keyring import KEYRING_PATH, EpochKey, Keyring
from frys_node.secure.statements import Expulsion
from frys_node.testing.disk import FakeDisk
from frys_node.trust.credentials import EXPULSIONS_PATH, REVOKED_PATH, MemberSecrets

GOLDEN = Path(__file__).resolve().parent
OLD = (EpochKey(2, b"\x02" * 32), EpochKey(1, b"\x01" * 32))
NEW = (EpochKey(2, b"\x02" * 32, 1_800_000_000, 1, b"s" * 64), EpochKey(1, b"\x01" * 32))
SAID = (Expulsion(("0e" * 16, "0f" * 16), b"t" * 64),)


def test_a_keyring_of_the_first_format_is_read() -> None:
    """Epochs and keys alone, of when nothing was signed; the newest is sealed with."""
    ring = Keyring.decode((GOLDEN / "keyring-1.bin").read_bytes())
    assert ring.keys == OLD
    assert ring.primary == OLD[0]


def test_a_keyring_of_the_second_format_is_written_so_and_read() -> None:
    """With age, expulsions and signature, byte for byte."""
    golden = (GOLDEN / "keyring-2.bin").read_bytes()
    assert Keyring.decode(golden).keys == NEW
    assert Keyring(NEW).encode() == golden


def test_expulsions_are_written_so_and_read() -> None:
    """What is on the disk of a node, with and without the list of ids that the first version wrote alone."""
    golden = (GOLDEN / "expulsions-1.bin").read_bytes()
    assert msgspec.msgpack.encode(SAID) == golden
    disk = FakeDisk()
    disk.write(KEYRING_PATH, (GOLDEN / "keyring-1.bin").read_bytes())
    disk.write(REVOKED_PATH, b"0d" * 16)
    assert list(MemberSecrets(disk).revoked) == ["0d" * 16]
    disk.write(EXPULSIONS_PATH, golden)
    secrets = MemberSecrets(disk)
    assert set(secrets.revoked) == {NodeId(letter * 16) for letter in ("0d", "0e", "0f")}
    assert set(secrets.offer().revoked) == set(secrets.revoked)


def test_the_word_on_admin_tokens_is_written_so_and_read() -> None:
    """Number, hashes and signature, byte for byte; without it the tokens of before would be accepted again."""
    word = AdminWord(2, (b"g" * 32, b"h" * 32), b"t" * 64)
    golden = (GOLDEN / "admin-word-1.bin").read_bytes()
    assert msgspec.msgpack.encode(word) == golden
    disk = FakeDisk()
    disk.write(ADMIN_WORD_PATH, golden)
    assert MemberSecrets(disk).admin.word == word
