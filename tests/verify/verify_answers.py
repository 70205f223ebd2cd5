"""Known answers: Wycheproof and CCTV vectors through the primitives and providers that frys uses.

Where an implementation deviates, the vector is in a list here with the reason, and the list is exact: a deviation that
vanishes with a new version fails like a new one, so that the list stays true.
"""

from __future__ import annotations

import gzip
import hmac
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from verify_tally import Tally

from frys_node.secure.errors import KemError
from frys_node.secure.kem import PROVIDERS, Kem, PqcryptoKem, load_kem

ROOT = Path(__file__).resolve().parents[2]
NEEDED = "mlkem_768_test.json.gz"

GCM_IV_LIMIT = "cryptography takes IVs of 8 to 128 bytes only; frys uses 12"
GCM_IV_REFUSED = frozenset({276, *range(299, 307)})
"""Valid vectors whose IV the library refuses by a documented limit."""

X25519_ZERO = "an all-zero shared secret is refused, as RFC 7748, 6.1 allows and TLS 1.3 demands"

PQCRYPTO_CONTEXT = "pqcrypto refuses contexts of 254 and 255 bytes, which FIPS 204 allows; frys uses none"
PQCRYPTO_CONTEXT_REFUSED = frozenset({4})


class Case(NamedTuple):
    """One vector with the fields of its group."""

    id: int
    result: str
    flags: tuple[str, ...]
    fields: dict[str, Any]

    def raw(self, name: str) -> bytes:
        """Return a field of hex digits as bytes."""
        return bytes.fromhex(self.fields.get(name) or "")


def folder() -> Path | None:
    """Return the folder of known answers, None if it is not here."""
    found = Path(os.environ.get("FRYS_KAT_DIR") or ROOT.parent / "shared" / "kat")
    return found if (found / NEEDED).is_file() else None


def cases(answers: Path, name: str) -> Iterator[Case]:
    """Read a file of vectors."""
    with gzip.open(answers / f"{name}.json.gz") as file:
        for group in json.load(file)["testGroups"]:
            shared = {key: value for key, value in group.items() if key != "tests"}
            for test in group["tests"]:
                yield Case(test["tcId"], test["result"], tuple(test.get("flags", ())), {**shared, **test})


Refusals = type[Exception] | tuple[type[Exception], ...]


def outcome(refusals: Refusals, call: Callable[..., bytes], *arguments: object) -> bytes | None:
    """Return what the call gives, None if it refuses."""
    try:
        return call(*arguments)
    except refusals:
        return None


def is_accepted(refusals: Refusals, call: Callable[..., object], *arguments: object) -> bool:
    """True if the call returns, False if it refuses."""
    try:
        call(*arguments)
    except refusals:
        return False
    return True


def _deviating(tally: Tally, case: Case, is_right: bool, found: set[int]) -> None:
    """Count a vector; whether it was right is settled against the section's list."""
    tally.tried += 1
    if not is_right:
        found.add(case.id)


# ML-KEM-768.


def ml_kem_decapsulation(answers: Path) -> Tally:
    """Secrets from seed and ciphertext through frys's default provider; malformed ones are its own error."""
    tally, kem, wrong = Tally("ML-KEM-768 decapsulation", "vectors"), load_kem("cryptography"), set[int]()
    for case in cases(answers, "mlkem_768_test"):
        secret = outcome(KemError, kem.decapsulate, case.raw("seed"), case.raw("c"))
        _deviating(tally, case, secret == case.raw("K") if case.result == "valid" else secret is None, wrong)
    tally.settle("vector", wrong, (), "none")
    return tally


def ml_kem_keys(answers: Path) -> Tally:
    """Public keys from seeds."""
    tally = Tally("ML-KEM-768 key generation", "vectors")
    for case in cases(answers, "mlkem_768_keygen_seed_test"):
        key = MLKEM768PrivateKey.from_seed_bytes(case.raw("seed"))
        tally.check(key.public_key().public_bytes_raw() == case.raw("ek"), f"vector {case.id}: another public key")
    return tally


def ml_kem_public_keys(answers: Path, kem: Kem) -> list[Tally]:
    """Public keys that FIPS 203, 7.2 forbids are refused, those that it allows are taken."""
    tally, wrong = Tally(f"ML-KEM-768 public keys, {kem.name}", "vectors"), set[int]()
    for case in cases(answers, "mlkem_768_encaps_test"):
        is_taken = is_accepted(KemError, kem.encapsulate, case.raw("ek"))
        _deviating(tally, case, is_taken is (case.result == "valid"), wrong)
    tally.settle("vector", wrong, (), "none")
    modulus = Tally(f"CCTV modulus, {kem.name}", "vectors")
    with gzip.open(answers / "cctv_modulus_ML-KEM-768.txt.gz", "rt") as file:
        for number, line in enumerate(filter(None, map(str.strip, file)), 1):
            modulus.check(not is_accepted(KemError, kem.encapsulate, bytes.fromhex(line)), f"line {number}: taken")
    return [tally, modulus]


