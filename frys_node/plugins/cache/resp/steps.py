"""What a pipeline comes to: steps that are carried out one after another, each answered in bytes.

Sans-I/O. Neighbouring commands of one kind become one step, so that a pipeline of a hundred reads is one look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from frys_node.plugins.cache.cache import CacheValue
from frys_node.plugins.cache.changes import Change, Outcome

FromValues = Callable[[Sequence[CacheValue | None], int], bytes]
"""Makes a reply from values and the wall clock in milliseconds."""

FromOutcomes = Callable[[Sequence[Outcome]], bytes]


class Choice(NamedTuple):
    """What the client had chosen when it sent a command; a pipeline may choose anew before that is carried out."""

    prefix: bytes
    """Of the full keys of its database."""
    protocol: int


class Say:
    """A reply that is known already."""

    __slots__ = ("count", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.count = 1
        """Commands that it answers."""


class Gets:
    """Plain GETs: a string or nothing for each full key."""

    __slots__ = ("choice", "keys")

    def __init__(self, choice: Choice, keys: list[bytes]) -> None:
        self.choice = choice
        self.keys = keys

    @property
    def count(self) -> int:
        """Commands that it answers."""
        return len(self.keys)


class Look:
    """Reads: values of full keys, and for each command how many of them are its own and what it makes of them."""

    __slots__ = ("keys", "parts")

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.parts: list[tuple[int, FromValues]] = []

    @property
    def count(self) -> int:
        """Commands that it answers."""
        return len(self.parts)


class Store:
    """Blind writes: packed values by full key (the last one counts), and a reply for each command."""

    __slots__ = ("choice", "items", "replies")

    def __init__(self, choice: Choice, items: dict[bytes, bytes], replies: list[bytes]) -> None:
        self.choice = choice
        self.items = items
        self.replies = replies

    @property
    def count(self) -> int:
        """Commands that it answers."""
        return len(self.replies)


class Alter:
    """Changes, and for each command how many of them are its own and what it makes of their outcomes."""

    __slots__ = ("changes", "parts")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.parts: list[tuple[int, FromOutcomes]] = []

    @property
    def count(self) -> int:
        """Commands that it answers."""
        return len(self.parts)


class Do:
    """Something that only the driver can do, by name."""

    __slots__ = ("args", "choice", "count", "verb")

    def __init__(self, choice: Choice, verb: str, args: Sequence[bytes]) -> None:
        self.choice = choice
        self.verb = verb
        self.args = args
        self.count = 1
        """Commands that it answers."""


Step = Say | Gets | Look | Store | Alter | Do
