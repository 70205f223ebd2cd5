"""Reads a ServerHello off the wire, so that anybody can see which group and cipher a connection agreed on.

Sans-I/O. Parses what a recording relay saw; RFC 8446, 4.1.3. It decides nothing: the gate does.
"""

from __future__ import annotations

from typing import Final, NamedTuple

VERSION_TLS13: Final = 0x0304
CIPHER_AES_256_GCM_SHA384: Final = 0x1302
GROUP_X25519MLKEM768: Final = 0x11EC

_RECORD_HANDSHAKE = 22
_SERVER_HELLO = 2
_SUPPORTED_VERSIONS = 43
_KEY_SHARE = 51
_RANDOM_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
_HELLO_BYTES_MAX = 65_536


class ServerHello(NamedTuple):
    """What a server chose: version, cipher suite and key exchange group, as numbers of the IANA registries."""

    version: int
    cipher: int
    group: int
    is_retry: bool = False
    """True for a HelloRetryRequest: the group is the one asked for, nothing is agreed yet."""


def parse_server_hello(data: bytes) -> ServerHello | None:
    """Return the ServerHello at the start of a server's bytes, or None if they hold no whole one.

    `group` is 0 when the server chose none (TLS 1.2 and older).
    """
    body = _first_handshake(data)
    if body is None or len(body) < 35:
        return None
    try:
        return _parse(body)
    except IndexError:
        return None


def _first_handshake(data: bytes) -> bytes | None:
    """Join the records until the first handshake message is whole; None if it is not a ServerHello."""
    message = b""
    offset = 0
    while offset + 5 <= len(data):
        if data[offset] != _RECORD_HANDSHAKE or data[offset + 1] != 3:
            return None
        length = int.from_bytes(data[offset + 3 : offset + 5], "big")
        message += data[offset + 5 : offset + 5 + length]
        offset += 5 + length
        if len(message) >= 4:
            wanted = int.from_bytes(message[1:4], "big")
            if message[0] != _SERVER_HELLO or wanted > _HELLO_BYTES_MAX:
                return None
            if len(message) >= 4 + wanted:
                return message[4 : 4 + wanted]
    return None


def _parse(body: bytes) -> ServerHello:
    version = int.from_bytes(body[:2], "big")
    session = body[34]
    offset = 35 + session
    cipher = body[offset] << 8 | body[offset + 1]
    offset += 3
    group = 0
    end = min(len(body), offset + 2 + int.from_bytes(body[offset : offset + 2], "big"))
    offset += 2
    while offset + 4 <= end:
        kind = int.from_bytes(body[offset : offset + 2], "big")
        length = int.from_bytes(body[offset + 2 : offset + 4], "big")
        value = body[offset + 4 : offset + 4 + length]
        if kind == _SUPPORTED_VERSIONS and length == 2:
            version = int.from_bytes(value, "big")
        elif kind == _KEY_SHARE and length >= 2:
            group = int.from_bytes(value[:2], "big")
        offset += 4 + length
    return ServerHello(version, cipher, group, body[2:34] == _RANDOM_RETRY)
