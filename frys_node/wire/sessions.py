"""Sessions: what one client has seen, so that it never sees less at a replica that is behind.

Sans-I/O. Shared by nodes and the client. A token says, for each unit that the client has written or read, which
replicas hold all of it: ``{unit: {replica: place}}``, a replica's own count of its changes. There is no leader whose
count would do for all. A read of one asks one of those replicas, if it has come so far; otherwise a quorum. Two things
follow: a client reads its own writes, and what it has read once it does not read older. Nothing is kept on any node.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from itertools import islice
from typing import Final

from frys_node.base.errors import MalformedFrame, UsageError
from frys_node.base.types import NodeId, UnitId
from frys_node.wire.codec import Codec, Message

UNITS_MAX = 32
"""Units that a token names; reads of all others that the client may have seen ask a quorum from then on."""

TOKEN_CHARS_MAX = 8_192
"""Characters of a token; what does not fit is forgotten, and read at a quorum."""

PLACES_MIN = 2
"""Replicas that a token names of each unit at least, if so many are known, before it forgets a unit."""

HEADER = "Frys-Session"

NEW = "new"


class InvalidSession(UsageError):
    """The session token cannot be read. Nothing was done."""

    code = "request.invalid_session"


class Token(Message, frozen=True):
    """What the header carries, in base64url."""

    units: dict[UnitId, dict[NodeId, int]]
    is_full: bool = False


_TOKEN: Final[Codec[Token]] = Codec(Token)


def _text(units: dict[UnitId, dict[NodeId, int]], *, is_full: bool) -> str:
    return urlsafe_b64encode(_TOKEN.encode(Token(units, is_full))).decode()


class Session:
    """What one client has seen; changed by every answer."""

    def __init__(self, token: Token | None = None, *, waits_repair: bool = False) -> None:
        self._units = {} if token is None else {unit: dict(places) for unit, places in token.units.items()}
        self._is_full = token is not None and token.is_full
        self.waits_repair = waits_repair
        """Reads above one return only what a quorum holds (``read_repair=wait``)."""

    @classmethod
    def decode(cls, text: str) -> Session:
        """Read a token, or ``new``.

        Raises:
            InvalidSession: Not a token of this version, or too long.
        """
        if text == NEW:
            return cls()
        hint = f"send the last {HEADER} that a response carried, as it was, or '{NEW}' to begin a session"
        if len(text) > TOKEN_CHARS_MAX:
            raise InvalidSession(f"a session token has up to {TOKEN_CHARS_MAX} characters, not {len(text)}", hint=hint)
        try:
            return cls(_TOKEN.decode(urlsafe_b64decode(text.encode("ascii"))))
        except (Base64Error, UnicodeEncodeError, MalformedFrame) as error:
            raise InvalidSession("the session token cannot be read", hint=hint) from error

    def encode(self) -> str:
        """Return the token for the client to send with its next request: one that `decode` takes.

        Too long, it first forgets replicas (those that it names still hold everything), and then units, the one used
        longest ago first: those are read at a quorum from then on.
        """
        text = _text(self._units, is_full=self._is_full)
        most = max(map(len, self._units.values()), default=0)
        while len(text) > TOKEN_CHARS_MAX and most > PLACES_MIN:
            most -= 1
            for unit, places in self._units.items():
                self._units[unit] = dict(islice(places.items(), most))
            text = _text(self._units, is_full=self._is_full)
        while len(text) > TOKEN_CHARS_MAX or len(self._units) > UNITS_MAX:
            del self._units[next(iter(self._units))]
            self._is_full = True
            text = _text(self._units, is_full=True)
        return text

    def places(self, unit: UnitId) -> Mapping[NodeId, int] | None:
        """Return who holds all that was seen of a unit; empty: no single replica; None: nothing was seen."""
        found = self._units.get(unit)
        return {} if found is None and self._is_full else found

    def note(self, unit: UnitId, places: Mapping[NodeId, int]) -> None:
        """Take down who held what was just written, or read: only who held everything before holds all of it now."""
        known = {node: place for node, place in places.items() if place > 0}
        before = self.places(unit)
        if before is not None:
            known = {node: place for node, place in known.items() if node in before and place >= before[node]}
        if unit not in self._units and len(self._units) >= UNITS_MAX:
            self._is_full = True
            return
        self._units.pop(unit, None)
        self._units[unit] = known

    def note_read(self, unit: UnitId, node: NodeId, place: int) -> None:
        """Take down that one replica answered, which had come as far as was asked: the others may be behind."""
        if unit in self._units or len(self._units) < UNITS_MAX:
            self._units.pop(unit, None)
            self._units[unit] = {node: place}
        else:
            self._is_full = True

    def join(self, other: Session) -> None:
        """Take in what another session saw that went on from this one: as answers to several requests at once.

        Only who holds what both have seen of a unit holds all of it, once it has come to the later place. What one of
        them had to forget is forgotten.
        """
        mine, theirs = self._units, other._units
        for unit, places in theirs.items():
            before = self.places(unit)
            if before is not None and unit not in mine:
                continue  # forgotten: nothing that is added later brings it back
            if before is not None:
                places = {node: max(place, before[node]) for node, place in places.items() if node in before}
            mine.pop(unit, None)
            mine[unit] = places
        if other._is_full:
            for unit in [unit for unit in mine if unit not in theirs]:
                del mine[unit]
        self._is_full = self._is_full or other._is_full

    def forget(self) -> None:
        """Take everything for seen, and nobody for one who holds it: all is read at a quorum from now on."""
        self._units = {}
        self._is_full = True

    def note_elsewhere(self, unit: UnitId) -> None:
        """Another node coordinated a write, and it is not known who holds it: a quorum does."""
        self.note(unit, {})
