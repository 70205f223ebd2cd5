"""DNS questions for SRV records (RFC 2782), which the system's resolver library does not answer.

Sans-I/O. Nothing here but what a lookup of seeds needs: one question with EDNS, the SRV records of an answer, and what
``resolv.conf`` says of servers and search domains.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import Address

SRV = 33
_IN = 1
_OPT = 41
_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_SERVICE = struct.Struct("!HHH")
_RECURSE = 0x0100
_RESPONSE = 0x8000
_TRUNCATED = 0x0200
_RCODE = 0x000F

UDP_BYTES_MAX = 1_232
"""What is asked for at most by UDP: fits every path without fragments."""

JUMPS_MAX = 32
"""Compression pointers followed in one name."""

RECORDS_MAX = 1_024

DNS_PORT = 53
SERVERS_MAX = 3
SEARCH_MAX = 8
NDOTS_MAX = 15
"""What of a ``resolv.conf`` is used; a pod's has one server and three to six domains."""


class Service(NamedTuple):
    """One SRV record; of several the lowest priority is tried first, then the highest weight."""

    priority: int
    weight: int
    target: Address


class Answer(NamedTuple):
    """What a name server said."""

    is_truncated: bool
    """There is more than fits into UDP: ask again by TCP."""
    services: tuple[Service, ...]
    """In the order in which to try them."""


def encode_query(number: int, name: str) -> bytes:
    """Return the question for a name's SRV records, with room for a long answer.

    Raises:
        MalformedFrame: The text is not a domain name.
    """
    edns = b"\x00" + _RECORD.pack(_OPT, UDP_BYTES_MAX, 0, 0)
    return _HEADER.pack(number, _RECURSE, 1, 0, 0, 1) + _encode_name(name) + struct.pack("!HH", SRV, _IN) + edns


def _encode_name(name: str) -> bytes:
    parts = name.rstrip(".").split(".")
    if not name.isascii() or len(name) > 253 or not all(0 < len(part) < 64 for part in parts):
        raise MalformedFrame(f"'{name}' is not a domain name")
    return b"".join(bytes([len(part)]) + part.encode() for part in parts) + b"\x00"


def decode_answer(data: bytes, number: int, name: str) -> Answer:
    """Return the SRV records of an answer; none if the name does not exist.

    Raises:
        MalformedFrame: Not the answer to this question, or damaged, or the server failed.
    """
    try:
        return _decode(data, number, name)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise MalformedFrame(f"a damaged DNS answer: {error}") from error


def _decode(data: bytes, number: int, name: str) -> Answer:
    found, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    if found != number or not flags & _RESPONSE or questions != 1:
        raise MalformedFrame("not the answer to this question")
    asked, at = _decode_name(data, _HEADER.size)
    kind, _ = struct.unpack_from("!HH", data, at)
    if asked.lower() != name.rstrip(".").lower() or kind != SRV:
        raise MalformedFrame("the answer to another question")
    if flags & _RCODE not in (0, 3):
        raise MalformedFrame(f"the name server failed with code {flags & _RCODE}")
    at += 4
    services: list[Service] = []
    for _ in range(0 if flags & _TRUNCATED else min(answers, RECORDS_MAX)):
        _, at = _decode_name(data, at)
        kind, cls, _, size = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if kind == SRV and cls == _IN:
            priority, weight, port = _SERVICE.unpack_from(data, at)
            target, _ = _decode_name(data, at + _SERVICE.size)
            if target:
                # An empty target says that there is no such service (RFC 2782).
                services.append(Service(priority, weight, Address(target, port)))
        at += size
    services.sort(key=lambda service: (service.priority, -service.weight, service.target))
    return Answer(bool(flags & _TRUNCATED), tuple(services))


def _decode_name(data: bytes, at: int) -> tuple[str, int]:
    """Return the name at an offset and the offset after it."""
    parts: list[str] = []
    after = -1
    for _ in range(JUMPS_MAX + 128):
        length = data[at]
        if length >= 0xC0:
            after = at + 2 if after < 0 else after
            at = (length & 0x3F) << 8 | data[at + 1]
        elif length:
            part = data[at + 1 : at + 1 + length]
            if len(part) < length:
                raise IndexError("a name goes beyond the end")
            parts.append(part.decode("ascii"))
            at += 1 + length
        else:
            name = ".".join(parts)
            if len(name) > 253:
                raise MalformedFrame("a name over 253 bytes")
            return name, at + 1 if after < 0 else after
    raise MalformedFrame("a name that points at itself")


class Resolver(NamedTuple):
    """Whom to ask, and how short names are completed (resolv.conf(5))."""

    nameservers: tuple[Address, ...]
    search: tuple[str, ...] = ()
    """Domains that are appended in turn to a name."""
    ndots: int = 1
    """A name with as many dots is asked as it stands first, one with fewer last."""

    def names(self, name: str) -> list[str]:
        """Return what to ask for, in order; a name that ends with a dot is complete."""
        if name.endswith("."):
            return [name]
        longer = [f"{name}.{domain}" for domain in self.search]
        return [name, *longer] if name.count(".") >= self.ndots else [*longer, name]


def resolver_of(text: str) -> Resolver:
    """Return what a ``resolv.conf`` says: of several search lists the last one; this machine if no server is named."""
    servers: list[Address] = []
    search: list[str] = []
    ndots = 1
    for words in (line.split() for line in text.splitlines()):
        match words:
            case ["nameserver", host, *_]:
                servers.append(Address(host, DNS_PORT))
            case ["search" | "domain", *domains]:
                search = [domain.strip(".") for domain in domains if domain.strip(".")]
            case ["options", *options]:
                for option in options:
                    value = option.removeprefix("ndots:")
                    if value != option and value.isascii() and value.isdigit():
                        ndots = min(int(value[:9]), NDOTS_MAX)
    servers = servers[:SERVERS_MAX] or [Address("127.0.0.1", DNS_PORT)]
    return Resolver(tuple(servers), tuple(search[:SEARCH_MAX]), ndots)
