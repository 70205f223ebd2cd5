"""Identifiers and small values that several packages share.

Sans-I/O. Everything here is immutable, ordered where order means something, and encodes with msgspec as it stands.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, NewType

from frys_node.base.errors import InvalidAddress

NodeId = NewType("NodeId", str)
"""32 lower-case hex digits, the first 16 bytes of SHA-256 over the node's first public key."""

ClusterId = NewType("ClusterId", str)
"""32 lower-case hex digits, chosen when the cluster is created."""

BootId = NewType("BootId", int)
"""u64: a fsynced u32 start counter followed by 4 random bytes; it grows with every start of a node."""

Incarnation = NewType("Incarnation", int)
"""Per-member counter that only the member itself raises (SWIM)."""

UnitId = NewType("UnitId", str)
"""What the ring places: ``cache/17``, ``workflow/17`` or ``vector/<collection id>/<shard>``."""


class Address(NamedTuple):
    """A host (name or literal, IPv6 without brackets) and a port (0-65535)."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int | None = None) -> Address:
        """Read ``host:port``, ``[host]:port`` or, with a default port, a bare host.

        Raises:
            InvalidAddress: The text is not an address, or is one of two: ``fd00::2:7946`` may be an address without a
                port or an address with one. State is unchanged.
        """
        text = text.strip()
        host, separator, port = text.rpartition(":")
        if text.startswith("["):
            end = text.find("]")
            if end < 0:
                raise InvalidAddress(f"'{text}' has '[' without ']'")
            host, rest = text[1:end], text[end + 1 :]
            separator, port = (":", rest[1:]) if rest.startswith(":") else ("", "")
        elif text.count(":") > 1:
            _check_bare_ipv6(text)
            host, separator, port = text, "", ""
        elif not separator:
            host, port = text, ""
        if not port and default_port is not None and not separator:
            return cls(host, default_port)
        if not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65_535:
            raise InvalidAddress(f"'{text}' is not host:port")
        return cls(host, int(port))

    @property
    def is_service(self) -> bool:
        """True if the host is a service's name (``_frys._tcp.example.org``, RFC 2782) and not a host's."""
        return self.host.startswith("_")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_PORT_DIGITS_MIN = 4
"""A last group of fewer digits is read as part of the IPv6 address, as people write it (``::1``, ``fe80::12``)."""


def _check_bare_ipv6(text: str) -> None:
    """Refuse what has several colons and no brackets if it is no IPv6 address, or may have a port at its end."""
    head, _, tail = text.rpartition(":")
    is_like_port = tail.isascii() and tail.isdigit() and _PORT_DIGITS_MIN <= len(tail) <= 5
    if not _is_ipv6(text):
        hint = f"write [{head}]:{tail}" if is_like_port and _is_ipv6(head) else "IPv6 is written [address]:port"
        raise InvalidAddress(f"'{text}' is neither host:port nor an IPv6 address", hint=hint)
    if is_like_port and _is_ipv6(head):
        raise InvalidAddress(
            f"'{text}' is an IPv6 address with or without a port",
            hint=f"write [{head}]:{tail} if {tail} is the port, else [{text}]:port",
        )


def _is_ipv6(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


class Term(NamedTuple):
    """A reign of one issuer of topology records, ordered by number, then node."""

    number: int
    node: NodeId


class Epoch(NamedTuple):
    """The key of a topology record: compared as (term, seq)."""

    term: Term
    seq: int

    def __str__(self) -> str:
        return f"{self.term.number}.{self.seq}"


class Consistency(StrEnum):
    """How many replicas a request waits for."""

    ONE = "one"
    QUORUM = "quorum"
    ALL = "all"
