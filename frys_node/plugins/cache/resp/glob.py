"""Redis' patterns: ``*``, ``?``, ``[a-z]``, ``[^a]`` and a backslash before what shall mean itself.

Sans-I/O. Not by regular expressions: a client may send any pattern, and this takes at most length times length.
"""

from __future__ import annotations

from functools import lru_cache

_STAR = None
_ANY = frozenset(range(256))

Token = frozenset[int] | None


@lru_cache(maxsize=1_024)
def _tokens(pattern: bytes) -> tuple[Token, ...]:
    tokens: list[Token] = []
    at = 0
    while at < len(pattern):
        byte = pattern[at : at + 1]
        if byte == b"*":
            if not tokens or tokens[-1] is not _STAR:
                tokens.append(_STAR)
        elif byte == b"?":
            tokens.append(_ANY)
        elif byte == b"[":
            allowed, at = _set(pattern, at + 1)
            tokens.append(allowed)
        else:
            if byte == b"\\" and at + 1 < len(pattern):
                at += 1
            tokens.append(frozenset(pattern[at : at + 1]))
        at += 1
    return tuple(tokens)


def _set(pattern: bytes, at: int) -> tuple[frozenset[int], int]:
    """Return the bytes between brackets and where they end; one that is not closed ends with the pattern."""
    is_inverse = pattern[at : at + 1] == b"^"
    at += is_inverse
    allowed: set[int] = set()
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        if pattern[at : at + 1] == b"\\" and at + 1 < len(pattern):
            at += 1
            allowed.add(pattern[at])
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((pattern[at], pattern[at + 2]))
            allowed.update(range(low, high + 1))
            at += 2
        else:
            allowed.add(pattern[at])
        at += 1
    return _ANY - allowed if is_inverse else frozenset(allowed), at


def matches(pattern: bytes, text: bytes) -> bool:
    """True if the whole text is of the pattern."""
    tokens = _tokens(pattern)
    at = token = 0
    star, resume = -1, 0
    while at < len(text):
        wanted = tokens[token] if token < len(tokens) else frozenset()
        if wanted is _STAR:
            star, resume = token, at
            token += 1
        elif text[at] in wanted:
            at += 1
            token += 1
        elif star >= 0:
            # The last star takes one byte more.
            resume += 1
            at, token = resume, star + 1
        else:
            return False
    return all(rest is _STAR for rest in tokens[token:])
