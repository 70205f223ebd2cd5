"""Helpers over versions and entries: which is newer, and a digest for comparing.

Sans-I/O.
"""

from __future__ import annotations

import mmh3

from frys_node.base.types import NodeId
from frys_node.kernel.services.replication import Entry, Stamp, Version

__all__ = ["STAMP_BYTES", "ZERO", "Stamp", "digest", "newer", "sent_bytes"]

ZERO = Version(0, 0, NodeId(""), 0)
"""Below every version that a clock stamps."""

STAMP_BYTES = 96
"""What a version takes in a message at most, with the codec's marks."""


def newer(first: Entry | None, second: Entry | None) -> Entry | None:
    """Return the entry with the higher version; the one that exists if only one does."""
    if first is None:
        return second
    if second is None or first.version >= second.version:
        return first
    return second


def digest(entry: Entry) -> int:
    """Return 64 bits over key, version and value (rule 3: trees cover the value, so two values of one version show)."""
    version = entry.version
    value_hash = -1 if entry.value is None else mmh3.hash64(entry.value, signed=False)[0]
    text = f"{version.hlc_ms}.{version.counter}.{version.node}.{version.boot}.{value_hash}".encode()
    return int(mmh3.hash64(entry.key + b"\0" + text, signed=False)[0])


def sent_bytes(entry: Entry) -> int:
    """Return what an entry takes in a message at most: its bytes, its version, and the codec's marks."""
    return STAMP_BYTES + len(entry.key) + len(entry.value or b"")


def highest(first: Version | None, second: Version | None) -> Version | None:
    """Return the higher of two floors, None below every other."""
    if first is None or second is None:
        return second if first is None else first
    return max(first, second)
