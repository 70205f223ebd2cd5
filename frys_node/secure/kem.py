"""ML-KEM-768 (Kyber, FIPS 203) behind one small port with two providers.

`cryptography` (OpenSSL) is the default; `pqcrypto` is an independent implementation that checks it in tests and can be
chosen. The channel itself needs neither: TLS does the hybrid exchange inside OpenSSL. Beware: the two libraries return
(secret, ciphertext) in different orders; `Encapsulated` names them. Private keys are in each provider's own form and
only fit the provider that made them; public keys, ciphertexts and secrets are the same everywhere.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

from frys_node.secure.errors import KemError

PUBLIC_BYTES: Final = 1_184
CIPHERTEXT_BYTES: Final = 1_088
SECRET_BYTES: Final = 32
PROVIDERS: Final = ("cryptography", "pqcrypto")


class KemKeys(NamedTuple):
    """A key pair. `private` is the provider's: a 64-byte seed, or 2,400 expanded bytes."""

    public: bytes
    private: bytes

    def __repr__(self) -> str:
        return "KemKeys(...)"


class Encapsulated(NamedTuple):
    """A shared secret (32 bytes) and the ciphertext that carries it (1,088 bytes)."""

    secret: bytes
    ciphertext: bytes

    def __repr__(self) -> str:
        return "Encapsulated(...)"


class Kem(Protocol):
    """Key encapsulation."""

    @property
    def name(self) -> str:
        """The provider's name."""
        ...

    @property
    def private_bytes(self) -> int:
        """Size of this provider's private keys."""
        ...

    def generate(self) -> KemKeys:
        """Make a key pair."""
        ...

    def encapsulate(self, public: bytes) -> Encapsulated:
        """Make a secret for the holder of the private key.

        Raises:
            KemError: The public key has the wrong size or is not canonical (FIPS 203, 7.2). Nothing was derived.
        """
        ...

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        """Return the secret. A ciphertext for another key gives a random-looking secret, never an error.

        Raises:
            KemError: Key or ciphertext have the wrong size. Nothing was derived.
        """
        ...


def _check(what: str, data: bytes, size: int) -> None:
    if len(data) != size:
        raise KemError(f"an ML-KEM-768 {what} has {size} bytes, not {len(data)}")


class OpensslKem:
    """ML-KEM-768 of the OpenSSL in `cryptography`. Private keys are the 64-byte seed."""

    name = "cryptography"
    private_bytes = 64

    def __init__(self) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import mlkem

        self._private = mlkem.MLKEM768PrivateKey
        self._public = mlkem.MLKEM768PublicKey
        try:
            self._private.generate()
        except UnsupportedAlgorithm as error:
            raise KemError(
                "the OpenSSL of this installation has no ML-KEM",
                hint="pip install 'cryptography>=50' from its own wheel",
            ) from error

    def generate(self) -> KemKeys:
        """Make a key pair."""
        key = self._private.generate()
        return KemKeys(key.public_key().public_bytes_raw(), key.private_bytes_raw())

    def encapsulate(self, public: bytes) -> Encapsulated:
        """Make a secret for the holder of the private key; see `Kem`."""
        _check("public key", public, PUBLIC_BYTES)
        try:
            secret, ciphertext = self._public.from_public_bytes(public).encapsulate()
        except ValueError as error:
            raise KemError("the ML-KEM-768 public key is not canonical") from error
        return Encapsulated(secret, ciphertext)

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        """Return the secret; see `Kem`."""
        _check("private seed", private, self.private_bytes)
        _check("ciphertext", ciphertext, CIPHERTEXT_BYTES)
        return self._private.from_seed_bytes(private).decapsulate(ciphertext)


class PqcryptoKem:
    """ML-KEM-768 of `pqcrypto`. Private keys are the 2,400 expanded bytes."""

    name = "pqcrypto"
    private_bytes = 2_400

    def __init__(self) -> None:
        try:
            import pqcrypto.kem.ml_kem_768 as module
        except ImportError as error:
            raise KemError("pqcrypto is not installed", hint="pip install 'pqcrypto>=1,<2'") from error
        self._module: Any = module

    def generate(self) -> KemKeys:
        """Make a key pair."""
        public, private = self._module.keygen()
        return KemKeys(bytes(public), bytes(private))

    def encapsulate(self, public: bytes) -> Encapsulated:
        """Make a secret for the holder of the private key; see `Kem`."""
        _check("public key", public, PUBLIC_BYTES)
        try:
            ciphertext, secret = self._module.encaps(public)
        except ValueError as error:
            raise KemError("the ML-KEM-768 public key is not canonical") from error
        return Encapsulated(bytes(secret), bytes(ciphertext))

    def decapsulate(self, private: bytes, ciphertext: bytes) -> bytes:
        """Return the secret; see `Kem`."""
        _check("private key", private, self.private_bytes)
        _check("ciphertext", ciphertext, CIPHERTEXT_BYTES)
        try:
            return bytes(self._module.decaps(private, ciphertext))
        except ValueError as error:
            raise KemError("the ML-KEM-768 private key is damaged") from error


def load_kem(provider: str = "cryptography") -> Kem:
    """Return a provider, imported only now.

    Raises:
        KemError: There is no such provider, or it is not usable here; the message names the fix.
    """
    if provider == "cryptography":
        return OpensslKem()
    if provider == "pqcrypto":
        return PqcryptoKem()
    raise KemError(f"there is no KEM provider '{provider}'", hint=f"choose one of: {', '.join(PROVIDERS)}")
