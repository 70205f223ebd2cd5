"""Shipped fakes and the simulator, in the manner of trio.testing."""

from __future__ import annotations
