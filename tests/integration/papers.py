"""An authority of a test, and files of certificates that it issued."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from frys_node.base.types import ClusterId
from frys_node.secure.certificates import create_authority
from frys_node.secure.web_certificates import issue_web


def pem(thing: Any) -> bytes:
    """A certificate or key as PEM."""
    if isinstance(thing, Ed25519PrivateKey):
        return thing.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    data: bytes = thing.public_bytes(serialization.Encoding.PEM)
    return data


class Papers:
    """An authority, and files of a certificate that it issued."""

    def __init__(self, directory: Path, name: str = "papers") -> None:
        self._ca_key = Ed25519PrivateKey.generate()
        self._now_ns = time.time_ns()
        self._ca = create_authority(self._ca_key, ClusterId("c" * 32), name, self._now_ns)
        self.ca, self.chain, self.key = (directory / f"{name}.{kind}" for kind in ("ca", "chain", "key"))
        self.ca.write_bytes(pem(self._ca))
        self.key.touch(0o600)
        self.issue("localhost", "127.0.0.1")

    def issue(self, *names: str, age_s: int = 0) -> None:
        """Write another certificate with another key."""
        key = Ed25519PrivateKey.generate()
        made = issue_web(self._ca_key, self._ca, key.public_key(), names, self._now_ns - age_s * 10**9)
        self.chain.write_bytes(pem(made))
        self.key.write_bytes(pem(key))

    @property
    def settings(self) -> dict[str, Any]:
        """For the plugin."""
        return {"tls_certificate": str(self.chain), "tls_key": str(self.key)}
