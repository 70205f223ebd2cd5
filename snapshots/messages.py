"""What nodes say to one another about snapshots.

Sans-I/O. Replies stay below 512 KiB: a chunk is 256 KiB, a page of references about 300 KiB.
"""

from __future__ import annotations

from typing import Final

import msgspec

from frys_node.base.types import Epoch, UnitId
from frys_node.kernel.services.rpc import Method
from frys_node.kernel.services.snapshots import MoveProgress
from snapshots.manifest import ChunkRef

REFS_PAGE: Final = 8_192
"""References in one reply at most."""


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """An empty request."""


class Holding(msgspec.Struct, frozen=True, array_like=True):
    """What a node holds."""

    sizes: dict[UnitId, int]
    """About how many bytes a copy of each unit takes."""


class Moving(msgspec.Struct, frozen=True, array_like=True):
    """Moves to a node, those under way first."""

    moves: list[MoveProgress]


class Wish(msgspec.Struct, frozen=True, array_like=True):
    """How a source that has requests to serve wants to be left alone by a receiver."""

    rate_bytes_s: float = 0.0
    """Ask for no more than this; 0 for no bound."""
    wait_s: float = 0.0
    """Ask for nothing before this is over."""


class OfferRequest(msgspec.Struct, frozen=True, array_like=True):
    """Capture a unit now, or say again what was captured as `root` (empty: capture)."""

    unit: UnitId
    root: bytes = b""


class Offer(msgspec.Struct, frozen=True, array_like=True):
    """A captured state, pinned for the caller; the first page of its chunks."""

    unit: UnitId
    size_bytes: int
    chunk_bytes: int
    chunk_count: int
    root: bytes
    format: int
    chunks: tuple[ChunkRef, ...]
    wish: Wish = Wish()


class RefsRequest(msgspec.Struct, frozen=True, array_like=True):
    """Ask for the next page of references."""

    root: bytes
    start: int


class Refs(msgspec.Struct, frozen=True, array_like=True):
    """A page of references."""

    chunks: tuple[ChunkRef, ...]


class ChunkRequest(msgspec.Struct, frozen=True, array_like=True):
    """Ask for one chunk of a pinned state."""

    root: bytes
    digest: bytes


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """One chunk's bytes."""

    data: bytes
    wish: Wish = Wish()


class ReleaseRequest(msgspec.Struct, frozen=True, array_like=True):
    """The caller needs the state no more."""

    root: bytes


class Released(msgspec.Struct, frozen=True, array_like=True):
    """So be it."""


class ShareRequest(msgspec.Struct, frozen=True, array_like=True):
    """Save everything that you hold into that place; another node makes it visible."""

    place: str
    lock: str
    """Key of the asker's lock: who does not find it looks at another place."""
    epoch: Epoch
    kinds: list[str] = []
    """Only units of these kinds; none: of all."""


class ShareUnit(msgspec.Struct, frozen=True, array_like=True):
    """A unit that was saved; `root` is hex."""

    unit: UnitId
    root: str
    size_bytes: int
    chunks: int


class Shared(msgspec.Struct, frozen=True, array_like=True):
    """What a node has saved."""

    epoch: Epoch | None
    units: list[ShareUnit]
    missing: list[tuple[UnitId, str]]
    bundles: list[str]
    new_bytes: int
    reused_bytes: int


class TakeRequest(msgspec.Struct, frozen=True, array_like=True):
    """A part of a saved state for a unit that the receiver holds; with the last part it is restored."""

    unit: UnitId
    transfer: int
    """Number of the state among those of the sender."""
    index: int
    is_last: bool
    data: bytes
    ends: bool = False
    """No part, but word that all parts of the unit are in."""
    only_empty: bool = False
    """Replace nothing: refuse the state if the unit has something by now."""


class Taken(msgspec.Struct, frozen=True, array_like=True):
    """It is here; after the last part, it is restored durably."""

    items: int | None = None
    """How many of its items were new; None: all, or it is not known."""


class SurveyRequest(msgspec.Struct, frozen=True, array_like=True):
    """Which of these units would lose something if they were replaced?"""

    units: list[UnitId]


class Surveyed(msgspec.Struct, frozen=True, array_like=True):
    """Those that would."""

    units: list[UnitId]
    problems: list[tuple[UnitId, str]] = []
    """Units that cannot say so, and why."""


class HasRequest(msgspec.Struct, frozen=True, array_like=True):
    """Does the unit have every one of these keys?"""

    unit: UnitId
    keys: list[bytes]


class Has(msgspec.Struct, frozen=True, array_like=True):
    """It does, or not."""

    is_all: bool


SHARE: Final[Method[ShareRequest, Shared]] = Method("snapshots.share", ShareRequest, Shared)
TAKE: Final[Method[TakeRequest, Taken]] = Method("snapshots.take", TakeRequest, Taken)
SURVEY: Final[Method[SurveyRequest, Surveyed]] = Method("snapshots.survey", SurveyRequest, Surveyed)
HAS: Final[Method[HasRequest, Has]] = Method("snapshots.has", HasRequest, Has)
OFFER: Final[Method[OfferRequest, Offer]] = Method("snapshots.offer", OfferRequest, Offer)
REFS: Final[Method[RefsRequest, Refs]] = Method("snapshots.refs", RefsRequest, Refs)
CHUNK: Final[Method[ChunkRequest, Chunk]] = Method("snapshots.chunk", ChunkRequest, Chunk)
RELEASE: Final[Method[ReleaseRequest, Released]] = Method("snapshots.release", ReleaseRequest, Released)
HOLDING: Final[Method[Ask, Holding]] = Method("snapshots.holding", Ask, Holding)
MOVING: Final[Method[Ask, Moving]] = Method("snapshots.moving", Ask, Moving)
