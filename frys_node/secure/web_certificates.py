"""Certificates by which HTTP clients know a node: names of hosts, nothing of membership.

Sans-I/O. The cluster's authority issues them for TLS servers only and without a ``frys://`` name, so that none of them
opens the node-to-node channel (`gate` wants the name and both usages). They live 90 days.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Collection, Sequence
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from frys_node.secure.certificates import BACKDATE_S
from frys_node.secure.errors import InvalidCertificate
from frys_node.secure.signing_keys import PrivateKey, PublicKey

WEB_LIFE_DAYS = 90
NAMES_MAX = 32
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
"""Every node may be known by these: they are itself, whoever says them."""

_HOST = re.compile(r"(?:\*\.)?(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*")


def clean_name(text: str) -> str:
    """Return a host's name, ``*.`` and a domain, or a literal address, in the form in which names are compared.

    Raises:
        InvalidCertificate: It is none of them. Nothing was issued.
    """
    name = text.strip().lower().rstrip(".")
    address = _address(name)
    if address is not None:
        return str(address)
    if len(name) > 253 or _HOST.fullmatch(name) is None:
        raise InvalidCertificate(
            f"'{text[:80]}' is no name of a host", hint="write names such as api.example.org, *.example.org or 10.0.0.5"
        )
    return name


def issue_web(
    ca_key: PrivateKey, ca: x509.Certificate, key: PublicKey, names: Sequence[str], unix_ns: int
) -> x509.Certificate:
    """Issue a server certificate for names as `clean_name` returns them.

    Raises:
        InvalidCertificate: There are none, or more than `NAMES_MAX`. Nothing was issued.
    """
    if not 1 <= len(names) <= NAMES_MAX:
        raise InvalidCertificate(f"a certificate has 1 to {NAMES_MAX} names, not {len(names)}")
    now = dt.datetime.fromtimestamp(unix_ns // 1_000_000_000, tz=dt.UTC)
    start = now - dt.timedelta(seconds=BACKDATE_S)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(min(start + dt.timedelta(days=WEB_LIFE_DAYS), ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, None)
    )


def covers(certificate: x509.Certificate, names: Collection[str]) -> bool:
    """True if the certificate is for at least these names."""
    return set(names) <= _names(certificate)


def is_for(certificate: x509.Certificate, host: str) -> bool:
    """True if a server of that host may show the certificate (RFC 9525; ``*`` stands for one first label)."""
    name = host.lower().rstrip(".")
    address = _address(name)
    if address is not None:
        return str(address) in _names(certificate)
    _, dot, domain = name.partition(".")
    return bool(_names(certificate) & ({name, f"*.{domain}"} if dot else {name}))


def life_left_s(certificate: x509.Certificate, unix_ns: int) -> float:
    """Return the seconds until it expires."""
    return certificate.not_valid_after_utc.timestamp() - unix_ns / 1e9


def is_literal(host: str) -> bool:
    """True for the text of an address, false for a name."""
    return _address(host) is not None


def free_names(name: str, host: str) -> list[str]:
    """Return what a member may be known by without anybody's consent: its name, and the host that it is at.

    A node's name is chosen by whoever joins: with dots, or as an address, it would be somebody else's name.
    """
    is_own = bool(name) and "." not in name and not is_literal(name)
    return [*([name] if is_own else []), *([host] if is_literal(host) else [])]


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


def _general(name: str) -> x509.GeneralName:
    address = _address(name)
    return x509.DNSName(name) if address is None else x509.IPAddress(address)


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return set()
    found = {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    return found | {str(address) for address in names.get_values_for_type(x509.IPAddress)}
