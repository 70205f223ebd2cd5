"""A byte-bounded cache on the ring."""

from __future__ import annotations