def ml_kem_expanded(answers: Path) -> Tally:
    """Expanded private keys, which only pqcrypto reads."""
    tally, kem, wrong = Tally("ML-KEM-768 expanded keys, pqcrypto", "vectors"), load_kem("pqcrypto"), set[int]()
    for case in cases(answers, "mlkem_768_semi_expanded_decaps_test"):
        secret = outcome(KemError, kem.decapsulate, case.raw("dk"), case.raw("c"))
        _deviating(tally, case, secret == case.raw("K") if case.result == "valid" else secret is None, wrong)
    tally.settle("vector", wrong, (), "none")
    return tally


# ML-DSA-65.


def ml_dsa_verify(answers: Path) -> Tally:
    """Signatures through the library that certificates of `ml-dsa-65` identities are checked with."""
    tally, wrong = Tally("ML-DSA-65 verify, cryptography", "vectors"), set[int]()

    def verify(case: Case) -> None:
        key = MLDSA65PublicKey.from_public_bytes(case.raw("publicKey"))
        key.verify(case.raw("sig"), case.raw("msg"), case.raw("ctx") or None)

    for case in cases(answers, "mldsa_65_verify_test"):
        is_taken = is_accepted((InvalidSignature, ValueError), verify, case)
        _deviating(tally, case, is_taken is (case.result == "valid"), wrong)
    tally.settle("vector", wrong, (), "none")
    return tally


def ml_dsa_verify_pqcrypto(answers: Path) -> Tally:
    """The second implementation on the same vectors: it checks the first one, and nothing in frys relies on it."""
    import pqcrypto.sign.ml_dsa_65 as module
    from pqcrypto import InvalidSignatureError

    tally, wrong = Tally("ML-DSA-65 verify, pqcrypto", "vectors"), set[int]()

    def verify(case: Case) -> None:
        module.verify(case.raw("publicKey"), case.raw("msg"), case.raw("sig"), context=case.raw("ctx") or None)

    for case in cases(answers, "mldsa_65_verify_test"):
        is_taken = is_accepted((ValueError, InvalidSignatureError), verify, case)
        _deviating(tally, case, is_taken is (case.result == "valid"), wrong)
    tally.settle("vector", wrong, PQCRYPTO_CONTEXT_REFUSED, PQCRYPTO_CONTEXT)
    return tally


def ml_dsa_sign(answers: Path) -> Tally:
    """Keys from seeds, the published signatures, and our own, which are hedged and so differ each time."""
    tally = Tally("ML-DSA-65 keys and signing", "vectors")
    for case in cases(answers, "mldsa_65_sign_seed_test"):
        seed = case.raw("privateSeed")
        key = _seeded(seed)
        if key is None:
            tally.check(case.result == "invalid", f"vector {case.id}: a seed of {len(seed)} bytes is refused")
            continue
        public = key.public_key()
        context = case.raw("ctx") or None
        if case.result == "invalid":
            is_signed = is_accepted(ValueError, key.sign, b"", context)
            tally.check(not is_signed, f"vector {case.id}: an invalid context is signed")
            continue
        fits = not case.fields.get("publicKey") or public.public_bytes_raw() == case.raw("publicKey")
        mu, message = case.raw("mu"), case.raw("msg")
        if "msg" in case.fields:
            published = is_accepted(InvalidSignature, public.verify, case.raw("sig"), message, context)
            public.verify(key.sign(message, context), message, context)
        else:
            published = is_accepted(InvalidSignature, public.verify_mu, case.raw("sig"), mu)
            public.verify_mu(key.sign_mu(mu), mu)
        tally.check(fits and published, f"vector {case.id}: another key, or the signature is refused")
    return tally


def _seeded(seed: bytes) -> MLDSA65PrivateKey | None:
    try:
        return MLDSA65PrivateKey.from_seed_bytes(seed)
    except ValueError:
        return None


# The classical half.


def aes_256_gcm(answers: Path) -> Tally:
    """Seal and open with 256-bit keys and 128-bit tags, as gossip packets and sealed snapshots do."""
    tally, refused = Tally("AES-256-GCM", "vectors"), set[int]()
    for case in cases(answers, "aes_gcm_test"):
        if case.fields["keySize"] != 256 or case.fields["tagSize"] != 128:
            continue
        iv, aad, plain = case.raw("iv"), case.raw("aad"), case.raw("msg")
        sealed = case.raw("ct") + case.raw("tag")
        cipher = AESGCM(case.raw("key"))
        opened = outcome((InvalidTag, ValueError), cipher.decrypt, iv, sealed, aad)
        if case.result == "valid" and opened is None:
            tally.tried += 1
            refused.add(case.id)
        elif case.result == "valid":
            is_same = opened == plain and cipher.encrypt(iv, plain, aad) == sealed
            tally.check(is_same, f"vector {case.id}: another text or tag")
        else:
            tally.check(opened is None, f"vector {case.id}: opened, and should not be")
    tally.settle("vector", refused, GCM_IV_REFUSED, GCM_IV_LIMIT)
    return tally


