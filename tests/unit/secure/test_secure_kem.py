"""ML-KEM-768: two providers that must agree, and what they refuse. Known answers are in `tests/verify`."""

from __future__ import annotations

import random

import pytest

from frys_node.secure.errors import KemError
from frys_node.secure.kem import (
    CIPHERTEXT_BYTES,
    PROVIDERS,
    PUBLIC_BYTES,
    Encapsulated,
    KemKeys,
    load_kem,
)


@pytest.mark.parametrize("holder", PROVIDERS)
@pytest.mark.parametrize("sender", PROVIDERS)
def test_providers_understand_each_other(holder: str, sender: str) -> None:
    """A secret made by one provider for a key of the other is the same on both ends, 50 times over."""
    mine, other = load_kem(holder), load_kem(sender)
    for _ in range(50):
        keys = mine.generate()
        assert (len(keys.public), len(keys.private)) == (PUBLIC_BYTES, mine.private_bytes)
        sent = other.encapsulate(keys.public)
        assert (len(sent.secret), len(sent.ciphertext)) == (32, CIPHERTEXT_BYTES)
        assert mine.decapsulate(keys.private, sent.ciphertext) == sent.secret


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_damaged_ciphertext_gives_another_secret_and_no_error(provider: str) -> None:
    """Implicit rejection: whoever sends a bad ciphertext learns nothing."""
    kem = load_kem(provider)
    keys = kem.generate()
    sent = kem.encapsulate(keys.public)
    generator = random.Random(7)
    for _ in range(20):
        damaged = bytearray(sent.ciphertext)
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        assert kem.decapsulate(keys.private, bytes(damaged)) != sent.secret


@pytest.mark.parametrize("provider", PROVIDERS)
def test_wrong_sizes_are_refused_with_the_right_one(provider: str) -> None:
    """Empty, short and long inputs are errors that name the size, before any library sees them."""
    kem = load_kem(provider)
    keys = kem.generate()
    ciphertext = kem.encapsulate(keys.public).ciphertext
    for public in (b"", keys.public[:-1], keys.public + b"\0"):
        with pytest.raises(KemError, match="1184 bytes"):
            kem.encapsulate(public)
    for wrong in (b"", ciphertext[:-1], ciphertext + b"\0"):
        with pytest.raises(KemError, match="1088 bytes"):
            kem.decapsulate(keys.private, wrong)
    with pytest.raises(KemError, match=f"{kem.private_bytes} bytes"):
        kem.decapsulate(keys.private[:-1], ciphertext)


def test_an_unknown_provider_is_refused_with_the_choices() -> None:
    """A mistyped provider names those that exist."""
    with pytest.raises(KemError) as caught:
        load_kem("kyber")
    assert "pqcrypto" in caught.value.hint


def test_secrets_do_not_show_in_representations() -> None:
    """Keys and secrets cannot leak through a log line that prints the value."""
    assert "00" not in repr(KemKeys(b"\0", b"\0")) + repr(Encapsulated(b"\0", b"\0"))
