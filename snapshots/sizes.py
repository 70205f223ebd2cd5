"""The largest objects of saved snapshots, which whoever takes them in has to know before the first byte.

Sans-I/O.
"""

from __future__ import annotations

from typing import Final

INDEX_BYTES_MAX: Final = 8 << 20
"""The longest index: about 50,000 copies of units. Decoding it takes a tenth of a second in one go."""

BUNDLE_BYTES_MAX: Final = 16 << 20
"""The longest bundle: a full one and the manifest of one more unit, of 2^18 chunks."""

OBJECTS_BODY_MAX: Final = BUNDLE_BYTES_MAX + (2 << 20)
"""Bytes of objects that one request brings: room for one of the largest, or for many of the others."""
