"""The Redis protocol over the cache: a pure protocol and command layer below a thin trio driver."""

from __future__ import annotations
