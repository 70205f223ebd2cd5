"""The command line: one lazily imported module per verb."""

from __future__ import annotations
