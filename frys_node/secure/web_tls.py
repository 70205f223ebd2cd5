"""TLS of the HTTP API: the profile of the node-to-node channel, with a server's certificate and no client's.

TLS 1.3 with AES-256-GCM and X25519MLKEM768, as `tls` pins it. `classical` allows X25519 too, for browsers and tools
without ML-KEM: the hybrid group comes first, so whoever has it uses it, but what others send can be recorded today and
read by a quantum computer later. Tokens travel inside; that is why it is a switch and not the default.
"""

from __future__ import annotations

from typing import Final, cast

from cryptography import x509
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto

from frys_node.base.errors import ConfigError
from frys_node.secure.errors import ClassicalOnly, HandshakeRefused
from frys_node.secure.tls import GROUP, new_context
from frys_node.secure.web_certificates import is_for

ALPN_HTTP: Final = b"http/1.1"
CLASSICAL_GROUP: Final = "X25519"
CLASSICAL_CIPHERS: Final = b"TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
CERTIFICATES_MAX = 8
"""Certificates of a chain file."""


def server_context(chain_pem: bytes, key_pem: bytes, *, classical: bool) -> SSL.Context:
    """Return the context of a listener that shows this chain, the server's own certificate first.

    Raises:
        ConfigError: The chain or the key is unreadable, or they do not belong together.
    """
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            "the TLS certificate or its key cannot be read",
            hint="give PEM files: the certificate with its chain, and a key without a passphrase",
        ) from error
    if len(chain) > CERTIFICATES_MAX or chain[0].public_key() != key.public_key():
        raise ConfigError(
            "the TLS key is not the certificate's", hint="put the server's own certificate first in its file"
        )
    context = new_context()
    if classical:
        _allow_classical(context)
    context.use_privatekey(cast("crypto.PKey", key))
    context.use_certificate(chain[0])
    for certificate in chain[1:]:
        context.add_extra_chain_cert(certificate)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_alpn_select_callback(_select)
    return context


def client_context(ca_pem: bytes | None) -> SSL.Context:
    """Return the context of a client that trusts these authorities, or those of the system without any.

    Raises:
        ConfigError: There is no certificate in `ca_pem`.
    """
    context = new_context()
    if ca_pem is None:
        context.set_default_verify_paths()
    else:
        try:
            authorities = x509.load_pem_x509_certificates(ca_pem)
        except ValueError as error:
            raise ConfigError("the file of the authority holds no PEM certificate") from error
        store = context.get_cert_store()
        assert store is not None
        for authority in authorities:
            store.add_cert(crypto.X509.from_cryptography(authority))
    context.set_verify(SSL.VERIFY_PEER)
    context.set_alpn_protos([ALPN_HTTP])
    return context


def check_server(connection: SSL.Connection, host: str) -> None:
    """Check whom a client has reached, after the handshake; the chain has been verified in it.

    Raises:
        HandshakeRefused: The certificate is another host's, or the key exchange was not post-quantum.
    """
    certificate = connection.get_peer_certificate(as_cryptography=True)
    if certificate is None or not is_for(certificate, host):
        raise HandshakeRefused(
            "san",
            f"the certificate that {host} shows is not for {host}",
            hint="add the name to [plugins.network] tls_names, or use one that it is for",
        )
    if connection.get_group_name() != GROUP:
        raise HandshakeRefused("group", f"{host} did not agree on {GROUP}")


def _allow_classical(context: SSL.Context) -> None:
    groups = f"{GROUP}:{CLASSICAL_GROUP}".encode()
    if Binding().lib.SSL_CTX_set1_curves_list(context._context, groups) != 1:  # noqa: SLF001 (as in `tls`)
        raise ClassicalOnly(f"the OpenSSL of this installation has no {GROUP}")
    context.set_tls13_ciphersuites(CLASSICAL_CIPHERS)


def _select(_connection: SSL.Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    """HTTP/1.1 for whoever offers it, nothing for the rest: a client that offers none at all is served the same."""
    return ALPN_HTTP if ALPN_HTTP in offered else SSL.NO_OVERLAPPING_PROTOCOLS
