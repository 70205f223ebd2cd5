"""Journals and key/value data behind one interface."""

from __future__ import annotations
