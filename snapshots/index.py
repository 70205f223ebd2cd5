"""What a saved snapshot says of itself: its units, where they came from, under which record, with which settings.

Sans-I/O. The index is the snapshot: it is written last, in one piece, and removed first. Format 2 names chunks that all
snapshots of a place share; format 1 (until November 2026) kept a folder of its own for each snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec

from frys_node.base.errors import NotFound, UsageError
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.topology import Collection
from snapshots.errors import CorruptManifest, UnknownFormat

INDEX_FORMAT: Final = 2
INDEX_SUFFIX: Final = ".json"

CHUNKS: Final = "_chunks"
BUNDLES: Final = "_bundles"
INDEXES: Final = "_snapshots"
LOCKS: Final = "_locks"
"""Folders of a place. None of them can be a snapshot's name, so that folders of format 1 can stand beside them."""

FORMER_PARTS: Final = (f"index{INDEX_SUFFIX}", "manifests", "chunks")
"""What a folder of format 1 has, in the order in which it is removed."""

NAME_MAX: Final = 63

_NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_MAX - 1}}}")
_SECRET = re.compile(r"(?:^|[._])(?:secret|password|passphrase|token|credential|api_?key|private_?key)s?$")
HIDDEN: Final = "(left out)"


class SavedUnit(msgspec.Struct, frozen=True, kw_only=True):
    """One node's copy of one unit. `root` is hex."""

    unit: UnitId
    root: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size_bytes: int
    chunks: int
    node: NodeId = NodeId("")
    """Whose copy it is."""


class SavedEpoch(msgspec.Struct, frozen=True, kw_only=True):
    """The key of the topology record under which the units were saved."""

    term: int
    issuer: NodeId
    seq: int

    @classmethod
    def of(cls, epoch: Epoch) -> SavedEpoch:
        """Take a record's key."""
        return cls(term=epoch.term.number, issuer=epoch.term.node, seq=epoch.seq)

    def __str__(self) -> str:
        return f"{self.term}.{self.seq}"


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A unit that is not in the snapshot, and why."""

    unit: UnitId
    reason: str


class SavedSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A saved snapshot: what `create` returns, `list` shows and the index holds."""

    name: str
    node: NodeId
    """Who saved it."""
    created_unix_ns: int
    units: tuple[SavedUnit, ...]
    format: int = INDEX_FORMAT
    bundles: tuple[Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")], ...] = ()
    """Names of the bundles that hold the units' manifests; none in format 1."""
    scope: str = "node"
    """``node``, ``units`` (those that were asked for) or ``cluster``."""
    cluster: str = ""
    """Name of the cluster."""
    nodes: dict[NodeId, str] = {}
    """Names of the nodes whose copies are in it."""
    epoch: SavedEpoch | None = None
    partitions: int = 0
    """Cache units and workflow partitions of the cluster; 0 if that is not known (format 1)."""
    collections: tuple[Collection, ...] = ()
    """Definitions of the vector collections whose shards are in it."""
    settings: dict[str, Any] = {}
    """The configuration of the node that saved it, without what looks like a secret."""
    missing: tuple[Missing, ...] = ()
    """Units that should be in it and are not."""
    kinds: tuple[str, ...] = ()
    """If it was made of some kinds of units only, which."""
    new_bytes: int = 0
    """What saving it wrote; the rest was there from earlier snapshots."""
    reused_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all copies of units."""
        return sum(unit.size_bytes for unit in self.units)


def check_name(name: str) -> str:
    """Return the name if it is one (`UsageError`)."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name[:NAME_MAX]}' is not a name for a snapshot",
            hint="use lower-case letters, digits, '.', '_' and '-', 63 at most",
        )
    return name


def check_kinds(kinds: Iterable[str], known: Iterable[str], who: str) -> None:
    """Refuse a kind of units that is not among those known (`NotFound`); `who` is such as ``this node has``."""
    there = sorted(known)
    for kind in kinds:
        if kind not in there:
            raise NotFound(f"{who} no units of kind '{kind}'", hint=f"kinds there: {', '.join(there) or 'none'}")


def is_name(text: str) -> bool:
    """True if a snapshot can be called so."""
    return _NAME.fullmatch(text) is not None


def index_key(name: str) -> str:
    """Return where a snapshot's index is."""
    return f"{INDEXES}/{check_name(name)}{INDEX_SUFFIX}"


def without_secrets(settings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return settings by key, the values of what looks like a secret left out."""
    return {s["key"]: HIDDEN if s["value"] and _SECRET.search(s["key"]) else s["value"] for s in settings}


def decode_index(data: bytes, name: str) -> SavedSnapshot:
    """Return the index that the bytes hold.

    Raises:
        CorruptManifest: They cannot be read. Nothing of them is used.
        UnknownFormat: A newer version wrote them.
    """
    try:
        version = msgspec.json.decode(data, type=_Versioned).format
        if version not in (1, INDEX_FORMAT):
            raise UnknownFormat(
                f"snapshot '{name}' has format {version}, this version reads up to {INDEX_FORMAT}",
                hint="use a newer frys-node",
            )
        index = msgspec.json.decode(data, type=SavedSnapshot)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise CorruptManifest(
            f"the index of snapshot '{name}' cannot be read: {error}", hint="delete that snapshot, or use another copy"
        ) from error
    if index.name != name:
        raise CorruptManifest(f"the index of snapshot '{name}' is that of '{index.name}'")
    return index


class _Versioned(msgspec.Struct, frozen=True):
    """Of any version, only the format."""

    format: int


def copies_of(index: SavedSnapshot, units: Container[UnitId] | None = None) -> dict[UnitId, list[SavedUnit]]:
    """Return the distinct copies of each unit (equal ones once), units in order."""
    found: dict[UnitId, dict[str, SavedUnit]] = {}
    for saved in sorted(index.units, key=lambda saved: (saved.unit, saved.root, saved.node)):
        if units is None or saved.unit in units:
            found.setdefault(saved.unit, {}).setdefault(saved.root, saved)
    return {unit: list(copies.values()) for unit, copies in found.items()}


def chosen_to_prune(
    indexes: Sequence[SavedSnapshot], now_unix_ns: int, *, keep: int | None, older_than_s: float | None
) -> list[SavedSnapshot]:
    """Return what a prune deletes, oldest first: what is too old, and is not among the newest `keep`.

    With one rule alone, that one decides; with neither, nothing is chosen.
    """
    newest = sorted(indexes, key=lambda index: (index.created_unix_ns, index.name), reverse=True)
    candidates = newest[keep or 0 :] if keep is not None or older_than_s is not None else []
    if older_than_s is not None:
        oldest_ns = now_unix_ns - int(older_than_s * 1e9)
        candidates = [index for index in candidates if index.created_unix_ns < oldest_ns]
    return candidates[::-1]
