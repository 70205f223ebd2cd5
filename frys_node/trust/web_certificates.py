"""Certificates for the HTTP listeners of members, issued by the cluster's authority on the issuer.

A member may be known by its own name if that has no dots, by the address that its connection to the issuer comes from,
and by loopback's names, without anybody being asked; what it would like besides of that kind is left out. What else it
asks for has to be in ``[plugins.network] tls_names`` of the *issuer*: a member that was taken over must not be able to
get a certificate for any name in the world from an authority that people trust.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from frys_node.base.errors import NotReady
from frys_node.base.ports import Clock, Disk, Entropy
from frys_node.base.types import NodeId
from frys_node.kernel.services.certificates import ServerCertificate
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.secure import certificates
from frys_node.secure.errors import InvalidCertificate, UnsafePermissions
from frys_node.secure.identity import Identity
from frys_node.secure.stored import ED25519, read_secret
from frys_node.secure.trust import issuer_of
from frys_node.secure.web_certificates import (
    LOOPBACK_NAMES,
    WEB_LIFE_DAYS,
    clean_name,
    covers,
    issue_web,
    life_left_s,
)
from frys_node.wire.codec import Message

WEB_PATH: Final = "identity/web.json"
AUTHORITY_PATH: Final = "ca.pem"
RENEW_AT_S: Final = WEB_LIFE_DAYS * 86_400 / 3
"""A certificate with less life left is renewed."""

SOON: Final = "it is tried again in a few seconds"

log = logging.getLogger(__name__)


class WebRequest(Message, frozen=True):
    """A signing request made with the key of the listener, and what it shall be known by."""

    signing_request: bytes
    names: tuple[str, ...]
    wishes: tuple[str, ...] = ()
    """Its own name and address, which are left out if the issuer knows it by others."""


class WebIssued(Message, frozen=True):
    """The certificate, DER."""

    certificate: bytes


class _Stored(msgspec.Struct, frozen=True):
    version: int
    chain: str
    key: str
    wishes: tuple[str, ...] = ()
    """What was asked for, and not insisted on."""


ISSUE_WEB: Method[WebRequest, WebIssued] = Method("channel.issue_web", WebRequest, WebIssued)


class WebCertificateDesk:
    """Implements `WebCertificates`, and answers other members on the issuer."""

    def __init__(
        self,
        identity: Identity,
        rpc: Rpc,
        disk: Disk,
        entropy: Entropy,
        clock: Clock,
        *,
        issuer: Callable[[], NodeId],
        names_of: Callable[[NodeId], Sequence[str]],
        permitted: Sequence[str],
    ) -> None:
        """`names_of` returns what a member is by itself known by; `permitted` is what others may ask this node for."""
        self._identity = identity
        self._rpc = rpc
        self._disk = disk
        self._entropy = entropy
        self._clock = clock
        self._issuer = issuer
        self._names_of = names_of
        self._permitted = frozenset(clean_name(name) for name in permitted)
        self._changed = trio.Event()
        self._made_under = identity.ca_certificate

    def serve(self) -> None:
        """Answer members."""
        self._rpc.serve(ISSUE_WEB, self._issue)

    @property
    def changed(self) -> trio.Event:
        """See `WebCertificates`."""
        return self._changed

    def authority_changed(self) -> None:
        """Have listeners ask for another certificate if other authorities than before count."""
        if self._identity.ca_certificate != self._made_under:
            self._made_under = self._identity.ca_certificate
            self._changed.set()
            self._changed = trio.Event()

    async def _issue(self, caller: NodeId, request: WebRequest) -> WebIssued:
        await trio.lowlevel.checkpoint()
        ca_key = self._identity.ca_key
        if ca_key is None or self._issuer() != self._rpc.self_id:
            raise NotReady("this node does not issue certificates", hint="frys-node issuer show says who does")
        key = certificates.read_request(request.signing_request, ED25519)
        names = [clean_name(name) for name in request.names]
        known = {*LOOPBACK_NAMES, *map(clean_name, self._names_of(caller)), *self._permitted}
        for name in names:
            if name not in known:
                raise InvalidCertificate(
                    f"no certificate for '{name}' is issued to this node",
                    hint="add it to [plugins.network] tls_names in the settings of the issuer, and of its standbys",
                )
        names = list(dict.fromkeys([*(wish for wish in map(clean_name, request.wishes) if wish in known), *names]))
        made = issue_web(ca_key, self._identity.ca_certificate, key, names, self._clock.unix_ns())
        log.info("channel.web_certificate_issued", extra={"peer": caller, "names": ",".join(names)})
        return WebIssued(certificates.der(made))

    async def obtain(self, names: Sequence[str]) -> ServerCertificate:
        """See `WebCertificates`."""
        wishes = tuple(clean_name(name) for name in self._names_of(self._rpc.self_id))
        wanted = list(dict.fromkeys(clean_name(name) for name in (*LOOPBACK_NAMES, *names)))
        stored = self._stored(wanted, wishes)
        if stored is not None:
            return stored
        key = Ed25519PrivateKey.from_private_bytes(self._entropy.token_bytes(32))
        request = WebRequest(certificates.create_request(key), tuple(wanted), wishes)
        issued = await self._rpc.call(self._issuer(), ISSUE_WEB, request)
        certificate = certificates.load_der(issued.certificate)
        if certificate.public_key() != key.public_key() or not covers(certificate, wanted):
            raise InvalidCertificate("the issuer sent a certificate that was not asked for")
        if issuer_of(certificate, (self._identity.ca_certificate,)) is None:
            raise NotReady("one authority follows another, and this node and the issuer are not at the same", hint=SOON)
        missing = [wish for wish in wishes if not covers(certificate, [wish])]
        if missing:
            fix = "add them to [plugins.network] tls_names, here and on the issuer, if clients use them"
            log.warning("channel.web_certificate_without", extra={"names": ",".join(missing), "fix": fix})
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        kept = _Stored(1, _pem(certificate).decode(), private.decode(), wishes)
        self._disk.write(WEB_PATH, msgspec.json.encode(kept))
        self._disk.write(AUTHORITY_PATH, _pem(self._identity.ca_certificate))
        return self._whole(kept, certificate)

    def _stored(self, wanted: Sequence[str], wishes: tuple[str, ...]) -> ServerCertificate | None:
        """Return the certificate of an earlier time if it is of this authority, for these names, and fresh."""
        try:
            data = read_secret(self._disk, WEB_PATH)
        except UnsafePermissions as error:
            # The key may be known to others: this node has no use for it any more.
            log.warning("channel.web_certificate_replaced", extra={"error": error.message})
            return None
        if data is None:
            return None
        try:
            kept = msgspec.json.decode(data, type=_Stored)
            certificate = x509.load_pem_x509_certificate(kept.chain.encode())
            certificate.verify_directly_issued_by(self._identity.ca_certificate)
        except Exception as error:  # noqa: BLE001 (whatever is wrong with it, another one is made)
            log.warning("channel.web_certificate_unusable", extra={"error": type(error).__name__})
            return None
        is_fresh = life_left_s(certificate, self._clock.unix_ns()) > RENEW_AT_S
        is_same = covers(certificate, wanted) and kept.wishes == wishes
        return self._whole(kept, certificate) if is_fresh and is_same else None

    def _whole(self, kept: _Stored, certificate: x509.Certificate) -> ServerCertificate:
        return ServerCertificate(
            kept.chain.encode(),
            kept.key.encode(),
            _pem(self._identity.ca_certificate),
            life_left_s(certificate, self._clock.unix_ns()) - RENEW_AT_S,
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
