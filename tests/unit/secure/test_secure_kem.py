"""ML-KEM-768: known answers, and two providers that must agree."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from frys_node.secure.errors import KemError
from frys_node.secure.kem import (
    CIPHERTEXT_BYTES,
    PROVIDERS,
    PUBLIC_BYTES,
    Encapsulated,
    Kem,
    KemKeys,
    OpensslKem,
    PqcryptoKem,
    load_kem,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def vectors() -> Path:
    """The folder of known answers: loudly skipped without it, except in CI."""
    folder = Path(os.environ.get("FRYS_KAT_DIR") or ROOT.parent / "shared" / "kat")
    if not (folder / "mlkem_768_test.json.gz").is_file():
        text = f"known answers are missing: {folder} (set FRYS_KAT_DIR)"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return folder


def _cases(folder: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(folder / f"{name}.json.gz") as file:
        return [case for group in json.load(file)["testGroups"] for case in group["tests"]]


def test_decapsulation_from_seeds_matches_wycheproof(vectors: Path) -> None:
    """All 193 vectors: the key, the secret and every refusal are as published."""
    kem = OpensslKem()
    wrong = []
    for case in _cases(vectors, "mlkem_768_test"):
        seed, ciphertext = bytes.fromhex(case["seed"]), bytes.fromhex(case["c"])
        try:
            is_right = kem.decapsulate(seed, ciphertext) == bytes.fromhex(case["K"])
        except KemError:
            is_right = case["result"] == "invalid"
        else:
            is_right = is_right and case["result"] != "invalid"
        if not is_right:
            wrong.append(case["tcId"])
    assert wrong == []


def test_keys_from_seeds_match_wycheproof(vectors: Path) -> None:
    """All 100 vectors of key generation give the published public key."""
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

    for case in _cases(vectors, "mlkem_768_keygen_seed_test"):
        key = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(case["seed"]))
        assert key.public_key().public_bytes_raw() == bytes.fromhex(case["ek"]), case["tcId"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_public_keys_that_are_not_canonical_are_refused(vectors: Path, provider: str) -> None:
    """Wycheproof's 265 and CCTV's 780 public keys: what FIPS 203 forbids is refused, what it allows is taken."""
    kem = load_kem(provider)
    for case in _cases(vectors, "mlkem_768_encaps_test"):
        assert _is_taken(kem, bytes.fromhex(case["ek"])) is (case["result"] == "valid"), case["tcId"]
    with gzip.open(vectors / "cctv_modulus_ML-KEM-768.txt.gz", "rt") as file:
        lines = [line.strip() for line in file if line.strip()]
    assert len(lines) == 780
    assert not any(_is_taken(kem, bytes.fromhex(line)) for line in lines)


def _is_taken(kem: Kem, public: bytes) -> bool:
    try:
        kem.encapsulate(public)
    except KemError:
        return False
    return True


def test_expanded_keys_match_wycheproof(vectors: Path) -> None:
    """The 9 vectors with expanded private keys, which only pqcrypto can read."""
    kem = PqcryptoKem()
    for case in _cases(vectors, "mlkem_768_semi_expanded_decaps_test"):
        try:
            secret = kem.decapsulate(bytes.fromhex(case["dk"]), bytes.fromhex(case["c"]))
        except KemError:
            assert case["result"] == "invalid", case["tcId"]
        else:
            assert case["result"] == "valid", case["tcId"]
            assert secret == bytes.fromhex(case["K"]), case["tcId"]


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
