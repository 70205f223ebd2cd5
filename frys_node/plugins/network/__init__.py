"""The HTTP front door."""

from __future__ import annotations
