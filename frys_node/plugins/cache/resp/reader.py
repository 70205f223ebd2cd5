"""Requests out of bytes: RESP arrays by hiredis, inline commands and everything unusual by hand.

Sans-I/O. hiredis reads a pipeline ten times faster than Python can, and was written for clients, which trust their
server. So it gets nothing here that could hurt: no header of more than four digits (it would make room for as many
elements before it has seen one), nothing that does not begin with ``*``, nothing of a client that has not said who it
is. Whatever it is not given, or does not take for an array of strings, is read by hand from the last place where a
request ended, with Redis' own checks and in Redis' own words.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import NamedTuple

import hiredis

REDIS_ARGUMENTS_MAX = 1_048_576
"""Redis up to 7 refuses a command with more words."""

INLINE_BYTES_MAX = 65_536
"""Longest inline request, and longest header line."""

STRANGER_ARGUMENTS_MAX = 10
STRANGER_BULK_BYTES_MAX = 16_384
"""Limits of Redis for clients that have not authenticated."""

_BIG_ARRAY = re.compile(rb"\*[0-9+-]{5,}")
_BIG_PUSH = re.compile(rb">[0-9+-]{5,}")
_HEADER_BYTES_MAX = 16
_INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]{0,18})")
_LIST = {list}
_ARRAY, _BULK = b"*$"

UNIFORM_BYTES_MIN = 256
"""Shorter data is not worth looking for a pattern in it."""

_UNIFORM = re.compile(rb"\*(?:2\r\n\$3\r\n(GET|get)|3\r\n\$3\r\n(?:SET|set))\r\n\$([1-9][0-9]{0,3})\r\n")
_GAP = re.compile(rb"\r\n\$([1-9][0-9]{0,4})\r\n")

Command = list[bytes]


class Uniform(NamedTuple):
    """A pipeline of nothing but GETs, or of plain SETs, as their words."""

    keys: list[bytes]
    values: list[bytes] | None
    """None: they are GETs."""


class ProtocolError(Exception):
    """The client broke the protocol; the text is for it, then the connection ends."""

    def __init__(self, text: str, commands: list[Command] | None = None) -> None:
        super().__init__(text)
        self.commands = commands or []
        """What came whole before the error."""


def too_many(count: int, arguments_max: int) -> str:
    """Say which setting a command with so many words is over."""
    return f"{count} words of at most {arguments_max}: send fewer, or raise plugins.cache.resp_limits.arguments"


class RequestReader:
    """Turns the bytes of one connection into commands."""

    def __init__(self, arguments_max: int, request_bytes_max: int) -> None:
        self.arguments_max = arguments_max
        self.request_bytes_max = request_bytes_max
        self.is_trusted = True
        """False while the client has to authenticate."""
        self._fast = hiredis.Reader()
        self._tail = b""
        """Everything since the last place where a request is known to have ended."""
        self._given = 0
        """Commands of the tail that were handed out already."""
        self._is_primed = True
        """hiredis has been given the tail."""
        self._is_between = True
        """The last byte that hiredis got ended a request."""

    @property
    def is_partial(self) -> bool:
        """True if the beginning of a request waits for the rest."""
        return bool(self._tail)

    def uniform(self, data: bytes) -> Uniform | None:
        """Return a whole pipeline of one shape at once: GETs, or SETs, whose words are as long as those of the first.

        Then what stands between the keys is known, and they come out by splitting there: if each piece has the length
        that was announced, no other reading is possible. None for everything else, which goes to `feed`.
        """
        if len(data) < UNIFORM_BYTES_MIN or self._tail or not self.is_trusted or not data.endswith(b"\r\n"):
            return None
        found = _UNIFORM.match(data)
        if found is None:
            return None
        header, length = found[0], int(found[2])
        pieces = data[len(header) : -2].split(b"\r\n" + header)
        if found[1]:
            return Uniform(pieces, None) if set(map(len, pieces)) == {length} else None
        gap = _GAP.match(pieces[0], length)
        if gap is None or set(map(len, pieces)) != {gap.end() + int(gap[1])}:
            return None
        end = gap.end()
        if [piece[length:end] for piece in pieces].count(gap[0]) != len(pieces):
            return None
        return Uniform([piece[:length] for piece in pieces], [piece[end:] for piece in pieces])

    def feed(self, data: bytes) -> list[Command]:
        """Return the commands that are whole now.

        Raises:
            ProtocolError: What follows can not be read. Nothing may be fed any more.
        """
        commands: list[Command] = []
        # The last request is mostly cut: what stands before it ends where it begins, and need not be kept.
        cut = 0 if data.endswith(b"\r\n") else data.rfind(b"\r\n*") + 2
        pieces = (data[:cut], data[cut:]) if cut > 2 else (data,)
        for piece in pieces:
            try:
                commands += self._fast_read(piece) if self._is_plain(piece) else self._by_hand(self._tail + piece)
            except ProtocolError as error:
                error.commands = commands + error.commands
                raise
        return commands

    def _is_plain(self, piece: bytes) -> bool:
        """True if hiredis may have it."""
        if not self.is_trusted:
            return False
        if not self._tail:
            return piece.startswith(b"*") and _is_harmless(piece)
        if not self._is_primed or len(self._tail) > self.request_bytes_max:
            return False
        return _is_harmless(self._tail[-_HEADER_BYTES_MAX:] + piece)

    def _fast_read(self, piece: bytes) -> list[Command]:
        commands = self._drain(piece)
        if commands is None:
            return self._by_hand(self._tail + piece)
        if self._is_between:
            self._tail, self._given = b"", 0
        else:
            self._tail += piece
            self._given += len(commands)
        return commands

    def _drain(self, data: bytes) -> list[Command] | None:
        """Let hiredis read; None if it finds anything but arrays of strings.

        hiredis does not tell whether it stands between two requests, so the last byte is fed alone: it is the end of a
        request if it yields one.
        """
        fast = self._fast
        try:
            fast.feed(data[:-1])
            commands: list[Command] = list(iter(fast.gets, False))
            fast.feed(data[-1:])
            last = fast.gets()
            self._is_between = last is not False
            if self._is_between:
                commands.append(last)
            # The quickest look at every word: only strings can be joined.
            b"".join(chain.from_iterable(commands))
        except (hiredis.ProtocolError, TypeError):
            return None
        if not commands:
            return commands
        if set(map(type, commands)) != _LIST:
            return None
        return commands if all(commands) else [command for command in commands if command]

    def _by_hand(self, data: bytes) -> list[Command]:
        """Read from a place where a request begins, skipping what was handed out already."""
        commands: list[Command] = []
        skip, at = self._given, 0
        try:
            while at < len(data):
                found = self._array(data, at) if data[at] == _ARRAY else self._inline(data, at)
                if found is None:
                    break
                command, at = found
                if skip and command:
                    skip -= 1
                elif command:
                    commands.append(command)
        except ProtocolError as error:
            error.commands = commands
            raise
        self._fast = hiredis.Reader()
        self._tail, self._given, self._is_primed = data[at:], skip, True
        if not self._tail:
            return commands
        if len(self._tail) > self.request_bytes_max:
            raise ProtocolError("Protocol error: invalid bulk length", commands)
        self._is_primed = self._tail.startswith(b"*") and self.is_trusted and _is_harmless(self._tail)
        if self._is_primed and self._drain(self._tail) != []:
            self._fast, self._is_primed = hiredis.Reader(), False
        return commands

    def _array(self, data: bytes, at: int) -> tuple[Command, int] | None:
        line = _line(data, at, "mbulk count string")
        if line is None:
            return None
        count = _number(data[at + 1 : line])
        if count is None or count > REDIS_ARGUMENTS_MAX:
            raise ProtocolError("Protocol error: invalid multibulk length")
        if count > self.arguments_max:
            raise ProtocolError(f"Protocol error: invalid multibulk length, {too_many(count, self.arguments_max)}")
        if not self.is_trusted and count > STRANGER_ARGUMENTS_MAX:
            raise ProtocolError("Protocol error: unauthenticated multibulk length")
        at = line + 2
        command: Command = []
        for _ in range(count):
            line = _line(data, at, "bulk count string")
            if line is None:
                return None
            if data[at] != _BULK:
                raise ProtocolError(f"Protocol error: expected '$', got '{chr(data[at])}'")
            length = _number(data[at + 1 : line])
            if length is None or not 0 <= length <= self.request_bytes_max:
                raise ProtocolError("Protocol error: invalid bulk length")
            if not self.is_trusted and length > STRANGER_BULK_BYTES_MAX:
                raise ProtocolError("Protocol error: unauthenticated bulk length")
            at = line + 2
            if len(data) < at + length + 2:
                return None
            command.append(data[at : at + length])
            at += length + 2
        return command, at

    def _inline(self, data: bytes, at: int) -> tuple[Command, int] | None:
        end = data.find(b"\n", at)
        if end < 0 or end - at > INLINE_BYTES_MAX:
            if len(data) - at > INLINE_BYTES_MAX:
                raise ProtocolError("Protocol error: too big inline request")
            return None
        return split_inline(data[at:end].removesuffix(b"\r")), end + 1


def _is_harmless(data: bytes) -> bool:
    """True if hiredis reads nothing into it that Redis would refuse, nor makes room for what is not there.

    It takes a status, a verbatim string and a big number for strings too, and hands them out as words.
    """
    if b"\n+" in data or b"\n=" in data or b"\n(" in data:
        return False
    return _BIG_ARRAY.search(data) is None and _BIG_PUSH.search(data) is None


def _line(data: bytes, at: int, what: str) -> int | None:
    """Return where the line at `at` ends; None if it is not whole."""
    end = data.find(b"\r\n", at, at + INLINE_BYTES_MAX + 2)
    if end >= 0:
        return end
    if len(data) - at > INLINE_BYTES_MAX:
        raise ProtocolError(f"Protocol error: too big {what}")
    return None


def _number(text: bytes) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) and text != b"-0" else None


_ESCAPES = {0x6E: 0x0A, 0x72: 0x0D, 0x74: 0x09, 0x62: 0x08, 0x61: 0x07}
_SPACE = b" \t\n\v\f\r"
_HEX = b"0123456789abcdefABCDEF"


def split_inline(line: bytes) -> Command:
    r"""Split a line as Redis does: blanks part words, quotes hold them together, ``\n`` and ``\x41`` in double ones.

    Raises:
        ProtocolError: A quote is not closed, or something follows it directly.
    """
    words: Command = []
    at, end = 0, len(line)
    while True:
        while at < end and line[at] in _SPACE:
            at += 1
        if at >= end:
            return words
        word = bytearray()
        while at < end and line[at] not in _SPACE:
            if line[at] in b"\"'":
                at = _quoted(line, at, word)
            else:
                word.append(line[at])
                at += 1
        words.append(bytes(word))


def _quoted(line: bytes, at: int, word: bytearray) -> int:
    """Add what stands between quotes to the word; returns where it goes on."""
    quote, end = line[at], len(line)
    at += 1
    while at < end:
        byte = line[at]
        if byte == quote:
            if at + 1 < end and line[at + 1] not in _SPACE:
                break
            return at + 1
        if byte == 0x5C and at + 1 < end:
            if quote == 0x27:
                # Single quotes know one escape: their own.
                if line[at + 1] == 0x27:
                    byte, at = 0x27, at + 1
            elif line[at + 1] == 0x78 and at + 3 < end and line[at + 2] in _HEX and line[at + 3] in _HEX:
                byte, at = int(line[at + 2 : at + 4], 16), at + 3
            else:
                byte, at = _ESCAPES.get(line[at + 1], line[at + 1]), at + 1
        word.append(byte)
        at += 1
    raise ProtocolError("Protocol error: unbalanced quotes in request")