def _derive(ikm: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    return HKDF(SHA384(), size, salt, info).derive(ikm)


def hkdf_sha384(answers: Path) -> Tally:
    """The library's HKDF, and for one block the HMAC that gossip subkeys are made with."""
    tally = Tally("HKDF-SHA384", "vectors")
    for case in cases(answers, "hkdf_sha384_test"):
        ikm, salt, info, size = case.raw("ikm"), case.raw("salt"), case.raw("info"), case.fields["size"]
        derived = outcome(ValueError, _derive, ikm, salt, info, size)
        if case.result != "valid":
            tally.check(derived is None, f"vector {case.id}: a size of {size} is derived")
            continue
        is_same = derived == case.raw("okm")
        if size <= 48:
            prk = hmac.digest(salt or bytes(48), ikm, "sha384")
            is_same = is_same and hmac.digest(prk, info + b"\x01", "sha384")[:size] == derived
        tally.check(is_same, f"vector {case.id}: another key")
    return tally


def x25519(answers: Path) -> Tally:
    """The classical half of the hybrid group."""
    tally, refused, zero = Tally("X25519", "vectors"), set[int](), set[int]()
    for case in cases(answers, "x25519_test"):
        key = X25519PrivateKey.from_private_bytes(case.raw("private"))
        public = X25519PublicKey.from_public_bytes(case.raw("public"))
        shared = outcome(ValueError, key.exchange, public)
        tally.tried += 1
        if "ZeroSharedSecret" in case.flags:
            zero.add(case.id)
        if shared is None:
            refused.add(case.id)
        elif shared != case.raw("shared"):
            tally.wrong.append(f"vector {case.id}: another secret")
    tally.settle("vector", refused, zero, X25519_ZERO)
    return tally


def ed25519(answers: Path) -> Tally:
    """Signatures of the default identity, of certificates and of rumours."""
    tally, wrong = Tally("Ed25519 verify", "vectors"), set[int]()
    for case in cases(answers, "ed25519_test"):
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(case.fields["publicKey"]["pk"]))
        is_taken = is_accepted(InvalidSignature, key.verify, case.raw("sig"), case.raw("msg"))
        _deviating(tally, case, is_taken is (case.result == "valid"), wrong)
    tally.settle("vector", wrong, (), "none")
    return tally


def known_answers() -> list[Tally]:
    """Run every vector.

    Raises:
        FileNotFoundError: The vectors are not here.
    """
    answers = folder()
    if answers is None:
        raise FileNotFoundError("no known answers: put them into ../shared/kat, or name their folder in FRYS_KAT_DIR")
    tallies = [ml_kem_decapsulation(answers), ml_kem_keys(answers)]
    for provider in PROVIDERS if has_pqcrypto() else PROVIDERS[:1]:
        tallies += ml_kem_public_keys(answers, load_kem(provider))
    tallies += [ml_dsa_verify(answers), ml_dsa_sign(answers)]
    if has_pqcrypto():
        tallies += [ml_kem_expanded(answers), ml_dsa_verify_pqcrypto(answers)]
    else:
        tallies[0].notes.append("pqcrypto is not installed: the second implementation was not run")
    return [*tallies, aes_256_gcm(answers), hkdf_sha384(answers), x25519(answers), ed25519(answers)]


def has_pqcrypto() -> bool:
    """True if the second provider is installed; in CI it has to be."""
    try:
        PqcryptoKem()
    except KemError:
        if os.environ.get("CI"):
            raise
        return False
    return True


def providers_agree(rounds: int) -> list[Tally]:
    """Make secrets with one provider for the keys of the other, in both directions; each round is a fresh key."""
    if not has_pqcrypto():
        tally = Tally("ML-KEM-768 between providers", "rounds")
        tally.notes.append("SKIPPED: pqcrypto is not installed")
        return [tally]
    first, second = (load_kem(provider) for provider in PROVIDERS)
    tallies = []
    for holder, sender in ((first, second), (second, first)):
        tally = Tally(f"keys of {holder.name}, secrets of {sender.name}", "rounds")
        for number in range(rounds):
            keys = holder.generate()
            sent = sender.encapsulate(keys.public)
            damaged = bytes([sent.ciphertext[0] ^ 1]) + sent.ciphertext[1:]
            is_same = holder.decapsulate(keys.private, sent.ciphertext) == sent.secret
            is_other = holder.decapsulate(keys.private, damaged) != sent.secret
            tally.check(is_same and is_other, f"round {number}: the secrets differ, or a damaged ciphertext gives it")
        tallies.append(tally)
    return tallies
