"""Journals behind one interface: seven verbs with epochs (design D5)."""

from __future__ import annotations
