"""How a plugin is run: one isolation strategy per file."""

from __future__ import annotations
